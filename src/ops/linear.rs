//! Linear layers over a frozen weight with LoRA: `y = x Wᵀ + s · drop(x) Aᵀ Bᵀ` (Hu et al. 2021; Dettmers et al. 2023).
//!
//! LoRA is folded into the product as sixteen more columns of K: forward segments (x, W), (U, B) with U = s · drop(x) Aᵀ,
//! so y is written once. Layers that share an input (q, k, v; gate, up) are one node: the gradient of that input is one
//! product over all their segments, (dY, W), (V, A), .. with V = s · dY B, instead of sums of tensors. W is frozen: no
//! gradient flows into it.

use crate::device::{DType, Device, Tensor};
use crate::ops::decoder::Decoder;
use crate::ops::dropout::Dropout;
use crate::ops::matmul::{Layout, matmul};
use crate::ops::nf4::Nf4Weight;
use crate::tape::{Again, Grads, Node, Param, Saved, Tape, Var, VarId, Write};
use crate::{Error, Result};
use std::cell::RefCell;
use std::rc::Rc;

/// Up to this many tokens NF4 is decoded inside the product, above into a dense scratch first. On the CPU device measured
/// (`cargo bench -- nf4`: equal at 8 tokens). On a GPU not measured yet: two reads of the weight by a kernel that makes eight
/// tokens per read; bitsandbytes' crossings, for a kernel on tensor cores, start at 64.
const FEW_TOKENS_CPU: usize = 8;
const FEW_TOKENS_CUDA: usize = 16;

/// LoRA's rank is padded with zeros to a multiple of this, one tensor-core step. Zeros stay zeros: the gradients of padded
/// rows of A are products with padded columns of B, and the other way round.
pub const RANK_STEP: usize = 16;

/// The rank that A and B are stored with.
pub fn padded_rank(rank: usize) -> usize {
    rank.div_ceil(RANK_STEP) * RANK_STEP
}

/// A frozen weight [out, in].
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a model has a few hundred of these; a box would only be one more hop")]
pub enum Weight {
    /// In the storage type.
    Dense(Tensor),
    /// In NF4, decoded with the help of a decoder that the model's linears share.
    Nf4(Nf4Weight, SharedDecoder),
}

/// The one decoder of a model.
pub type SharedDecoder = Rc<RefCell<Decoder>>;

impl Weight {
    fn nf4(&self) -> Option<(&Nf4Weight, &SharedDecoder)> {
        match self {
            Weight::Dense(_) => None,
            Weight::Nf4(weight, decoder) => Some((weight, decoder)),
        }
    }

    /// [out, in]
    fn shape(&self) -> Result<[usize; 2]> {
        match self {
            Weight::Dense(w) => w.dims("linear weight"),
            Weight::Nf4(w, _) => Ok(w.shape()),
        }
    }
}

/// Weights in the storage type: themselves, or decoded together into the decoder's scratch.
fn dense(weights: &[&Weight]) -> Result<Vec<Tensor>> {
    let packed: Vec<&Nf4Weight> = weights.iter().filter_map(|w| w.nf4()).map(|(w, _)| w).collect();
    let mut decoded = match weights.iter().find_map(|w| w.nf4()) {
        Some((_, decoder)) => decoder.borrow_mut().decode(&packed)?,
        None => Vec::new(),
    }
    .into_iter();
    let one = |weight: &&Weight| match weight {
        Weight::Dense(w) => w.clone(),
        Weight::Nf4(..) => decoded.next().expect("one for each weight in NF4"),
    };
    Ok(weights.iter().map(one).collect())
}

/// The trainable addition `scale · B A` of a layer.
#[derive(Debug, Clone)]
pub struct Lora {
    /// [padded rank, in], storage type.
    pub a: Param,
    /// [out, padded rank], storage type.
    pub b: Param,
    /// Before padding.
    pub rank: usize,
    /// alpha / rank.
    pub scale: f32,
}

/// A linear layer without bias.
#[derive(Debug, Clone)]
pub struct Linear {
    /// As in the model's file, e.g. `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// The frozen base.
    pub weight: Weight,
    /// What is trained, if anything.
    pub lora: Option<Lora>,
    /// Input features.
    pub n_in: usize,
    /// Output features.
    pub n_out: usize,
}

impl Linear {
    /// A layer from its parts, LoRA held to the shape of the weight.
    pub fn new(name: impl Into<String>, weight: Weight, lora: Option<Lora>) -> Result<Linear> {
        let name = name.into();
        let [n_out, n_in] = weight.shape()?;
        if let Some(Lora { a, b, rank, .. }) = &lora {
            let (r, act) = (padded_rank(*rank), a.value.device().act());
            a.value.expect(&format!("{name} lora_A"), act, &[r, n_in])?;
            b.value.expect(&format!("{name} lora_B"), act, &[n_out, r])?;
            for p in [a, b] {
                p.grad.stored()?.expect(&format!("{name} gradient"), DType::F32, p.value.shape())?;
            }
        }
        Ok(Linear { name, weight, lora, n_in, n_out })
    }

    /// `y = x Wᵀ (+ u Bᵀ)`, by the road that is faster for this many tokens.
    fn forward(&self, name: &str, x: &Tensor, u: Option<&Tensor>) -> Result<Tensor> {
        let device = x.device();
        let n_tokens = x.shape()[0];
        let y = device.empty(name, device.act(), &[n_tokens, self.n_out])?;
        let lora = u.zip(self.lora.as_ref()).map(|(u, lora)| (u, &lora.b.value));
        match &self.weight {
            Weight::Nf4(w, _) if n_tokens <= few_tokens(device) => {
                w.matmul(x, &y, Write::Set)?;
                if let Some(segment) = lora {
                    matmul(Layout::NT, &[segment], &y, 1.0, Write::Add)?;
                }
            }
            weight => {
                let w = &dense(&[weight])?[0];
                let segments: Vec<_> = [Some((x, w)), lora].into_iter().flatten().collect();
                matmul(Layout::NT, &segments, &y, 1.0, Write::Set)?;
            }
        }
        Ok(y)
    }
}

fn few_tokens(device: &Device) -> usize {
    if device.is_cuda() { FEW_TOKENS_CUDA } else { FEW_TOKENS_CPU }
}

/// What a backward that reads the outputs is to hold of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outputs {
    /// The outputs.
    Kept,
    /// Nothing: the product is made again, the same bytes.
    MadeAgain,
    /// Nobody reads them, not even now: no product is made, the outputs have no rows.
    Unread,
}

/// How a group of linears runs.
#[derive(Debug, Clone, Copy)]
pub struct Through {
    /// The outputs, in the memory plan.
    pub name: &'static str,
    /// On what LoRA reads, with a mask of its own for each layer: `dropout.nth(i)` for layer i.
    pub dropout: Option<Dropout>,
    /// What becomes of the outputs.
    pub outputs: Outputs,
}

impl Through {
    /// Without dropout, outputs kept.
    pub fn plain(name: &'static str) -> Through {
        Through { name, dropout: None, outputs: Outputs::Kept }
    }
}

/// `x` [T, in] through every one of `layers`, which share it: one output [T, out] each.
pub fn linear(tape: &mut Tape, x: &Var, layers: &[&Linear], through: Through) -> Result<Vec<Var>> {
    let device = tape.device().clone();
    let [n_tokens, n_in] = x.value().dims("linear x")?;
    x.value().expect("linear x", device.act(), &[n_tokens, n_in])?;
    let dropout = through.dropout.filter(|d| d.p > 0.0);
    let (mut outputs, mut parts) = (Vec::new(), Vec::new());
    for (i, layer) in layers.iter().enumerate() {
        if layer.n_in != n_in {
            let (name, wants) = (&layer.name, layer.n_in);
            return Err(Error::Shape(format!("{name}: expected an input of {wants} features, found {n_in}")));
        }
        let dropout = dropout.map(|d| d.nth(i));
        let u = match &layer.lora {
            Some(lora) => {
                let u = device.empty("LoRA", device.act(), &[n_tokens, padded_rank(lora.rank)])?;
                let dropped = dropped(x.value(), dropout)?;
                matmul(Layout::NT, &[(&dropped, &lora.a.value)], &u, lora.scale, Write::Set)?;
                Some(u)
            }
            None => None,
        };
        let y = match through.outputs {
            Outputs::Unread => device.empty(through.name, device.act(), &[0, layer.n_out])?,
            Outputs::Kept | Outputs::MadeAgain => layer.forward(through.name, x.value(), u.as_ref())?,
        };
        let mut y = tape.var(y, x.needs_grad() || u.is_some());
        if tape.recording() && through.outputs == Outputs::MadeAgain {
            let (layer, x, u) = ((*layer).clone(), x.save(), u.clone());
            y = y.made_by(Again::new(move || layer.forward(through.name, &x.value()?, u.as_ref())));
        }
        if y.needs_grad() && tape.recording() {
            parts.push(Part { layer: (*layer).clone(), y: y.id(), u, dropout });
        }
        outputs.push(y);
    }
    if !parts.is_empty() {
        tape.push(LinearNode { x: x.save(), parts });
    }
    Ok(outputs)
}

fn dropped(x: &Tensor, dropout: Option<Dropout>) -> Result<Tensor> {
    match dropout {
        Some(d) => d.of(x),
        None => Ok(x.clone()),
    }
}

struct LinearNode {
    x: Saved,
    parts: Vec<Part>,
}

/// One layer of the node: its output and s · drop(x) Aᵀ.
struct Part {
    layer: Linear,
    y: VarId,
    u: Option<Tensor>,
    dropout: Option<Dropout>,
}

impl Part {
    /// dA and dB from dy, and V = s · dy B, which dx needs as well.
    fn lora_backward(&self, x: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (Some(lora), Some(u)) = (&self.layer.lora, &self.u) else { return Ok(None) };
        let v = dy.device().empty("LoRA", dy.dtype(), u.shape())?;
        matmul(Layout::NN, &[(dy, &lora.b.value)], &v, lora.scale, Write::Set)?;
        matmul(Layout::TN, &[(dy, u)], lora.b.grad.stored()?, 1.0, lora.b.next_write())?;
        let dropped = dropped(x, self.dropout)?;
        matmul(Layout::TN, &[(&v, &dropped)], lora.a.grad.stored()?, 1.0, lora.a.next_write())?;
        Ok(Some(v))
    }
}

impl Node for LinearNode {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn backward(&self, grads: &mut Grads) -> Result<()> {
        let x = self.x.value()?;
        let (mut dys, mut vs) = (Vec::new(), Vec::new());
        for part in &self.parts {
            let dy = grads.expect("linear", part.y)?;
            vs.push(part.lora_backward(&x, &dy)?);
            dys.push(dy);
        }
        drop(x);
        grads.write(self.x.slot(), |dx, write| {
            let weights = dense(&self.parts.iter().map(|p| &p.layer.weight).collect::<Vec<_>>())?;
            let mut segments: Vec<(&Tensor, &Tensor)> = dys.iter().zip(&weights).collect();
            let mut behind_dropout = Vec::new();
            for (part, v) in self.parts.iter().zip(&vs) {
                let (Some(lora), Some(v)) = (&part.layer.lora, v) else { continue };
                match part.dropout {
                    None => segments.push((v, &lora.a.value)),
                    Some(mask) => behind_dropout.push((mask, v, &lora.a.value)),
                }
            }
            matmul(Layout::NN, &segments, dx, 1.0, write)?;
            for (mask, v, a) in behind_dropout {
                let d_dropped = dx.device().empty("dropout", dx.dtype(), dx.shape())?;
                matmul(Layout::NN, &[(v, a)], &d_dropped, 1.0, Write::Set)?;
                mask.apply(&d_dropped, dx, Write::Add)?;
            }
            Ok(())
        })
    }
}
