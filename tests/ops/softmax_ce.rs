//! The classifier's cross entropy against tools/golden/softmax_ce.py.

use crate::common::{Golden, for_each_device};
use llamacare::device::DType;
use llamacare::ops::softmax_ce::softmax_ce;
use llamacare::tape::Tape;

const SCALE: f32 = 0.125;

#[test]
fn softmax_ce_matches_torch() {
    let golden = Golden::load("softmax_ce");
    for_each_device(|device| {
        for case in golden.cases() {
            let labels = golden.ints(&case, "labels");
            let mut tape = Tape::new(device);
            let logits = tape.var(golden.upload(device, &case, "logits", DType::F32), true);
            let loss = softmax_ce(&mut tape, &logits, &labels, SCALE).unwrap();
            golden.check(device, &case, "probs", &loss.probs, 2.0);
            let sum = device.upload("sum", DType::F32, &[1], &[loss.sum as f32]).unwrap();
            golden.check(device, &case, "sum", &sum, 2.0);
            assert_eq!(loss.n, labels.iter().filter(|&&l| l >= 0).count());
            let dlogits = tape.backward(vec![]).unwrap().take(logits.id()).unwrap();
            golden.check(device, &case, "dlogits", &dlogits, 3.0);
        }
    });
}

#[test]
fn examples_without_a_label_have_probabilities_and_nothing_else() {
    for_each_device(|device| {
        let mut tape = Tape::new(device);
        let logits = tape.var(device.upload("logits", DType::F32, &[2, 2], &[0.0, 0.0, 3.0, 3.0]).unwrap(), true);
        let loss = softmax_ce(&mut tape, &logits, &[-1, -1], SCALE).unwrap();
        assert_eq!((loss.sum, loss.n), (0.0, 0));
        assert_eq!(loss.probs.read_f32().unwrap(), [0.5; 4]);
        let dlogits = tape.backward(vec![]).unwrap().take(logits.id()).unwrap();
        assert_eq!(dlogits.read_f32().unwrap(), [0.0; 4]);
    });
}

#[test]
fn a_label_the_head_has_no_class_for_is_refused() {
    for_each_device(|device| {
        let mut tape = Tape::new(device);
        let logits = tape.var(device.zeros("logits", DType::F32, &[2, 3]).unwrap(), true);
        let error = softmax_ce(&mut tape, &logits, &[2, 3], SCALE).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert_eq!(error.to_string(), "example 1 has label 3, and the head has 3 classes");
    });
}
