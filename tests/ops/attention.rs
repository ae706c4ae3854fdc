//! Attention against tools/golden/attention.py, against an explicit softmax in fp64, and against itself: packed or alone,
//! whole or through a cache, on any number of threads; each of them also as a Hopper computes it, where that is another kernel.

use crate::common::{Golden, for_each_device};
use llamacare::device::{Compute, DType, Device, Tensor};
use llamacare::ffi::{
    self, LC_ATTENTION_100K, LC_ATTENTION_164K, LC_ATTENTION_AUTO, LC_ATTENTION_SM90, lc_attention_blocks,
    lc_attention_fwd_args,
};
use llamacare::ops::attention::{PAGE, Paged, SequenceLayout, attention};
use llamacare::tape::Tape;
use std::sync::Arc;

/// Lengths around blocks of 64 and 128 rows: below, at and above them, and more than two.
const LENGTHS: [i32; 6] = [1, 7, 63, 64, 65, 130];
/// The same around Hopper's.
const RAGGED: [i32; 8] = [129, 1, 300, 63, 64, 65, 127, 128];

/// attention_wgmma.h: heads of 64 and 128.
fn hopper(device: &Device, head_dim: usize) -> bool {
    device.runs_hopper() && head_dim >= 64
}

fn ends(lengths: &[i32]) -> Vec<i32> {
    std::iter::once(0).chain(lengths.iter().scan(0, |at, n| (*at += n, Some(*at)).1)).collect()
}

/// What bf16 can hold between -2 and 2, the same for the same seed.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        half::bf16::from_f32((state >> 40) as f32 / (1 << 22) as f32 - 2.0).to_f32()
    };
    (0..n).map(|_| next()).collect()
}

/// H, KV, D.
type Heads = [usize; 3];

struct Inputs {
    heads: Heads,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    d_o: Vec<f32>,
}

impl Inputs {
    fn random(t: usize, heads: Heads) -> Inputs {
        let [h, kv, d] = heads;
        let (wide, narrow) = (t * h * d, t * kv * d);
        Inputs { heads, q: noise(wide, 1), k: noise(narrow, 2), v: noise(narrow, 3), d_o: noise(wide, 4) }
    }

    /// Rows `begin..end` of each.
    fn rows(&self, begin: usize, end: usize) -> Inputs {
        let [h, kv, d] = self.heads;
        let cut = |x: &[f32], width: usize| x[begin * width..end * width].to_vec();
        let (q, d_o) = (cut(&self.q, h * d), cut(&self.d_o, h * d));
        Inputs { heads: self.heads, q, k: cut(&self.k, kv * d), v: cut(&self.v, kv * d), d_o }
    }

    /// o, dq, dk, dv.
    fn run(&self, device: &Device, layout: &Arc<SequenceLayout>) -> [Tensor; 4] {
        let [h, kv, d] = self.heads;
        let mut tape = Tape::new(device);
        let upload = |x: &[f32], n: usize| device.upload("x", device.act(), &[x.len() / (n * d), n * d], x).unwrap();
        let [q, k, v] = [(&self.q, h), (&self.k, kv), (&self.v, kv)].map(|(x, n)| tape.var(upload(x, n), true));
        let o = attention(&mut tape, &q, &k, &v, layout, h, kv, d).unwrap();
        let mut grads = tape.backward(vec![(o.id(), upload(&self.d_o, h))]).unwrap();
        let [dq, dk, dv] = [&q, &k, &v].map(|x| grads.take(x.id()).unwrap());
        [o.value().clone(), dq, dk, dv]
    }

    /// The same by the formulas, in fp64: every score of a sequence side by side, those not seen left out.
    fn explicit(&self, lengths: &[i32], key_counts: &[i32]) -> [Vec<f64>; 4] {
        let [h, kv, d] = self.heads;
        let (scale, starts) = (1.0 / (d as f64).sqrt(), ends(lengths));
        let [mut o, mut dq] = [(); 2].map(|()| vec![0.0; self.q.len()]);
        let [mut dk, mut dv] = [(); 2].map(|()| vec![0.0; self.k.len()]);
        let dot = |a: &[f32], i: usize, b: &[f32], j: usize| -> f64 {
            (0..d).map(|c| f64::from(a[i + c]) * f64::from(b[j + c])).sum()
        };
        for ((&start, &n), &n_keys) in starts.iter().zip(lengths).zip(key_counts) {
            for (i, head) in (0..n).flat_map(|i| (0..h).map(move |head| (i, head))) {
                let at = ((start + i) as usize * h + head) * d;
                let key = |j: i32| ((start + j) as usize * kv + head / (h / kv)) * d;
                let seen = n_keys.min(i + 1);
                let weights: Vec<f64> = (0..seen).map(|j| (scale * dot(&self.q, at, &self.k, key(j))).exp()).collect();
                let total: f64 = weights.iter().sum();
                let p: Vec<f64> = weights.iter().map(|w| w / total).collect();
                let dp: Vec<f64> = (0..seen).map(|j| dot(&self.d_o, at, &self.v, key(j))).collect();
                let delta: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
                for j in 0..seen {
                    let (from, p) = (key(j), p[j as usize]);
                    let ds = p * (dp[j as usize] - delta) * scale;
                    for c in 0..d {
                        o[at + c] += p * f64::from(self.v[from + c]);
                        dq[at + c] += ds * f64::from(self.k[from + c]);
                        dk[from + c] += ds * f64::from(self.q[at + c]);
                        dv[from + c] += p * f64::from(self.d_o[at + c]);
                    }
                }
            }
        }
        [o, dq, dk, dv]
    }
}

fn bytes(tensors: &[Tensor; 4]) -> Vec<Vec<u8>> {
    tensors.iter().map(|t| t.read_bytes().unwrap()).collect()
}

#[test]
fn attention_matches_torch() {
    let golden = Golden::load("attention");
    for_each_device(|device| {
        for case in golden.cases() {
            let heads: Heads =
                golden.ints(&case, "heads").iter().map(|&n| n as usize).collect::<Vec<_>>().try_into().unwrap();
            let floats = |name| golden.floats(&case, name);
            let inputs = Inputs { heads, q: floats("q"), k: floats("k"), v: floats("v"), d_o: floats("do") };
            for blocks in [LC_ATTENTION_100K, LC_ATTENTION_164K, LC_ATTENTION_SM90] {
                if blocks == LC_ATTENTION_SM90 && !hopper(device, heads[2]) {
                    continue;
                }
                let layout = SequenceLayout::packed(device, &ends(&golden.ints(&case, "lengths"))).unwrap();
                let [o, dq, dk, dv] = inputs.run(device, &Arc::new(layout.with_blocks(blocks)));
                golden.check(device, &case, "o", &o, 2.0);
                for (name, gradient) in [("dq", dq), ("dk", dk), ("dv", dv)] {
                    golden.check(device, &case, name, &gradient, 3.0);
                }
            }
        }
    });
}

#[test]
fn every_head_size_and_group_matches_the_explicit_softmax() {
    let device = Device::cpu(Compute::Fp32).unwrap();
    let padded: Vec<i32> = LENGTHS.iter().map(|n| (n * 2 / 3).max(1)).collect();
    for heads in [[2, 2, 16], [3, 1, 16], [4, 2, 32], [2, 1, 64], [1, 1, 128], [3, 1, 128]] {
        let inputs = Inputs::random(330, heads);
        for key_counts in [&LENGTHS[..], &padded] {
            let layout = SequenceLayout::with_key_counts(&device, &ends(&LENGTHS), key_counts).unwrap();
            let want = inputs.explicit(&LENGTHS, key_counts);
            assert_near(&inputs.run(&device, &Arc::new(layout)), &want, &format!("{heads:?} keys {key_counts:?}"));
        }
    }
}

fn assert_near(got: &[Tensor; 4], want: &[Vec<f64>; 4], what: &str) {
    for ((got, want), name) in got.iter().zip(want).zip(["o", "dq", "dk", "dv"]) {
        let size = (want.iter().map(|w| w * w).sum::<f64>() / want.len() as f64).sqrt();
        for (i, (g, w)) in got.read_f32().unwrap().into_iter().zip(want).enumerate() {
            let near = (f64::from(g) - w).abs() <= 1e-5 * size.max(w.abs());
            assert!(near, "{what}: {name}[{i}] is {g}, expected {w}");
        }
    }
}

#[test]
fn every_shape_of_blocks_matches_the_explicit_softmax() {
    let device = Device::cpu(Compute::Fp32).unwrap();
    let lengths = [130, 1, 300, 64];
    let padded = [97, 1, 290, 64];
    for heads in [[1, 1, 128], [4, 2, 128]] {
        let inputs = Inputs::random(495, heads);
        for key_counts in [&lengths, &padded] {
            let want = inputs.explicit(&lengths, key_counts);
            for blocks in [LC_ATTENTION_100K, LC_ATTENTION_164K] {
                let layout = SequenceLayout::with_key_counts(&device, &ends(&lengths), key_counts).unwrap();
                let got = inputs.run(&device, &Arc::new(layout.with_blocks(blocks)));
                assert_near(&got, &want, &format!("{heads:?} keys {key_counts:?} blocks {blocks}"));
            }
        }
    }
}

/// norm(got - want) / norm(want) of o, dq, dk and dv.
fn errors(got: &[Tensor; 4], want: &[Vec<f64>; 4]) -> [f64; 4] {
    [0, 1, 2, 3].map(|i| {
        let got = got[i].read_f32().unwrap();
        let off: f64 = got.iter().zip(&want[i]).map(|(&g, w)| (f64::from(g) - w).powi(2)).sum();
        (off / want[i].iter().map(|w| w * w).sum::<f64>()).sqrt()
    })
}

#[test]
fn hopper_is_as_near_to_the_explicit_softmax_as_the_others() {
    let device = Device::cpu(Compute::Bf16).unwrap();
    let padded: Vec<i32> = RAGGED.iter().map(|n| (n * 2 / 3).max(1)).collect();
    for heads in [[2, 2, 128], [3, 1, 128], [4, 2, 64]] {
        let inputs = Inputs::random(877, heads);
        for key_counts in [&RAGGED[..], &padded] {
            let want = inputs.explicit(&RAGGED, key_counts);
            let run = |blocks| {
                let layout = SequenceLayout::with_key_counts(&device, &ends(&RAGGED), key_counts).unwrap();
                errors(&inputs.run(&device, &Arc::new(layout.with_blocks(blocks))), &want)
            };
            let (ours, theirs) = (run(LC_ATTENTION_SM90), run(LC_ATTENTION_100K));
            for ((ours, theirs), name) in ours.iter().zip(theirs).zip(["o", "dq", "dk", "dv"]) {
                let near = *ours <= 1.05 * theirs;
                assert!(
                    near,
                    "{heads:?} keys {key_counts:?}: {name} is off by {ours:.3e}, attention.cu by {theirs:.3e}"
                );
            }
        }
    }
}

fn packed_is_bit_equal_to_alone(device: &Device, lengths: &[i32], heads: Heads, blocks: lc_attention_blocks) {
    let starts = ends(lengths);
    let layout = |ends: &[i32]| Arc::new(SequenceLayout::packed(device, ends).unwrap().with_blocks(blocks));
    let inputs = Inputs::random(lengths.iter().sum::<i32>() as usize, heads);
    let packed = inputs.run(device, &layout(&starts));
    for w in starts.windows(2) {
        let (begin, end) = (w[0] as usize, w[1] as usize);
        let one = inputs.rows(begin, end).run(device, &layout(&[0, w[1] - w[0]]));
        let part = [0, 1, 2, 3].map(|i| packed[i].rows(begin, end));
        assert!(bytes(&part) == bytes(&one), "{}: {heads:?}, rows {begin}..{end}", device.name());
    }
}

#[test]
fn packed_sequences_are_bit_equal_to_one_at_a_time() {
    for_each_device(|device| {
        packed_is_bit_equal_to_alone(device, &LENGTHS, [4, 2, 32], LC_ATTENTION_AUTO);
        for heads in [[2, 1, 128], [2, 2, 64]] {
            if hopper(device, heads[2]) {
                packed_is_bit_equal_to_alone(device, &RAGGED, heads, LC_ATTENTION_SM90);
            }
        }
    });
}

#[test]
fn decoding_with_a_cache_gives_the_rows_of_the_full_forward() {
    // Heads of 128 take steps of half a page on some devices.
    for_each_device(|device| {
        for heads in [[4, 2, 16], [2, 1, 128]] {
            a_cache_gives_the_rows_of_the_full_forward(device, heads);
        }
    });
}

fn a_cache_gives_the_rows_of_the_full_forward(device: &Device, heads: Heads) {
    let [h, kv, d] = heads;
    let (t, act) = (150, device.act());
    // Its pages lie anywhere.
    let pages = [4, 1, 3];
    let inputs = Inputs::random(t, heads);
    let whole = inputs.run(device, &Arc::new(SequenceLayout::packed(device, &[0, t as i32]).unwrap()));
    // What lies around the sequence in the cache must not matter, not even a NaN.
    let cache = |x: &[f32]| {
        let mut rows = vec![f32::NAN; 6 * PAGE * kv * d];
        for (page, part) in pages.iter().zip(x.chunks(PAGE * kv * d)) {
            rows[*page as usize * PAGE * kv * d..][..part.len()].copy_from_slice(part);
        }
        device.upload("cache", act, &[6 * PAGE, kv * d], &rows).unwrap()
    };
    for (past, new) in [(0, 1), (149, 1), (63, 1), (64, 3), (60, 90)] {
        let now = inputs.rows(past, past + new);
        let seen = inputs.rows(0, past + new);
        let mut tape = Tape::inference(device);
        let q = tape.var(device.upload("q", act, &[new, h * d], &now.q).unwrap(), false);
        let (k, v) = (tape.var(cache(&seen.k), false), tape.var(cache(&seen.v), false));
        let layout = SequenceLayout::paged(device, &[Paged { pages: &pages, past, new }]).unwrap();
        assert_eq!(layout.positions().read_i32().unwrap()[0], past as i32);
        let o = attention(&mut tape, &q, &k, &v, &Arc::new(layout), h, kv, d).unwrap();
        let want = whole[0].rows(past, past + new);
        // Rows are summed in the same order wherever they lie in a tile: the same bits.
        assert!(o.value().read_bytes().unwrap() == want.read_bytes().unwrap(), "{}: {past}+{new}", device.name());
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let device = Device::cpu(Compute::Bf16).unwrap();
    let inputs = Inputs::random(330, [6, 2, 64]);
    for blocks in [LC_ATTENTION_AUTO, LC_ATTENTION_SM90] {
        let run = |threads| {
            ffi::set_threads(threads, || {
                let layout = SequenceLayout::packed(&device, &ends(&LENGTHS)).unwrap().with_blocks(blocks);
                bytes(&inputs.run(&device, &Arc::new(layout)))
            })
        };
        let one = run(1);
        assert!(one == run(2) && one == run(3));
    }
}

#[test]
fn a_row_that_sees_no_key_gives_zeros_and_a_nan_stays_a_nan() {
    for_each_device(|device| {
        let t = 5;
        let roads = [(16, LC_ATTENTION_AUTO), (64, LC_ATTENTION_SM90)];
        let roads = roads.into_iter().filter(|&(d, blocks)| blocks == LC_ATTENTION_AUTO || hopper(device, d));
        for ((d, blocks), (k_len, fill)) in roads.flat_map(|r| [(0, 1.0), (5, f32::NAN)].map(|case| (r, case))) {
            let tensor = |name| device.upload(name, device.act(), &[t, d], &vec![fill; t * d]).unwrap();
            let (q, k, v, o) = (tensor("q"), tensor("k"), tensor("v"), tensor("o"));
            let lse = device.empty("lse", DType::F32, &[1, t]).unwrap();
            let sequences = device.upload_i32("sequences", &[1, 5], &[0, t as i32, 0, k_len, 0]).unwrap();
            let tiles = device.upload_i32("tiles", &[1, 2], &[0, 0]).unwrap();
            let ld = d as i32;
            let args = lc_attention_fwd_args {
                q: q.ptr(),
                k: k.ptr(),
                v: v.ptr(),
                sequences: sequences.ptr(),
                q_tiles: tiles.ptr(),
                pages: std::ptr::null(),
                o: o.ptr(),
                lse: lse.ptr(),
                n_q_tiles: 1,
                T: t as i32,
                H: 1,
                KV: 1,
                D: ld,
                ldq: ld,
                ldk: ld,
                ldv: ld,
                ldo: ld,
                scale: 0.25,
                blocks: blocks as i32,
                own_keys: 1,
            };
            ffi::launch(device, &ffi::ATTENTION_FWD, &args, &[&q, &k, &v, &o]).unwrap();
            let o = o.read_f32().unwrap();
            if k_len == 0 {
                assert!(o.iter().all(|&x| x == 0.0), "{o:?}");
                assert!(lse.read_f32().unwrap().iter().all(|&x| x == f32::NEG_INFINITY));
            } else {
                assert!(o.iter().all(|x| x.is_nan()), "{o:?}");
            }
        }
    });
}

#[test]
fn what_does_not_fit_is_refused_in_one_sentence() {
    let device = Device::cpu(Compute::Bf16).unwrap();
    let refusal = |rows: usize, layout: SequenceLayout, head_dim: usize| {
        let mut tape = Tape::new(&device);
        let x = tape.var(device.zeros("x", device.act(), &[rows, head_dim]).unwrap(), true);
        attention(&mut tape, &x, &x, &x, &Arc::new(layout), 1, 1, head_dim).unwrap_err().to_string()
    };
    let packed = |cu: &[i32]| SequenceLayout::packed(&device, cu);
    assert_eq!(refusal(4, packed(&[0, 3]).unwrap(), 16), "attention q: expected Bf16 [3, 16], `x` is Bf16 [4, 16]");
    let error = refusal(3, packed(&[0, 3]).unwrap(), 24);
    assert!(error.contains("head size 16, 32, 64 or 128"), "{error}");
    let error = refusal(3, packed(&[0, 3]).unwrap().with_blocks(LC_ATTENTION_SM90), 32);
    assert!(error.contains("head size 64 or 128"), "{error}");
    let mut tape = Tape::inference(&device);
    let x = tape.var(device.zeros("x", device.act(), &[1, 64]).unwrap(), false);
    let paged = |past| SequenceLayout::paged(&device, &[Paged { pages: &[0], past, new: 1 }]).unwrap();
    let rows = tape.var(device.zeros("x", device.act(), &[PAGE, 64]).unwrap(), false);
    let cache = paged(0).with_blocks(LC_ATTENTION_SM90);
    let error = attention(&mut tape, &x, &rows, &rows, &Arc::new(cache), 1, 1, 64).unwrap_err().to_string();
    assert!(error.contains("own_keys"), "{error}");
    let error = refusal(1, paged(4), 16);
    assert!(error.contains("1 rows, the layout's 1 sequences need 64"), "{error}");
    let mut recording = Tape::new(&device);
    let q = recording.var(device.zeros("q", device.act(), &[1, 64]).unwrap(), true);
    let error = attention(&mut recording, &q, &rows, &rows, &Arc::new(paged(0)), 1, 1, 64).unwrap_err().to_string();
    assert!(error.contains("no backward"), "{error}");
    for cu in [&[0][..], &[0, 3, 3], &[1, 2], &[]] {
        assert!(packed(cu).unwrap_err().to_string().contains("expected 0 and then ends that grow"));
    }
    assert!(SequenceLayout::with_key_counts(&device, &[0, 3], &[4]).is_err());
    assert!(packed(&[0, 3]).unwrap().with_positions(&[0, 1]).is_err());
}
