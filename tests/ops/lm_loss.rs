//! The LM loss from hidden states against tools/golden/lm_loss.py.

use crate::common::{Golden, for_each_device};
use llamacare::device::DType;
use llamacare::ops::lm_loss::{CHUNK, lm_loss};
use llamacare::tape::Tape;

const SCALE: f32 = 0.25;

#[test]
fn lm_loss_matches_torch_over_chunks_and_padding() {
    let golden = Golden::load("lm_loss");
    for_each_device(|device| {
        for case in golden.cases() {
            let vocab: usize = case.rsplit_once('x').unwrap().1.parse().unwrap();
            let (head, targets) = (golden.act(device, &case, "head"), golden.ints(&case, "targets"));
            let mut tape = Tape::new(device);
            let h = tape.var(golden.act(device, &case, "h"), true);
            let loss = lm_loss(&mut tape, &h, &head, vocab, &targets, SCALE, CHUNK).unwrap();
            let rows = device.upload("loss", DType::F32, &[targets.len()], &loss.rows).unwrap();
            golden.check(device, &case, "loss", &rows, 2.0);
            assert_eq!(loss.n, targets.iter().filter(|&&t| t >= 0).count());
            assert_eq!(loss.sum, loss.rows.iter().map(|&l| f64::from(l)).sum::<f64>());
            let dh = tape.backward(vec![]).unwrap().take(h.id()).unwrap();
            golden.check(device, &case, "dh", &dh, 3.0);
            // Without a tape the loss is the same, and no gradient is made.
            let mut tape = Tape::inference(device);
            assert_eq!(lm_loss(&mut tape, &h, &head, vocab, &targets, SCALE, CHUNK).unwrap(), loss);
            assert_eq!(tape.n_nodes(), 0);
        }
    });
}

/// Rows of one chunk or of many: the same bits, loss and gradient.
#[test]
fn the_size_of_a_chunk_changes_no_bit() {
    let golden = Golden::load("lm_loss");
    for_each_device(|device| {
        for case in golden.cases() {
            let vocab: usize = case.rsplit_once('x').unwrap().1.parse().unwrap();
            let (head, targets) = (golden.act(device, &case, "head"), golden.ints(&case, "targets"));
            let with = |chunk| {
                let mut tape = Tape::new(device);
                let h = tape.var(golden.act(device, &case, "h"), true);
                let loss = lm_loss(&mut tape, &h, &head, vocab, &targets, SCALE, chunk).unwrap();
                let dh = tape.backward(vec![]).unwrap().take(h.id()).unwrap();
                (loss, dh.read_f32().unwrap())
            };
            let whole = with(CHUNK);
            for chunk in [1, 7, 64, 257] {
                assert!(with(chunk) == whole, "{case} in chunks of {chunk} on {}", device.name());
            }
        }
    });
}

#[test]
fn a_target_outside_the_vocabulary_is_refused() {
    for_each_device(|device| {
        let mut tape = Tape::new(device);
        let h = tape.var(device.zeros("h", device.act(), &[2, 8]).unwrap(), true);
        let head = device.zeros("head", device.act(), &[8, 8]).unwrap();
        let error = lm_loss(&mut tape, &h, &head, 5, &[4, 5], SCALE, CHUNK).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().starts_with("target 1 is token 5, but the vocabulary has 5"), "{error}");
    });
}
