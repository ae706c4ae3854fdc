//! New tokens into the cache: the bits that rotary gives in place, at the right rows, and nothing else touched.

use crate::common::{Golden, for_each_device};
use llamacare::ops::attention::{PAGE, Paged, SequenceLayout};
use llamacare::ops::kv_append::kv_append;
use llamacare::ops::rotary::{RotaryTable, rotary};
use llamacare::tape::Tape;
use std::sync::Arc;

#[test]
fn queries_and_keys_have_the_bits_of_rotary_and_values_are_copied() {
    let golden = Golden::load("rotary");
    for_each_device(|device| {
        for case in golden.cases() {
            let heads = golden.ints(&case, "heads");
            let (n_heads, d) = (heads[0] as usize, heads[1] as usize);
            let x = golden.floats(&case, "x");
            let (t, wide) = (x.len() / (n_heads * d), n_heads * d);
            // Two sequences: one begins, one has 63 tokens already, so that its new ones lie on two pages.
            let (first, second) = (t - 3, 3);
            let entries = [Paged { pages: &[4], past: 0, new: first }, Paged { pages: &[2, 0], past: 63, new: second }];
            let layout = Arc::new(SequenceLayout::paged(device, &entries).unwrap());
            let positions: Vec<i32> = (0..first as i32).chain(63..66).collect();
            assert_eq!(layout.positions().read_i32().unwrap(), positions);
            let table = Arc::new(RotaryTable::new(device, 80, d, 10_000.0).unwrap());
            let narrow = d; // one kv head: the first of each row
            let first_heads: Vec<f32> = x.chunks(wide).flat_map(|row| row[..d].to_vec()).collect();
            let upload = |x: &[f32], width: usize| device.upload("x", device.act(), &[t, width], x).unwrap();
            let values: Vec<f32> = first_heads.iter().map(|x| -x).collect();
            let (q, k, v) = (upload(&x, wide), upload(&first_heads, narrow), upload(&values, narrow));
            let cache =
                || device.upload("cache", device.act(), &[5 * PAGE, narrow], &vec![9.0; 5 * PAGE * narrow]).unwrap();
            let (k_cache, v_cache) = (cache(), cache());
            kv_append([&q, &k, &v], &table, &layout, [&k_cache, &v_cache]).unwrap();

            let turned = |x: &[f32], width: usize| {
                let mut tape = Tape::inference(device);
                let x = tape.var(upload(x, width), false);
                rotary(&mut tape, x, &table, &layout, width / d, d).unwrap().value().read_f32().unwrap()
            };
            assert!(q.read_f32().unwrap() == turned(&x, wide), "{}: queries", device.name());
            let at: Vec<usize> = (0..first).map(|i| 4 * PAGE + i).chain([2 * PAGE + 63, 0, 1]).collect();
            for (cache, want) in
                [(&k_cache, turned(&first_heads, narrow)), (&v_cache, upload(&values, narrow).read_f32().unwrap())]
            {
                let mut expected = vec![9.0; 5 * PAGE * narrow];
                for (row, values) in at.iter().zip(want.chunks(narrow)) {
                    expected[row * narrow..][..narrow].copy_from_slice(values);
                }
                assert!(cache.read_f32().unwrap() == expected, "{}: the cache", device.name());
            }
        }
    });
}
