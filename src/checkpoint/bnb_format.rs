//! bitsandbytes' 4-bit format in words: `quantization_config` of config.json, and the `quant_state` beside every weight.
//!
//! Per linear `P` (`model.layers.0.self_attn.q_proj.weight`), n = out * in:
//!
//! | tensor                          | type, shape          | what                                              |
//! |---------------------------------|----------------------|---------------------------------------------------|
//! | `P`                             | U8 [n/2, 1]          | codes, row-major, the earlier one in the high half |
//! | `P.absmax`                      | F32 [n/64]           | scales; U8 with double quantisation               |
//! | `P.quant_map`                   | F32 [16]             | the NF4 map                                       |
//! | `P.nested_absmax`               | F32 [n/64/256]       | double quantisation: scales of the scales         |
//! | `P.nested_quant_map`            | F32 [256]            | double quantisation: the map of the scales        |
//! | `P.quant_state.bitsandbytes__nf4` | U8 [bytes]         | [`QuantState`] as JSON                            |

use serde::Deserialize;
use serde_json::{Value, json};

use crate::nf4::{BLOCK, NESTED_BLOCK};
use crate::{Result, bail_input};

/// The end of the name of a weight's [`QuantState`].
pub(super) const STATE: &str = "quant_state.bitsandbytes__nf4";
/// The same for the kind that is not read.
pub(super) const FP4_STATE: &str = "quant_state.bitsandbytes__fp4";

const ONLY: &str = "of quantised folders only bitsandbytes' 4-bit nf4 is read, so give that or the folder with F32, F16 or BF16 weights";

/// How a folder holds the weights of its linear layers in NF4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredNf4 {
    /// The scales are in 8 bits.
    pub double: bool,
    /// Modules whose weights stayed dense, as `llm_int8_skip_modules` names them.
    dense: Vec<String>,
}

impl StoredNf4 {
    /// Whether this linear's weight (`model.layers.0.self_attn.q_proj.weight`) is in NF4. A module's name may be whole, be that
    /// of one around it, or leave out what is before it.
    pub fn holds(&self, weight: &str) -> bool {
        let path = format!(".{}.", weight.trim_end_matches(".weight"));
        !self.dense.iter().any(|module| path.contains(&format!(".{module}.")))
    }
}

/// The fields of `quantization_config` that decide what the bytes mean.
#[derive(Deserialize)]
struct Fields {
    quant_method: Option<String>,
    load_in_4bit: Option<bool>,
    load_in_8bit: Option<bool>,
    bnb_4bit_quant_type: Option<String>,
    bnb_4bit_use_double_quant: Option<bool>,
    llm_int8_skip_modules: Option<Vec<String>>,
}

/// Reads a `quantization_config`; refused is that of anything but bitsandbytes' nf4.
pub(super) fn stored_nf4(config: &Value) -> Result<StoredNf4> {
    let fields: Fields = match serde_json::from_value(config.clone()) {
        Ok(fields) => fields,
        Err(e) => bail_input!("quantization_config is not understood ({e}); {ONLY}"),
    };
    match fields.quant_method.as_deref() {
        Some("bitsandbytes") => {}
        Some(other) => bail_input!("quantization_config is of the method {other}; {ONLY}"),
        // Folders of bitsandbytes' first 4-bit releases do not name themselves.
        None if fields.load_in_4bit == Some(true) => {}
        None => bail_input!("quantization_config names no quant_method; {ONLY}"),
    }
    if fields.load_in_8bit == Some(true) {
        bail_input!("quantization_config says load_in_8bit, bitsandbytes' int8; {ONLY}");
    }
    if fields.load_in_4bit != Some(true) {
        bail_input!("quantization_config does not say load_in_4bit; {ONLY}");
    }
    // bitsandbytes' own default is fp4.
    match fields.bnb_4bit_quant_type.as_deref().unwrap_or("fp4") {
        "nf4" => Ok(StoredNf4 {
            double: fields.bnb_4bit_use_double_quant == Some(true),
            dense: fields.llm_int8_skip_modules.unwrap_or_default(),
        }),
        other => bail_input!("quantization_config.bnb_4bit_quant_type is {other}; {ONLY}"),
    }
}

/// The `quantization_config` of a folder that this engine wrote, as transformers writes it.
pub(super) fn quantization_config(double: bool) -> Value {
    json!({
        "_load_in_4bit": true,
        "_load_in_8bit": false,
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": double,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": null,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": true,
        "load_in_8bit": false,
        "quant_method": "bitsandbytes",
    })
}

/// What stands beside a weight: all that its other tensors do not say.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct QuantState {
    pub quant_type: String,
    pub blocksize: usize,
    /// The type the weight had, and has again when bitsandbytes decodes it.
    pub dtype: String,
    pub shape: Vec<usize>,
    pub nested_blocksize: Option<usize>,
    pub nested_dtype: Option<String>,
    pub nested_offset: Option<f64>,
}

impl QuantState {
    /// Of a weight [out, in] in blocks of ours; `offset` with double quantisation.
    pub fn new(dtype: &str, shape: [usize; 2], offset: Option<f32>) -> Self {
        QuantState {
            quant_type: "nf4".into(),
            blocksize: BLOCK,
            dtype: dtype.into(),
            shape: shape.to_vec(),
            nested_blocksize: offset.map(|_| NESTED_BLOCK),
            nested_dtype: offset.map(|_| "float32".into()),
            nested_offset: offset.map(f64::from),
        }
    }

    /// Reads the JSON, and refuses what the kernels do not compute; `shape` is what config.json says.
    pub fn parse(bytes: &[u8], shape: [usize; 2]) -> Result<Self> {
        let state: QuantState = match serde_json::from_slice(bytes) {
            Ok(state) => state,
            Err(e) => bail_input!("its {STATE} is not understood ({e}); the file is damaged, download it again"),
        };
        if state.quant_type != "nf4" {
            bail_input!("its quant_type is {}; only nf4 is read", state.quant_type);
        }
        if state.blocksize != BLOCK {
            bail_input!(
                "its blocksize is {}; the kernels decode blocks of {BLOCK}, so quantise it again",
                state.blocksize
            );
        }
        if state.shape != shape {
            bail_input!("it has shape {:?}; {shape:?} was expected from config.json", state.shape);
        }
        if let Some(n) = state.nested_blocksize.filter(|&n| n != NESTED_BLOCK) {
            bail_input!(
                "its nested_blocksize is {n}; the kernels decode scales in blocks of {NESTED_BLOCK}, so quantise it again"
            );
        }
        if let Some(dtype) = state.nested_dtype.as_deref().filter(|&dtype| dtype != "float32") {
            bail_input!("its nested_dtype is {dtype}; float32 was expected");
        }
        Ok(state)
    }

    /// The JSON, byte for byte as Python's `json.dumps` writes it.
    pub fn to_json(&self) -> String {
        let shape: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        let mut text = format!(
            r#"{{"quant_type": "{}", "blocksize": {}, "dtype": "{}", "shape": [{}]"#,
            self.quant_type,
            self.blocksize,
            self.dtype,
            shape.join(", ")
        );
        if let (Some(n), Some(dtype), Some(offset)) = (self.nested_blocksize, &self.nested_dtype, self.nested_offset) {
            text += &format!(
                r#", "nested_blocksize": {n}, "nested_dtype": "{dtype}", "nested_offset": {}"#,
                python(offset)
            );
        }
        text + "}"
    }
}

/// A finite number as Python's `repr` writes it: the shortest digits that read back, an exponent below 1e-4 and from 1e16.
fn python(x: f64) -> String {
    let text = format!("{x:e}");
    let (digits, exponent) = text.split_once('e').expect("the form was asked for");
    match exponent.parse::<i32>().expect("Rust's own exponent") {
        -4..16 => format!("{x:?}"),
        e => format!("{digits}e{}{:02}", if e < 0 { '-' } else { '+' }, e.abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::fixtures::sentence;

    #[test]
    fn numbers_are_written_as_python_writes_them() {
        for (x, text) in [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (0.043_747_343_122_959_14, "0.04374734312295914"),
            (0.0001, "0.0001"),
            (9.999_999_747_378_752e-5, "9.999999747378752e-05"),
            (1e-5, "1e-05"),
            (2.5e-38, "2.5e-38"),
            (1e-100, "1e-100"),
            (123_456_789.0, "123456789.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (-0.5, "-0.5"),
        ] {
            assert_eq!(python(x), text);
        }
    }

    #[test]
    fn a_state_is_written_as_bitsandbytes_writes_it_and_read_back() {
        let state = QuantState::new("bfloat16", [32, 64], Some(0.5));
        let text = r#"{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [32, 64], "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.5}"#;
        assert_eq!(state.to_json(), text);
        assert_eq!(QuantState::parse(text.as_bytes(), [32, 64]).unwrap(), state);
        let plain = QuantState::new("float16", [8, 8], None);
        assert_eq!(plain.to_json(), r#"{"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [8, 8]}"#);
        assert_eq!(QuantState::parse(plain.to_json().as_bytes(), [8, 8]).unwrap(), plain);
    }

    #[test]
    fn a_state_of_another_kind_is_refused() {
        let good = QuantState::new("bfloat16", [32, 64], Some(0.5)).to_json();
        for (from, to, says) in [
            ("\"nf4\"", "\"fp4\"", "its quant_type is fp4; only nf4"),
            ("\"blocksize\": 64", "\"blocksize\": 128", "its blocksize is 128"),
            ("[32, 64]", "[64, 32]", "it has shape [64, 32]; [32, 64] was expected from config.json"),
            ("_blocksize\": 256", "_blocksize\": 64", "its nested_blocksize is 64"),
            ("float32", "float16", "its nested_dtype is float16"),
            ("\"blocksize\": 64, ", "", "is not understood (missing field `blocksize`"),
            ("0.5}", "NaN}", "is not understood"),
            ("0.5}", "0.5", "is not understood"),
        ] {
            let text = good.replacen(from, to, 1);
            assert_ne!(text, good, "{from}");
            assert!(sentence(QuantState::parse(text.as_bytes(), [32, 64])).contains(says), "{from} {to}");
        }
    }

    #[test]
    fn modules_that_stayed_dense_are_known_by_any_of_their_names() {
        let q = "model.layers.1.self_attn.q_proj.weight";
        for (module, dense) in [
            ("lm_head", false),
            ("model.layers.1.self_attn.q_proj", true),
            ("model.layers.1.self_attn", true),
            ("q_proj", true),
            ("model.layers.1", true),
            ("model.layers.11", false),
            ("layers.1.self_attn.q", false),
            ("proj", false),
        ] {
            let mut config = quantization_config(true);
            config["llm_int8_skip_modules"] = json!(["lm_head", module]);
            assert_eq!(!stored_nf4(&config).unwrap().holds(q), dense, "{module}");
        }
        assert!(stored_nf4(&quantization_config(true)).unwrap().holds(q));
    }

    #[test]
    fn only_nf4_of_bitsandbytes_is_accepted() {
        assert!(stored_nf4(&quantization_config(true)).unwrap().double);
        assert!(!stored_nf4(&quantization_config(false)).unwrap().double);
        assert!(!stored_nf4(&json!({"load_in_4bit": true, "bnb_4bit_quant_type": "nf4"})).unwrap().double);
        for (config, says) in [
            (json!({"quant_method": "gptq", "bits": 4}), "of the method gptq"),
            (json!({"quant_method": "awq"}), "of the method awq"),
            (json!({"bits": 4}), "names no quant_method"),
            (json!({"quant_method": "bitsandbytes", "load_in_8bit": true}), "says load_in_8bit, bitsandbytes' int8"),
            (json!({"quant_method": "bitsandbytes"}), "does not say load_in_4bit"),
            (
                json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "fp4"}),
                "bnb_4bit_quant_type is fp4",
            ),
            (json!({"quant_method": "bitsandbytes", "load_in_4bit": true}), "bnb_4bit_quant_type is fp4"),
            (json!({"quant_method": 4}), "is not understood"),
            (json!([]), "is not understood"),
        ] {
            let text = sentence(stored_nf4(&config));
            assert!(text.contains(says) && text.contains("only bitsandbytes' 4-bit nf4 is read"), "{text}");
        }
    }
}
