//! Rotary position embedding, in place (kernels/rotary.h).

use super::sequences::SequenceLayout;
use crate::device::{DType, Device, Tensor};
use crate::ffi::{self, Launcher, lc_rotary_args};
use crate::tape::{Grads, Node, Tape, Var, VarId};
use crate::{Error, Result, bail_input};
use std::sync::Arc;

/// cos and sin of every position and frequency, in fp32, once for a model.
///
/// Computed here and not on the device: 4096 x 64 angles take milliseconds once, and both devices then turn by the same
/// bits. The angle is rounded where Hugging Face rounds it (frequency and product in fp32: at position 4000 that moves
/// the angle by 1e-4, and the base model was trained with it); cos and sin of it are exact to half an ulp.
#[derive(Debug)]
pub struct RotaryTable {
    cos: Tensor,
    sin: Tensor,
    n_positions: usize,
    head_dim: usize,
}

impl RotaryTable {
    /// Positions `0..n_positions`, frequencies `theta^(-2i/head_dim)`.
    pub fn new(device: &Device, n_positions: usize, head_dim: usize, theta: f32) -> Result<RotaryTable> {
        let half = head_dim / 2;
        if device.is_paper() {
            let table = |name| device.empty(name, DType::F32, &[n_positions, half]);
            return Ok(RotaryTable { cos: table("rotary table")?, sin: table("rotary table")?, n_positions, head_dim });
        }
        let frequency = |i: usize| {
            let exponent = (2 * i) as f32 / head_dim as f32;
            1.0 / f64::from(theta).powf(f64::from(exponent)) as f32
        };
        let frequencies: Vec<f32> = (0..half).map(frequency).collect();
        let angles = (0..n_positions).flat_map(|p| frequencies.iter().map(move |f| f64::from(p as f32 * f)));
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|a| (a.cos() as f32, a.sin() as f32)).unzip();
        Ok(RotaryTable {
            cos: device.upload("rotary table", DType::F32, &[n_positions, half], &cos)?,
            sin: device.upload("rotary table", DType::F32, &[n_positions, half], &sin)?,
            n_positions,
            head_dim,
        })
    }

    /// Positions the table has.
    pub fn n_positions(&self) -> usize {
        self.n_positions
    }

    /// Features of a head.
    pub(super) fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// cos and sin, [n_positions, D/2] each.
    pub(super) fn tensors(&self) -> (&Tensor, &Tensor) {
        (&self.cos, &self.sin)
    }

    /// That the table has this position.
    pub(super) fn expect_position(&self, position: usize) -> Result<()> {
        if position >= self.n_positions {
            bail_input!(
                "a sequence reaches position {position}, the model was made for {}: shorten or split it",
                self.n_positions
            );
        }
        Ok(())
    }
}

/// Turns every head of `x` [T,n_heads*D] by its row's position, in place: `x` is used up, the result has its memory.
pub fn rotary(
    tape: &mut Tape,
    x: Var,
    table: &Arc<RotaryTable>,
    layout: &Arc<SequenceLayout>,
    n_heads: usize,
    head_dim: usize,
) -> Result<Var> {
    x.value().expect("rotary x", tape.device().act(), &[layout.n_rows(), n_heads * head_dim])?;
    if head_dim != table.head_dim {
        return Err(Error::Shape(format!("rotary: heads of {head_dim}, a table for heads of {}", table.head_dim)));
    }
    table.expect_position(layout.max_position())?;
    if tape.recording() && !x.value().is_unique() {
        let name = x.value().name();
        return Err(Error::Shape(format!("rotary turns `{name}` in place, but something else still holds it")));
    }
    let turn = Turn { table: table.clone(), layout: layout.clone(), n_heads };
    turn.run(tape.device(), &ffi::ROTARY_FWD, x.value())?;
    let y = tape.var(x.value().clone(), x.needs_grad());
    if y.needs_grad() {
        tape.push(Rotary { x: x.id(), y: y.id(), turn });
    }
    Ok(y)
}

struct Turn {
    table: Arc<RotaryTable>,
    layout: Arc<SequenceLayout>,
    n_heads: usize,
}

impl Turn {
    fn run(&self, device: &Device, launcher: &Launcher<lc_rotary_args>, x: &Tensor) -> Result<()> {
        let width = (self.n_heads * self.table.head_dim) as i32;
        let args = lc_rotary_args {
            x: x.ptr(),
            positions: self.layout.positions().ptr(),
            cos: self.table.cos.ptr(),
            sin: self.table.sin.ptr(),
            T: self.layout.n_rows() as i32,
            n_heads: self.n_heads as i32,
            D: self.table.head_dim as i32,
            ldx: width,
        };
        ffi::launch(device, launcher, &args, &[x, self.layout.positions(), &self.table.cos])
    }
}

struct Rotary {
    x: VarId,
    y: VarId,
    turn: Turn,
}

impl Node for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn backward(&self, grads: &mut Grads) -> Result<()> {
        let dy = grads.expect("rotary", self.y)?;
        let dx = if dy.is_unique() { dy } else { dy.duplicate()? };
        self.turn.run(grads.device(), &ffi::ROTARY_BWD, &dx)?;
        grads.put(self.x, dx);
        Ok(())
    }
}
