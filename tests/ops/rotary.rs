//! Rotary embedding against tools/golden/rotary.py.

use crate::common::{Golden, for_each_device};
use llamacare::Error;
use llamacare::device::{Compute, Device};
use llamacare::ops::rotary::{RotaryTable, rotary};
use llamacare::ops::sequences::SequenceLayout;
use llamacare::tape::Tape;
use std::sync::Arc;

#[test]
fn rotary_matches_torch_up_to_the_last_position() {
    let golden = Golden::load("rotary");
    for_each_device(|device| {
        for case in golden.cases() {
            let heads = golden.ints(&case, "heads");
            let (n_heads, head_dim) = (heads[0] as usize, heads[1] as usize);
            let positions = golden.ints(&case, "positions");
            let layout = SequenceLayout::packed(device, &[0, positions.len() as i32]).unwrap();
            let layout = Arc::new(layout.with_positions(&positions).unwrap());
            let theta = golden.floats(&case, "theta")[0];
            let table = Arc::new(RotaryTable::new(device, layout.max_position() + 1, head_dim, theta).unwrap());
            let mut tape = Tape::new(device);
            let x = tape.var(golden.act(device, &case, "x"), true);
            let (id, address) = (x.id(), x.value().ptr::<u8>());
            let y = rotary(&mut tape, x, &table, &layout, n_heads, head_dim).unwrap();
            assert_eq!(y.value().ptr::<u8>(), address, "in place");
            golden.check(device, &case, "y", y.value(), 2.0);
            let dy = golden.act(device, &case, "dy");
            let before = dy.read_bytes().unwrap();
            let mut grads = tape.backward(vec![(y.id(), dy.clone())]).unwrap();
            golden.check(device, &case, "dx", &grads.take(id).unwrap(), 3.0);
            assert!(dy.read_bytes().unwrap() == before, "a gradient that is shared must not change");
        }
    });
}

#[test]
fn a_sequence_longer_than_the_model_and_a_shared_input_are_refused() {
    let device = Device::cpu(Compute::Bf16).unwrap();
    let table = Arc::new(RotaryTable::new(&device, 4, 16, 10000.0).unwrap());
    let turn = |rows: usize, shared: bool| {
        let layout = Arc::new(SequenceLayout::packed(&device, &[0, rows as i32]).unwrap());
        let mut tape = Tape::new(&device);
        let x = tape.var(device.zeros("q", device.act(), &[rows, 16]).unwrap(), true);
        let holder = shared.then(|| x.clone());
        let result = rotary(&mut tape, x, &table, &layout, 1, 16);
        drop(holder);
        result
    };
    assert!(turn(4, false).is_ok());
    let error = turn(5, false).unwrap_err();
    assert!(matches!(error, Error::Input(_)), "{error:?}");
    assert_eq!(error.to_string(), "a sequence reaches position 4, the model was made for 4: shorten or split it");
    let error = turn(4, true).unwrap_err().to_string();
    assert_eq!(error, "rotary turns `q` in place, but something else still holds it");
}
