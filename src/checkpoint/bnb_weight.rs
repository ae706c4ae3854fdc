//! Weights in bitsandbytes' 4-bit layout ([`bnb_format`](super::bnb_format)): lent from a mapped folder, and written.
//!
//! A linear of such a folder may also be dense (`llm_int8_skip_modules`); which it is, the tensors say themselves.

use safetensors::tensor::Dtype;

use super::bnb_format::{FP4_STATE, QuantState, STATE};
use super::host_tensor::{HostDType, HostTensor};
use super::model_folder::ModelFolder;
use super::tensor_file::RawTensor;
use super::tensor_writer::{TensorSpec, TensorWriter};
use crate::nf4::{BLOCK, NESTED_BLOCK, NF4_MAP, nested_map};
use crate::{Error, Result, bail_input};

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
#[derive(Debug, Clone)]
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
                bail_input!("tensor {}: its nested_offset is {offset}; the weights are damaged, fetch them again", self.name)
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

impl ModelFolder {
    /// Whether any weight of the folder is in NF4.
    pub fn is_quantised(&self) -> bool {
        self.names().any(|name| name.ends_with(STATE))
    }

    /// The weight `name` of a linear layer [out, in], dense or in NF4; refused unless all of it is there, of its size, and
    /// of the kind that the kernels decode. Its scales are not looked at: [`HostWeight::check_finite`].
    pub fn linear(&self, name: &str, shape: [usize; 2]) -> Result<HostWeight<'_>> {
        if self.contains(&format!("{name}.{STATE}")) {
            let weight = self.nf4(name, shape);
            return weight.map(HostWeight::Nf4).map_err(|e| self.at(name, e));
        }
        if self.contains(&format!("{name}.{FP4_STATE}")) {
            let fp4 = "it is in fp4; of 4-bit weights only nf4 is read, so quantise it again".to_string();
            return Err(self.at(name, Error::Input(fp4)));
        }
        if ["absmax", "quant_map"].iter().any(|part| self.contains(&format!("{name}.{part}"))) {
            let missing = format!("it is quantised, but the tensor {name}.{STATE} is missing; the folder is incomplete");
            return Err(self.at(name, Error::Input(missing)));
        }
        self.tensor(name, &shape).map(HostWeight::Dense)
    }

    fn nf4(&self, name: &str, shape: [usize; 2]) -> Result<HostNf4<'_>> {
        let n: usize = shape.iter().product();
        let n_blocks = n.div_ceil(BLOCK);
        let state = QuantState::parse(self.part(name, STATE)?.bytes, shape)?;
        let dtype = match state.dtype.as_str() {
            "float32" => HostDType::F32,
            "float16" => HostDType::F16,
            "bfloat16" => HostDType::BF16,
            other => bail_input!("its dtype is {other}; float32, float16 or bfloat16 was expected"),
        };
        let Some(packed) = self.raw(name) else {
            bail_input!("its {STATE} is there, but the tensor itself is missing; the folder is incomplete");
        };
        // bnb_4bit_quant_storage only says as what the same bytes are looked at.
        let width = packed.dtype.bitsize() / 8;
        if !matches!(packed.dtype, Dtype::U8 | Dtype::BF16 | Dtype::F16 | Dtype::F32) || packed.bytes.len() != n.div_ceil(2) {
            bail_input!(
                "its codes are {:?} {:?}, {} bytes; U8 [{}, 1] was expected for a weight of shape {shape:?}",
                packed.dtype,
                packed.shape,
                packed.shape.iter().product::<usize>() * width,
                n.div_ceil(2)
            );
        }
        same_map("quant_map", self.sized(name, "quant_map", Dtype::F32, NF4_MAP.len())?, &NF4_MAP)?;
        let scales = match (state.nested_offset, self.part(name, "absmax")?.dtype) {
            (None, Dtype::F32) => HostScales::Plain(self.sized(name, "absmax", Dtype::F32, n_blocks)?),
            (None, _) => bail_input!("its {STATE} has no nested_offset, but its absmax is in 8 bits; the two do not belong together"),
            (Some(offset), _) => {
                let map = self.sized(name, "nested_quant_map", Dtype::F32, 256)?;
                same_map("nested_quant_map", map, &nested_map())?;
                HostScales::Double {
                    codes: self.sized(name, "absmax", Dtype::U8, n_blocks)?,
                    nested_absmax: self.sized(name, "nested_absmax", Dtype::F32, n_blocks.div_ceil(NESTED_BLOCK))?,
                    offset: offset as f32,
                }
            }
        };
        Ok(HostNf4 { name: name.to_string(), shape, dtype, packed: packed.bytes, scales })
    }

    fn part(&self, name: &str, part: &str) -> Result<RawTensor<'_>> {
        self.raw(&format!("{name}.{part}")).ok_or_else(|| {
            Error::Input(format!("it is quantised, but the tensor {name}.{part} is missing; the folder is incomplete"))
        })
    }

    fn sized(&self, name: &str, part: &str, dtype: Dtype, n: usize) -> Result<&[u8]> {
        let raw = self.part(name, part)?;
        if raw.dtype != dtype || raw.shape != [n] {
            bail_input!("its {part} is {:?} {:?}; {dtype:?} [{n}] was expected", raw.dtype, raw.shape);
        }
        Ok(raw.bytes)
    }

    /// A sentence about a weight, with its file.
    fn at(&self, name: &str, e: Error) -> Error {
        Error::Input(format!("{}: tensor {name}: {e}", self.file_of(name).display()))
    }
}

/// The kernels decode by their own map; another one would give other weights without any sign of it.
fn same_map(part: &str, found: &[u8], ours: &[f32]) -> Result<()> {
    let found = found.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    match found.zip(ours).enumerate().find(|(_, (found, ours))| found.to_bits() != ours.to_bits()) {
        None => Ok(()),
        Some((i, (found, ours))) => bail_input!(
            "entry {i} of its {part} is {found:e}, bitsandbytes' is {ours:e}; the kernels decode by that map only, so quantise the model again"
        ),
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
