//! The gradient norm against tools/golden/grad_norm.py.

use crate::common::{Golden, for_each_device};
use llamacare::device::{DType, Tensor};
use llamacare::ops::grad_norm::{self, GradNorm};
use llamacare::tape::Gradient;

fn grad_norm(grad: &Tensor, max_norm: f32) -> llamacare::Result<GradNorm> {
    grad_norm::grad_norm(&[&Gradient::Stored(grad.clone())], max_norm)
}

#[test]
fn grad_norm_and_clip_match_torch() {
    let golden = Golden::load("grad_norm");
    for_each_device(|device| {
        for case in golden.cases() {
            let grad = golden.upload(device, &case, "grad", DType::F32);
            let norm = grad_norm(&grad, golden.floats(&case, "max_norm")[0]).unwrap();
            golden.check(device, &case, "clip", &norm.clip(), 2.0);
            let report = norm.read().unwrap();
            let got = device.upload("norm", DType::F32, &[1], &[report.norm]).unwrap();
            golden.check(device, &case, "norm", &got, 2.0);
            assert_eq!((report.n_bad, report.first_bad), (0, None));
        }
    });
}

#[test]
fn grad_norm_counts_what_is_not_finite_and_finds_the_first() {
    for_each_device(|device| {
        let mut values = vec![0.5f32; 30_000];
        for (at, value) in [(8191, f32::NAN), (8192, f32::INFINITY), (8193, f32::NEG_INFINITY), (29_999, f32::NAN)] {
            values[at] = value;
            let grad = device.upload("grad", DType::F32, &[values.len()], &values).unwrap();
            let report = grad_norm(&grad, 1.0).unwrap().read().unwrap();
            let n_bad = values.iter().filter(|v| !v.is_finite()).count();
            assert_eq!((report.n_bad, report.first_bad, report.clip), (n_bad, Some((0, 8191)), 0.0));
            assert!((report.norm - 0.5 * ((30_000 - n_bad) as f32).sqrt()).abs() < 1e-3);
        }
        values[8191] = 0.5;
        let grad = device.upload("grad", DType::F32, &[values.len()], &values).unwrap();
        assert_eq!(grad_norm(&grad, 1.0).unwrap().read().unwrap().first_bad, Some((0, 8192)));
    });
}

#[test]
fn a_norm_too_large_for_a_float_clips_to_nothing() {
    for_each_device(|device| {
        let grad = device.upload("grad", DType::F32, &[2], &[3e38, 3e38]).unwrap();
        let report = grad_norm(&grad, 1.0).unwrap().read().unwrap();
        assert!(report.clip == 0.0 && report.n_bad == 0 && report.norm.is_infinite(), "{report:?}");
    });
}

#[test]
fn without_a_limit_nothing_is_clipped() {
    for_each_device(|device| {
        let grad = device.upload("grad", DType::F32, &[2], &[300.0, 400.0]).unwrap();
        let report = grad_norm(&grad, f32::INFINITY).unwrap().read().unwrap();
        assert!(report.clip == 1.0 && (report.norm - 500.0).abs() < 1e-3, "{report:?}");
    });
}

/// As in PyTorch, 1e-6 is added to the norm that clips.
#[test]
fn a_norm_near_nothing_is_clipped_by_a_little_more() {
    for_each_device(|device| {
        let grad = device.upload("grad", DType::F32, &[2], &[6e-7, 8e-7]).unwrap();
        let report = grad_norm(&grad, 1e-6).unwrap().read().unwrap();
        assert!((report.clip - 0.5).abs() < 1e-5 && (report.norm - 1e-6).abs() < 1e-11, "{report:?}");
    });
}

/// Parts are cut into spans each by itself: where cuts lie on spans anyway, not a bit differs from one gradient.
#[test]
fn the_norm_of_parts_is_the_norm_of_the_whole_and_names_the_part_of_the_first_bad_value() {
    for_each_device(|device| {
        let mut values: Vec<f32> = (0..40_000).map(|i| (i as f32 * 0.37).sin() * (1 + i % 50) as f32).collect();
        let parts = |values: &[f32], cuts: &[usize]| {
            let part = |w: &[usize]| {
                let values = &values[w[0]..w[1]];
                Gradient::Stored(device.upload("grad", DType::F32, &[values.len()], values).unwrap())
            };
            let parts: Vec<Gradient> = cuts.windows(2).map(part).collect();
            grad_norm::grad_norm(&parts.iter().collect::<Vec<_>>(), 1.0).unwrap().read().unwrap()
        };
        let one = parts(&values, &[0, 40_000]);
        assert_eq!(parts(&values, &[0, 8192, 3 * 8192, 40_000]), one);
        let odd = parts(&values, &[0, 1, 9_000, 9_256, 40_000]);
        assert!((odd.norm / one.norm - 1.0).abs() < 1e-6, "{odd:?}, {one:?}");
        values[9_255] = f32::NAN;
        values[20_000] = f32::INFINITY;
        let bad = parts(&values, &[0, 1, 9_000, 9_256, 40_000]);
        assert_eq!((bad.n_bad, bad.first_bad, bad.clip), (2, Some((2, 255)), 0.0));
    });
}
