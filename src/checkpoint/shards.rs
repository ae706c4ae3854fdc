//! The files of a model folder: weights in shards of a chosen size with their index, and what stands beside them.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::bnb_format::quantization_config;
use super::model_folder::{INDEX, SINGLE};
use super::tensor_file::{FORMAT, write_small};
use super::tensor_writer::{MAX_TEXT, TensorSpec, TensorWriter};
use crate::{Error, Result, bail_input};

/// Tensors that are made together and stay in one file.
#[derive(Debug, Clone)]
pub struct Unit {
    /// Tensors of known size.
    pub specs: Vec<TensorSpec>,
    /// Texts, [`TensorWriter::text`].
    pub texts: Vec<String>,
}

impl Unit {
    fn n_bytes(&self) -> usize {
        self.specs.iter().map(TensorSpec::n_bytes).sum()
    }
}

/// Which unit goes into which file.
#[derive(Debug)]
pub struct Shards {
    shards: Vec<Vec<Unit>>,
}

impl Shards {
    /// Fills one file after the other, in the order of the units, with at most `max_bytes`; a unit that is larger has a
    /// file for itself.
    pub fn plan(units: Vec<Unit>, max_bytes: usize) -> Shards {
        let (mut shards, mut room) = (vec![Vec::new()], max_bytes);
        for unit in units {
            let n_bytes = unit.n_bytes();
            if n_bytes > room && !shards.last().is_some_and(Vec::is_empty) {
                shards.push(Vec::new());
                room = max_bytes;
            }
            room = room.saturating_sub(n_bytes);
            shards.last_mut().expect("one at least").push(unit);
        }
        Shards { shards }
    }

    /// The most bytes that [`write`](Shards::write) puts on the disk.
    pub fn n_bytes(&self) -> u64 {
        let unit = |unit: &Unit| {
            let names: usize = unit.specs.iter().map(|s| s.name.len()).chain(unit.texts.iter().map(String::len)).sum();
            // A line of a header and of the index for each; 128 holds all of it but the names.
            unit.n_bytes() + unit.texts.len() * MAX_TEXT + 2 * names + 2 * 128 * (unit.specs.len() + unit.texts.len())
        };
        self.shards.iter().flatten().map(|u| unit(u) as u64).sum()
    }

    /// The number of files.
    pub fn n_files(&self) -> usize {
        self.shards.len()
    }

    /// Writes the files into `dir`, the index last; `fill` is asked for one unit after the other. Every file is flushed, read
    /// back and compared before the next is begun. Gives their bytes.
    pub fn write(&self, dir: &Path, mut fill: impl FnMut(&Unit, &mut TensorWriter) -> Result<()>) -> Result<u64> {
        let n = self.shards.len();
        let (mut map, mut total, mut n_bytes) = (Map::new(), 0, 0);
        for (i, units) in self.shards.iter().enumerate() {
            let name = if n == 1 { SINGLE.to_string() } else { format!("model-{:05}-of-{n:05}.safetensors", i + 1) };
            let specs: Vec<TensorSpec> = units.iter().flat_map(|unit| unit.specs.clone()).collect();
            let texts: Vec<String> = units.iter().flat_map(|unit| unit.texts.clone()).collect();
            let mut file = TensorWriter::create(&dir.join(&name), &specs, &texts, FORMAT)?;
            units.iter().try_for_each(|unit| fill(unit, &mut file))?;
            total += file.data_bytes();
            n_bytes += file.finish()?;
            let names = specs.into_iter().map(|spec| spec.name).chain(texts);
            map.extend(names.map(|tensor| (tensor, Value::from(name.as_str()))));
        }
        if n > 1 {
            map.sort_keys();
            let index = json!({"metadata": {"total_size": total}, "weight_map": map});
            n_bytes += write_json(&dir.join(INDEX), &index)?;
        }
        Ok(n_bytes)
    }
}

/// What a user of the model needs beside weights and config.json, where the source has it.
const COMPANIONS: [&str; 14] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "LICENSE",
    "LICENSE.txt",
    "NOTICE",
    "USE_POLICY.md",
];

/// Puts into `dir` what belongs to the quantised copy of the model in `source` beside its weights: its config.json with the
/// `quantization_config`, tokenizer, generation settings, licence. Gives their bytes.
pub fn write_quantised_extras(source: &Path, dir: &Path, double: bool) -> Result<u64> {
    write_extras(source, dir, |config| drop(config.insert("quantization_config".into(), quantization_config(double))))
}

/// The same beside weights that are dense: config.json without a `quantization_config`, and with their type (`float16`) in the field of
/// transformers 4 or 5, whichever the source has.
pub fn write_dense_extras(source: &Path, dir: &Path, dtype: &str) -> Result<u64> {
    write_extras(source, dir, |config| {
        config.shift_remove("quantization_config");
        let fields = ["dtype", "torch_dtype"];
        let there: Vec<&str> = fields.into_iter().filter(|field| config.contains_key(*field)).collect();
        // transformers 5 reads the old name as well.
        let fields = if there.is_empty() { vec!["torch_dtype"] } else { there };
        fields.into_iter().for_each(|field| drop(config.insert(field.into(), dtype.into())));
    })
}

fn write_extras(source: &Path, dir: &Path, edit: impl FnOnce(&mut Map<String, Value>)) -> Result<u64> {
    let mut n_bytes = 0;
    for name in COMPANIONS {
        let path = source.join(name);
        if path.is_file() {
            let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
            write_small(&dir.join(name), &bytes)?;
            n_bytes += bytes.len() as u64;
        }
    }
    let path = source.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let Ok(Value::Object(mut config)) = serde_json::from_str(&text) else {
        bail_input!("{}: not a model's configuration", path.display());
    };
    edit(&mut config);
    Ok(n_bytes + write_json(&dir.join("config.json"), &Value::Object(config))?)
}

/// Writes a report into the new folder `dir`: NAME.json for programs, NAME.md for people. Gives their bytes.
pub fn write_report(dir: &Path, name: &str, report: &impl Serialize, markdown: &str) -> Result<u64> {
    write_small(&dir.join(format!("{name}.md")), markdown.as_bytes())?;
    let path = dir.join(format!("{name}.json"));
    let json = serde_json::to_value(report).map_err(|e| Error::io(&path)(e.into()))?;
    Ok(markdown.len() as u64 + write_json(&path, &json)?)
}

fn write_json(path: &Path, value: &Value) -> Result<u64> {
    let mut text = serde_json::to_string_pretty(value).map_err(|e| Error::io(path)(e.into()))?;
    text.push('\n');
    write_small(path, text.as_bytes())?;
    Ok(text.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::Dtype;

    fn unit(name: &str, n: usize) -> Unit {
        Unit { specs: vec![TensorSpec::new(name, Dtype::U8, &[n])], texts: vec![format!("{name}.text")] }
    }

    fn plan(sizes: &[usize], max: usize) -> Vec<usize> {
        let units = sizes.iter().enumerate().map(|(i, &n)| unit(&i.to_string(), n)).collect();
        Shards::plan(units, max).shards.iter().map(Vec::len).collect()
    }

    #[test]
    fn a_shard_is_filled_before_the_next_is_begun() {
        assert_eq!(plan(&[4, 4, 4], 8), [2, 1]);
        assert_eq!(plan(&[4, 4, 4], 12), [3]);
        assert_eq!(plan(&[20, 4, 20, 4], 8), [1, 1, 1, 1]);
        assert_eq!(plan(&[0, 1], 0), [1, 1]);
        assert_eq!(plan(&[1], 1000), [1]);
    }

    #[test]
    fn the_index_names_every_tensor_and_the_promise_of_bytes_holds() {
        let dir = tempfile::tempdir().unwrap();
        let shards = Shards::plan(vec![unit("a", 3000), unit("b", 10), unit("c", 10)], 1000);
        assert_eq!(shards.n_files(), 2);
        let fill = |unit: &Unit, file: &mut TensorWriter| {
            file.append(&unit.specs[0].name, &vec![7; unit.specs[0].n_bytes()])?;
            file.text(&unit.texts[0], b"text")
        };
        let written = shards.write(dir.path(), fill).unwrap();
        let on_disk: u64 = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert_eq!(written, on_disk);
        assert!(written <= shards.n_bytes(), "{written} of {}", shards.n_bytes());
        let index: Value = serde_json::from_slice(&std::fs::read(dir.path().join(INDEX)).unwrap()).unwrap();
        assert_eq!(index["metadata"]["total_size"], 3020 + 12);
        let second = "model-00002-of-00002.safetensors";
        assert_eq!((&index["weight_map"]["c.text"], &index["weight_map"]["b"]), (&json!(second), &json!(second)));
        assert_eq!(index["weight_map"].as_object().unwrap().len(), 6);
    }
}
