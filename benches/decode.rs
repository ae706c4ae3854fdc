//! A whole decoding step, as generate makes it: the next token of each sequence through every layer to its logits on the host. Bound by
//! the weights, which are read once whatever the number of sequences, and by the keys and values.
//!
//! Small models of random weights anywhere; with `--base` that model, on a GPU Llama-2-13B. LoRA of rank 16 on all linears, at rest.

use crate::harness::{Bench, Work};
use crate::step::{Sizes, write_model};
use llamacare::checkpoint::{LINEARS, LlamaConfig, ModelFolder};
use llamacare::generate::logits;
use llamacare::model::{KvCache, LoraSpec, OptimiserStates, Quantise, Source, load};
use llamacare::ops::attention::{PAGE, Paged, SequenceLayout};
use llamacare::ops::linear::padded_rank;
use llamacare::tape::Tape;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

const RANK: usize = 16;

/// Lines of one, several and many sequences, 512 tokens each behind them (in the small models 128).
pub fn run(bench: &mut Bench, base: Option<&Path>) {
    let models = [
        ("decode 0.9M", Sizes(128, 352, 4, 4, 2, 768)),
        ("decode 10.5M", Sizes(256, 704, 8, 8, 8, 8000)),
        ("decode 60M", Sizes(768, 2048, 8, 12, 12, 8000)),
    ];
    for (name, sizes) in models {
        if bench.wants(name) && !(bench.smoke() && sizes.0 > 128) {
            let dir = tempfile::tempdir().expect("a folder");
            write_model(dir.path(), &sizes);
            model(bench, name, dir.path(), 128);
        }
    }
    if let Some(base) = base.filter(|_| bench.wants("decode 13B")) {
        let is_13b = LlamaConfig::load(base).expect("a model folder").hidden == 5120;
        model(bench, if is_13b { "decode 13B" } else { "decode of the base" }, base, 512);
    }
}

fn model(bench: &mut Bench, name: &str, dir: &Path, past: usize) {
    let device = bench.device.clone();
    let folder = ModelFolder::open(dir).expect("a model folder");
    let targets = LINEARS.map(|name| name.rsplit('.').next().expect("a name").to_string()).to_vec();
    let lora = LoraSpec { rank: RANK, scale: 1.0, targets };
    let (model, params, ()) = load(&device, Source::Folder(&folder), Quantise::Nf4Double, Some(&lora), 1, |builder| {
        builder.optimiser_states(OptimiserStates::Unused);
        Ok(())
    })
    .expect("a model");
    let c = &model.config;
    for n in [1, 4, 16] {
        let per_sequence = (past + 1).div_ceil(PAGE);
        let cache = Rc::new(KvCache::new(&device, c, n * per_sequence).expect("a cache"));
        let pages: Vec<i32> = (0..(n * per_sequence) as i32).rev().collect();
        let entries: Vec<Paged> = pages.chunks(per_sequence).map(|pages| Paged { pages, past, new: 1 }).collect();
        let ids: Vec<i32> = (0..n as i32).map(|i| 3 + i).collect();
        let step = || {
            let mut tape = Tape::inference(&device);
            let layout = Arc::new(SequenceLayout::paged(&device, &entries).expect("a layout"));
            let hidden = model.forward_cached(&mut tape, &ids, &layout, &cache).expect("a pass");
            logits(&model, hidden.value()).and_then(|logits| logits.read_f32()).expect("logits");
        };
        let sequences = if n == 1 { "sequence" } else { "sequences" };
        let shape = format!("{n} {sequences}, {past} tokens behind");
        bench.line(name, &shape, work(c, n, past, device.act().bytes()), step);
    }
    drop(params);
}

/// Weights in NF4 with the scales of doubly quantised blocks, output layer, LoRA, keys and values: each read once.
fn work(c: &LlamaConfig, n: usize, past: usize, element: usize) -> Work {
    let linears: usize = c.linears().iter().map(|(_, [n_out, n_in])| n_out * n_in).sum::<usize>() * c.n_layers;
    let lora: usize =
        c.linears().iter().map(|(_, [n_out, n_in])| (n_out + n_in) * padded_rank(RANK)).sum::<usize>() * c.n_layers;
    let nf4 = linears as f64 * (0.5 + (1.0 + 4.0 / 256.0) / 64.0);
    let kv = 2 * n * (past + 1) * c.n_kv_heads * c.head_dim * c.n_layers;
    let bytes = nf4 + ((lora + c.vocab * c.hidden + kv) * element) as f64;
    Work { bytes, flops: (2 * n * (linears + lora + c.vocab * c.hidden)) as f64 }
}
