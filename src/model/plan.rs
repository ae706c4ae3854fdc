//! What a run will hold in device memory, by name, computed from the model's sizes before anything is loaded.
//!
//! An estimate for the reader, not yet a limit that is kept: the measured peak stands beside it in the report.

use crate::bytes;
use crate::checkpoint::{EciConfig, LINEARS, LlamaConfig};
use crate::model::{LoraSpec, Quantise, linear_shape};
use crate::ops::linear::padded_rank;
use crate::table::Table;

/// Bytes by name.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What, and how many bytes.
    pub items: Vec<(String, usize)>,
    /// Weights of all frozen linears: the arithmetic of a token is four operations on each (forward, input gradient).
    pub linear_weights: usize,
    /// Trainable numbers.
    pub trainable: usize,
}

impl Plan {
    /// `act` bytes a stored activation, `tokens` a micro-batch.
    pub fn new(
        c: &LlamaConfig,
        quantise: Quantise,
        lora: &LoraSpec,
        head: Option<&EciConfig>,
        tokens: usize,
        act: usize,
        recompute: bool,
    ) -> Plan {
        let shapes: Vec<(usize, usize)> = LINEARS.iter().map(|l| linear_shape(c, l)).collect();
        let per_layer: usize = shapes.iter().map(|(n, k)| n * k).sum();
        let linear_weights = per_layer * c.n_layers;
        let blocks = linear_weights.div_ceil(64);
        let (weights, scales) = match quantise {
            Quantise::None => (linear_weights * act, 0),
            Quantise::Nf4 => (linear_weights / 2, blocks * 4),
            Quantise::Nf4Double => (linear_weights / 2, blocks + blocks.div_ceil(256) * 4),
        };
        let table = c.vocab.div_ceil(8) * 8 * c.hidden * act;
        let rank = padded_rank(lora.rank);
        let adapted = |l: &&&str| lora.targets.iter().any(|t| l.ends_with(t.as_str()));
        let lora_elems: usize = c.n_layers
            * LINEARS.iter().filter(adapted).map(|l| linear_shape(c, l)).map(|(n, k)| (n + k) * rank).sum::<usize>();
        let head_elems: usize = head.map_or(0, |h| h.shapes().iter().map(|(_, s)| s.iter().product::<usize>()).sum());
        let trainable = lora_elems + head_elems;
        let (h, kv) = (c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim);
        // Kept of a token and layer: two residuals, two norms, q, k, v, attention, MLP gate, up and their product, down.
        let layer_token = 5 * c.hidden + 2 * h + 2 * kv + 3 * c.intermediate + 7 * rank;
        let kept_layers = if recompute { 1 } else { c.n_layers };
        let inputs = if recompute { 2 * c.hidden * c.n_layers } else { 0 };
        let largest = shapes.iter().map(|(n, k)| n * k).max().unwrap_or(0);
        let items = vec![
            ("frozen weights".to_string(), weights),
            ("scales of NF4 blocks".into(), scales),
            ("embedding".into(), table),
            ("output layer".into(), if c.tied { 0 } else { table }),
            ("LoRA copy".into(), lora_elems * act),
            ("fp32 masters, gradients, Adam".into(), trainable * 16),
            ("decoded weights, two at a time".into(), if quantise == Quantise::None { 0 } else { 2 * largest * act }),
            (format!("kept activations, {tokens} tokens"), tokens * act * (layer_token * kept_layers + inputs)),
            ("logits of a chunk".into(), tokens.min(1024) * c.vocab.div_ceil(8) * 8 * (4 + act)),
        ];
        Plan { items, linear_weights, trainable }
    }

    /// All of it.
    pub fn total(&self) -> usize {
        self.items.iter().map(|(_, n)| n).sum()
    }

    /// Floating-point operations of training on a token: four a frozen weight, six a trainable one.
    pub fn flops_per_token(&self) -> f64 {
        4.0 * self.linear_weights as f64 + 6.0 * self.trainable as f64
    }

    /// For the terminal.
    pub fn table(&self) -> Table {
        let mut table = Table::new(["device memory", ""]);
        for (name, n_bytes) in self.items.iter().filter(|(_, n)| *n > 0) {
            table.row([name, &bytes::readable(*n_bytes)]);
        }
        table.row(["all", &bytes::readable(self.total())]);
        table
    }
}
