//! NF4 against bitsandbytes, byte for byte (tools/golden/nf4.py), and the product that decodes in registers.

use crate::common::for_each_device;
use llamacare::device::{Compute, DType, Device, Tensor};
use llamacare::ffi::{LC_NF4_MATMUL_AUTO, LC_NF4_MATMUL_TENSOR};
use llamacare::ops::matmul::{Layout, matmul};
use llamacare::ops::nf4::{NF4_MAP, Nf4Weight, Scales, nested_map, nested_map_on};
use llamacare::tape::Write;
use safetensors::SafeTensors;
use std::collections::BTreeMap;

/// The golden file as bytes: equal means equal.
struct Bytes(BTreeMap<String, (Vec<usize>, Vec<u8>)>);

impl Bytes {
    fn load() -> Bytes {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/nf4.safetensors");
        let file = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&file).unwrap();
        Bytes(file.tensors().into_iter().map(|(k, t)| (k, (t.shape().to_vec(), t.data().to_vec()))).collect())
    }
    fn cases(&self) -> Vec<String> {
        self.0.keys().filter_map(|k| k.strip_suffix(".weight").map(String::from)).collect()
    }
    fn bytes(&self, key: &str) -> &[u8] {
        &self.0[key].1
    }
    fn floats(&self, key: &str) -> Vec<f32> {
        bytemuck::allocation::pod_collect_to_vec(self.bytes(key))
    }
    fn shape(&self, case: &str) -> [usize; 2] {
        self.0[&format!("{case}.weight")].0.as_slice().try_into().unwrap()
    }
    /// The dense weight: fp32 where the case says so, else in the storage type (its values are of bf16).
    fn weight(&self, device: &Device, case: &str) -> Tensor {
        let dtype = if case.starts_with("f32") { DType::F32 } else { device.act() };
        device.upload("weight", dtype, &self.shape(case), &self.floats(&format!("{case}.weight"))).unwrap()
    }
}

/// What a tensor holds, and these floats as that type stores them.
fn assert_holds(t: &Tensor, floats: &[f32], what: &str) {
    let expected = t.device().upload("expected", t.dtype(), t.shape(), floats).unwrap();
    assert!(t.read_bytes().unwrap() == expected.read_bytes().unwrap(), "{what} on {}", t.device().name());
}

#[test]
fn the_maps_are_bitsandbytes_maps_bit_for_bit() {
    let golden = Bytes::load();
    assert_eq!(bytemuck::cast_slice::<f32, u8>(&NF4_MAP), golden.bytes("nf4_map"));
    assert_eq!(bytemuck::cast_slice::<f32, u8>(&nested_map()), golden.bytes("nested_map"));
}

#[test]
fn quantising_writes_bitsandbytes_bytes() {
    let golden = Bytes::load();
    for_each_device(|device| {
        let map = nested_map_on(device).unwrap();
        for case in golden.cases() {
            let w = golden.weight(device, &case);
            let same = |t: &Tensor, name: &str| {
                let found = t.read_bytes().unwrap();
                let want = golden.bytes(&format!("{case}.{name}"));
                let differ = found.iter().zip(want).filter(|(a, b)| a != b).count();
                assert!(found == want, "{case}.{name} on {}: {differ} of {} bytes", device.name(), want.len());
            };
            let plain = Nf4Weight::quantize(&w, None).unwrap();
            let double = Nf4Weight::quantize(&w, Some(&map)).unwrap();
            same(plain.packed(), "packed");
            same(double.packed(), "packed");
            match (plain.scales(), double.scales()) {
                (Scales::Plain(absmax), Scales::Double { codes, nested_absmax, offset, .. }) => {
                    same(absmax, "absmax");
                    same(offset, "offset");
                    same(nested_absmax, "nested_absmax");
                    same(codes, "absmax_q");
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn decoding_gives_bitsandbytes_values_rounded_once() {
    let golden = Bytes::load();
    for_each_device(|device| {
        let map = nested_map_on(device).unwrap();
        for case in golden.cases() {
            let w = golden.weight(device, &case);
            for (name, map) in [("plain", None), ("double", Some(&map))] {
                let want = golden.floats(&format!("{case}.{name}"));
                let quantised = Nf4Weight::quantize(&w, map).unwrap();
                assert_holds(&quantised.dequantize("decoded").unwrap(), &want, &format!("{case}.{name}"));
            }
        }
    });
}

#[test]
fn scales_on_the_host_are_those_of_the_kernels() {
    let golden = Bytes::load();
    for_each_device(|device| {
        let map = nested_map_on(device).unwrap();
        let w = golden.weight(device, "f32_136x128");
        let quantised = Nf4Weight::quantize(&w, Some(&map)).unwrap();
        let scales = quantised.scales().values().unwrap();
        let largest = golden
            .floats("f32_136x128.double")
            .chunks(64)
            .map(|b| b.iter().fold(0f32, |m, v| m.max(v.abs())))
            .collect::<Vec<_>>();
        // The largest weight of a block has a code of -1 or 1 in every block that is not zero throughout.
        let agree = scales.iter().zip(&largest).filter(|(s, l)| s == l || **l == 0.0).count();
        assert!(agree == scales.len(), "{agree} of {}", scales.len());
    });
}

#[test]
fn a_weight_costs_4_bits_and_its_scales() {
    let device = Device::cpu(Compute::Bf16).unwrap();
    let w = device.zeros("w", DType::F32, &[256, 1024]).unwrap();
    let n = 256 * 1024;
    let plain = Nf4Weight::quantize(&w, None).unwrap();
    assert_eq!(plain.n_bytes(), n / 2 + n / 64 * 4);
    let double = Nf4Weight::quantize(&w, Some(&nested_map_on(&device).unwrap())).unwrap();
    assert_eq!(double.n_bytes(), n / 2 + n / 64 + n / 64 / 256 * 4 + 4);
}

#[test]
fn decoding_inside_the_product_agrees_with_decoding_before_it() {
    let golden = Bytes::load();
    for_each_device(|device| {
        let map = nested_map_on(device).unwrap();
        for case in ["f32_136x128", "f32_24x176", "bf16_64x72"] {
            let (w, [n, k]) = (golden.weight(device, case), golden.shape(case));
            for (name, map) in [("plain", None), ("double", Some(&map))] {
                let quantised = Nf4Weight::quantize(&w, map).unwrap();
                let decoded = golden.floats(&format!("{case}.{name}"));
                for m in [1, 2, 3, 5, 8, 11, 17] {
                    let values: Vec<f32> = (0..m * k).map(|e| ((e * 37 + 11) % 64) as f32 / 32.0 - 1.0).collect();
                    let x = device.upload("x", device.act(), &[m, k], &values).unwrap();
                    let old: Vec<f32> = (0..m * n).map(|e| (e % 7) as f32).collect();
                    for write in [Write::Set, Write::Add] {
                        let y = device.upload("y", device.act(), &[m, n], &old).unwrap();
                        quantised.matmul(&x, &y, write).unwrap();
                        let want: Vec<f64> = (0..m * n)
                            .map(|e| {
                                let (row, column) = (e / n, e % n);
                                let product = |j| f64::from(values[row * k + j]) * f64::from(decoded[column * k + j]);
                                let before = if write == Write::Add { f64::from(old[e]) } else { 0.0 };
                                before + (0..k).map(product).sum::<f64>()
                            })
                            .collect();
                        let got = y.read_f32().unwrap();
                        let off: f64 = got.iter().zip(&want).map(|(&g, w)| (f64::from(g) - w).powi(2)).sum();
                        let size: f64 = want.iter().map(|w| w * w).sum();
                        // Inputs are exact in bf16 and w is not rounded: what is left is the rounding of y, half a unit at most.
                        let limit = if device.act() == DType::F32 { 1e-6 } else { 1.0 / 256.0 };
                        let error = (off / size).sqrt();
                        assert!(error <= limit, "{case} {name} M={m} {write:?} on {}: {error:.2e}", device.name());
                    }
                }
            }
        }
    });
}

#[test]
fn tensor_cores_multiply_by_the_codes_rounded_to_storage() {
    // Three weights in one launch: 136 rows, 40 and 8, so that blocks of sixteen end inside each. Two blocks of 64 a row, or 19:
    // warps without work, and warps with an odd number.
    let device = &Device::cpu(Compute::Bf16).unwrap();
    let map = nested_map_on(device).unwrap();
    for (k, map) in [(128, None), (128, Some(&map)), (1216, Some(&map))] {
        let values =
            |n: usize, seed: usize| (0..n).map(|e| ((e * 37 + seed) % 127) as f32 / 64.0 - 1.0).collect::<Vec<_>>();
        let weights = [136, 40, 8].map(|n| {
            let w = device.upload("w", DType::F32, &[n, k], &values(n * k, n)).unwrap();
            Nf4Weight::quantize(&w, map).unwrap()
        });
        for m in [1, 7, 8, 9, 16, 21] {
            let x = device.upload("x", device.act(), &[m, k], &values(m * k, 5)).unwrap();
            for write in [Write::Set, Write::Add] {
                let old = |n: usize| (0..m * n).map(|e| (e % 7) as f32).collect::<Vec<_>>();
                let of =
                    |w: &Nf4Weight| device.upload("y", device.act(), &[m, w.shape()[0]], &old(w.shape()[0])).unwrap();
                let ys = [of(&weights[0]), of(&weights[1]), of(&weights[2])];
                let parts = [(&weights[0], &ys[0]), (&weights[1], &ys[1]), (&weights[2], &ys[2])];
                Nf4Weight::matmuls(&parts, &x, write, LC_NF4_MATMUL_TENSOR).unwrap();
                for (w, y) in parts {
                    let n = w.shape()[0];
                    let (codes, scales, xs) =
                        (w.packed().read_bytes().unwrap(), w.scales().values().unwrap(), x.read_f32().unwrap());
                    let value = |e: usize| {
                        let byte = codes[e / 2];
                        let code = if e.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
                        let rounded = half::bf16::from_f32(NF4_MAP[usize::from(code)]);
                        rounded.to_f64() * f64::from(scales[e / 64])
                    };
                    let before = old(n);
                    for (e, got) in y.read_f32().unwrap().into_iter().enumerate() {
                        let (row, column) = (e / n, e % n);
                        let product: f64 = (0..k).map(|j| f64::from(xs[row * k + j]) * value(column * k + j)).sum();
                        let want = product + if write == Write::Add { f64::from(before[e]) } else { 0.0 };
                        // y is rounded once, by half a unit in 256 at most; sums in fp32 add what is far below.
                        let near = (f64::from(got) - want).abs() <= want.abs() / 256.0 + 1e-4;
                        assert!(near, "K={k} M={m} {write:?} N={n}: y[{row},{column}] is {got}, expected {want}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_product_of_several_weights_refuses_what_does_not_fit() {
    let device = Device::cpu(Compute::Bf16).unwrap();
    let weight = |n: usize, k: usize| Nf4Weight::empty(&device, [n, k], None).unwrap();
    let x = device.zeros("x", device.act(), &[1, 64]).unwrap();
    let y = device.zeros("y", device.act(), &[1, 8]).unwrap();
    let refusal = |parts: &[(&Nf4Weight, &Tensor)]| {
        Nf4Weight::matmuls(parts, &x, Write::Set, LC_NF4_MATMUL_AUTO).unwrap_err().to_string()
    };
    let (fits, wide) = (weight(8, 64), weight(8, 72));
    assert_eq!(refusal(&[(&fits, &y), (&wide, &y)]), "nf4_matmul: x has 64 features, weight 1 is [8,72]");
    assert_eq!(refusal(&[]), "nf4_matmul: 0 weights share x, expected 1 to 3");
    assert_eq!(refusal(&[(&fits, &y); 4]), "nf4_matmul: 4 weights share x, expected 1 to 3");
}

#[test]
fn a_decoded_weight_multiplies_as_a_dense_one() {
    // The road of many tokens: decode, then multiply. The same bytes as with the golden's own decoded weight.
    let golden = Bytes::load();
    for_each_device(|device| {
        let case = "bf16_64x72";
        let quantised = Nf4Weight::quantize(&golden.weight(device, case), None).unwrap();
        let dense = device.upload("w", device.act(), &[64, 72], &golden.floats(&format!("{case}.plain"))).unwrap();
        let x = device.upload("x", device.act(), &[9, 72], &[0.25; 9 * 72]).unwrap();
        let y = [&quantised.dequantize("w").unwrap(), &dense].map(|w| {
            let y = device.zeros("y", device.act(), &[9, 64]).unwrap();
            matmul(Layout::NT, &[(&x, w)], &y, 1.0, Write::Set).unwrap();
            y.read_bytes().unwrap()
        });
        assert_eq!(y[0], y[1]);
    });
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let device = Device::cpu(Compute::Bf16).unwrap();
    let packed = device.zeros("q_proj", DType::U8, &[100]).unwrap();
    let absmax = device.zeros("q_proj.absmax", DType::F32, &[4]).unwrap();
    let error = Nf4Weight::new(packed, Scales::Plain(absmax), [16, 16]).unwrap_err().to_string();
    assert_eq!(error, "NF4 codes: expected U8 [128], `q_proj` is U8 [100]");
}
