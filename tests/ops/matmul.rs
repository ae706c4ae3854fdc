//! Matrix products against tools/golden/matmul.py, and every tile of the table against a plain triple loop.

use crate::common::{Golden, for_each_device};
use llamacare::device::{Compute, DType, Device, Tensor};
use llamacare::ops::matmul::{Cut, Layout, Product, matmul, matmul_cut, matmul_each};
use llamacare::tape::Write;

fn layout(name: &str) -> Layout {
    match name {
        "nt" => Layout::NT,
        "nn" => Layout::NN,
        "tn" => Layout::TN,
        other => panic!("layout {other}"),
    }
}

/// Tiles of the table in matmul.cu: the first five are a GPU's, the next four the CPU device's, the last three Hopper's, which want
/// K whole and one of two layouts.
fn tiles(device: &Device, layout: Layout, slices: usize) -> Vec<usize> {
    let hopper = device.runs_hopper() && layout != Layout::TN && slices == 1;
    let of_device = if device.is_cuda() { 1..6 } else { 1..10 };
    of_device.chain(if hopper { 10..13 } else { 0..0 }).collect()
}

/// Left to choose, then every tile, K whole and cut.
fn cuts(device: &Device, layout: Layout) -> Vec<Cut> {
    let of = |n| tiles(device, layout, n).into_iter().map(move |tile| Cut { tile: Some(tile), slices: Some(n) });
    [Cut::default()].into_iter().chain([1, 2, 3].into_iter().flat_map(of)).collect()
}

#[test]
fn matmul_matches_torch_in_every_tile_with_k_whole_and_cut() {
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
                for cut in cuts(device, layout(&case[..2])) {
                    let y = golden.upload(device, &case, "y0", dtype);
                    let product = Product { segments: segments.clone(), y: &y, alpha, write };
                    matmul_cut(layout(&case[..2]), &[product], cut).unwrap();
                    golden.check(device, &case, "y", &y, 2.0);
                }
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

/// An output to be made of integers: what it is before, and what it must be.
struct Exact {
    segments: Vec<(Tensor, Tensor)>,
    shape: [usize; 2],
    start: Vec<f32>,
    want: Vec<f32>,
}

/// `y += 0.5 a b` over segments of these lengths.
fn exact(device: &Device, layout: Layout, [m, n]: [usize; 2], ks: &[usize], seed: u32) -> Exact {
    let start = integers(m * n, seed);
    let (mut want, mut segments) = (start.clone(), Vec::new());
    for (i, &k) in ks.iter().enumerate() {
        let (a, b) = (integers(m * k, seed + 10 * i as u32), integers(k * n, seed + 10 * i as u32 + 1));
        let (a_shape, a_step) = if layout == Layout::TN { ([k, m], [1, m]) } else { ([m, k], [k, 1]) };
        let (b_shape, b_step) = if layout == Layout::NT { ([n, k], [k, 1]) } else { ([k, n], [1, n]) };
        for (at, w) in want.iter_mut().enumerate() {
            let (row, column) = (at / n, at % n);
            let product = |j| a[row * a_step[0] + j * a_step[1]] * b[column * b_step[0] + j * b_step[1]];
            *w += 0.5 * (0..k).map(product).sum::<f32>();
        }
        let upload = |name, shape: &[usize], v: &[f32]| device.upload(name, device.act(), shape, v).unwrap();
        segments.push((upload("a", &a_shape, &a), upload("b", &b_shape, &b)));
    }
    Exact { segments, shape: [m, n], start, want }
}

impl Exact {
    fn y(&self, device: &Device) -> Tensor {
        device.upload("y", DType::F32, &self.shape, &self.start).unwrap()
    }

    fn product<'a>(&'a self, y: &'a Tensor) -> Product<'a> {
        let segments = self.segments.iter().map(|(a, b)| (a, b)).collect();
        Product { segments, y, alpha: 0.5, write: Write::Add }
    }
}

#[test]
fn every_tile_of_the_table_sums_exactly_the_right_products() {
    // More than a tile and less, with edges, and two segments, one of which ends inside a k-tile.
    let shapes = [[264, 328], [128, 520], [129, 72], [72, 16], [8, 136], [16, 24], [40, 8]];
    for_each_device(|device| {
        for (i, [m, n]) in shapes.into_iter().enumerate() {
            for layout in [Layout::NT, Layout::NN, Layout::TN] {
                let m = if layout == Layout::TN { m / 8 * 8 } else { m };
                let one = exact(device, layout, [m, n], &[72, 24], 7 + i as u32);
                for tile in [None].into_iter().chain(tiles(device, layout, 1).into_iter().map(Some)) {
                    let y = one.y(device);
                    matmul_cut(layout, &[one.product(&y)], Cut { tile, slices: Some(1) }).unwrap();
                    assert_eq!(y.read_f32().unwrap(), one.want, "{layout:?} {m}x{n} {tile:?} on {}", device.name());
                }
            }
        }
    });
}

#[test]
fn outputs_of_different_widths_and_depths_share_a_launch_whole_and_in_slices() {
    // As q, k and v of grouped heads with LoRA behind the first and the last; then slices that are empty, too.
    let outputs: [(usize, &[usize]); 3] = [(136, &[296, 16]), (40, &[136]), (72, &[40, 264, 16])];
    for_each_device(|device| {
        for (layout, m) in [(Layout::NT, 37), (Layout::NN, 136), (Layout::TN, 72)] {
            let exact = |(&(n, ks), seed): (&(usize, &[usize]), u32)| exact(device, layout, [m, n], ks, 100 * seed);
            let all: Vec<Exact> = outputs.iter().zip(5..).map(exact).collect();
            for slices in [1, 2, 3, 16] {
                for tile in [None].into_iter().chain(tiles(device, layout, slices).into_iter().map(Some)) {
                    let ys: Vec<Tensor> = all.iter().map(|one| one.y(device)).collect();
                    let products: Vec<Product> = all.iter().zip(&ys).map(|(one, y)| one.product(y)).collect();
                    matmul_cut(layout, &products, Cut { tile, slices: Some(slices) }).unwrap();
                    for (o, (one, y)) in all.iter().zip(&ys).enumerate() {
                        let what = format!("{layout:?} output {o}, {tile:?}, {slices} slices on {}", device.name());
                        assert_eq!(y.read_f32().unwrap(), one.want, "{what}");
                    }
                }
            }
        }
    });
}

#[test]
fn tall_outputs_are_walked_once_by_every_raster() {
    // More rows than a group of tiles, of pairs of tiles on Hopper: 2,048 and some.
    for_each_device(|device| {
        for layout in [Layout::NT, Layout::NN] {
            let all = [(136, 1), (264, 2)].map(|(n, seed)| exact(device, layout, [2184, n], &[16], seed));
            for tile in [None].into_iter().chain(tiles(device, layout, 1).into_iter().map(Some)) {
                let ys: Vec<Tensor> = all.iter().map(|one| one.y(device)).collect();
                let products: Vec<Product> = all.iter().zip(&ys).map(|(one, y)| one.product(y)).collect();
                matmul_cut(layout, &products, Cut { tile, slices: Some(1) }).unwrap();
                for (one, y) in all.iter().zip(&ys) {
                    assert!(y.read_f32().unwrap() == one.want, "{layout:?} {tile:?} on {}", device.name());
                }
            }
        }
    });
}

#[test]
fn more_products_than_a_launch_takes_and_unlike_ones_are_made_all_the_same() {
    for_each_device(|device| {
        let layout = Layout::NN;
        let ks: [&[usize]; 6] = [&[8; 8], &[16, 8], &[24], &[8], &[16], &[40]];
        let all: Vec<Exact> = ks
            .iter()
            .zip(1..)
            .map(|(ks, i)| exact(device, layout, [if i == 3 { 16 } else { 24 }, 8 * i], ks, i as u32))
            .collect();
        let ys: Vec<Tensor> = all.iter().map(|one| one.y(device)).collect();
        let mut products: Vec<Product> = all.iter().zip(&ys).map(|(one, y)| one.product(y)).collect();
        // The fourth sets, the fifth has another alpha.
        products[3].write = Write::Set;
        products[4].alpha = 2.0;
        matmul_each(layout, &products).unwrap();
        for (i, (one, y)) in all.iter().zip(&ys).enumerate() {
            let want: Vec<f32> = (one.want.iter().zip(&one.start))
                .map(|(&w, s)| match i {
                    3 => w - s,
                    4 => s + 4.0 * (w - s),
                    _ => w,
                })
                .collect();
            assert_eq!(y.read_f32().unwrap(), want, "product {i} on {}", device.name());
        }
    });
}

/// No two sums of these in different orders agree.
fn uneven(device: &Device, name: &str, shape: &[usize], seed: u32) -> Tensor {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    device.upload(name, device.act(), shape, &values).unwrap()
}

#[test]
fn neither_the_tile_nor_the_company_in_a_launch_changes_a_bit_and_slices_do() {
    // What is made again alone must be what was made in a launch with others, perhaps in another tile.
    for_each_device(|device| {
        let (m, ns, ks) = (72, [72, 136, 16], [1100, 24]);
        for layout in [Layout::NT, Layout::NN, Layout::TN] {
            let ks = if layout == Layout::TN { ks } else { [1096, 24] };
            let pair = |n: usize, k: usize| {
                let (a, b) = (
                    if layout == Layout::TN { [k, m] } else { [m, k] },
                    if layout == Layout::NT { [n, k] } else { [k, n] },
                );
                (uneven(device, "a", &a, 1), uneven(device, "b", &b, n as u32))
            };
            let pairs = ns.map(|n| ks.map(|k| pair(n, k)));
            let made = |together: bool, cut: Cut| -> Vec<Vec<f32>> {
                let ys = ns.map(|n| device.empty("y", DType::F32, &[m, n]).unwrap());
                let product = |(pairs, y)| -> Product {
                    let pairs: &[(Tensor, Tensor); 2] = pairs;
                    Product { segments: pairs.iter().map(|(a, b)| (a, b)).collect(), y, alpha: 1.5, write: Write::Set }
                };
                let products: Vec<Product> = pairs.iter().zip(&ys).map(product).collect();
                match together {
                    true => matmul_cut(layout, &products, cut).unwrap(),
                    false => products.iter().for_each(|p| matmul_cut(layout, std::slice::from_ref(p), cut).unwrap()),
                }
                ys.iter().map(|y| y.read_f32().unwrap()).collect()
            };
            let chosen = made(true, Cut::default());
            assert_eq!(made(false, Cut::default()), chosen, "{layout:?}: one by one, on {}", device.name());
            let [whole, cut] = [1, 4].map(|n| {
                let of = |tile| made(true, Cut { tile: Some(tile), slices: Some(n) });
                // Hopper's tiles, from the tenth on, are another instruction's, and may round otherwise: equal among themselves.
                let all = tiles(device, layout, n);
                let firsts: Vec<_> = [1, 10].into_iter().filter(|t| all.contains(t)).map(|t| (t, of(t))).collect();
                for tile in all {
                    let (_, like) = firsts.iter().rfind(|(t, _)| *t <= tile).expect("the first");
                    assert!(of(tile) == *like, "{layout:?}: tile {tile}, {n} slices on {}", device.name());
                }
                of(1)
            });
            assert_ne!(whole, cut, "{layout:?}: K was not cut");
        }
    });
}

#[test]
fn the_scratch_of_a_cut_product_stands_in_the_plan_of_a_gpu() {
    // x A^T of LoRA at 13B: 44 tiles, so K = 5120 is cut into five; y itself would fill the machine and is not.
    let device = Device::paper(Compute::Bf16, true);
    let tensor = |shape: &[usize]| device.empty("tensor", device.act(), shape).unwrap();
    let (x, a, u, w, y) =
        (tensor(&[2816, 5120]), tensor(&[16, 5120]), tensor(&[2816, 16]), tensor(&[5120, 5120]), tensor(&[2816, 5120]));
    matmul(Layout::NT, &[(&x, &w)], &y, 1.0, Write::Set).unwrap();
    assert_eq!(device.memory_use().at_peak.get("slices of K"), None);
    matmul(Layout::NT, &[(&x, &a)], &u, 1.0, Write::Set).unwrap();
    let red_zone = if cfg!(feature = "checked") { 256 } else { 0 };
    assert_eq!(device.memory_use().at_peak.get("slices of K"), Some(&(5 * 2816 * 16 * 4 + red_zone)));
}

#[test]
fn a_nan_outside_the_matrix_never_enters_it() {
    // Edges of tiles are filled with zeros, not with what happens to lie there.
    for_each_device(|device| {
        let (m, n, k) = (5, 24, 296);
        let mut a = vec![f32::NAN; (m + 3) * k];
        a[..m * k].fill(1.0);
        let a = device.upload("a", device.act(), &[m + 3, k], &a).unwrap().rows(0, m);
        let b = device.upload("b", device.act(), &[n, k], &vec![1.0; n * k]).unwrap();
        for cut in cuts(device, Layout::NT) {
            let all = device.upload("y", DType::F32, &[m + 3, n], &vec![7.0; (m + 3) * n]).unwrap();
            let product = Product { segments: vec![(&a, &b)], y: &all.rows(0, m), alpha: 1.0, write: Write::Set };
            matmul_cut(Layout::NT, &[product], cut).unwrap();
            let y = all.read_f32().unwrap();
            let inside = y[..m * n].iter().all(|&v| v == k as f32);
            assert!(inside && y[m * n..].iter().all(|&v| v == 7.0), "{cut:?}");
        }
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
    let (w, y) = (tensor("w", &[8, 16]), tensor("y", &[3, 8]));
    let product = Product { segments: vec![(&x, &w)], y: &y, alpha: 1.0, write: Write::Set };
    let error = matmul_cut(Layout::NT, &[product], Cut { tile: Some(13), slices: None }).unwrap_err().to_string();
    assert!(error.contains("a tile of this device's table"), "{error}");
    let product = Product { segments: vec![(&x, &w); 9], y: &y, alpha: 1.0, write: Write::Set };
    let error = matmul_each(Layout::NT, &[product]).unwrap_err().to_string();
    assert_eq!(error, "matmul: 9 segments; it takes 1 to 8");
}
