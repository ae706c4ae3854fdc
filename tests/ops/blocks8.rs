//! 8-bit blocks against tools/golden/blocks8.py, byte for byte, and what the form promises of any input.

use crate::common::for_each_device;
use llamacare::device::{Compute, DType, Device, Tensor};
use llamacare::ops::blocks8::{BLOCK, quantize};
use safetensors::SafeTensors;
use std::collections::BTreeMap;

fn golden() -> BTreeMap<String, Vec<u8>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/blocks8.safetensors");
    let file = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    file.tensors().into_iter().map(|(name, t)| (name, t.data().to_vec())).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytemuck::allocation::pod_collect_to_vec(bytes)
}

fn stored(device: &Device, values: &[f32]) -> Tensor {
    device.upload("x", device.act(), &[values.len()], values).unwrap()
}

#[test]
fn codes_scales_and_decoded_values_are_the_golden_bytes() {
    let golden = golden();
    let cases: Vec<&str> = golden.keys().filter_map(|k| k.strip_suffix(".x")).collect();
    assert_eq!(cases.len(), 8);
    for_each_device(|device| {
        for case in &cases {
            let get = |name: &str| &golden[&format!("{case}.{name}")];
            let blocks = quantize("blocks", &stored(device, &floats(get("x")))).unwrap();
            let same = |found: Vec<u8>, want: &[u8], what: &str| {
                let differ = found.iter().zip(want).filter(|(a, b)| a != b).count();
                assert!(found == want, "{case} {what} on {}: {differ} of {} bytes", device.name(), want.len());
            };
            same(blocks.codes().read_bytes().unwrap(), get("codes"), "codes");
            same(blocks.scales().read_bytes().unwrap(), get("scales"), "scales");
            let found = blocks.dequantize("decoded").unwrap().read_f32().unwrap();
            let want = stored(device, &floats(get("decoded"))).read_f32().unwrap();
            for (i, (f, w)) in found.iter().zip(&want).enumerate() {
                let equal = f.to_bits() == w.to_bits() || (f.is_nan() && w.is_nan());
                assert!(equal, "{case} decoded {i} on {}: {f}, golden {w}", device.name());
            }
        }
    });
}

#[test]
fn every_element_comes_back_within_half_a_step_and_the_largest_exactly() {
    for_each_device(|device| {
        let wave = |i: usize| ((i * 7919 % 1009) as f32 / 504.5 - 1.0).powi(5) * 3.0;
        let x = stored(device, &(0..2000).map(wave).collect::<Vec<_>>());
        let back = quantize("blocks", &x).unwrap().dequantize("back").unwrap();
        let (x, back) = (x.read_f32().unwrap(), back.read_f32().unwrap());
        for (x, back) in x.chunks(BLOCK).zip(back.chunks(BLOCK)) {
            let m = x.iter().fold(0f32, |m, v| m.max(v.abs()));
            for (x, back) in x.iter().zip(back) {
                // Half a step: the derivative of t (1 + 3 t) / 4 over 254 and a second-order term; then bf16's rounding.
                let step = (1.0 + 48.0 * x.abs() / m).sqrt() / 4.0 + 0.75 / 254.0;
                let limit = m * step / 254.0 + x.abs() / 250.0 + m * 1e-6;
                assert!((x - back).abs() <= limit, "{x} came back as {back}, largest {m}");
                assert!(x.abs() < m || (x - back).abs() <= m * 3e-7, "{x}, the largest, came back as {back}");
            }
        }
    });
}

#[test]
fn what_is_not_finite_stays_visible_and_alone() {
    for_each_device(|device| {
        let mut values = vec![0.5; 272];
        (values[0], values[140], values[271]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
        let back = quantize("blocks", &stored(device, &values)).unwrap().dequantize("back").unwrap();
        for (i, (back, value)) in back.read_f32().unwrap().iter().zip(&values).enumerate() {
            assert!(if value.is_finite() { *back == 0.5 } else { back.is_nan() }, "{i}: {value} came back as {back}");
        }
    });
}

#[test]
fn the_shape_comes_back_and_half_the_bytes_go() {
    let device = Device::cpu(Compute::Bf16).unwrap();
    let x = device.zeros("gate", DType::Bf16, &[3, 7, 16]).unwrap();
    let blocks = quantize("gate, up in 8 bits", &x).unwrap();
    assert_eq!((blocks.shape(), blocks.n_bytes()), ([3, 7, 16].as_slice(), 336 + 3 * 4));
    assert_eq!(blocks.codes().name(), "gate, up in 8 bits");
    let back = blocks.dequantize("gate").unwrap();
    assert_eq!((back.shape(), back.name()), ([3, 7, 16].as_slice(), "gate"));
    assert!(back.read_bytes().unwrap().iter().all(|b| *b == 0));
}

#[test]
fn sizes_and_types_that_do_not_fit_are_refused() {
    let device = Device::cpu(Compute::Bf16).unwrap();
    let error = quantize("b", &device.zeros("gate", DType::Bf16, &[3, 4]).unwrap()).unwrap_err().to_string();
    assert_eq!(error, "blocks8: expected a multiple of 8 elements, `gate` has shape [3, 4]");
    let error = quantize("b", &device.zeros("gate", DType::F32, &[8]).unwrap()).unwrap_err().to_string();
    assert_eq!(error, "blocks8 x: expected Bf16 [8], `gate` is F32 [8]");
}
