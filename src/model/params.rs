//! Everything trainable, in flat buffers: LoRA first, then the head, so that one pass gives the gradient norm and one
//! launch a group updates it.

use crate::Result;
use crate::data::SplitMix64;
use crate::device::{DType, Device, Tensor};
use crate::ops::adamw::AdamwState;
use crate::tape::Param;

/// What a group of parameters has in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// LoRA matrices: kernels read a copy in storage type.
    Lora,
    /// The ECI head: kernels read the fp32 masters themselves.
    Head,
}

/// How a parameter starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Zeros.
    Zero,
    /// Uniform in ±bound over the first `rows` x `cols` of the stored shape; padding stays zero.
    Uniform {
        /// Largest magnitude.
        bound: f32,
        /// Rows that exist.
        rows: usize,
        /// Columns that exist.
        cols: usize,
    },
}

struct Spec {
    name: String,
    group: Group,
    shape: Vec<usize>,
    init: Init,
    offset: usize,
}

/// Collects names and sizes before anything is allocated.
#[derive(Default)]
pub struct ParamsBuilder {
    specs: Vec<Spec>,
    n_elems: usize,
    lora_elems: usize,
}

/// Index of a parameter in [`Params`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParamIndex(usize);

impl ParamsBuilder {
    /// Registers a parameter. All of a model's LoRA matrices come before its head.
    pub fn add(&mut self, group: Group, name: String, shape: &[usize], init: Init) -> ParamIndex {
        assert!(group == Group::Head || self.lora_elems == self.n_elems, "LoRA parameters come first");
        let n = shape.iter().product::<usize>();
        self.specs.push(Spec { name, group, shape: shape.to_vec(), init, offset: self.n_elems });
        // Every parameter starts on a multiple of 8 elements: a 16-byte access of the bf16 copy. The gap stays zero.
        self.n_elems += n.div_ceil(8) * 8;
        if group == Group::Lora {
            self.lora_elems = self.n_elems;
        }
        ParamIndex(self.specs.len() - 1)
    }

    /// Allocates the flat buffers and draws the initial values. The same seed gives the same bytes.
    pub fn build(self, device: &Device, seed: u64) -> Result<Params> {
        let n = self.n_elems.max(8);
        let flat = |name: &str| device.zeros(name, DType::F32, &[n]);
        let copy = match self.lora_elems {
            0 => None,
            lora => Some(device.zeros("lora copy", device.act(), &[lora])?),
        };
        let state = AdamwState {
            master: flat("masters")?,
            grad: flat("gradients of all")?,
            m: flat("adam m")?,
            v: flat("adam v")?,
            copy,
        };
        let part = |whole: &Tensor, spec: &Spec| {
            let n = spec.shape.iter().product::<usize>();
            whole.rows(spec.offset, spec.offset + n).view(&spec.shape)
        };
        let params: Vec<Param> = self
            .specs
            .iter()
            .map(|spec| {
                let values = match spec.group {
                    Group::Lora => state.copy.as_ref().expect("allocated with the first LoRA parameter"),
                    Group::Head => &state.master,
                };
                Param::new(spec.name.clone(), part(values, spec), part(&state.grad, spec))
            })
            .collect();
        let mut values = vec![0.0; n];
        for (i, spec) in self.specs.iter().enumerate() {
            let Init::Uniform { bound, rows, cols } = spec.init else { continue };
            let mut random = SplitMix64::new(seed, i as u64);
            let stride = *spec.shape.last().expect("a shape");
            for r in 0..rows {
                for c in 0..cols {
                    values[spec.offset + r * stride + c] = (unit(&mut random) * 2.0 - 1.0) * bound;
                }
            }
        }
        let built = Params { device: device.clone(), specs: self.specs, params, state };
        built.write_masters(&values)?;
        Ok(built)
    }
}

/// The trainable state of a run.
pub struct Params {
    device: Device,
    specs: Vec<Spec>,
    params: Vec<Param>,
    /// Masters, gradients, moments and the LoRA part's copy in storage type, all flat.
    pub state: AdamwState,
}

impl Params {
    /// A parameter.
    pub fn get(&self, index: ParamIndex) -> Param {
        self.params[index.0].clone()
    }

    /// All parameters with their group and their range in the flat buffers.
    pub fn iter(&self) -> impl Iterator<Item = (&Param, Group, std::ops::Range<usize>)> {
        self.specs.iter().zip(&self.params).map(|(s, p)| (p, s.group, s.offset..s.offset + p.value.n_elems()))
    }

    /// Elements `begin..end` of the flat buffers that a group takes.
    pub fn range(&self, group: Group) -> std::ops::Range<usize> {
        let lora =
            self.specs.iter().filter(|s| s.group == Group::Lora).map(|s| s.offset + elems8(s)).max().unwrap_or(0);
        match group {
            Group::Lora => 0..lora,
            Group::Head => lora..self.specs.last().map_or(0, |s| s.offset + elems8(s)),
        }
    }

    /// Trainable numbers in the model's own sizes, padding included.
    pub fn n_elems(&self) -> usize {
        self.range(Group::Head).end
    }

    /// Overwrites all masters and the copy that kernels read.
    pub fn write_masters(&self, values: &[f32]) -> Result<()> {
        self.state.master.write_f32(values)?;
        match &self.state.copy {
            Some(copy) => copy.write_f32(&values[self.range(Group::Lora)]),
            None => Ok(()),
        }
    }

    /// The masters of one parameter.
    pub fn read(&self, name: &str) -> Result<Option<(Vec<usize>, Vec<f32>)>> {
        let Some((param, _, range)) = self.iter().find(|(p, ..)| p.name == name) else { return Ok(None) };
        Ok(Some((param.value.shape().to_vec(), self.state.master.rows(range.start, range.end).read_f32()?)))
    }

    /// Starts a new optimiser step: gradients count as not written. Those that no backward reaches must read as zero.
    pub fn reset_grads(&self) -> Result<()> {
        self.params.iter().for_each(Param::reset);
        self.state.grad.fill_zero()
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }
}

fn elems8(spec: &Spec) -> usize {
    spec.shape.iter().product::<usize>().div_ceil(8) * 8
}

/// Uniform in [0, 1): the upper 24 bits, which fp32 holds exactly.
fn unit(random: &mut SplitMix64) -> f32 {
    (random.next_u64() >> 40) as f32 / (1u64 << 24) as f32
}
