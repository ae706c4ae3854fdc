//! Keys and values of every layer, for sequences that grow.

use crate::Result;
use crate::device::{Device, Tensor};
use crate::ops::rows::add_rows;

/// Each sequence owns a contiguous range of rows, as long as it may become.
pub struct KvCache {
    layers: Vec<(Tensor, Tensor)>,
    rows: Vec<i32>,
}

impl KvCache {
    /// Room for `n_rows` tokens in all, keys and values of width `width` = n_kv_heads * head_dim.
    pub fn new(device: &Device, n_layers: usize, n_rows: usize, width: usize) -> Result<KvCache> {
        let one = || device.zeros("kv cache", device.act(), &[n_rows, width]);
        let layers = (0..n_layers).map(|_| Ok((one()?, one()?))).collect::<Result<_>>()?;
        Ok(KvCache { layers, rows: Vec::new() })
    }

    /// The cache rows of the tokens of the next forward pass, in their order; strictly ascending.
    pub fn begin(&mut self, rows: Vec<i32>) {
        self.rows = rows;
    }

    /// Stores a layer's new keys and values [T, width] and returns the whole cache of that layer.
    pub fn append(&mut self, layer: usize, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let (cache_k, cache_v) = &self.layers[layer];
        // The rows are still zero, so adding is storing; rows of other tokens stay as they are.
        add_rows(k, &self.rows, cache_k)?;
        add_rows(v, &self.rows, cache_v)?;
        Ok((cache_k.clone(), cache_v.clone()))
    }
}
