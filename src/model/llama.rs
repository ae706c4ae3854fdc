//! Llama's decoder: embedding, L layers of attention and MLP behind RMSNorm, final norm.
//!
//! A decoder layer is a segment of the tape: `x` is the last branch's output and `residual` the sum so far, and each norm
//! adds the two before it normalises, so that the residual sum costs no pass of its own.

use crate::Result;
use crate::checkpoint::LlamaConfig;
use crate::device::Tensor;
use crate::model::{Batch, KvCache};
use crate::ops::attention::attention;
use crate::ops::dropout::Dropout;
use crate::ops::embedding::embedding;
use crate::ops::linear::{Linear, linear};
use crate::ops::rms_norm::rms_norm;
use crate::ops::rotary::{RotaryTable, rotary};
use crate::ops::sequences::SequenceLayout;
use crate::ops::swiglu::swiglu;
use crate::tape::{Keep, Tape, Var};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// One decoder layer.
pub struct Layer {
    /// [C] norm before attention.
    pub attention_norm: Tensor,
    /// [C] norm before the MLP.
    pub mlp_norm: Tensor,
    /// Query projection.
    pub q: Linear,
    /// Key projection.
    pub k: Linear,
    /// Value projection.
    pub v: Linear,
    /// Attention's output projection.
    pub o: Linear,
    /// MLP gate.
    pub gate: Linear,
    /// MLP up.
    pub up: Linear,
    /// MLP down.
    pub down: Linear,
}

impl Layer {
    /// The seven linears in the order of [`crate::checkpoint::LINEARS`].
    pub fn linears(&self) -> [&Linear; 7] {
        [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down]
    }
}

/// The whole decoder. The base is frozen; what trains are the linears' LoRA matrices.
pub struct Llama {
    /// Sizes and constants.
    pub config: LlamaConfig,
    /// [Vp,C] token embedding; V rounded up to a multiple of 8 with rows of zeros.
    pub embedding: Tensor,
    /// [Vp,C] output layer; the embedding itself where the model ties them.
    pub head: Tensor,
    /// [C] final norm.
    pub norm: Tensor,
    /// The decoder layers.
    pub layers: Vec<Rc<Layer>>,
    /// Cosines and sines of every position.
    pub rotary: Arc<RotaryTable>,
}

/// How one forward pass runs.
#[derive(Clone, Default)]
pub struct RunOptions {
    /// Keep or recompute each layer's intermediate results.
    pub recompute: bool,
    /// LoRA dropout of this step, in training only.
    pub dropout: Option<Dropout>,
}

impl Llama {
    /// The final hidden states [T,C], after the last norm: what the output layer and the ECI head read.
    pub fn forward(&self, tape: &mut Tape, batch: &Batch, options: &RunOptions) -> Result<Var> {
        self.run(tape, &batch.ids, &batch.layout, options, None)
    }

    /// The same for decoding: new tokens only, keys and values of all tokens in `cache`.
    pub fn forward_cached(
        &self,
        tape: &mut Tape,
        ids: &[i32],
        layout: &Arc<SequenceLayout>,
        cache: &Rc<RefCell<KvCache>>,
    ) -> Result<Var> {
        self.run(tape, ids, layout, &RunOptions::default(), Some(cache))
    }

    fn run(
        &self,
        tape: &mut Tape,
        ids: &[i32],
        layout: &Arc<SequenceLayout>,
        options: &RunOptions,
        cache: Option<&Rc<RefCell<KvCache>>>,
    ) -> Result<Var> {
        let keep = if options.recompute { Keep::Inputs } else { Keep::All };
        let mut stream = vec![embedding(tape, &self.embedding, ids)?];
        for (index, layer) in self.layers.iter().enumerate() {
            let pass = LayerPass {
                layer: layer.clone(),
                layout: layout.clone(),
                rotary: self.rotary.clone(),
                config: self.config.clone(),
                dropout: options.dropout,
                cache: cache.cloned(),
                index,
            };
            stream = tape.segment(keep, &stream, Rc::new(move |tape, inputs| pass.run(tape, inputs)))?;
        }
        let (_, y) = rms_norm(tape, &stream[0], stream.get(1), &self.norm, self.config.rms_eps)?;
        Ok(y)
    }
}

/// One layer's forward, with everything it needs besides its inputs: a segment may run it twice.
struct LayerPass {
    layer: Rc<Layer>,
    layout: Arc<SequenceLayout>,
    rotary: Arc<RotaryTable>,
    config: LlamaConfig,
    dropout: Option<Dropout>,
    cache: Option<Rc<RefCell<KvCache>>>,
    index: usize,
}

impl LayerPass {
    /// The mask of the layer's `i`-th linear: every linear of the model has its own.
    fn dropout(&self, i: usize) -> Option<Dropout> {
        self.dropout.map(|d| d.nth(self.index * 8 + i))
    }

    /// inputs: the last branch's output and, after the first layer, the residual; outputs: the MLP's output, the residual.
    fn run(&self, tape: &mut Tape, inputs: &[Var]) -> Result<Vec<Var>> {
        let (l, c) = (&self.layer, &self.config);
        let (residual, x) = rms_norm(tape, &inputs[0], inputs.get(1), &l.attention_norm, c.rms_eps)?;
        let branch = self.attention(tape, &x)?;
        drop(x);
        let (residual, x) = rms_norm(tape, &branch, Some(&residual), &l.mlp_norm, c.rms_eps)?;
        let [gate, up] = take(linear(tape, &x, &[&l.gate, &l.up], self.dropout(4))?);
        drop(x);
        let hidden = swiglu(tape, &gate, &up)?;
        let [down] = take(linear(tape, &hidden, &[&l.down], self.dropout(6))?);
        Ok(vec![down, residual])
    }

    fn attention(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        let (l, c) = (&self.layer, &self.config);
        let [q, k, v] = take(linear(tape, x, &[&l.q, &l.k, &l.v], self.dropout(0))?);
        let q = rotary(tape, q, &self.rotary, &self.layout, c.n_heads, c.head_dim)?;
        let k = rotary(tape, k, &self.rotary, &self.layout, c.n_kv_heads, c.head_dim)?;
        let (k, v) = match &self.cache {
            Some(cache) => {
                let (k, v) = cache.borrow_mut().append(self.index, k.value(), v.value())?;
                (tape.var(k, false), tape.var(v, false))
            }
            None => (k, v),
        };
        let o = attention(tape, &q, &k, &v, &self.layout, c.n_heads, c.n_kv_heads, c.head_dim)?;
        let [y] = take(linear(tape, &o, &[&l.o], self.dropout(3))?);
        Ok(y)
    }
}

fn take<const N: usize>(vars: Vec<Var>) -> [Var; N] {
    vars.try_into().unwrap_or_else(|_| unreachable!("one output per linear"))
}
