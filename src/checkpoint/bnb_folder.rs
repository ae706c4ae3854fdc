//! Reading weights in bitsandbytes' 4-bit layout ([`bnb_format`](super::bnb_format)) from a mapped folder.
//!
//! config.json says which linears are in NF4 and how; tensors that say otherwise are refused, since the memory plan was made from
//! config.json alone.

use safetensors::tensor::Dtype;

use super::bnb_format::{FP4_STATE, QuantState, STATE};
use super::bnb_weight::{HostNf4, HostScales, HostWeight};
use super::host_tensor::HostDType;
use super::model_folder::ModelFolder;
use super::tensor_file::RawTensor;
use crate::nf4::{BLOCK, NESTED_BLOCK, NF4_MAP, nested_map};
use crate::{Error, Result, bail_input};

impl ModelFolder {
    /// The weight `name` of a linear layer [out, in], dense or in NF4 as config.json says; refused unless all of it is there, of
    /// its size, and of the kind that the kernels decode. Its values are not looked at: [`HostWeight::check_finite`].
    pub fn linear(&self, name: &str, shape: [usize; 2]) -> Result<HostWeight<'_>> {
        let has = |part: &str| self.contains(&format!("{name}.{part}"));
        let refuse = |why: String| Err(self.at(name, Error::Input(why)));
        match (self.config().nf4_of(name), has(STATE)) {
            (Some(stored), true) => {
                let weight = self.nf4(name, shape).map_err(|e| self.at(name, e))?;
                match (&weight.scales, stored.double) {
                    (HostScales::Plain(_), false) | (HostScales::Double { .. }, true) => Ok(HostWeight::Nf4(weight)),
                    (_, said) => refuse(format!(
                        "its scales are in {} bits, but config.json says bnb_4bit_use_double_quant {said}; the two are not of one model",
                        if said { 32 } else { 8 }
                    )),
                }
            }
            (None, true) => refuse(
                "it is in NF4, but the quantization_config of config.json does not say so; the two are not of one model".into(),
            ),
            (Some(_), false) if has(FP4_STATE) => {
                refuse("it is in fp4; of 4-bit weights only nf4 is read, so quantise it again".into())
            }
            (Some(_), false) if has("absmax") || has("quant_map") => {
                refuse(format!("it is quantised, but the tensor {name}.{STATE} is missing; the folder is incomplete"))
            }
            (Some(_), false) if self.contains(name) => refuse(
                "it is not quantised, but config.json says so and does not name it in llm_int8_skip_modules; the two are not of one model"
                    .into(),
            ),
            (_, false) => self.tensor(name, &shape).map(HostWeight::Dense),
        }
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
        if !matches!(packed.dtype, Dtype::U8 | Dtype::BF16 | Dtype::F16 | Dtype::F32)
            || packed.bytes.len() != n.div_ceil(2)
        {
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
            (None, _) => bail_input!(
                "its {STATE} has no nested_offset, but its absmax is in 8 bits; the two do not belong together"
            ),
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
        let state = format!("{name}.{STATE}");
        let file = self.file_of(if self.contains(name) { name } else { &state });
        Error::Input(format!("{}: tensor {name}: {e}", file.display()))
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

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::checkpoint::fixtures::{Tensors, sentence, write_raw};
    use crate::checkpoint::tensor_file::TensorFile;
    use crate::checkpoint::tensor_writer::TensorWriter;

    const Q: &str = "model.layers.0.self_attn.q_proj.weight";
    const UP: &str = "model.layers.0.mlp.up_proj.weight";
    const STATE_Q: &str = "model.layers.0.self_attn.q_proj.weight.quant_state.bitsandbytes__nf4";

    /// A folder that bitsandbytes wrote (tools/golden/convert.py).
    fn golden(kind: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/convert").join(kind)
    }

    fn tensors_of(kind: &str) -> Tensors {
        let file = TensorFile::open(&golden(kind).join("model.safetensors")).unwrap();
        let tensor = |name: String| {
            let raw = file.raw(&name).unwrap();
            let tensor = (raw.dtype, raw.shape.to_vec(), raw.bytes.to_vec());
            (name, tensor)
        };
        file.names().into_iter().map(tensor).collect()
    }

    /// The golden folder with tensors that `edit` changed.
    fn edited(kind: &str, edit: impl FnOnce(&mut Tensors)) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(golden(kind).join("config.json"), dir.path().join("config.json")).unwrap();
        let mut tensors = tensors_of(kind);
        edit(&mut tensors);
        write_raw(&dir.path().join("model.safetensors"), &tensors);
        dir
    }

    fn refused(kind: &str, edit: impl FnOnce(&mut Tensors)) -> String {
        let dir = edited(kind, edit);
        let text = sentence(ModelFolder::open(dir.path()).and_then(|folder| folder.check()));
        assert!(text.contains("model.safetensors: tensor model.layers.0."), "file and tensor are named: {text}");
        text
    }

    fn with_state(from: &str, to: &str) -> impl FnOnce(&mut Tensors) {
        move |tensors| {
            let (_, shape, bytes) = tensors.get_mut(STATE_Q).unwrap();
            *bytes = String::from_utf8(bytes.clone()).unwrap().replacen(from, to, 1).into_bytes();
            *shape = vec![bytes.len()];
        }
    }

    #[test]
    fn both_kinds_of_scales_are_lent_as_they_lie_in_the_file() {
        for kind in ["double", "plain"] {
            let folder = ModelFolder::open(&golden(kind)).unwrap();
            folder.check().unwrap();
            let tensors = tensors_of(kind);
            let bytes = |part: &str| &tensors[&format!("{UP}{part}")].2[..];
            let HostWeight::Nf4(up) = folder.linear(UP, [272, 64]).unwrap() else { panic!("a weight in NF4") };
            up.check_finite().unwrap();
            assert_eq!((up.packed, up.shape, up.dtype), (bytes(""), [272, 64], HostDType::BF16));
            match up.scales {
                HostScales::Plain(absmax) => assert_eq!((kind, absmax), ("plain", bytes(".absmax"))),
                HostScales::Double { codes, nested_absmax, offset } => {
                    assert_eq!((kind, codes, nested_absmax), ("double", bytes(".absmax"), bytes(".nested_absmax")));
                    let state = String::from_utf8(bytes(&format!(".{STATE}")).to_vec()).unwrap();
                    assert!(state.ends_with(&format!("{:?}}}", f64::from(offset))), "{offset} {state}");
                    assert_eq!((codes.len(), nested_absmax.len()), (272, 8), "a last block that is not full");
                }
            }
        }
    }

    #[test]
    fn what_is_written_is_what_bitsandbytes_wrote() {
        for kind in ["double", "plain"] {
            let folder = ModelFolder::open(&golden(kind)).unwrap();
            let HostWeight::Nf4(up) = folder.linear(UP, [272, 64]).unwrap() else { panic!("a weight in NF4") };
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("w.safetensors");
            let (specs, text) = HostNf4::specs(UP, [272, 64], kind == "double");
            let mut file = TensorWriter::create(&path, &specs, &[text], ("format", "pt")).unwrap();
            up.write(&mut file).unwrap();
            file.finish().unwrap();
            let (ours, theirs) = (TensorFile::open(&path).unwrap(), tensors_of(kind));
            let theirs: Tensors = theirs.into_iter().filter(|(name, _)| name.starts_with(UP)).collect();
            assert_eq!(ours.names().len(), theirs.len());
            for (name, (dtype, shape, bytes)) in theirs {
                let found = ours.raw(&name).unwrap();
                assert_eq!((found.dtype, found.shape, found.bytes), (dtype, &shape[..], &bytes[..]), "{name}");
            }
        }
    }

    #[test]
    fn a_linear_may_stay_dense_where_the_configuration_names_it() {
        let dense = tensors_of("dense");
        let keep_dense = |tensors: &mut Tensors| {
            tensors.retain(|name, _| !name.starts_with(Q));
            tensors.insert(Q.into(), dense[Q].clone());
        };
        assert!(refused("double", keep_dense).contains("does not name it in llm_int8_skip_modules"));
        let dir = edited("double", keep_dense);
        let path = dir.path().join("config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(
            &path,
            text.replace("\"llm_int8_skip_modules\": null", "\"llm_int8_skip_modules\": [\"q_proj\"]"),
        )
        .unwrap();
        let folder = ModelFolder::open(dir.path()).unwrap();
        folder.check().unwrap();
        assert!(matches!(folder.linear(Q, [64, 64]).unwrap(), HostWeight::Dense(t) if t.bytes == dense[Q].2));
        assert!(matches!(folder.linear(UP, [272, 64]).unwrap(), HostWeight::Nf4(_)));
    }

    #[test]
    fn weights_and_configuration_of_two_models_are_refused() {
        for (weights, config, says) in [
            ("double", "dense", "it is in NF4, but the quantization_config of config.json does not say so"),
            ("double", "plain", "its scales are in 8 bits, but config.json says bnb_4bit_use_double_quant false"),
            ("plain", "double", "its scales are in 32 bits, but config.json says bnb_4bit_use_double_quant true"),
            ("dense", "double", "it is not quantised, but config.json says so"),
        ] {
            let dir = edited(weights, |_| {});
            std::fs::copy(golden(config).join("config.json"), dir.path().join("config.json")).unwrap();
            let text = sentence(ModelFolder::open(dir.path()).and_then(|folder| folder.check()));
            assert!(text.contains(says) && text.contains("tensor model.layers.0."), "{text}");
        }
    }

    #[test]
    fn the_same_bytes_may_be_called_bf16() {
        let dir = edited("double", |tensors| {
            let (dtype, shape, _) = tensors.get_mut(Q).unwrap();
            (*dtype, *shape) = (Dtype::BF16, vec![64 * 64 / 4, 1]);
        });
        let folder = ModelFolder::open(dir.path()).unwrap();
        let HostWeight::Nf4(q) = folder.linear(Q, [64, 64]).unwrap() else { panic!("a weight in NF4") };
        assert_eq!(q.packed, tensors_of("double")[Q].2);
    }

    #[test]
    fn any_missing_part_is_named() {
        for kind in ["double", "plain"] {
            for name in tensors_of(kind).into_keys().filter(|name| name.contains("_proj.weight")) {
                let text = refused(kind, |tensors| drop(tensors.remove(&name)));
                let itself = name.ends_with("weight") && text.contains("the tensor itself is missing");
                assert!(itself || text.contains(&format!("the tensor {name} is missing")), "{name}: {text}");
            }
        }
    }

    #[test]
    fn any_part_of_the_wrong_size_or_type_is_named() {
        for kind in ["double", "plain"] {
            for part in ["absmax", "quant_map", "nested_absmax", "nested_quant_map"] {
                let name = format!("{UP}.{part}");
                if !tensors_of(kind).contains_key(&name) {
                    continue;
                }
                let text = refused(kind, |tensors| {
                    let (dtype, shape, bytes) = tensors.get_mut(&name).unwrap();
                    shape[0] += 1;
                    bytes.extend(vec![0; dtype.bitsize() / 8]);
                });
                assert!(text.contains(&format!("its {part} is ")) && text.contains("was expected"), "{text}");
                let text = refused(kind, |tensors| {
                    let (dtype, shape, bytes) = tensors.get_mut(&name).unwrap();
                    (*dtype, *shape) = (Dtype::I8, vec![bytes.len()]);
                });
                assert!(text.contains(part) && (text.contains(" is I8 [") || text.contains("in 8 bits")), "{text}");
            }
            let text = refused(kind, |tensors| drop(tensors.insert(UP.into(), (Dtype::U8, vec![9, 1], vec![0; 9]))));
            assert!(text.contains("its codes are U8 [9, 1], 9 bytes; U8 [8704, 1] was expected"), "{text}");
            let text = refused(kind, |tensors| tensors.get_mut(UP).unwrap().0 = Dtype::I8);
            assert!(text.contains("its codes are I8"), "{text}");
        }
    }

    #[test]
    fn a_map_that_differs_in_one_bit_is_refused() {
        for (kind, part, entry) in
            [("plain", "quant_map", 15), ("double", "quant_map", 0), ("double", "nested_quant_map", 200)]
        {
            let text = refused(kind, |tensors| tensors.get_mut(&format!("{Q}.{part}")).unwrap().2[4 * entry] ^= 1);
            assert!(text.contains(&format!("entry {entry} of its {part} is")), "{text}");
        }
    }

    #[test]
    fn another_kind_of_quantisation_is_refused() {
        for (from, to, says) in [
            ("\"nf4\"", "\"fp4\"", "its quant_type is fp4"),
            (": 64,", ": 128,", "its blocksize is 128"),
            (": 256,", ": 128,", "its nested_blocksize is 128"),
            ("[64, 64]", "[64, 63]", "it has shape [64, 63]; [64, 64] was expected from config.json"),
            ("bfloat16", "float8", "its dtype is float8"),
        ] {
            assert!(refused("double", with_state(from, to)).contains(says), "{says}");
        }
        let fp4 = |tensors: &mut Tensors| {
            let state = tensors.remove(STATE_Q).unwrap();
            tensors.insert(STATE_Q.replace("nf4", "fp4"), state);
        };
        assert!(refused("double", fp4).contains("it is in fp4; of 4-bit weights only nf4"));
        let text = refused("plain", |tensors| {
            let double = tensors_of("double");
            tensors.insert(format!("{Q}.absmax"), double[&format!("{Q}.absmax")].clone());
        });
        assert!(text.contains("has no nested_offset, but its absmax is in 8 bits"), "{text}");
    }

    #[test]
    fn scales_that_are_no_numbers_are_refused() {
        let nan = f32::NAN.to_le_bytes();
        for (kind, part) in [("plain", "absmax"), ("double", "nested_absmax")] {
            let dir =
                edited(kind, |tensors| tensors.get_mut(&format!("{UP}.{part}")).unwrap().2[4..8].copy_from_slice(&nan));
            let folder = ModelFolder::open(dir.path()).unwrap();
            let text = sentence(folder.linear(UP, [272, 64]).and_then(|weight| weight.check_finite()));
            assert!(text.contains(&format!("{UP}.{part} holds a value that is not finite at [1]")), "{text}");
        }
        // A number in JSON that no f32 holds.
        let dir = edited("double", with_state("\"nested_offset\": ", "\"nested_offset\": 1e300, \"was\": "));
        let folder = ModelFolder::open(dir.path()).unwrap();
        let text = sentence(folder.linear(Q, [64, 64]).and_then(|weight| weight.check_finite()));
        assert!(text.contains("its nested_offset is inf"), "{text}");
    }

    #[test]
    fn parts_in_different_shards_are_one_weight() {
        let (dir, tensors) = (tempfile::tempdir().unwrap(), tensors_of("double"));
        std::fs::copy(golden("double").join("config.json"), dir.path().join("config.json")).unwrap();
        let (one, two): (Tensors, Tensors) = tensors.into_iter().partition(|(name, _)| name.ends_with("absmax"));
        let shard = |file: &str, tensors: &Tensors| {
            write_raw(&dir.path().join(file), tensors);
            tensors.keys().map(|name| (name.clone(), file.into())).collect::<Vec<(String, serde_json::Value)>>()
        };
        let map: serde_json::Map<_, _> =
            [shard("one.safetensors", &one), shard("two.safetensors", &two)].concat().into_iter().collect();
        let index = serde_json::json!({"weight_map": map});
        std::fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
        ModelFolder::open(dir.path()).unwrap().check().unwrap();
        std::fs::remove_file(dir.path().join("one.safetensors")).unwrap();
        let text = sentence(ModelFolder::open(dir.path()));
        assert!(text.contains("the shard one.safetensors with 14 tensors is not there"), "{text}");
    }
}
