//! Everything trainable: the parameters of two groups, LoRA and the head, in the flat buffers of each (flat.rs).
//!
//! Values go to and from the host one parameter at a time: of 13B's 160 million trainable numbers no second copy is made.

use crate::Result;
use crate::data::SplitMix64;
use crate::device::{Device, Tensor};
use crate::model::flat::{ALIGN, Flat, OptimiserStates, Stretch};
use crate::ops::adamw::AdamwConfig;
use crate::tape::{Factors, Gradient, Param};

/// What a group of parameters has in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// LoRA matrices: kernels read a copy in storage type.
    Lora,
    /// The ECI head: kernels read the fp32 masters themselves.
    Head,
}

impl Group {
    /// In the table of device memory.
    pub(super) fn title(self) -> &'static str {
        match self {
            Group::Lora => "LoRA",
            Group::Head => "ECI",
        }
    }

    /// In the file of a run's state.
    pub(super) fn key(self) -> &'static str {
        match self {
            Group::Lora => "lora",
            Group::Head => "head",
        }
    }
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
    /// In the flat buffers of its group.
    offset: usize,
    /// Rows a step, where the gradient is kept as factors.
    factors: Option<usize>,
}

impl Spec {
    fn n_elems(&self) -> usize {
        self.shape.iter().product()
    }

    fn end(&self) -> usize {
        self.offset + self.n_elems().div_ceil(ALIGN) * ALIGN
    }
}

/// Collects names and sizes before anything is allocated.
#[derive(Default)]
pub struct ParamsBuilder {
    specs: Vec<Spec>,
    states: OptimiserStates,
}

/// Index of a parameter in [`Params`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParamIndex(usize);

impl ParamsBuilder {
    /// Registers a parameter.
    pub fn add(&mut self, group: Group, name: String, shape: &[usize], init: Init) -> ParamIndex {
        let offset = self.specs.iter().rev().find(|s| s.group == group).map_or(0, Spec::end);
        self.specs.push(Spec { name, group, shape: shape.to_vec(), init, offset, factors: None });
        ParamIndex(self.specs.len() - 1)
    }

    /// How AdamW's moments are stored; fp32 where nothing is said.
    pub fn optimiser_states(&mut self, states: OptimiserStates) {
        self.states = states;
    }

    /// Says that at most `rows` rows pass through a weight [out, in] in an optimiser step: its gradient is kept as their
    /// factors where that is smaller. Gives back whether it is.
    pub fn factor(&mut self, weight: ParamIndex, rows: usize) -> bool {
        let spec = &mut self.specs[weight.0];
        let shape: [usize; 2] = spec.shape.as_slice().try_into().expect("a weight [out, in]");
        let smaller = Factors::are_smaller(rows, shape);
        spec.factors = smaller.then_some(rows);
        smaller
    }

    /// Allocates the flat buffers and draws the initial values. The same seed gives the same bytes.
    pub fn build(self, device: &Device, seed: u64) -> Result<Params> {
        let mut flats = Vec::new();
        for group in [Group::Lora, Group::Head] {
            let stretches = stretches(self.specs.iter().filter(|s| s.group == group));
            if !stretches.is_empty() {
                flats.push(Flat::new(device, group, &stretches, self.states)?);
            }
        }
        let param = |spec: &Spec| {
            let flat = flats.iter().find(|f| f.group == spec.group).expect("a group with this parameter");
            let part = |whole: &Tensor, at: usize| whole.rows(at, at + spec.n_elems()).view(&spec.shape);
            let value = part(flat.copy.as_ref().unwrap_or(&flat.masters), spec.offset);
            let section =
                flat.sections.iter().find(|s| s.range.contains(&spec.offset)).expect("sections cover the group");
            let grad = match &section.weights.grad {
                Gradient::Stored(whole) => Gradient::Stored(part(whole, spec.offset - section.range.start)),
                Gradient::Factors(factors) => Gradient::Factors(factors.clone()),
                Gradient::Nowhere(device, _) => Gradient::Nowhere(device.clone(), spec.shape.as_slice().into()),
            };
            Param::with(spec.name.clone(), value, grad)
        };
        let params = self.specs.iter().map(param).collect();
        let built = Params { device: device.clone(), specs: self.specs, params, flats };
        // On paper nobody reads what a hundred million draws would make.
        for (i, spec) in built.specs.iter().enumerate().filter(|_| !device.is_paper()) {
            let Init::Uniform { bound, rows, cols } = spec.init else { continue };
            let mut random = SplitMix64::new(seed, i as u64);
            let stride = *spec.shape.last().expect("a shape");
            let mut values = vec![0.0; spec.n_elems()];
            for r in 0..rows {
                for c in 0..cols {
                    values[r * stride + c] = (unit(&mut random) * 2.0 - 1.0) * bound;
                }
            }
            built.write_at(i, &values)?;
        }
        Ok(built)
    }
}

/// A group's parameters as stretches with one gradient each: LoRA's matrices are one; a parameter of the head is always
/// one of its own, so that the norm is summed in the same order however a gradient is kept.
fn stretches<'a>(specs: impl Iterator<Item = &'a Spec>) -> Vec<Stretch> {
    let mut found: Vec<Stretch> = Vec::new();
    for spec in specs {
        let group = spec.group;
        match found.last_mut() {
            Some(last) if group == Group::Lora => last.range.end = spec.end(),
            _ => {
                let factors = spec.factors.map(|rows| (rows, [spec.shape[0], spec.shape[1]]));
                // Factors describe the weight alone; the gap behind a stretch belongs to none.
                let range = spec.offset..if group == Group::Lora { spec.end() } else { spec.offset + spec.n_elems() };
                found.push(Stretch { range, factors });
            }
        }
    }
    found
}

/// The trainable state of a run.
pub struct Params {
    device: Device,
    specs: Vec<Spec>,
    params: Vec<Param>,
    flats: Vec<Flat>,
}

/// All masters, on the host: for going back to the best ones.
pub type HostMasters = Vec<Vec<f32>>;

impl Params {
    /// A parameter.
    pub fn get(&self, index: ParamIndex) -> Param {
        self.params[index.0].clone()
    }

    /// All parameters with their group.
    pub fn iter(&self) -> impl Iterator<Item = (&Param, Group)> {
        self.specs.iter().zip(&self.params).map(|(s, p)| (p, s.group))
    }

    /// Trainable numbers in the model's own sizes, the padding of ranks included.
    pub fn n_elems(&self) -> usize {
        self.specs.iter().map(Spec::n_elems).sum()
    }

    /// The masters of one parameter.
    pub fn read(&self, name: &str) -> Result<Option<(Vec<usize>, Vec<f32>)>> {
        let Some(i) = self.position(name) else { return Ok(None) };
        let spec = &self.specs[i];
        let masters = self.flat(spec.group).masters.rows(spec.offset, spec.offset + spec.n_elems());
        Ok(Some((spec.shape.clone(), masters.read_f32()?)))
    }

    /// Overwrites the masters of one parameter and what kernels read; false where there is none of this name.
    pub fn write(&self, name: &str, values: &[f32]) -> Result<bool> {
        self.position(name).map_or(Ok(false), |i| self.write_at(i, values).map(|()| true))
    }

    /// All masters.
    pub fn read_masters(&self) -> Result<HostMasters> {
        self.flats.iter().map(|flat| flat.masters.read_f32()).collect()
    }

    /// Overwrites all masters and what kernels read.
    pub fn write_masters(&self, masters: &HostMasters) -> Result<()> {
        assert_eq!(masters.len(), self.flats.len(), "as many groups as were read");
        self.flats.iter().zip(masters).try_for_each(|(flat, values)| flat.write(0, values))
    }

    /// Starts a new optimiser step: gradients count as not written. Those that no backward reaches must read as zero.
    pub fn reset_grads(&self) -> Result<()> {
        self.params.iter().for_each(Param::reset);
        self.gradients().iter().try_for_each(|gradient| match gradient {
            Gradient::Stored(tensor) => tensor.fill_zero(),
            Gradient::Factors(_) | Gradient::Nowhere(..) => Ok(()),
        })
    }

    /// All gradients, in a few flat parts.
    pub fn gradients(&self) -> Vec<&Gradient> {
        self.flats.iter().flat_map(|flat| &flat.sections).map(|section| &section.weights.grad).collect()
    }

    /// The parameter whose gradient is element `at` of part `part` of [`Params::gradients`].
    pub fn name_at(&self, part: usize, at: usize) -> &str {
        let mut parts = self.flats.iter().flat_map(|flat| flat.sections.iter().map(move |section| (flat, section)));
        let (flat, section) = parts.nth(part).expect("a part that exists");
        let at = section.range.start + at;
        let holds = |s: &&Spec| s.group == flat.group && (s.offset..s.end()).contains(&at);
        self.specs.iter().find(holds).map_or("padding", |s| &s.name)
    }

    /// One AdamW update of a group, if there is one.
    pub fn update(&self, group: Group, config: &AdamwConfig, clip: &Tensor, step: usize) -> Result<()> {
        let mut flats = self.flats.iter().filter(|flat| flat.group == group);
        flats.try_for_each(|flat| flat.update(config, clip, step))
    }

    /// What the rest of a run depends on, by name: masters and moments, as they are stored.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.flats.iter().flat_map(Flat::state).collect()
    }

    /// Makes the copies that kernels read anew, after the tensors of [`Params::state`] were overwritten.
    pub fn refresh_copies(&self) -> Result<()> {
        for spec in self.specs.iter().filter(|s| self.flat(s.group).copy.is_some()) {
            let flat = self.flat(spec.group);
            let masters = flat.masters.rows(spec.offset, spec.offset + spec.n_elems());
            flat.write(spec.offset, &masters.read_f32()?)?;
        }
        Ok(())
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.specs.iter().position(|s| s.name == name)
    }

    fn flat(&self, group: Group) -> &Flat {
        self.flats.iter().find(|flat| flat.group == group).expect("a group with a parameter")
    }

    fn write_at(&self, index: usize, values: &[f32]) -> Result<()> {
        let spec = &self.specs[index];
        assert_eq!(values.len(), spec.n_elems(), "the values of {}", spec.name);
        self.flat(spec.group).write(spec.offset, values)
    }
}

/// Uniform in [0, 1): the upper 24 bits, which fp32 holds exactly.
fn unit(random: &mut SplitMix64) -> f32 {
    (random.next_u64() >> 40) as f32 / (1u64 << 24) as f32
}
