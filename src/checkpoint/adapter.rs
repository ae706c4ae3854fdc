//! A PEFT adapter of pure LoRA: adapter_config.json and adapter_model.safetensors, as PEFT, vLLM and llama.cpp read
//! them.
//!
//! `y += scale * (x Aᵀ) Bᵀ` with `A [r, in]` and `B [out, r]` in F32, for the linear layers named in `targets`, in
//! every decoder layer. Reading refuses what would add something else to the model, and ignores what PEFT ignores:
//! unknown fields, and tensors that PEFT would leave unused.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::adapter_config::AdapterConfig;
use super::host_tensor::NamedTensor;
use super::llama_config::{LINEARS, LlamaConfig};
use super::safe_write::{Saved, save_files};
use super::tensor_file::{FORMAT, TensorFile, differs, write_small};
use super::tensor_writer::write_tensors;
use crate::{Error, Result, bail_input};

/// One half of a LoRA pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoraMatrix {
    /// `[r, in]`
    A,
    /// `[out, r]`
    B,
}

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

/// PEFT's key for a LoRA matrix; `linear` as in [`LINEARS`].
pub fn lora_key(layer: usize, linear: &str, matrix: LoraMatrix) -> String {
    format!("{PREFIX}model.layers.{layer}.{linear}.lora_{matrix:?}.weight")
}

/// The inverse of [`lora_key`].
pub fn parse_lora_key(key: &str) -> Option<(usize, &'static str, LoraMatrix)> {
    let (layer, rest) = key.strip_prefix(PREFIX)?.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    LINEARS.into_iter().find_map(|linear| match rest.strip_prefix(linear)? {
        ".lora_A.weight" => Some((layer, linear, LoraMatrix::A)),
        ".lora_B.weight" => Some((layer, linear, LoraMatrix::B)),
        _ => None,
    })
}

/// Writes the adapter to `dir` (made if needed), reads it back and compares; only then does it take the place of an
/// older one.
pub fn save_adapter(dir: &Path, config: &AdapterConfig, tensors: &[NamedTensor]) -> Result<Saved> {
    let mut config = config.clone();
    config.targets.sort();
    config.targets.dedup();
    config.check()?;
    check_pairs(&config, tensors)?;
    save_files(dir, &[TENSORS, CONFIG], |staging| {
        let sha256 = write_tensors(&staging.join(TENSORS), tensors, FORMAT)?;
        write_small(&staging.join(CONFIG), &config.to_json().map_err(|e| Error::io(dir)(e.into()))?)?;
        let (found, found_tensors) = load_adapter(staging)?;
        if found != config || found_tensors.len() != tensors.len() {
            return Err(differs(&dir.join(CONFIG), "the adapter"));
        }
        Ok(Saved { sha256 })
    })
}

/// Reads an adapter written by PEFT or by [`save_adapter`], values in fp32 whatever the file's type.
pub fn load_adapter(dir: &Path) -> Result<(AdapterConfig, Vec<NamedTensor>)> {
    let path = dir.join(CONFIG);
    if !path.is_file() {
        bail_input!("{}: there is no {CONFIG}; give the folder of a PEFT adapter", dir.display());
    }
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let config = AdapterConfig::from_json(&text).map_err(|e| Error::Input(format!("{}: {e}", path.display())))?;

    let path = dir.join(TENSORS);
    if !path.is_file() {
        bail_input!(
            "{}: there is no {TENSORS}; adapters in other formats (adapter_model.bin) are not read",
            dir.display()
        );
    }
    let file = TensorFile::open(&path)?;
    let mut tensors = Vec::new();
    for name in file.names() {
        match parse_lora_key(&name) {
            Some((_, linear, _)) if config.adapts(linear) => tensors.push(file.owned(&name)?),
            // PEFT makes no module for these, so it drops them.
            Some(_) => {}
            None if !name.starts_with(PREFIX) || name.ends_with(".rotary_emb.inv_freq") => {}
            // PEFT would put this one over a weight of the base or into a module of another kind.
            None => bail_input!(
                "{}: tensor {name} is neither LoRA A nor B of a supported linear layer; such an adapter is not supported",
                path.display()
            ),
        }
    }
    check_pairs(&config, &tensors).map_err(|e| Error::Input(format!("{}: {e}", path.display())))?;
    Ok((config, tensors))
}

/// Tensors of an adapter's file that neither PEFT nor [`load_adapter`] uses, by name: a key with a slip in it is one, and PEFT only
/// warns of it.
pub fn unread_tensors(dir: &Path, config: &AdapterConfig) -> Result<Vec<String>> {
    let mut names = TensorFile::open(&dir.join(TENSORS))?.names();
    names.retain(|name| !parse_lora_key(name).is_some_and(|(_, linear, _)| config.adapts(linear)));
    Ok(names)
}

/// That an adapter fits a base: a pair of the right shape for every target in every layer, and none beyond.
pub fn check_adapter(base: &LlamaConfig, config: &AdapterConfig, tensors: &[NamedTensor]) -> Result<()> {
    let mut shapes: HashMap<&str, &[usize]> = tensors.iter().map(|t| (t.name.as_str(), t.shape.as_slice())).collect();
    for layer in 0..base.n_layers {
        for (linear, [n_out, n_in]) in base.linears().into_iter().filter(|(linear, _)| config.adapts(linear)) {
            for (matrix, expected) in [(LoraMatrix::A, [config.r, n_in]), (LoraMatrix::B, [n_out, config.r])] {
                let key = lora_key(layer, linear, matrix);
                match shapes.remove(key.as_str()) {
                    Some(found) if found == expected => {}
                    Some(found) => bail_input!(
                        "adapter: tensor {key} has shape {found:?}; the base needs {expected:?}, so the adapter is of another model"
                    ),
                    None => bail_input!("adapter: tensor {key} {expected:?} is missing"),
                }
            }
        }
    }
    match shapes.keys().min() {
        None => Ok(()),
        Some(extra) => bail_input!(
            "adapter: tensor {extra} has no place in a base of {} layers, so the adapter is of another model",
            base.n_layers
        ),
    }
}

/// That the tensors are LoRA matrices of the targets, of rank `r`, in pairs.
fn check_pairs(config: &AdapterConfig, tensors: &[NamedTensor]) -> Result<()> {
    let names: BTreeSet<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
    for NamedTensor { name, shape, .. } in tensors {
        let Some((layer, linear, matrix)) = parse_lora_key(name).filter(|(_, linear, _)| config.adapts(linear)) else {
            bail_input!("tensor {name} is not a LoRA matrix of {}", config.targets.join(", "));
        };
        let (rank, other) = match matrix {
            LoraMatrix::A => (shape.first(), LoraMatrix::B),
            LoraMatrix::B => (shape.get(1), LoraMatrix::A),
        };
        if shape.len() != 2 || rank != Some(&config.r) {
            let form = if matrix == LoraMatrix::A { "[r, in]" } else { "[out, r]" };
            bail_input!("tensor {name} has shape {shape:?}; {form} with r = {} was expected", config.r);
        }
        let partner = lora_key(layer, linear, other);
        if !names.contains(partner.as_str()) {
            bail_input!("tensor {name} is there but its partner {partner} is missing");
        }
    }
    if tensors.is_empty() {
        bail_input!("the adapter holds no LoRA tensor of {}", config.targets.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::Dtype;

    use super::*;
    use crate::checkpoint::fixtures::{Tensors, named, raw, sentence, tiny, write_raw};

    fn config() -> AdapterConfig {
        let targets = ["down_proj", "q_proj"].map(String::from).to_vec();
        AdapterConfig {
            r: 4,
            alpha: 16.0,
            dropout: 0.05,
            targets,
            rslora: false,
            base: Some("meta-llama/Llama-2-13b-hf".into()),
        }
    }

    /// LoRA on q_proj and down_proj of the tiny model's two layers, keys and shapes by hand, sorted by name.
    fn tensors() -> Vec<NamedTensor> {
        let mut tensors = Vec::new();
        for layer in 0..2 {
            for (linear, n_out, n_in) in [("mlp.down_proj", 64, 88), ("self_attn.q_proj", 64, 64)] {
                let key = format!("base_model.model.model.layers.{layer}.{linear}");
                tensors.push(named(&format!("{key}.lora_A.weight"), &[4, n_in], 1));
                tensors.push(named(&format!("{key}.lora_B.weight"), &[n_out, 4], 2));
            }
        }
        tensors
    }

    fn saved() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        save_adapter(dir.path(), &config(), &tensors()).unwrap();
        dir
    }

    fn load_with(edit: impl FnOnce(&mut Tensors)) -> Result<Vec<NamedTensor>> {
        let dir = saved();
        let mut all: Tensors = tensors().iter().map(|t| (t.name.clone(), raw(&t.name, &t.shape, 3))).collect();
        edit(&mut all);
        write_raw(&dir.path().join(TENSORS), &all);
        load_adapter(dir.path()).map(|(_, tensors)| tensors)
    }

    #[test]
    fn an_adapter_comes_back_as_it_was_saved() {
        assert_eq!(load_adapter(saved().path()).unwrap(), (config(), tensors()));
        check_adapter(&tiny(), &config(), &tensors()).unwrap();
    }

    #[test]
    fn the_hash_is_that_of_the_file_and_does_not_depend_on_order() {
        use sha2::{Digest, Sha256};
        let dir = tempfile::tempdir().unwrap();
        let mut reversed = tensors();
        reversed.reverse();
        let mut mixed = config();
        mixed.targets.reverse();
        let one = save_adapter(dir.path(), &config(), &tensors()).unwrap();
        let two = save_adapter(&dir.path().join("again"), &mixed, &reversed).unwrap();
        let hash = Sha256::digest(std::fs::read(dir.path().join(TENSORS)).unwrap());
        assert_eq!(one.sha256, hash.iter().map(|b| format!("{b:02x}")).collect::<String>());
        assert_eq!(one, two);
    }

    #[test]
    fn keys_are_pefts_and_parse_back() {
        assert_eq!(
            lora_key(12, "self_attn.q_proj", LoraMatrix::A),
            "base_model.model.model.layers.12.self_attn.q_proj.lora_A.weight"
        );
        for linear in LINEARS {
            for matrix in [LoraMatrix::A, LoraMatrix::B] {
                assert_eq!(parse_lora_key(&lora_key(3, linear, matrix)), Some((3, linear, matrix)));
            }
        }
        for other in ["lora_C.weight", "lora_A.bias", "lora_magnitude_vector"] {
            assert_eq!(parse_lora_key(&format!("base_model.model.model.layers.0.self_attn.q_proj.{other}")), None);
        }
    }

    #[test]
    fn what_peft_ignores_is_ignored() {
        let kept = load_with(|all| {
            for name in [
                lora_key(0, "self_attn.v_proj", LoraMatrix::A),
                "base_model.model.model.layers.0.self_attn.rotary_emb.inv_freq".into(),
                "something.else".into(),
            ] {
                all.insert(name.clone(), raw(&name, &[4, 64], 1));
            }
        });
        assert_eq!(kept.unwrap().len(), tensors().len());
    }

    #[test]
    fn half_precision_adapters_are_widened() {
        let key = lora_key(0, "self_attn.q_proj", LoraMatrix::A);
        let kept = load_with(|all| drop(all.insert(key.clone(), (Dtype::BF16, vec![4, 64], [0x80, 0x3F].repeat(256)))));
        assert_eq!(kept.unwrap().iter().find(|t| t.name == key).unwrap().values, vec![1.0; 256]);
    }

    #[test]
    fn tensors_that_do_not_fit_are_refused() {
        let (a, b) = (lora_key(0, "self_attn.q_proj", LoraMatrix::A), lora_key(0, "self_attn.q_proj", LoraMatrix::B));
        let head = "base_model.model.lm_head.weight";
        assert!(sentence(load_with(|all| drop(all.insert(head.into(), raw("h", &[40, 64], 1))))).contains(head));
        let text = sentence(load_with(|all| drop(all.remove(&b))));
        assert!(text.contains(&format!("tensor {a} is there but its partner {b} is missing")), "{text}");
        assert!(
            sentence(load_with(|all| drop(all.insert(a.clone(), raw("a", &[8, 64], 1)))))
                .contains("[r, in] with r = 4")
        );
        assert!(
            sentence(load_with(|all| drop(all.insert(b.clone(), raw("b", &[64], 1))))).contains("[out, r] with r = 4")
        );
        assert!(
            sentence(load_with(|all| drop(all.insert(b.clone(), (Dtype::I8, vec![64, 4], vec![0; 256])))))
                .contains("dtype I8")
        );
        assert!(sentence(load_with(Tensors::clear)).contains("holds no LoRA tensor"));
        let nan = f32::NAN.to_le_bytes().repeat(256);
        let text = sentence(load_with(|all| drop(all.insert(b.clone(), (Dtype::F32, vec![64, 4], nan)))));
        assert!(text.contains(&b) && text.contains("not finite at [0, 0]"), "{text}");
    }

    #[test]
    fn an_adapter_of_another_base_is_refused() {
        let refused = |base: &LlamaConfig| sentence(check_adapter(base, &config(), &tensors()));
        assert!(
            refused(&LlamaConfig { n_layers: 3, ..tiny() })
                .contains("layers.2.self_attn.q_proj.lora_A.weight [4, 64] is missing")
        );
        assert!(refused(&LlamaConfig { n_layers: 1, ..tiny() }).contains("has no place in a base of 1 layers"));
        assert!(
            refused(&LlamaConfig { intermediate: 96, ..tiny() }).contains("has shape [4, 88]; the base needs [4, 96]")
        );
    }

    #[test]
    fn a_folder_without_adapter_is_refused() {
        let dir = saved();
        std::fs::remove_file(dir.path().join(TENSORS)).unwrap();
        assert!(sentence(load_adapter(dir.path())).contains("there is no adapter_model.safetensors"));
        std::fs::write(dir.path().join(CONFIG), "{").unwrap();
        assert!(sentence(load_adapter(dir.path())).contains("not the configuration of an adapter"));
        std::fs::remove_file(dir.path().join(CONFIG)).unwrap();
        assert!(sentence(load_adapter(dir.path())).contains("there is no adapter_config.json"));
    }

    #[test]
    fn the_configuration_appears_last() {
        // Tensors that cannot take their place stand for an interruption between the two renames.
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join(TENSORS).join("in the way")).unwrap();
        save_adapter(dir.path(), &config(), &tensors()).unwrap_err();
        assert!(!dir.path().join(CONFIG).exists(), "an adapter without tensors must not look finished");
        std::fs::remove_dir_all(dir.path().join(TENSORS)).unwrap();
        save_adapter(dir.path(), &config(), &tensors()).unwrap();
        assert_eq!(load_adapter(dir.path()).unwrap(), (config(), tensors()));
    }
}
