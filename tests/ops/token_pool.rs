//! Pooling over tokens against tools/golden/token_pool.py.

use crate::common::{Golden, for_each_device};
use llamacare::device::DType;
use llamacare::ops::token_pool::{TokenPool, token_pool};
use llamacare::tape::Tape;

#[test]
fn token_pool_matches_torch() {
    let golden = Golden::load("token_pool");
    let kinds = [("mean", TokenPool::Mean), ("last", TokenPool::Last), ("max", TokenPool::Max)];
    for_each_device(|device| {
        for case in golden.cases() {
            for (kind, pool) in kinds {
                for added in [false, true] {
                    let mut tape = Tape::new(device);
                    let h = tape.var(golden.act(device, &case, "h"), true);
                    let (cu_seqlens, n_keep) = (golden.ints(&case, "cu_seqlens"), golden.ints(&case, "n_keep"));
                    let y = token_pool(&mut tape, &h, &cu_seqlens, &n_keep, pool).unwrap();
                    golden.check(device, &case, &format!("{kind}.y"), y.value(), 2.0);
                    let mut seeds = vec![(y.id(), golden.upload(device, &case, "dy", DType::F32))];
                    if added {
                        seeds.push((h.id(), golden.act(device, &case, "above")));
                    }
                    let dh = tape.backward(seeds).unwrap().take(h.id()).unwrap();
                    let name = format!("{kind}.dh{}", if added { "_added" } else { "" });
                    golden.check(device, &case, &name, &dh, 3.0);
                }
            }
        }
    });
}

#[test]
fn a_sequence_of_which_nothing_is_kept_is_refused() {
    for_each_device(|device| {
        let mut tape = Tape::new(device);
        let h = tape.var(device.zeros("h", device.act(), &[3, 8]).unwrap(), true);
        let error = token_pool(&mut tape, &h, &[0, 3], &[0], TokenPool::Mean).unwrap_err().to_string();
        assert_eq!(error, "token_pool: sequence 0 has 3 tokens, of which 0 were to be kept");
    });
}
