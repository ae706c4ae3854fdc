//! Keys and values of every layer, in pages of 64 tokens that any sequence may hold (Kwon et al. 2023, PagedAttention).
//!
//! Who holds which page is the [engine](crate::generate::Engine)'s business; here is the memory, and attention over it.

use crate::Result;
use crate::checkpoint::LlamaConfig;
use crate::device::{Device, Tensor};
use crate::ops::attention::{PAGE, attention};
use crate::ops::attention_decode::attention_decode;
use crate::ops::kv_append::kv_append;
use crate::ops::rotary::RotaryTable;
use crate::ops::sequences::SequenceLayout;
use crate::tape::{Tape, Var};
use std::sync::Arc;

/// The pages of all layers.
pub struct KvCache {
    layers: Vec<[Tensor; 2]>,
}

impl KvCache {
    /// Room for `n_pages` pages.
    pub fn new(device: &Device, config: &LlamaConfig, n_pages: usize) -> Result<KvCache> {
        let shape = [n_pages * PAGE, config.n_kv_heads * config.head_dim];
        let one = || device.empty("kv cache", device.act(), &shape);
        let layers = (0..config.n_layers).map(|_| Ok([one()?, one()?])).collect::<Result<_>>()?;
        Ok(KvCache { layers })
    }

    /// Stores a layer's new keys and values, and lets its queries attend to all that they may see. `q` [T,H*D], `k` and `v`
    /// [T,KV*D] as the projections left them; returns [T,H*D].
    pub(super) fn attend(
        &self,
        tape: &mut Tape,
        layer: usize,
        [q, k, v]: [&Var; 3],
        rotary: &RotaryTable,
        layout: &Arc<SequenceLayout>,
        config: &LlamaConfig,
    ) -> Result<Var> {
        let [k_cache, v_cache] = &self.layers[layer];
        let (h, kv, d) = (config.n_heads, config.n_kv_heads, config.head_dim);
        kv_append([q.value(), k.value(), v.value()], rotary, layout, [k_cache, v_cache])?;
        if layout.is_single() {
            let o = attention_decode(q.value(), k_cache, v_cache, layout, h, kv, d)?;
            return Ok(tape.var(o, false));
        }
        let [k, v] = [k_cache, v_cache].map(|x| tape.var(x.clone(), false));
        attention(tape, q, &k, &v, layout, h, kv, d)
    }
}
