//! adapter_config.json, as PEFT writes it and as we do.
//!
//! PEFT has grown some forty fields. Those that would make the adapted model something other than plain LoRA (DoRA,
//! trained biases, ranks per layer, fully trained modules) are refused unless switched off; all others are ignored, as
//! PEFT ignores unknown ones.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize, Serializer};

use super::llama_config::LINEARS;
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

impl AdapterConfig {
    /// Reads adapter_config.json; the sentence of a refusal does not name the file.
    pub(super) fn from_json(text: &str) -> Result<Self> {
        match serde_json::from_str::<Read>(text) {
            Ok(fields) => fields.into_config(),
            Err(e) => Err(Error::Input(format!("not the configuration of an adapter: {e}"))),
        }
    }

    /// The text of adapter_config.json.
    pub(super) fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec_pretty(&Written::of(self)).map(|text| [text, b"\n".to_vec()].concat())
    }

    /// The factor of the low-rank product.
    pub fn scale(&self) -> f32 {
        if self.rslora { self.alpha / (self.r as f32).sqrt() } else { self.alpha / self.r as f32 }
    }

    pub(super) fn check(&self) -> Result<()> {
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

    /// Whether `linear`, as in [`LINEARS`], has a LoRA pair.
    pub fn adapts(&self, linear: &str) -> bool {
        self.targets.iter().any(|target| target == last_name(linear))
    }
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

/// Options of PEFT that change what the adapted model computes; fields that are not here cannot. null, false and empty
/// switch off.
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
    use serde_json::{Value, json};

    use super::*;
    use crate::checkpoint::fixtures::sentence;

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

    fn load_edited(edit: impl FnOnce(&mut Value)) -> Result<AdapterConfig> {
        let mut json = serde_json::from_slice(&config().to_json().unwrap()).unwrap();
        edit(&mut json);
        AdapterConfig::from_json(&json.to_string())
    }

    #[test]
    fn a_configuration_comes_back_as_it_was_written() {
        assert_eq!(load_edited(|json| assert_eq!(json["lora_alpha"].to_string(), "16")).unwrap(), config());
        let other = AdapterConfig { alpha: 0.1, rslora: true, base: None, ..config() };
        assert_eq!(AdapterConfig::from_json(std::str::from_utf8(&other.to_json().unwrap()).unwrap()).unwrap(), other);
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
                text.contains(field) && text.contains(&value.as_str().map_or(value.to_string(), String::from)),
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
}
