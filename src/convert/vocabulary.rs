//! A folder's tokenizer.json as GGUF's metadata.
//!
//! Two kinds. `gpt2`: byte-level BPE, tokens and merges as they stand, and the name under which llama.cpp knows the way of cutting a
//! text before; one that it does not know is refused, since it would cut some other way. `llama`: SentencePiece's BPE with byte fallback.
//! llama.cpp has no merges there: it joins the two neighbours whose joint token has the highest score. tokenizer.json has merges and
//! no scores, so they are made: the token that the first merge makes has 0, the next one -1 and so on, and tokens that no merge makes
//! come after them. Llama-2's 29,612 joined tokens come out in the order of SentencePiece's own scores. (llama.cpp's own converter,
//! given tokenizer.json alone, writes one score for all.) Where merges say what scores cannot, it is counted and said.

use crate::checkpoint::{GgufMetadata, GgufValue, ModelFolder};
use crate::{Error, Result, bail_input};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// The tokenizer's part of a file's metadata.
pub(super) struct Vocabulary {
    pub metadata: GgufMetadata,
    pub notes: Vec<String>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: usize,
    content: String,
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    unk_token: Option<String>,
    vocab: HashMap<String, usize>,
    #[serde(default)]
    merges: Vec<Merge>,
}

/// `["a", "b"]`, or as it once was, `"a b"`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

impl Merge {
    fn pair(&self) -> Option<(&str, &str)> {
        match self {
            Merge::Pair(a, b) => Some((a, b)),
            Merge::Line(line) => line.split_once(' '),
        }
    }
}

// What a token is, in llama.cpp's numbers.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// The score of a token that is not made by joining others, as llama.cpp's converters set it.
const NO_SCORE: f32 = -1000.0;

/// Reads the tokenizer of a model folder.
pub(super) fn vocabulary(folder: &ModelFolder) -> Result<Vocabulary> {
    let path = folder.dir().join("tokenizer.json");
    if !path.is_file() {
        bail_input!(
            "{}: there is no tokenizer.json; a GGUF file holds its tokenizer, so copy the model's there",
            folder.dir().display()
        );
    }
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let file: File = serde_json::from_str(&text)
        .map_err(|e| Error::Input(format!("{}: not a BPE tokenizer: {e}", path.display())))?;
    let found = read(&file, folder).map_err(|e| Error::Input(format!("{}: {e}", path.display())))?;
    let mut metadata = found.metadata;
    metadata.extend(special(&file, folder));
    metadata.extend(chat_template(folder.dir()));
    Ok(Vocabulary { metadata, notes: found.notes })
}

fn read(file: &File, folder: &ModelFolder) -> Result<Vocabulary> {
    let model = &file.model;
    if model.kind.as_deref().is_some_and(|kind| kind != "BPE") {
        bail_input!("its model is {}; only BPE can be written to GGUF", model.kind.as_deref().unwrap_or_default());
    }
    let n = folder.config().vocab;
    let mut tokens: Vec<Option<(String, i32)>> = vec![None; n];
    let all =
        model.vocab.iter().map(|(token, &id)| (id, token, NORMAL)).chain(
            file.added_tokens.iter().map(|t| (t.id, &t.content, if t.special { CONTROL } else { USER_DEFINED })),
        );
    for (id, token, kind) in all {
        let Some(place) = tokens.get_mut(id) else {
            bail_input!("the token {token:?} has id {id}, but the model's vocabulary ends at {n}");
        };
        *place = Some((token.clone(), kind));
    }
    // Rows of the embedding that no token has.
    let padded = tokens.into_iter().enumerate();
    let mut tokens: Vec<(String, i32)> = padded.map(|(id, t)| t.unwrap_or((format!("[PAD{id}]"), UNUSED))).collect();
    let (pre, pairs) = (&file.pre_tokenizer, pairs(model)?);
    let list = |tokens: Vec<(String, i32)>| {
        let (texts, kinds) = tokens.into_iter().unzip();
        (GgufValue::Texts(texts), GgufValue::I32s(kinds))
    };
    let text = |text: &str| GgufValue::Text(text.into());
    let key = |key: &str, value: GgufValue| (format!("tokenizer.ggml.{key}"), value);
    if model.byte_fallback {
        if !has(&file.normalizer, "type", "Prepend")
            && !has(&file.normalizer, "type", "Replace")
            && !has(pre, "type", "Metaspace")
        {
            bail_input!(
                "it has byte_fallback but does not write blanks as \"▁\"; llama.cpp would read it as SentencePiece's"
            );
        }
        for (token, kind) in &mut tokens {
            match token {
                byte if is_byte(byte) => *kind = BYTE,
                unknown if Some(&*unknown) == model.unk_token.as_ref() => *kind = UNKNOWN,
                _ => {}
            }
        }
        let prefix = has(&file.normalizer, "type", "Prepend")
            || has(pre, "prepend_scheme", "first")
            || has(pre, "prepend_scheme", "always");
        let (scores, n_unsaid) = scores(&tokens, &pairs);
        let (texts, kinds) = list(tokens);
        let metadata = vec![
            key("model", text("llama")),
            key("pre", text("default")),
            key("tokens", texts),
            key("scores", GgufValue::F32s(scores)),
            key("token_type", kinds),
            key("add_space_prefix", GgufValue::Bool(prefix)),
        ];
        let note = format!(
            "tokenizer: {n_unsaid} joins of the vocabulary are not as llama.cpp's scores order them; it may cut some words otherwise"
        );
        return Ok(Vocabulary { metadata, notes: if n_unsaid > 0 { vec![note] } else { Vec::new() } });
    }
    let pre = known_cut(pre)?;
    // In a line of two words a blank must not look like their boundary: written as byte-level BPE writes it.
    let word = |part: &str| part.replace(' ', "Ġ");
    let merges: Vec<String> = pairs.iter().map(|(a, b)| format!("{} {}", word(a), word(b))).collect();
    let (texts, kinds) = list(tokens);
    let mut metadata =
        vec![key("model", text("gpt2")), key("pre", text(pre)), key("tokens", texts), key("token_type", kinds)];
    if !merges.is_empty() {
        metadata.push(key("merges", GgufValue::Texts(merges)));
    }
    Ok(Vocabulary { metadata, notes: Vec::new() })
}

fn pairs(model: &Model) -> Result<Vec<(&str, &str)>> {
    let pair = |merge| match Merge::pair(merge) {
        Some(pair) => Ok(pair),
        None => bail_input!("a merge is not two tokens with a blank between"),
    };
    model.merges.iter().map(pair).collect()
}

/// The score of each token, and how many pairs of tokens llama.cpp would join otherwise than the merges say: pairs that are no
/// merge although their text is a token, and merges that come before another token's first but after their own token's.
fn scores(tokens: &[(String, i32)], pairs: &[(&str, &str)]) -> (Vec<f32>, usize) {
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, (token, _))| (token.as_str(), id)).collect();
    let mut rank: HashMap<usize, usize> = HashMap::new();
    let mut n_unsaid = 0;
    for (a, b) in pairs {
        let Some(&id) = ids.get(format!("{a}{b}").as_str()) else { continue };
        let (next, last) = (rank.len(), rank.len().wrapping_sub(1));
        match rank.get(&id) {
            None => drop(rank.insert(id, next)),
            Some(&own) => n_unsaid += usize::from(own != last),
        }
    }
    let merges: HashSet<&(&str, &str)> = pairs.iter().collect();
    let is_normal = |token: &str| ids.get(token).is_some_and(|&id| tokens[id].1 == NORMAL);
    for (token, _) in tokens.iter().filter(|(_, kind)| *kind == NORMAL) {
        let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        n_unsaid += cuts.filter(|(a, b)| is_normal(a) && is_normal(b) && !merges.contains(&(*a, *b))).count();
    }
    let mut next = rank.len();
    let score = |(id, (_, kind)): (usize, &(String, i32))| match *kind {
        NORMAL => {
            let place = rank.get(&id).copied().unwrap_or_else(|| {
                next += 1;
                next - 1
            });
            -(place as f32)
        }
        USER_DEFINED | UNUSED => NO_SCORE,
        _ => 0.0,
    };
    (tokens.iter().enumerate().map(score).collect(), n_unsaid)
}

fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// llama.cpp's name for the way in which this pre-tokenizer cuts a text before it is byte-level BPE's turn.
fn known_cut(pre: &Value) -> Result<&'static str> {
    let steps: Vec<&Value> = match pre["type"].as_str() {
        Some("Sequence") => pre["pretokenizers"].as_array().map(|steps| steps.iter().collect()).unwrap_or_default(),
        _ => vec![pre],
    };
    let kinds: Vec<&str> = steps.iter().map(|step| step["type"].as_str().unwrap_or("none")).collect();
    let own = steps.last().is_some_and(|last| last["use_regex"].as_bool().unwrap_or(true));
    let space = steps.iter().any(|step| step["add_prefix_space"].as_bool() == Some(true));
    match kinds[..] {
        ["ByteLevel"] if own && !space => Ok("gpt-2"),
        ["Digits", "ByteLevel"] if own && !space && steps[0]["individual_digits"] == true => Ok("smollm"),
        ["Split", "ByteLevel"] if !own && !space && steps[0]["pattern"]["Regex"] == LLAMA_3 => Ok("llama-bpe"),
        _ => bail_input!(
            "its pre_tokenizer ({}) is none that llama.cpp is known to have a name for: GPT-2's, the same behind single digits, or Llama-3's; \
             only these are written",
            kinds.join(", ")
        ),
    }
}

/// How Llama-3 cuts a text, as its tokenizer.json has it.
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Whether `key` has this value anywhere within.
fn has(value: &Value, key: &str, expected: &str) -> bool {
    match value {
        Value::Object(map) => {
            map.get(key).and_then(Value::as_str) == Some(expected)
                || map.values().any(|inner| has(inner, key, expected))
        }
        Value::Array(list) => list.iter().any(|inner| has(inner, key, expected)),
        _ => false,
    }
}

/// Ids of tokens with a meaning. Every text begins with BOS here, in training as in use, so it does there.
fn special(file: &File, folder: &ModelFolder) -> GgufMetadata {
    let c = folder.config();
    let id = |key: &str, id: u32| (format!("tokenizer.ggml.{key}_token_id"), GgufValue::U32(id));
    let mut metadata = vec![id("bos", c.bos)];
    metadata.extend(c.eos.first().map(|&eos| id("eos", eos)));
    let unknown = file.model.unk_token.as_ref().and_then(|token| file.model.vocab.get(token));
    metadata.extend(unknown.map(|&unknown| id("unknown", unknown as u32)));
    let switch = |key: &str, on: bool| (format!("tokenizer.ggml.{key}"), GgufValue::Bool(on));
    metadata.extend([switch("add_bos_token", true), switch("add_eos_token", false)]);
    metadata
}

/// The chat template of the folder, where it has one.
fn chat_template(dir: &Path) -> GgufMetadata {
    let own = std::fs::read_to_string(dir.join("chat_template.jinja")).ok();
    let of_config = || {
        let text = std::fs::read_to_string(dir.join("tokenizer_config.json")).ok()?;
        let config: Value = serde_json::from_str(&text).ok()?;
        config["chat_template"].as_str().map(String::from)
    };
    let found = own.or_else(of_config).filter(|text| !text.is_empty());
    found.map(|text| ("tokenizer.chat_template".to_string(), GgufValue::Text(text))).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::shared;

    fn tokens(texts: &[&str]) -> Vec<(String, i32)> {
        texts.iter().map(|text| (text.to_string(), if is_byte(text) { BYTE } else { NORMAL })).collect()
    }

    #[test]
    fn the_token_of_an_earlier_merge_has_the_higher_score() {
        let tokens = tokens(&["<0x0A>", "a", "b", "c", "bc", "ab", "abc"]);
        let pairs = [("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")];
        assert_eq!(scores(&tokens, &pairs), (vec![0.0, -3.0, -4.0, -5.0, -1.0, 0.0, -2.0], 0));
        // "abc" can no longer be made of "a" and "bc", but llama.cpp would.
        assert_eq!(scores(&tokens, &pairs[..3]).1, 1);
        // The second way to make "abc" comes after another token's merge.
        // Without any merge that makes it, "abc" is still a token that llama.cpp would join.
        assert_eq!(scores(&tokens, &pairs[..2]).1, 2);
        let late = [("a", "b"), ("ab", "c"), ("b", "c"), ("a", "bc")];
        assert_eq!(scores(&tokens, &late).1, 1);
    }

    #[test]
    fn ways_to_cut_a_text_have_llama_cpps_names_or_are_refused() {
        let cut = |json: &str| known_cut(&serde_json::from_str(json).unwrap());
        let level = |own: bool| format!(r#"{{"type": "ByteLevel", "add_prefix_space": false, "use_regex": {own}}}"#);
        let both = |first: &str, own| format!(r#"{{"type": "Sequence", "pretokenizers": [{first}, {}]}}"#, level(own));
        assert_eq!(cut(&level(true)).unwrap(), "gpt-2");
        assert_eq!(cut(&both(r#"{"type": "Digits", "individual_digits": true}"#, true)).unwrap(), "smollm");
        let split =
            serde_json::json!({"type": "Split", "pattern": {"Regex": LLAMA_3}, "behavior": "Isolated"}).to_string();
        assert_eq!(cut(&both(&split, false)).unwrap(), "llama-bpe");
        for other in [level(false), both(r#"{"type": "Digits", "individual_digits": false}"#, true), both(&split, true)]
        {
            assert!(cut(&other).unwrap_err().to_string().contains("none that llama.cpp is known to have a name for"));
        }
    }

    #[test]
    fn llama_2s_merges_are_said_by_scores() {
        let Some(folder) = shared("llama2_tokenizer") else { return };
        let file: File =
            serde_json::from_str(&std::fs::read_to_string(folder.join("tokenizer.json")).unwrap()).unwrap();
        let mut texts: Vec<&String> = file.model.vocab.keys().collect();
        texts.sort_by_key(|text| file.model.vocab[*text]);
        let texts: Vec<&str> = texts.into_iter().map(String::as_str).collect();
        let (scores, n_unsaid) = scores(&tokens(&texts), &pairs(&file.model).unwrap());
        assert_eq!(n_unsaid, 0);
        // SentencePiece's: id 260 is the first that it joined, and each id after it one less.
        let by_id: Vec<f32> = (260..1000).map(|id| scores[id]).collect();
        assert!(by_id.windows(2).all(|pair| pair[1] < pair[0]) && by_id[0] == 0.0, "{:?}", &by_id[..4]);
    }
}
