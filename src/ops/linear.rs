//! Linear layers over a frozen weight with LoRA: `y = x Wᵀ + s · drop(x) Aᵀ Bᵀ` (Hu et al. 2021; Dettmers et al. 2023).
//!
//! LoRA is folded into the product as sixteen more columns of K: forward segments (x, W), (U, B) with U = s · drop(x) Aᵀ,
//! so y is written once. Layers that share an input (q, k, v; gate, up) are one node: the gradient of that input is one
//! product over all their segments, (dY, W), (V, A), .. with V = s · dY B, instead of sums of tensors. W is frozen: no
//! gradient flows into it.

use crate::device::{DType, Device, Tensor};
use crate::ffi::{LC_NF4_MATMUL_AUTO, LC_NF4_MATMUL_PARTS};
use crate::ops::decoder::Decoder;
use crate::ops::dropout::Dropout;
use crate::ops::fp8::Fp8Scales;
use crate::ops::linear_fp8::{self, Forward8, Weight8};
use crate::ops::matmul::{Layout, Product, matmul, matmul_each};
use crate::ops::nf4::Nf4Weight;
use crate::tape::{Again, Gradient, Grads, Node, Param, Saved, Tape, Var, VarId, Write};
use crate::{Error, Result};
use std::cell::RefCell;
use std::rc::Rc;

/// Up to this many tokens NF4 is decoded inside the product, above into a dense scratch first. On the CPU device measured
/// (`cargo bench -- nf4`: equal at 8 tokens). On a GPU not measured yet: what one reading of the weight serves; bitsandbytes'
/// crossings, for a kernel that goes on to more, start at 64.
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
pub enum Weight {
    /// In the storage type.
    Dense(Tensor),
    /// In NF4, decoded with the help of a decoder that the model's linears share.
    Nf4(Nf4Weight, SharedDecoder),
    /// The same, multiplied in e4m3 where there are many tokens: its scales, and a decoder to U8.
    Fp8(Nf4Weight, Fp8Scales, SharedDecoder),
}

/// The one decoder of a model.
pub type SharedDecoder = Rc<RefCell<Decoder>>;

impl Weight {
    fn nf4(&self) -> Option<(&Nf4Weight, &SharedDecoder)> {
        match self {
            Weight::Dense(_) | Weight::Fp8(..) => None,
            Weight::Nf4(weight, decoder) => Some((weight, decoder)),
        }
    }

    fn fp8(&self) -> Option<Weight8<'_>> {
        match self {
            Weight::Dense(_) | Weight::Nf4(..) => None,
            Weight::Fp8(weight, scales, decoder) => Some(Weight8 { weight, scales, decoder }),
        }
    }

    /// [out, in]
    fn shape(&self) -> Result<[usize; 2]> {
        match self {
            Weight::Dense(w) => w.dims("linear weight"),
            Weight::Nf4(w, _) | Weight::Fp8(w, ..) => Ok(w.shape()),
        }
    }
}

/// Weights that are multiplied in the storage type: themselves, or decoded together into the decoder's scratch.
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
        Weight::Fp8(..) => unreachable!("it takes the road of 8 bits"),
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
                if !matches!(p.grad, Gradient::Nowhere(..)) {
                    p.grad.stored()?.expect(&format!("{name} gradient"), DType::F32, p.value.shape())?;
                }
            }
        }
        Ok(Linear { name, weight, lora, n_in, n_out })
    }
}

/// A layer, and its U = s · drop(x) Aᵀ where it has LoRA.
#[derive(Clone, Copy)]
struct Forward<'a> {
    layer: &'a Linear,
    u: Option<&'a Tensor>,
}

impl<'a> Forward<'a> {
    fn lora(&self) -> Option<(&'a Tensor, &'a Tensor)> {
        Some((self.u?, &self.layer.lora.as_ref()?.b.value))
    }
}

/// `y = x Wᵀ (+ u Bᵀ)` of every layer, by the road that is faster for this many tokens. Which layers stand together changes
/// no bit of a `y`.
fn forward(name: &str, x: &Tensor, layers: &[Forward]) -> Result<Vec<Tensor>> {
    let (device, n_tokens) = (x.device(), x.shape()[0]);
    let y = |f: &Forward| device.empty(name, device.act(), &[n_tokens, f.layer.n_out]);
    let ys: Vec<Tensor> = layers.iter().map(y).collect::<Result<_>>()?;
    let product = |segments, y, write| Product { segments, y, alpha: 1.0, write };
    let (mut few, mut to_decode, mut eight, mut behind) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (f, y) in layers.iter().zip(&ys) {
        match &f.layer.weight {
            Weight::Nf4(w, _) | Weight::Fp8(w, ..) if n_tokens <= few_tokens(device) => {
                few.push((w, y));
                behind.extend(f.lora().map(|pair| product(vec![pair], y, Write::Add)));
            }
            weight => match weight.fp8() {
                Some(weight) => eight.push(Forward8 { weight, lora: f.lora(), y }),
                None => to_decode.push((weight, f, y)),
            },
        }
    }
    for together in few.chunks(LC_NF4_MATMUL_PARTS as usize) {
        Nf4Weight::matmuls(together, x, Write::Set, LC_NF4_MATMUL_AUTO)?;
    }
    matmul_each(Layout::NT, &behind)?;
    linear_fp8::forward(x, &eight)?;
    let weights = dense(&to_decode.iter().map(|&(weight, ..)| weight).collect::<Vec<_>>())?;
    let whole = to_decode.iter().zip(&weights).map(|((_, f, y), w)| {
        let segments = [Some((x, w)), f.lora()].into_iter().flatten().collect();
        product(segments, y, Write::Set)
    });
    matmul_each(Layout::NT, &whole.collect::<Vec<_>>())?;
    Ok(ys)
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
    for layer in layers {
        if layer.n_in != n_in {
            let (name, wants) = (&layer.name, layer.n_in);
            return Err(Error::Shape(format!("{name}: expected an input of {wants} features, found {n_in}")));
        }
    }
    let us = lora_inputs(x.value(), layers, dropout)?;
    let ys = match through.outputs {
        Outputs::Unread => {
            layers.iter().map(|l| device.empty(through.name, device.act(), &[0, l.n_out])).collect::<Result<_>>()?
        }
        Outputs::Kept | Outputs::MadeAgain => {
            let all = layers.iter().zip(&us).map(|(&layer, u)| Forward { layer, u: u.as_ref() });
            forward(through.name, x.value(), &all.collect::<Vec<_>>())?
        }
    };
    let (mut outputs, mut parts) = (Vec::new(), Vec::new());
    for (i, ((&layer, y), u)) in layers.iter().zip(ys).zip(us).enumerate() {
        let mut y = tape.var(y, x.needs_grad() || u.is_some());
        if tape.recording() && through.outputs == Outputs::MadeAgain {
            let (layer, x, u) = (layer.clone(), x.save(), u.clone());
            let one = move || forward(through.name, &x.value()?, &[Forward { layer: &layer, u: u.as_ref() }]);
            y = y.made_by(Again::new(move || Ok(one()?.remove(0))));
        }
        if y.needs_grad() && tape.recording() {
            parts.push(Part { layer: layer.clone(), y: y.id(), u, dropout: dropout.map(|d| d.nth(i)) });
        }
        outputs.push(y);
    }
    if !parts.is_empty() {
        tape.push(LinearNode { x: x.save(), parts });
    }
    Ok(outputs)
}

/// U = s · drop(x) Aᵀ of every layer that has LoRA.
fn lora_inputs(x: &Tensor, layers: &[&Linear], dropout: Option<Dropout>) -> Result<Vec<Option<Tensor>>> {
    let device = x.device();
    let u = |rank: usize| device.empty("LoRA", device.act(), &[x.shape()[0], padded_rank(rank)]);
    let us: Vec<Option<Tensor>> =
        layers.iter().map(|l| l.lora.as_ref().map(|lora| u(lora.rank)).transpose()).collect::<Result<_>>()?;
    let mut plain = Vec::new();
    for (i, (layer, u)) in layers.iter().zip(&us).enumerate() {
        let (Some(lora), Some(y)) = (&layer.lora, u) else { continue };
        match dropout {
            None => plain.push(Product { segments: vec![(x, &lora.a.value)], y, alpha: lora.scale, write: Write::Set }),
            // One after another: what dropout leaves of x is as large as x, and is not held for all.
            Some(d) => matmul(Layout::NT, &[(&d.nth(i).of(x)?, &lora.a.value)], y, lora.scale, Write::Set)?,
        }
    }
    matmul_each(Layout::NT, &plain)?;
    Ok(us)
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

impl LinearNode {
    /// dA and dB of every layer from its dy, and V = s · dy B, which dx needs as well.
    fn lora_backward(&self, x: &Tensor, dys: &[Tensor]) -> Result<Vec<Option<Tensor>>> {
        let v = |(part, dy): (&Part, &Tensor)| {
            part.u.as_ref().map(|u| dy.device().empty("LoRA", dy.dtype(), u.shape())).transpose()
        };
        let vs: Vec<Option<Tensor>> = self.parts.iter().zip(dys).map(v).collect::<Result<_>>()?;
        let (mut to_v, mut to_db, mut to_da) = (Vec::new(), Vec::new(), Vec::new());
        let product = |a, b, y, alpha, write| Product { segments: vec![(a, b)], y, alpha, write };
        for ((part, dy), v) in self.parts.iter().zip(dys).zip(&vs) {
            let (Some(lora), Some(u), Some(v)) = (&part.layer.lora, &part.u, v) else { continue };
            to_v.push(product(dy, &lora.b.value, v, lora.scale, Write::Set));
            to_db.push(product(dy, u, lora.b.grad.stored()?, 1.0, lora.b.next_write()));
            to_da.push((part.dropout, product(v, x, lora.a.grad.stored()?, 1.0, lora.a.next_write())));
        }
        matmul_each(Layout::NN, &to_v)?;
        matmul_each(Layout::TN, &to_db)?;
        let mut plain = Vec::new();
        for (dropout, da) in to_da {
            match dropout {
                None => plain.push(da),
                Some(d) => matmul(Layout::TN, &[(da.segments[0].0, &d.of(x)?)], da.y, da.alpha, da.write)?,
            }
        }
        matmul_each(Layout::TN, &plain)?;
        Ok(vs)
    }
}

impl Node for LinearNode {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn backward(&self, grads: &mut Grads) -> Result<()> {
        let x = self.x.value()?;
        let dys: Vec<Tensor> = self.parts.iter().map(|p| grads.expect("linear", p.y)).collect::<Result<_>>()?;
        let vs = self.lora_backward(&x, &dys)?;
        drop(x);
        grads.write(self.x.slot(), |dx, write| {
            let (mut eight, mut wide, mut of_wide) = (Vec::new(), Vec::new(), Vec::new());
            for (part, dy) in self.parts.iter().zip(&dys) {
                match part.layer.weight.fp8() {
                    Some(weight) => eight.push((dy, weight)),
                    None => {
                        wide.push(&part.layer.weight);
                        of_wide.push(dy);
                    }
                }
            }
            let weights = dense(&wide)?;
            let mut segments: Vec<(&Tensor, &Tensor)> = of_wide.into_iter().zip(&weights).collect();
            let mut behind_dropout = Vec::new();
            for (part, v) in self.parts.iter().zip(&vs) {
                let (Some(lora), Some(v)) = (&part.layer.lora, v) else { continue };
                match part.dropout {
                    None => segments.push((v, &lora.a.value)),
                    Some(mask) => behind_dropout.push((mask, v, &lora.a.value)),
                }
            }
            match eight.is_empty() {
                true => matmul(Layout::NN, &segments, dx, 1.0, write)?,
                false => linear_fp8::input_gradient(&eight, segments, dx, write)?,
            }
            for (mask, v, a) in behind_dropout {
                let d_dropped = dx.device().empty("dropout", dx.dtype(), dx.shape())?;
                matmul(Layout::NN, &[(v, a)], &d_dropped, 1.0, Write::Set)?;
                mask.apply(&d_dropped, dx, Write::Add)?;
            }
            Ok(())
        })
    }
}
