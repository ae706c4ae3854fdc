//! Matrix products against tools/golden/matmul.py, and every tile of the table against a plain triple loop.

use crate::common::{Golden, for_each_device};
use llamacare::device::{Compute, DType, Device, Tensor};
use llamacare::ops::matmul::{Layout, matmul};
use llamacare::tape::Write;

fn layout(name: &str) -> Layout {
    match name {
        "nt" => Layout::NT,
        "nn" => Layout::NN,
        "tn" => Layout::TN,
        other => panic!("layout {other}"),
    }
}

#[test]
fn matmul_matches_torch() {
    let golden = Golden::load("matmul");
    for_each_device(|device| {
        for case in golden.cases() {
            let tensor = |name: &str| golden.act(device, &case, name);
            let n_segments = golden.ints(&case, "segments")[0];
            let (a, b): (Vec<Tensor>, Vec<Tensor>) =
                (0..n_segments).map(|i| (tensor(&format!("a{i}")), tensor(&format!("b{i}")))).unzip();
            let segments: Vec<_> = a.iter().zip(&b).collect();
            let write = if golden.ints(&case, "add")[0] == 1 { Write::Add } else { Write::Set };
            let alpha = golden.floats(&case, "alpha")[0];
            for dtype in [device.act(), DType::F32] {
                let y = golden.upload(device, &case, "y0", dtype);
                matmul(layout(&case[..2]), &segments, &y, alpha, write).unwrap();
                golden.check(device, &case, "y", &y, 2.0);
            }
        }
    });
}

/// Small integers: every product and sum is exact in bf16 storage and fp32 sums, so the answer is exact as well.
fn integers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as i32 % 5 - 2
    };
    (0..n).map(|_| next() as f32).collect()
}

#[test]
fn every_tile_of_the_table_sums_exactly_the_right_products() {
    // Large, small, narrow and flat tiles, with edges and two segments, one of which ends inside a k-tile.
    let shapes = [(264, 328), (128, 520), (129, 72), (72, 16), (8, 136), (16, 24), (40, 8)];
    for_each_device(|device| {
        for (i, (m, n)) in shapes.into_iter().enumerate() {
            for layout in [Layout::NT, Layout::NN, Layout::TN] {
                let m = if layout == Layout::TN { m / 8 * 8 } else { m };
                let sizes = [(72, 11 + i as u32), (24, 99 + i as u32)];
                let mut want = integers(m * n, 7);
                let y = device.upload("y", DType::F32, &[m, n], &want).unwrap();
                let mut tensors = Vec::new();
                for (k, seed) in sizes {
                    let (a, b) = (integers(m * k, seed), integers(k * n, seed + 1));
                    let (a_shape, a_step) = if layout == Layout::TN { ([k, m], [1, m]) } else { ([m, k], [k, 1]) };
                    let (b_shape, b_step) = if layout == Layout::NT { ([n, k], [k, 1]) } else { ([k, n], [1, n]) };
                    for (at, w) in want.iter_mut().enumerate() {
                        let (row, column) = (at / n, at % n);
                        let product = |j| a[row * a_step[0] + j * a_step[1]] * b[column * b_step[0] + j * b_step[1]];
                        *w += 0.5 * (0..k).map(product).sum::<f32>();
                    }
                    let upload =
                        |name, shape: &[usize], v: &[f32]| device.upload(name, device.act(), shape, v).unwrap();
                    tensors.push((upload("a", &a_shape, &a), upload("b", &b_shape, &b)));
                }
                let segments: Vec<_> = tensors.iter().map(|(a, b)| (a, b)).collect();
                matmul(layout, &segments, &y, 0.5, Write::Add).unwrap();
                assert_eq!(y.read_f32().unwrap(), want, "{layout:?} {m}x{n} on {}", device.name());
            }
        }
    });
}

#[test]
fn a_nan_outside_the_matrix_never_enters_it() {
    // Edges of tiles are filled with zeros, not with what happens to lie there.
    for_each_device(|device| {
        let (m, n, k) = (5, 24, 40);
        let mut a = vec![f32::NAN; (m + 3) * k];
        a[..m * k].fill(1.0);
        let a = device.upload("a", device.act(), &[m + 3, k], &a).unwrap().rows(0, m);
        let b = device.upload("b", device.act(), &[n, k], &vec![1.0; n * k]).unwrap();
        let y = device.upload("y", DType::F32, &[m + 3, n], &vec![7.0; (m + 3) * n]).unwrap();
        matmul(Layout::NT, &[(&a, &b)], &y.rows(0, m), 1.0, Write::Set).unwrap();
        let y = y.read_f32().unwrap();
        assert!(y[..m * n].iter().all(|&v| v == k as f32) && y[m * n..].iter().all(|&v| v == 7.0));
    });
}

#[test]
fn wrong_shapes_are_refused_with_their_names() {
    let device = Device::cpu(Compute::Bf16).unwrap();
    let tensor = |name: &str, shape: &[usize]| device.zeros(name, device.act(), shape).unwrap();
    let (x, w, y) = (tensor("x", &[3, 16]), tensor("w", &[8, 24]), tensor("y", &[3, 8]));
    let error = matmul(Layout::NT, &[(&x, &w)], &y, 1.0, Write::Set).unwrap_err().to_string();
    assert_eq!(error, "matmul b: expected Bf16 [8, 16], `w` is Bf16 [8, 24]");
    let (w, y) = (tensor("w", &[12, 16]), tensor("y", &[3, 12]));
    let error = matmul(Layout::NT, &[(&x, &w)], &y, 1.0, Write::Set).unwrap_err().to_string();
    assert!(error.contains("N % 8 == 0") && error.contains("w [12, 16]"), "{error}");
}
