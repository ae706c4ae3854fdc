//! Embedding against tools/golden/embedding.py.

use crate::common::{Golden, for_each_device};
use llamacare::ops::embedding::embedding;
use llamacare::tape::Tape;

#[test]
fn embedding_copies_the_rows_bit_for_bit() {
    let golden = Golden::load("embedding");
    for_each_device(|device| {
        for case in golden.cases() {
            let mut tape = Tape::new(device);
            let table = golden.act(device, &case, "table");
            let ids = golden.ints(&case, "ids");
            let h = embedding(&mut tape, &table, &ids).unwrap();
            golden.check(device, &case, "h", h.value(), 2.0);
            for (t, &id) in ids.iter().enumerate() {
                let row = table.rows(id as usize, id as usize + 1);
                assert_eq!(h.value().rows(t, t + 1).read_bytes().unwrap(), row.read_bytes().unwrap(), "{case} row {t}");
            }
            assert!(!h.needs_grad());
        }
    });
}

#[test]
fn an_id_outside_the_table_is_refused() {
    for_each_device(|device| {
        let table = device.zeros("table", device.act(), &[5, 8]).unwrap();
        for id in [5, -1] {
            let error = embedding(&mut Tape::new(device), &table, &[0, 4, id]).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let start = format!("token 2 has id {id}, but the base's embedding has 5 rows");
            assert!(error.to_string().starts_with(&start), "{error}");
        }
    });
}
