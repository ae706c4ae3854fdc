//! Gathered rows against tools/golden/rows.py.

use crate::common::{Golden, for_each_device};
use llamacare::ops::rows::gather_rows;
use llamacare::tape::Tape;

#[test]
fn rows_are_gathered_and_their_gradient_scattered() {
    let golden = Golden::load("rows");
    for_each_device(|device| {
        for case in golden.cases() {
            for added in [false, true] {
                let input = |name| golden.act(device, &case, name);
                let mut tape = Tape::new(device);
                let x = tape.var(input("x"), true);
                let y = gather_rows(&mut tape, &x, &golden.ints(&case, "rows")).unwrap();
                golden.check(device, &case, "y", y.value(), 2.0);
                let mut seeds = vec![(y.id(), input("dy"))];
                if added {
                    seeds.push((x.id(), input("above")));
                }
                let dx = tape.backward(seeds).unwrap().take(x.id()).unwrap();
                golden.check(device, &case, if added { "dx_added" } else { "dx" }, &dx, 3.0);
            }
        }
    });
}

#[test]
fn rows_out_of_order_or_out_of_range_are_refused() {
    for_each_device(|device| {
        let mut tape = Tape::new(device);
        let x = tape.var(device.zeros("x", device.act(), &[4, 8]).unwrap(), true);
        for rows in [&[][..], &[1, 0], &[2, 2], &[0, 4], &[-1, 2]] {
            let error = gather_rows(&mut tape, &x, rows).unwrap_err().to_string();
            assert!(error.starts_with("gather_rows: expected some rows below 4, strictly ascending"), "{error}");
        }
    });
}
