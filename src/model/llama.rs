//! Llama's decoder: embedding, L layers of attention and MLP behind RMSNorm, final norm.
//!
//! A norm adds the last branch's output to the residual before it normalises, so that the sum costs no pass of its own. A
//! decoder layer is a segment of the tape from one such norm to the next: between layers only the residual is kept, and a
//! layer that keeps its input alone ([`Keep::Input`]) keeps nothing else.

use crate::Result;
use crate::checkpoint::LlamaConfig;
use crate::device::Tensor;
use crate::model::{Batch, Keep, KvCache};
use crate::ops::attention::attention;
use crate::ops::blocks8;
use crate::ops::dropout::Dropout;
use crate::ops::embedding::embedding;
use crate::ops::linear::{Linear, Outputs, SharedDecoder, Through, linear};
use crate::ops::rms_norm::rms_norm;
use crate::ops::rotary::{RotaryTable, rotary};
use crate::ops::sequences::SequenceLayout;
use crate::ops::stow::{HostWay, Shelf, Stowed};
use crate::ops::swiglu::swiglu;
use crate::tape::{Again, Hold, Pass, Tape, Var};
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
    /// Decodes weights in NF4, one request ahead.
    pub decoder: Option<SharedDecoder>,
    /// Moves activations to host memory and back.
    pub host_way: Rc<HostWay>,
}

/// How one forward pass runs.
#[derive(Clone, Default)]
pub struct RunOptions {
    /// What each layer keeps for its backward; empty: every layer the outputs of its products.
    pub keep: Rc<[Keep]>,
    /// LoRA dropout of this step, in training only.
    pub dropout: Option<Dropout>,
}

impl Llama {
    /// The final hidden states [T,C], after the last norm: what the output layer and the ECI head read.
    pub fn forward(&self, tape: &mut Tape, batch: &Batch, options: &RunOptions) -> Result<Var> {
        let layout = Arc::new(batch.layout(tape.device())?);
        self.run(tape, &batch.ids, &layout, options, None)
    }

    /// A pass over a micro-batch has ended, its backward included: the next one begins as this one did.
    pub fn rest(&self) -> Result<()> {
        if let Some(decoder) = &self.decoder {
            decoder.borrow_mut().rest();
        }
        self.host_way.settle()
    }

    /// The same for decoding: new tokens only, keys and values of all tokens in `cache`.
    pub fn forward_cached(
        &self,
        tape: &mut Tape,
        ids: &[i32],
        layout: &Arc<SequenceLayout>,
        cache: &Rc<KvCache>,
    ) -> Result<Var> {
        self.run(tape, ids, layout, &RunOptions::default(), Some(cache))
    }

    fn run(
        &self,
        tape: &mut Tape,
        ids: &[i32],
        layout: &Arc<SequenceLayout>,
        options: &RunOptions,
        cache: Option<&Rc<KvCache>>,
    ) -> Result<Var> {
        let (eps, shelf) = (self.config.rms_eps, Rc::new(Shelf::default()));
        let embedded = embedding(tape, &self.embedding, ids)?;
        let first = self.layers.first().map_or(&self.norm, |layer| &layer.attention_norm);
        let mut stream = <[Var; 2]>::from(rms_norm(tape, &embedded, None, first, eps)?);
        drop(embedded);
        for (index, layer) in self.layers.iter().enumerate() {
            let keep = options.keep.get(index).copied().unwrap_or(Keep::Outputs);
            let pass = LayerPass {
                layer: layer.clone(),
                layout: layout.clone(),
                rotary: self.rotary.clone(),
                config: self.config.clone(),
                dropout: options.dropout,
                cache: cache.cloned(),
                index,
                keep,
                host_way: self.host_way.clone(),
                shelf: shelf.clone(),
            };
            let hold = if keep == Keep::Input { Hold::Inputs } else { Hold::Nodes };
            let place = format!("layer {index}");
            tape.enter(Some(&place));
            let body = Rc::new(move |tape: &mut Tape, inputs: &[Var], why| pass.run(tape, inputs, why));
            let outputs = tape.segment(hold, &stream, body).map_err(|e| e.within(&place))?;
            drop(stream);
            let next = self.layers.get(index + 1).map_or(&self.norm, |layer| &layer.attention_norm);
            stream = rms_norm(tape, &outputs[0], outputs.get(1), next, eps)?.into();
        }
        tape.enter(None);
        let [_, y] = stream;
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
    cache: Option<Rc<KvCache>>,
    index: usize,
    keep: Keep,
    host_way: Rc<HostWay>,
    shelf: Rc<Shelf>,
}

impl LayerPass {
    /// The mask of the layer's `i`-th linear: every linear of the model has its own.
    fn dropout(&self, i: usize) -> Option<Dropout> {
        self.dropout.map(|d| d.nth(self.index * 8 + i))
    }

    fn through(&self, name: &'static str, i: usize) -> Through {
        Through { dropout: self.dropout(i), ..Through::plain(name) }
    }

    /// inputs: the residual and its norm; outputs: the MLP's output and the residual before it is added.
    fn run(&self, tape: &mut Tape, inputs: &[Var], why: Pass) -> Result<Vec<Var>> {
        let l = &self.layer;
        let branch = self.attention(tape, &inputs[1])?;
        let (residual, x) = rms_norm(tape, &branch, Some(&inputs[0]), &l.mlp_norm, self.config.rms_eps)?;
        drop(branch);
        let hidden = self.gated(tape, x)?;
        let outputs = if why == Pass::Again { Outputs::Unread } else { Outputs::Kept };
        let down = Through { name: "down", dropout: self.dropout(6), outputs };
        let [down] = take(linear(tape, &hidden, &[&l.down], down)?);
        Ok(vec![down, residual])
    }

    /// `silu(x Wgᵀ) (x Wuᵀ)`, gate and up kept as the layer's policy says.
    fn gated(&self, tape: &mut Tape, x: Var) -> Result<Var> {
        let l = &self.layer;
        let outputs = if self.keep == Keep::GateUp { Outputs::MadeAgain } else { Outputs::Kept };
        let through = Through { name: "gate, up", dropout: self.dropout(4), outputs };
        let [gate, up] = take(linear(tape, &x, &[&l.gate, &l.up], through)?);
        drop(x);
        let [gate, up] = self.stow(tape, gate, up)?;
        swiglu(tape, &gate, &up)
    }

    /// Gate and up in the form in which this layer's policy keeps them for the backward.
    fn stow(&self, tape: &Tape, gate: Var, up: Var) -> Result<[Var; 2]> {
        let values = [gate.value(), up.value()];
        let stowed = match self.keep {
            _ if !tape.recording() => return Ok([gate, up]),
            Keep::Eight => {
                let eight = |x| Ok(Stowed::Eight(blocks8::quantize("gate, up in 8 bits", x)?));
                values.into_iter().map(eight).collect::<Result<_>>()?
            }
            Keep::Host => {
                let copies = self.host_way.stow("gate, up", values.map(Clone::clone).to_vec())?;
                copies.into_iter().map(Stowed::Host).collect()
            }
            Keep::Outputs | Keep::GateUp | Keep::Input => return Ok([gate, up]),
        };
        let place = self.shelf.put(stowed);
        let fetched = |x: Var, i: usize| {
            let shelf = self.shelf.clone();
            x.made_by(Again::new(move || shelf.fetch(place, i, "gate, up")))
        };
        Ok([fetched(gate, 0), fetched(up, 1)])
    }

    fn attention(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        let (l, c) = (&self.layer, &self.config);
        let [q, k, v] = take(linear(tape, x, &[&l.q, &l.k, &l.v], self.through("q, k, v", 0))?);
        // Queries and keys stay until the product below has its memory: without them first fit leaves a gap there that nothing
        // later fills, which cost the plan of a 70B 0.9 GiB.
        let (o, _turned) = match &self.cache {
            Some(cache) => (cache.attend(tape, self.index, [&q, &k, &v], &self.rotary, &self.layout, c)?, [q, k]),
            None => {
                let q = rotary(tape, q, &self.rotary, &self.layout, c.n_heads, c.head_dim)?;
                let k = rotary(tape, k, &self.rotary, &self.layout, c.n_kv_heads, c.head_dim)?;
                (attention(tape, &q, &k, &v, &self.layout, c.n_heads, c.n_kv_heads, c.head_dim)?, [q, k])
            }
        };
        let [y] = take(linear(tape, &o, &[&l.o], self.through("attention branch", 3))?);
        Ok(y)
    }
}

fn take<const N: usize>(vars: Vec<Var>) -> [Var; N] {
    vars.try_into().unwrap_or_else(|_| unreachable!("one output per linear"))
}
