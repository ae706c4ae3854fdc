//! Decoding's attention against tools/golden/attention_decode.py, wherever the pages lie, and against itself: alone or beside others.

use crate::common::{Golden, for_each_device};
use llamacare::device::{Compute, Device, Tensor};
use llamacare::ops::attention::{PAGE, Paged, SequenceLayout};
use llamacare::ops::attention_decode::attention_decode;

/// A cache with the rows of sequences in pages from the last to the first, a free page between them, and NaN everywhere else.
struct Cache {
    k: Tensor,
    v: Tensor,
    pages: Vec<Vec<i32>>,
}

impl Cache {
    fn new(device: &Device, k: &[f32], v: &[f32], lengths: &[usize], width: usize) -> Cache {
        let n_pages: usize = 2 * lengths.iter().map(|n| n.div_ceil(PAGE)).sum::<usize>() + 1;
        let mut next = n_pages as i32;
        let mut take = || {
            next -= 2;
            next
        };
        let pages: Vec<Vec<i32>> = lengths.iter().map(|n| (0..n.div_ceil(PAGE)).map(|_| take()).collect()).collect();
        let lay = |rows: &[f32]| {
            let (mut all, mut at) = (vec![f32::NAN; n_pages * PAGE * width], 0);
            for (n, pages) in lengths.iter().zip(&pages) {
                for i in 0..*n {
                    let to = (pages[i / PAGE] as usize * PAGE + i % PAGE) * width;
                    all[to..to + width].copy_from_slice(&rows[(at + i) * width..][..width]);
                }
                at += n;
            }
            device.upload("cache", device.act(), &[n_pages * PAGE, width], &all).unwrap()
        };
        Cache { k: lay(k), v: lay(v), pages }
    }

    fn layout(&self, device: &Device, lengths: &[usize]) -> SequenceLayout {
        let entries: Vec<Paged> =
            self.pages.iter().zip(lengths).map(|(pages, &n)| Paged { pages, past: n - 1, new: 1 }).collect();
        SequenceLayout::paged(device, &entries).unwrap()
    }
}

#[test]
fn attention_decode_matches_torch_wherever_the_pages_lie() {
    let golden = Golden::load("attention_decode");
    for_each_device(|device| {
        for case in golden.cases() {
            let ints = |name| golden.ints(&case, name).iter().map(|&n| n as usize).collect::<Vec<_>>();
            let (heads, lengths) = (ints("heads"), ints("lengths"));
            let [h, kv, d] = heads[..] else { panic!("H, KV, D") };
            let cache = Cache::new(device, &golden.floats(&case, "k"), &golden.floats(&case, "v"), &lengths, kv * d);
            let (q, layout) = (golden.act(device, &case, "q"), cache.layout(device, &lengths));
            let o = attention_decode(&q, &cache.k, &cache.v, &layout, h, kv, d).unwrap();
            golden.check(device, &case, "o", &o, 2.0);
        }
    });
}

#[test]
fn a_sequence_gives_the_same_bytes_alone_and_beside_longer_ones() {
    let golden = Golden::load("attention_decode");
    for_each_device(|device| {
        let (case, lengths) = ("d16_h2_kv2", [1, 63, 64, 65, 200]);
        let width = 32;
        let (k, v) = (golden.floats(case, "k"), golden.floats(case, "v"));
        let q = golden.act(device, case, "q");
        let all = Cache::new(device, &k, &v, &lengths, width);
        let together = attention_decode(&q, &all.k, &all.v, &all.layout(device, &lengths), 2, 2, 16).unwrap();
        let mut at = 0;
        for (s, n) in lengths.into_iter().enumerate() {
            let part = |x: &[f32]| x[at * width..(at + n) * width].to_vec();
            let own = Cache::new(device, &part(&k), &part(&v), &[n], width);
            let alone =
                attention_decode(&q.rows(s, s + 1), &own.k, &own.v, &own.layout(device, &[n]), 2, 2, 16).unwrap();
            let want = together.rows(s, s + 1).read_bytes().unwrap();
            assert!(alone.read_bytes().unwrap() == want, "{}: {n} keys", device.name());
            at += n;
        }
    });
}

#[test]
fn a_nan_among_the_keys_stays_a_nan() {
    for_each_device(|device| {
        let mut k = vec![1.0; 70 * 16];
        k[69 * 16] = f32::NAN;
        let cache = Cache::new(device, &k, &vec![1.0; 70 * 16], &[70], 16);
        let q = device.upload("q", device.act(), &[1, 16], &[1.0; 16]).unwrap();
        let o = attention_decode(&q, &cache.k, &cache.v, &cache.layout(device, &[70]), 1, 1, 16).unwrap();
        assert!(o.read_f32().unwrap().iter().all(|x| x.is_nan()));
    });
}

#[test]
fn what_does_not_fit_is_refused_in_one_sentence() {
    let device = Device::cpu(Compute::Bf16).unwrap();
    let x = |rows: usize| device.zeros("x", device.act(), &[rows, 16]).unwrap();
    let refusal = |layout: SequenceLayout, cache_rows: usize| {
        let (q, cache) = (x(layout.n_sequences()), x(cache_rows));
        attention_decode(&q, &cache, &cache, &layout, 1, 1, 16).unwrap_err().to_string()
    };
    let paged = |past, new| SequenceLayout::paged(&device, &[Paged { pages: &[1], past, new }]);
    assert!(refusal(paged(0, 2).unwrap(), 128).contains("more than one new token"));
    assert!(refusal(SequenceLayout::packed(&device, &[0, 1]).unwrap(), 128).contains("do not lie in pages"));
    assert!(refusal(paged(0, 1).unwrap(), 127).contains("127 rows, the layout's pages need 128"));
    for (past, new) in [(64, 1), (0, 0), (60, 5)] {
        assert!(paged(past, new).unwrap_err().to_string().contains("on the pages [1] of 64"), "{past} {new}");
    }
}
