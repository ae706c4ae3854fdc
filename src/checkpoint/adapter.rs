//! A PEFT adapter of pure LoRA: adapter_config.json and adapter_model.safetensors, as PEFT, vLLM and llama.cpp read them.
//!
//! `y += scale * (x Aᵀ) Bᵀ` with `A [r, in]` and `B [out, r]` in F32, for the linear layers named in `targets`, in every decoder
//! layer. Reading refuses each PEFT option that would add something else to the model (DoRA, trained biases, ranks per layer,
//! fully trained modules), and ignores what PEFT ignores: unknown fields, and tensors that PEFT would leave unused.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde::{Deserialize, Serialize, Serializer};

use super::host_tensor::NamedTensor;
use super::llama_config::{LINEARS, LlamaConfig};
use super::safe_write::{Saved, save_files};
use super::tensor_file::{FORMAT, TensorFile, differs, write_small, write_tensors};
use crate::{Error, Result, bail_input};

/// What LoRA was trained with.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// `R`: rank of every pair.
    pub r: usize,
    /// The numerator of the scale.
    pub alpha: f32,
    /// Dropout on `x` in training; 0 in use.
    pub dropout: f32,
    /// The adapted linear layers by their last name: `q_proj`, `down_proj`, ...
    pub targets: Vec<String>,
    /// Scale by `alpha / sqrt(r)` instead of `alpha / r`.
    pub rslora: bool,
    /// The base model's name or folder.
    pub base: Option<String>,
}

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

impl AdapterConfig {
    /// The factor of the low-rank product.
    pub fn scale(&self) -> f32 {
        if self.rslora { self.alpha / (self.r as f32).sqrt() } else { self.alpha / self.r as f32 }
    }

    fn check(&self) -> Result<()> {
        if self.r == 0 || !self.alpha.is_finite() || !(0.0..1.0).contains(&self.dropout) {
            bail_input!(
                "r {}, lora_alpha {} and lora_dropout {} must be at least 1, finite, and from 0 to below 1",
                self.r,
                self.alpha,
                self.dropout
            );
        }
        if self.targets.is_empty() {
            bail_input!("target_modules is empty; name at least one linear layer, such as q_proj");
        }
        for target in &self.targets {
            if !LINEARS.iter().any(|linear| last_name(linear) == target) {
                let known = LINEARS.map(last_name).join(", ");
                bail_input!("target_modules names {target}; LoRA is supported on {known}");
            }
        }
        Ok(())
    }

    fn adapts(&self, linear: &str) -> bool {
        self.targets.iter().any(|target| target == last_name(linear))
    }
}

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

/// Writes the adapter to `dir` (made if needed), reads it back and compares; only then does it take the place of an older one.
pub fn save_adapter(dir: &Path, config: &AdapterConfig, tensors: &[NamedTensor]) -> Result<Saved> {
    let mut config = config.clone();
    config.targets.sort();
    config.targets.dedup();
    config.check()?;
    check_pairs(&config, tensors)?;
    save_files(dir, &[TENSORS, CONFIG], |staging| {
        let sha256 = write_tensors(&staging.join(TENSORS), tensors, FORMAT)?;
        let mut json = serde_json::to_vec_pretty(&Written::of(&config)).map_err(|e| Error::io(dir)(e.into()))?;
        json.push(b'\n');
        write_small(&staging.join(CONFIG), &json)?;
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
    let config = match serde_json::from_str::<Read>(&text) {
        Ok(fields) => fields.into_config(),
        Err(e) => bail_input!("{}: not the configuration of an adapter: {e}", path.display()),
    };
    let config = config.map_err(|e| Error::Input(format!("{}: {e}", path.display())))?;

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

/// `self_attn.q_proj` to `q_proj`.
fn last_name(linear: &str) -> &str {
    linear.rsplit('.').next().unwrap_or(linear)
}

/// adapter_config.json as it is read.
#[derive(Deserialize)]
struct Read {
    peft_type: String,
    r: usize,
    lora_alpha: f32,
    #[serde(default)]
    lora_dropout: f32,
    target_modules: serde_json::Value,
    #[serde(default)]
    use_rslora: bool,
    base_model_name_or_path: Option<String>,
    bias: Option<String>,
    init_lora_weights: Option<serde_json::Value>,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

/// Options of PEFT that change what the adapted model computes; fields that are not here cannot. null, false and empty switch off.
const NOT_DONE: [&str; 17] = [
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "exclude_modules",
    "kasa_config",
    "layer_replication",
    "layers_to_transform",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
];

impl Read {
    fn into_config(self) -> Result<AdapterConfig> {
        use serde_json::Value;
        if self.peft_type != "LORA" {
            bail_input!("peft_type is {}; only LORA is supported", self.peft_type);
        }
        if let Some(bias) = self.bias.filter(|bias| bias != "none") {
            bail_input!("bias is {bias}; trained biases are not supported, it must be none");
        }
        for field in NOT_DONE {
            let off = match self.rest.get(field) {
                None | Some(Value::Null | Value::Bool(false)) => true,
                Some(Value::String(text)) => text.is_empty(),
                Some(Value::Array(list)) => list.is_empty(),
                Some(Value::Object(map)) => map.is_empty(),
                Some(_) => false,
            };
            if !off {
                bail_input!("{field} is {}; only plain LoRA is supported, which leaves it empty", self.rest[field]);
            }
        }
        // PiSSA, OLoRA and their like also subtract from the base when PEFT loads them.
        match self.init_lora_weights {
            None | Some(Value::Null | Value::Bool(_)) => {}
            Some(Value::String(s)) if s == "gaussian" || s == "orthogonal" => {}
            Some(other) => {
                bail_input!("init_lora_weights is {other}; such an adapter changes the base, which is not supported")
            }
        }
        let Value::Array(list) = &self.target_modules else {
            bail_input!("target_modules is {}; a list of linear layers was expected", self.target_modules);
        };
        let mut targets = BTreeSet::new();
        for target in list {
            let Some(name) = target.as_str() else {
                bail_input!("target_modules holds {target}; names of linear layers were expected");
            };
            // `self_attn.q_proj` selects the same layers as `q_proj`; a longer path would select one layer.
            targets.insert(if LINEARS.contains(&name) { last_name(name) } else { name }.to_string());
        }
        let config = AdapterConfig {
            r: self.r,
            alpha: self.lora_alpha,
            dropout: self.lora_dropout,
            targets: targets.into_iter().collect(),
            rslora: self.use_rslora,
            base: self.base_model_name_or_path,
        };
        config.check().map(|()| config)
    }
}

/// adapter_config.json as it is written: the fields older readers look for, with PEFT's neutral values.
#[derive(Serialize)]
struct Written<'a> {
    alpha_pattern: serde_json::Map<String, serde_json::Value>,
    auto_mapping: Option<()>,
    base_model_name_or_path: Option<&'a str>,
    bias: &'static str,
    fan_in_fan_out: bool,
    inference_mode: bool,
    init_lora_weights: bool,
    layers_pattern: Option<()>,
    layers_to_transform: Option<()>,
    #[serde(serialize_with = "whole_if_it_is")]
    lora_alpha: f32,
    lora_dropout: f32,
    modules_to_save: Option<()>,
    peft_type: &'static str,
    r: usize,
    rank_pattern: serde_json::Map<String, serde_json::Value>,
    revision: Option<()>,
    target_modules: &'a [String],
    task_type: &'static str,
    use_dora: bool,
    use_rslora: bool,
}

impl<'a> Written<'a> {
    fn of(config: &'a AdapterConfig) -> Self {
        Written {
            alpha_pattern: serde_json::Map::new(),
            auto_mapping: None,
            base_model_name_or_path: config.base.as_deref(),
            bias: "none",
            fan_in_fan_out: false,
            inference_mode: true,
            init_lora_weights: true,
            layers_pattern: None,
            layers_to_transform: None,
            lora_alpha: config.alpha,
            lora_dropout: config.dropout,
            modules_to_save: None,
            peft_type: "LORA",
            r: config.r,
            rank_pattern: serde_json::Map::new(),
            revision: None,
            target_modules: &config.targets,
            task_type: "CAUSAL_LM",
            use_dora: false,
            use_rslora: config.rslora,
        }
    }
}

/// 16 and not 16.0: PEFT declares lora_alpha an integer, and some readers parse it as one.
fn whole_if_it_is<S: Serializer>(alpha: &f32, out: S) -> std::result::Result<S::Ok, S::Error> {
    if alpha.fract() == 0.0 && alpha.abs() < 1e9 { out.serialize_i64(*alpha as i64) } else { out.serialize_f32(*alpha) }
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::Dtype;
    use serde_json::{Value, json};

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

    fn load_edited(edit: impl FnOnce(&mut Value)) -> Result<AdapterConfig> {
        let dir = saved();
        let path = dir.path().join(CONFIG);
        let mut json = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        edit(&mut json);
        std::fs::write(&path, json.to_string()).unwrap();
        load_adapter(dir.path()).map(|(config, _)| config)
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
    fn the_scale_is_alpha_over_r_or_over_its_root() {
        assert_eq!(config().scale(), 4.0);
        assert_eq!(AdapterConfig { rslora: true, ..config() }.scale(), 8.0);
    }

    #[test]
    fn the_minimum_peft_accepts_is_read() {
        let minimal = load_edited(|json| {
            *json = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["self_attn.q_proj", "down_proj"]});
        });
        assert_eq!(minimal.unwrap(), AdapterConfig { alpha: 8.0, dropout: 0.0, base: None, ..config() });
    }

    #[test]
    fn neutral_and_unknown_fields_are_ignored() {
        let read = load_edited(|json| {
            for field in NOT_DONE {
                json[field] = Value::Null;
            }
            json["rank_pattern"] = json!({});
            json["use_dora"] = json!(false);
            json["eva_config"] = json!({"rho": 2.0});
            json["a_field_of_the_future"] = json!(3);
            json["init_lora_weights"] = json!("gaussian");
        });
        assert_eq!(read.unwrap(), config());
    }

    #[test]
    fn options_that_are_not_plain_lora_are_refused() {
        for (field, value) in [
            ("use_dora", json!(true)),
            ("use_qalora", json!(true)),
            ("lora_bias", json!(true)),
            ("bias", json!("all")),
            ("modules_to_save", json!(["lm_head"])),
            ("rank_pattern", json!({"q_proj": 8})),
            ("alpha_pattern", json!({"q_proj": 8})),
            ("layers_to_transform", json!(0)),
            ("layer_replication", json!([[0, 2]])),
            ("trainable_token_indices", json!([1])),
            ("target_parameters", json!(["experts"])),
            ("exclude_modules", json!("q_proj")),
            ("init_lora_weights", json!("pissa")),
            ("peft_type", json!("IA3")),
            ("target_modules", json!("all-linear")),
        ] {
            let text = sentence(load_edited(|json| json[field] = value.clone()));
            assert!(
                text.contains("adapter_config.json: ")
                    && text.contains(field)
                    && text.contains(&value.as_str().map_or(value.to_string(), String::from)),
                "{text}"
            );
        }
        assert!(
            sentence(load_edited(|json| json["target_modules"] = json!(["lm_head"])))
                .contains("target_modules names lm_head")
        );
        assert!(sentence(load_edited(|json| json["target_modules"] = json!([]))).contains("target_modules is empty"));
        assert!(sentence(load_edited(|json| json["r"] = json!(0))).contains("r 0"));
        assert!(
            sentence(load_edited(|json| drop(json.as_object_mut().unwrap().remove("r")))).contains("missing field `r`")
        );
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
    fn an_interrupted_first_save_does_not_look_finished() {
        let dir = saved();
        // The configuration is renamed last: without it, tensors that are already in place are not looked at.
        std::fs::remove_file(dir.path().join(CONFIG)).unwrap();
        assert!(sentence(load_adapter(dir.path())).contains("there is no adapter_config.json"));
        save_adapter(dir.path(), &config(), &tensors()).unwrap();
        assert_eq!(load_adapter(dir.path()).unwrap(), (config(), tensors()));
    }
}
