//! How fast a step is, as a share of how fast it could be: the operations it takes, and what this device reaches.

use crate::Result;
use crate::data::SplitMix64;
use crate::device::{Device, Tensor};
use crate::model::Group;
use crate::ops::matmul::{Layout, matmul};
use crate::tape::Write;
use crate::train::Trainer;
use crate::train::ladder::layer_weights;

/// Floating-point operations of training: four a frozen weight (forward and the gradient of the input), six a trainable one.
/// Attention is left out, and the head, which runs once a row.
pub struct Flops {
    /// On a token.
    pub token: f64,
    /// On top, where the token has a target: the output layer.
    pub target: f64,
}

impl Flops {
    /// Of this model and adapter.
    pub fn of(trainer: &Trainer) -> Flops {
        let model = &trainer.model.config;
        let lora = trainer.params.iter().filter(|(_, group)| *group == Group::Lora).map(|(p, _)| p.value.n_elems());
        let frozen = layer_weights(model) * model.n_layers;
        Flops {
            token: 4.0 * frozen as f64 + 6.0 * lora.sum::<usize>() as f64,
            target: 4.0 * (model.vocab * model.hidden) as f64,
        }
    }
}

/// The product that a ceiling is measured with: y = a bᵀ at a size that fills the device. Of random numbers: on zeros a GPU
/// draws less power and clocks higher than any training will.
pub struct Square {
    /// [n,n], storage type.
    pub a: Tensor,
    /// [n,n], storage type.
    pub b: Tensor,
    /// [n,n], storage type.
    pub y: Tensor,
}

impl Square {
    /// Its matrices.
    pub fn on(device: &Device) -> Result<Square> {
        let n = if device.is_cuda() { 8192 } else { 512 };
        let (a, b) = (random(device, n, 1)?, random(device, n, 2)?);
        Ok(Square { a, b, y: device.empty("ceiling", device.act(), &[n, n])? })
    }

    /// Operations a second of `multiply`, which fills y: the best of three.
    pub fn rate(&self, mut multiply: impl FnMut(&Square) -> Result<()>) -> Result<f64> {
        let device = self.y.device();
        let mut best = f64::INFINITY;
        for _ in 0..3 {
            let from = device.tick()?;
            multiply(self)?;
            best = best.min(device.seconds_between(&from, &device.tick()?)?);
        }
        Ok(2.0 * (self.y.shape()[0] as f64).powi(3) / best)
    }

    /// With this engine's own product.
    pub fn own_rate(&self) -> Result<f64> {
        self.rate(|s| matmul(Layout::NT, &[(&s.a, &s.b)], &s.y, 1.0, Write::Set))
    }
}

/// Operations a second that this engine's own matrix product reaches: what a step's share is counted against. No library is
/// loaded for it, which would take device memory that no plan counts.
pub(super) fn measure_ceiling(device: &Device) -> Result<f64> {
    Square::on(device)?.own_rate()
}

/// [n,n], uniform in ±1; a few rows over and over, which no product can tell.
fn random(device: &Device, n: usize, stream: u64) -> Result<Tensor> {
    const ROWS: usize = 16;
    let mut random = SplitMix64::new(0, stream);
    let values: Vec<f32> = (0..ROWS * n).map(|_| (random.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect();
    let t = device.empty("ceiling", device.act(), &[n, n])?;
    (0..n / ROWS).try_for_each(|i| t.rows(i * ROWS, (i + 1) * ROWS).write_f32(&values))?;
    Ok(t)
}
