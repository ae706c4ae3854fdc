//! Frozen linears by 8-bit tensor cores: the road that `linear` takes where a model was loaded for it and there are many tokens.
//!
//! Forward y = x8 W8ᵀ, input gradient dx = dY8 W8, both operands in e4m3 with a scale a row along k: of x and dY a token's, of W
//! an output's in the forward and an input's in the gradient, for which W is decoded turned. What trains stays in the storage
//! type: LoRA's products are further segments of the same sums, its gradients are read from x and dY as they are. Rounding is a
//! function of the values alone, so what is made again comes out as the same bytes.

use crate::device::Tensor;
use crate::ops::decoder::Decoder;
use crate::ops::fp8::{Fp8, Fp8Product, Fp8Scales, matmul_fp8};
use crate::ops::matmul::Layout;
use crate::ops::nf4::{Nf4Weight, Orientation};
use crate::tape::Write;
use crate::{Error, Result};
use std::cell::RefCell;

/// Operands in e4m3 and their scales, in the memory plan.
const OPERANDS: &str = "operands in 8 bits";

/// A frozen weight that is multiplied so.
#[derive(Clone, Copy)]
pub(super) struct Weight8<'a> {
    pub weight: &'a Nf4Weight,
    pub scales: &'a Fp8Scales,
    pub decoder: &'a RefCell<Decoder>,
}

/// A layer's forward.
pub(super) struct Forward8<'a> {
    pub weight: Weight8<'a>,
    /// (U, B) of its LoRA.
    pub lora: Option<(&'a Tensor, &'a Tensor)>,
    pub y: &'a Tensor,
}

/// `y = x Wᵀ (+ U Bᵀ)` of up to three layers that share x, in one launch.
pub(super) fn forward(x: &Tensor, layers: &[Forward8]) -> Result<()> {
    if layers.is_empty() {
        return Ok(());
    }
    let weights = decode(&layers.iter().map(|l| l.weight).collect::<Vec<_>>(), Orientation::Rows)?;
    let x = Fp8::of(x, OPERANDS)?;
    let mut products = Vec::new();
    for (layer, w) in layers.iter().zip(&weights) {
        products.push(Fp8Product { eight: vec![(&x, w)], wide: layer.lora.into_iter().collect(), y: layer.y });
    }
    matmul_fp8(Layout::NT, &products, Write::Set)
}

/// `dx (=|+=) Σ dy W + Σ wide`, where `wide` are pairs (v [T,R], a [R,K]).
pub(super) fn input_gradient(
    layers: &[(&Tensor, Weight8)],
    wide: Vec<(&Tensor, &Tensor)>,
    dx: &Tensor,
    write: Write,
) -> Result<()> {
    let weights = decode(&layers.iter().map(|(_, w)| *w).collect::<Vec<_>>(), Orientation::Transposed)?;
    let dys = layers.iter().map(|(dy, _)| Fp8::of(dy, OPERANDS)).collect::<Result<Vec<_>>>()?;
    matmul_fp8(Layout::NN, &[Fp8Product { eight: dys.iter().zip(&weights).collect(), wide, y: dx }], write)
}

fn decode(weights: &[Weight8], orientation: Orientation) -> Result<Vec<Fp8>> {
    let decoder = weights.first().ok_or_else(|| Error::Shape("a linear in 8 bits: no weight".into()))?.decoder;
    let pairs: Vec<_> = weights.iter().map(|w| (w.weight, w.scales)).collect();
    decoder.borrow_mut().decode_fp8(&pairs, orientation)
}
