//! 8-bit operands and their products against tools/golden/fp8.py; every tile against a plain triple loop.

use crate::common::{Golden, for_each_device};
use llamacare::device::{Compute, DType, Device, Tensor};
use llamacare::ops::fp8::{Fp8, Fp8Product, Fp8Scales, matmul_fp8};
use llamacare::ops::matmul::Layout;
use llamacare::ops::nf4::{Nf4Weight, Orientation, nested_map_on};
use llamacare::tape::Write;

/// Runs `test` wherever there are 8-bit products.
fn for_each_fp8_device(test: impl Fn(&Device)) {
    for_each_device(|device| match device.expect_fp8() {
        Ok(()) => test(device),
        Err(reason) => println!("not on {}: {reason}", device.name()),
    });
}

/// Codes as golden files hold them; NaN by any of its two names.
fn same_codes(found: &Tensor, want: &[i32], what: &str) {
    let nan = |code: i32| code & 0x7f == 0x7f;
    let found = found.read_bytes().unwrap();
    assert_eq!(found.len(), want.len(), "{what}");
    for (at, (&f, &w)) in found.iter().zip(want).enumerate() {
        assert!(i32::from(f) == w || nan(f.into()) && nan(w), "{what}, code {at}: {f:02x}, not {w:02x}");
    }
}

fn same_scales(found: &Tensor, want: &[f32], what: &str) {
    assert_eq!(
        bytemuck::cast_slice::<f32, u8>(&found.read_f32().unwrap()),
        bytemuck::cast_slice::<f32, u8>(want),
        "{what}"
    );
}

fn cases(golden: &Golden, kind: &str) -> Vec<String> {
    let cases: Vec<String> = golden.cases().into_iter().filter(|c| c.starts_with(kind)).collect();
    assert!(!cases.is_empty(), "no case of {kind}");
    cases
}

#[test]
fn rows_become_torchs_codes_bit_for_bit() {
    let golden = Golden::load("fp8");
    for_each_device(|device| {
        for case in cases(&golden, "rows_") {
            let x = Fp8::of(&golden.act(device, &case, "x"), "x8").unwrap();
            same_scales(&x.scales, &golden.floats(&case, "scales"), &format!("{case} on {}", device.name()));
            same_codes(&x.codes, &golden.ints(&case, "codes"), &format!("{case} on {}", device.name()));
        }
    });
}

#[test]
fn what_is_not_finite_stays_so() {
    let device = Device::cpu(Compute::Bf16).unwrap();
    let mut values = vec![1.0; 4 * 16];
    (values[3], values[16 + 5], values[32 + 7]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    let x = Fp8::of(&device.upload("x", device.act(), &[4, 16], &values).unwrap(), "x8").unwrap();
    let w = Fp8::of(&device.upload("w", device.act(), &[16, 16], &[0.5; 256]).unwrap(), "w8").unwrap();
    let y = device.empty("y", device.act(), &[4, 16]).unwrap();
    matmul_fp8(Layout::NT, &[Fp8Product { eight: vec![(&x, &w)], wide: vec![], y: &y }], Write::Set).unwrap();
    let y = y.read_f32().unwrap();
    assert!(y[..48].iter().all(|v| v.is_nan()), "{y:?}");
    assert!(y[48..].iter().all(|v| *v == 8.0), "{y:?}");
}

#[test]
fn nf4_becomes_torchs_codes_in_both_orientations() {
    let golden = Golden::load("fp8");
    for_each_device(|device| {
        let map = nested_map_on(device).unwrap();
        for case in cases(&golden, "nf4_") {
            let w = golden.upload(device, &case, "w", DType::F32);
            let w = Nf4Weight::quantize(&w, case.contains("double").then_some(&map)).unwrap();
            let scales = Fp8Scales::of(&w).unwrap();
            let [n, k] = w.shape();
            let ways = [
                ("row_scales", "rows", [n, k], Orientation::Rows),
                ("column_scales", "columns", [k, n], Orientation::Transposed),
            ];
            for (of, codes, shape, orientation) in ways {
                let what = format!("{case} {codes} on {}", device.name());
                same_scales(scales.along(orientation), &golden.floats(&case, of), &what);
                let y = device.zeros("y", DType::U8, &shape).unwrap();
                scales.decode_into(&w, &y, orientation).unwrap();
                same_codes(&y, &golden.ints(&case, codes), &what);
            }
        }
    });
}

fn upload_codes(device: &Device, codes: &[i32], shape: &[usize]) -> Tensor {
    let t = device.empty("codes", DType::U8, shape).unwrap();
    t.write_bytes(&codes.iter().map(|&c| c as u8).collect::<Vec<_>>()).unwrap();
    t
}

#[test]
fn products_match_torch_on_the_same_codes() {
    let golden = Golden::load("fp8");
    for_each_fp8_device(|device| {
        for case in cases(&golden, "mm_") {
            let operand = |name: String, of: String| Fp8 {
                codes: upload_codes(device, &golden.ints(&case, &name), golden.shape(&case, &name)),
                scales: golden.upload(device, &case, &of, DType::F32),
            };
            let n = |name: &str| golden.ints(&case, name)[0];
            let eight: Vec<(Fp8, Fp8)> = (0..n("n_eight"))
                .map(|i| (operand(format!("a{i}"), format!("as{i}")), operand(format!("b{i}"), format!("bs{i}"))))
                .collect();
            let act = |name: String| golden.act(device, &case, &name);
            let wide: Vec<(Tensor, Tensor)> =
                (0..n("n_wide")).map(|i| (act(format!("wa{i}")), act(format!("wb{i}")))).collect();
            let y = golden.act(device, &case, "y0");
            let layout = if case.starts_with("mm_nt") { Layout::NT } else { Layout::NN };
            let write = if n("add") == 1 { Write::Add } else { Write::Set };
            let product = Fp8Product {
                eight: eight.iter().map(|(a, b)| (a, b)).collect(),
                wide: wide.iter().map(|(a, b)| (a, b)).collect(),
                y: &y,
            };
            matmul_fp8(layout, &[product], write).unwrap();
            golden.check(device, &case, "y", &y, 2.0);
        }
    });
}

/// Integers from -3 to 3, and a power of two for each row: rows become such codes and scales that every sum is exact.
fn exact(device: &Device, rows: usize, k: usize, seed: u32) -> (Fp8, Vec<f64>) {
    let mut state = seed;
    let mut next = |n: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % n
    };
    let scales: Vec<f32> = (0..rows).map(|_| [0.25, 0.5, 1.0, 2.0][next(4) as usize]).collect();
    // e4m3 of 0, 1, 2, 3.
    let code = |v: i32| [0x00, 0x38, 0x40, 0x44][v.unsigned_abs() as usize] | if v < 0 { 0x80 } else { 0 };
    let integers: Vec<i32> = (0..rows * k).map(|_| next(7) as i32 - 3).collect();
    let codes: Vec<i32> = integers.iter().map(|&v| code(v)).collect();
    let values = integers.iter().enumerate().map(|(at, &v)| f64::from(v) * f64::from(scales[at / k])).collect();
    let scales = device.upload("scales", DType::F32, &[rows], &scales).unwrap();
    (Fp8 { codes: upload_codes(device, &codes, &[rows, k]), scales }, values)
}

#[test]
fn every_tile_and_every_output_of_a_launch_sums_exactly_the_right_products() {
    // Large and small tiles with edges; three outputs of different widths; segments that end inside a k-tile.
    let shapes = [(264, [328, 72, 136]), (40, [8, 24, 72]), (1, [16, 8, 8]), (130, [520, 128, 8])];
    for_each_fp8_device(|device| {
        for (i, (m, widths)) in shapes.into_iter().enumerate() {
            for layout in [Layout::NT, Layout::NN] {
                let seed = 100 * i as u32;
                let mut outputs = Vec::new();
                for (at, n) in widths.into_iter().enumerate() {
                    let (k, wide) = (144 - 48 * at, 24);
                    let (a, b) = (exact(device, m, k, seed + at as u32), exact(device, n, k, seed + 10 + at as u32));
                    let narrow = |rows: usize, columns: usize, seed: u32| {
                        let values: Vec<f32> =
                            (0..rows * columns).map(|e| ((e as u32 * 7 + seed) % 5) as f32 - 2.0).collect();
                        (device.upload("bf16", device.act(), &[rows, columns], &values).unwrap(), values)
                    };
                    let (ta, va) = narrow(m, wide, seed);
                    let turned = layout == Layout::NN;
                    let (tb, vb) = if turned { narrow(wide, n, seed + 3) } else { narrow(n, wide, seed + 3) };
                    let want: Vec<f32> = (0..m * n)
                        .map(|e| {
                            let (row, column) = (e / n, e % n);
                            let eight: f64 = (0..k).map(|j| a.1[row * k + j] * b.1[column * k + j]).sum();
                            let of_b = |j: usize| vb[if turned { j * n + column } else { column * wide + j }];
                            eight as f32 + (0..wide).map(|j| va[row * wide + j] * of_b(j)).sum::<f32>()
                        })
                        .collect();
                    let y = device.upload("y", device.act(), &[m, n], &vec![7.0; m * n]).unwrap();
                    outputs.push(((a.0, b.0), (ta, tb), y, want));
                }
                let products: Vec<Fp8Product> = outputs
                    .iter()
                    .map(|(eight, wide, y, _)| Fp8Product {
                        eight: vec![(&eight.0, &eight.1)],
                        wide: vec![(&wide.0, &wide.1)],
                        y,
                    })
                    .collect();
                matmul_fp8(layout, &products, Write::Set).unwrap();
                for (_, _, y, want) in &outputs {
                    // Sums are exact; only storing rounds.
                    let stored = device.upload("want", device.act(), y.shape(), want).unwrap();
                    assert_eq!(
                        y.read_f32().unwrap(),
                        stored.read_f32().unwrap(),
                        "{layout:?} {m}x{:?} on {}",
                        y.shape(),
                        device.name()
                    );
                }
            }
        }
    });
}

#[test]
fn a_nan_outside_the_matrix_never_enters_it() {
    for_each_fp8_device(|device| {
        let (m, n, k) = (5, 24, 48);
        let codes = |rows: usize, to: usize| {
            let codes: Vec<i32> = (0..to * k).map(|e| if e < rows * k { 0x38 } else { 0x7f }).collect();
            let scales: Vec<f32> = (0..to).map(|r| if r < rows { 1.0 } else { f32::NAN }).collect();
            let scales = device.upload("scales", DType::F32, &[to], &scales).unwrap();
            Fp8 { codes: upload_codes(device, &codes, &[to, k]).rows(0, rows), scales: scales.rows(0, rows) }
        };
        let (a, b) = (codes(m, m + 3), codes(n, n + 8));
        let y = device.upload("y", device.act(), &[m + 3, n], &vec![7.0; (m + 3) * n]).unwrap();
        let product = Fp8Product { eight: vec![(&a, &b)], wide: vec![], y: &y.rows(0, m) };
        matmul_fp8(Layout::NT, &[product], Write::Set).unwrap();
        let y = y.read_f32().unwrap();
        assert!(y[..m * n].iter().all(|&v| v == k as f32) && y[m * n..].iter().all(|&v| v == 7.0), "{y:?}");
    });
}

#[test]
fn what_does_not_fit_is_refused_with_its_names() {
    let device = Device::cpu(Compute::Bf16).unwrap();
    let x = device.zeros("x", device.act(), &[3, 24]).unwrap();
    let error = Fp8::of(&x, "x8").unwrap_err().to_string();
    assert!(error.contains("K % 16 == 0") && error.contains("x [3, 24]"), "{error}");
    let fp32 = Device::cpu(Compute::Fp32).unwrap();
    let error = fp32.expect_fp8().unwrap_err().to_string();
    assert_eq!(error, "8-bit products go with bf16 storage, not with fp32");
    let (x, w) = (exact(&fp32, 3, 16, 1).0, exact(&fp32, 16, 16, 2).0);
    let y = fp32.zeros("y", fp32.act(), &[3, 16]).unwrap();
    let product = Fp8Product { eight: vec![(&x, &w)], wide: vec![], y: &y };
    let error = matmul_fp8(Layout::NT, &[product], Write::Set).unwrap_err().to_string();
    assert!(error.contains("it needs bf16 storage"), "{error}");
}
