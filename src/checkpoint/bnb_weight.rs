//! A weight in NF4 in host memory, and how it is written in bitsandbytes' 4-bit layout ([`bnb_format`](super::bnb_format)).

use safetensors::tensor::Dtype;

use super::bnb_format::{QuantState, STATE};
use super::host_tensor::{HostDType, HostTensor};
use super::tensor_writer::{TensorSpec, TensorWriter};
use crate::nf4::{BLOCK, NESTED_BLOCK, NF4_MAP, nested_map};
use crate::{Result, bail_input};

/// The weight of a linear layer, as its folder holds it.
#[derive(Debug, Clone)]
pub enum HostWeight<'a> {
    /// In F32, F16 or BF16.
    Dense(HostTensor<'a>),
    /// In NF4.
    Nf4(HostNf4<'a>),
}

/// A weight [out, in] in NF4, its bytes as a device takes them.
#[derive(Debug, Clone)]
pub struct HostNf4<'a> {
    /// The weight's name.
    pub name: String,
    /// [out, in].
    pub shape: [usize; 2],
    /// The type it was quantised from.
    pub dtype: HostDType,
    /// [n / 2]: two codes to a byte.
    pub packed: &'a [u8],
    /// A scale per block of 64.
    pub scales: HostScales<'a>,
}

/// The scales of a weight in NF4. Floats are little-endian, at any alignment.
#[derive(Debug, Clone, Copy)]
pub enum HostScales<'a> {
    /// F32 [n / 64].
    Plain(&'a [u8]),
    /// Double quantisation.
    Double {
        /// [n / 64]: codes of the map of the scales ([`nested_map`]).
        codes: &'a [u8],
        /// F32 [n / 64 / 256].
        nested_absmax: &'a [u8],
        /// Added to every scale.
        offset: f32,
    },
}

impl HostWeight<'_> {
    /// Refuses a weight with a value or a scale that is no number, naming the place.
    pub fn check_finite(&self) -> Result<()> {
        match self {
            HostWeight::Dense(tensor) => tensor.check_finite(),
            HostWeight::Nf4(weight) => weight.check_finite(),
        }
    }
}

impl HostNf4<'_> {
    /// Refuses scales that are no numbers, naming the place.
    pub fn check_finite(&self) -> Result<()> {
        let (part, bytes) = match self.scales {
            HostScales::Plain(absmax) => ("absmax", absmax),
            HostScales::Double { nested_absmax, .. } => ("nested_absmax", nested_absmax),
        };
        let name = format!("{}.{part}", self.name);
        HostTensor { name, shape: vec![bytes.len() / 4], dtype: HostDType::F32, bytes }.check_finite()?;
        match self.scales {
            HostScales::Double { offset, .. } if !offset.is_finite() => {
                bail_input!(
                    "tensor {}: its nested_offset is {offset}; the weights are damaged, fetch them again",
                    self.name
                )
            }
            _ => Ok(()),
        }
    }

    /// The tensors such a weight is written as, and the name of the text beside them.
    pub fn specs(name: &str, [n_out, n_in]: [usize; 2], double: bool) -> (Vec<TensorSpec>, String) {
        let n_blocks = (n_out * n_in).div_ceil(BLOCK);
        let part = |part: &str| format!("{name}.{part}");
        let mut specs = vec![
            TensorSpec::new(name, Dtype::U8, &[(n_out * n_in).div_ceil(2), 1]),
            TensorSpec::new(part("absmax"), if double { Dtype::U8 } else { Dtype::F32 }, &[n_blocks]),
            TensorSpec::new(part("quant_map"), Dtype::F32, &[NF4_MAP.len()]),
        ];
        if double {
            specs.push(TensorSpec::new(part("nested_absmax"), Dtype::F32, &[n_blocks.div_ceil(NESTED_BLOCK)]));
            specs.push(TensorSpec::new(part("nested_quant_map"), Dtype::F32, &[256]));
        }
        (specs, part(STATE))
    }

    /// Writes the weight's tensors; room for them was kept by [`specs`](HostNf4::specs).
    pub fn write(&self, file: &mut TensorWriter) -> Result<()> {
        let part = |part: &str| format!("{}.{part}", self.name);
        file.append(&self.name, self.packed)?;
        file.append(&part("quant_map"), bytemuck::cast_slice(&NF4_MAP))?;
        let offset = match self.scales {
            HostScales::Plain(absmax) => {
                file.append(&part("absmax"), absmax)?;
                None
            }
            HostScales::Double { codes, nested_absmax, offset } => {
                file.append(&part("absmax"), codes)?;
                file.append(&part("nested_absmax"), nested_absmax)?;
                file.append(&part("nested_quant_map"), bytemuck::cast_slice(&nested_map()))?;
                Some(offset)
            }
        };
        let state = QuantState::new(python_name(self.dtype), self.shape, offset);
        file.text(&part(STATE), state.to_json().as_bytes())
    }
}

/// The type's name in PyTorch.
fn python_name(dtype: HostDType) -> &'static str {
    match dtype {
        HostDType::F32 => "float32",
        HostDType::F16 => "float16",
        HostDType::BF16 => "bfloat16",
    }
}
