//! Cross entropy over the vocabulary against tools/golden/cross_entropy.py.

use crate::common::{Golden, for_each_device};
use llamacare::device::{DType, Device, Tensor};
use llamacare::ops::cross_entropy::cross_entropy;

const SCALE: f32 = 0.25;

fn outputs(device: &Device, n: usize, padded: usize) -> (Tensor, Tensor) {
    // What was there before must not matter.
    let loss = device.upload("loss", DType::F32, &[n], &vec![f32::NAN; n]).unwrap();
    (loss, device.upload("dlogits", device.act(), &[n, padded], &vec![f32::NAN; n * padded]).unwrap())
}

#[test]
fn cross_entropy_matches_torch() {
    let golden = Golden::load("cross_entropy");
    for_each_device(|device| {
        for case in golden.cases() {
            let vocab: usize = case.split_once('x').unwrap().1.parse().unwrap();
            let logits = golden.upload(device, &case, "logits", DType::F32);
            let (n, padded) = (logits.shape()[0], logits.shape()[1]);
            let targets = device.upload_i32("targets", &[n], &golden.ints(&case, "targets")).unwrap();
            let (loss, dlogits) = outputs(device, n, padded);
            cross_entropy(&logits, vocab, &targets, SCALE, &loss, Some(&dlogits)).unwrap();
            golden.check(device, &case, "loss", &loss, 2.0);
            golden.check(device, &case, "dlogits", &dlogits, 3.0);
            let padding = dlogits.read_f32().unwrap();
            assert!(padding.chunks(padded).all(|row| row[vocab..].iter().all(|&d| d == 0.0)), "{case}: padding");
            let (alone, _) = outputs(device, n, padded);
            cross_entropy(&logits, vocab, &targets, SCALE, &alone, None).unwrap();
            assert_eq!(alone.read_bytes().unwrap(), loss.read_bytes().unwrap());
        }
    });
}

#[test]
fn cross_entropy_of_a_row_with_a_nan_or_an_infinity_is_no_number() {
    for_each_device(|device| {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut values = vec![0.5; 3 * 504];
            values[504 + 499] = bad;
            let logits = device.upload("logits", DType::F32, &[3, 504], &values).unwrap();
            let targets = device.upload_i32("targets", &[3], &[1, 2, 3]).unwrap();
            let (loss, dlogits) = outputs(device, 3, 504);
            cross_entropy(&logits, 500, &targets, SCALE, &loss, Some(&dlogits)).unwrap();
            let loss = loss.read_f32().unwrap();
            assert!(loss[1].is_nan(), "{loss:?}");
            assert!((loss[0] - 500f32.ln()).abs() < 1e-5 && loss[2] == loss[0], "{loss:?}");
        }
    });
}
