//! A Hugging Face Llama folder: config.json, and the weights in model.safetensors or in shards with an index.
//!
//! Nothing is copied on opening; a tensor is a slice of a mapped file until someone converts it. [`ModelFolder::check`]
//! looks at every name, shape and type before the first weight is uploaded, so that a bad folder costs a second and not
//! a load.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::host_tensor::HostTensor;
use super::llama_config::LlamaConfig;
use super::tensor_file::{RawTensor, TensorFile};
use crate::{Error, Result, bail_input};

/// The mapped weights of a model with its configuration.
pub struct ModelFolder {
    dir: PathBuf,
    config: LlamaConfig,
    files: Vec<TensorFile>,
    /// Tensor name to its place in `files`.
    place: HashMap<String, usize>,
}

/// model.safetensors.index.json; its metadata (total_size) is often wrong in the wild and not used.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

impl ModelFolder {
    /// Reads the configuration and maps the weights.
    pub fn open(dir: &Path) -> Result<Self> {
        let config = LlamaConfig::load(dir)?;
        let files = if dir.join(SINGLE).is_file() {
            vec![TensorFile::open(&dir.join(SINGLE))?]
        } else if dir.join(INDEX).is_file() {
            open_shards(dir)?
        } else if dir.join("pytorch_model.bin").is_file() || dir.join("pytorch_model.bin.index.json").is_file() {
            bail_input!(
                "{}: the weights are in pytorch_model.bin; only safetensors are read, so save them with save_pretrained(..., safe_serialization=True)",
                dir.display()
            );
        } else {
            bail_input!("{}: there is neither {SINGLE} nor {INDEX}; the folder holds no weights", dir.display());
        };
        let mut place: HashMap<String, usize> = HashMap::new();
        for (i, file) in files.iter().enumerate() {
            for name in file.names() {
                if let Some(other) = place.insert(name.clone(), i) {
                    bail_input!(
                        "tensor {name} is both in {} and in {}; the shards are not of one model, download them again",
                        files[other].path().display(),
                        file.path().display()
                    );
                }
            }
        }
        Ok(ModelFolder { dir: dir.to_path_buf(), config, files, place })
    }

    /// The sizes of the model.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Whether some file holds a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.place.contains_key(name)
    }

    /// The tensor `name`, refused unless it is there, has this shape and is F32, F16 or BF16.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<HostTensor<'_>> {
        match self.place.get(name) {
            Some(&i) => self.files[i].shaped(name, shape),
            None => Err(Error::Input(format!(
                "{}: the tensor {name} {shape:?} is missing; the folder is incomplete, or config.json is of another model",
                self.dir.display()
            ))),
        }
    }

    /// That every tensor of the model is there with the right shape and type, and weights in NF4 with all their parts.
    /// Others (rotary_emb.inv_freq of old files, the output layer of a tied model) are ignored, as transformers does.
    pub fn check(&self) -> Result<()> {
        expected_tensors(&self.config).iter().try_for_each(|tensor| match *tensor {
            Expected::Dense(ref name, ref shape) => self.tensor(name, shape).map(drop),
            Expected::Linear(ref name, shape) => self.linear(name, shape).map(drop),
        })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A tensor of any type.
    pub(super) fn raw(&self, name: &str) -> Option<RawTensor<'_>> {
        self.files[*self.place.get(name)?].raw(name)
    }

    /// The file that holds a tensor; the folder where none does.
    pub(super) fn file_of(&self, name: &str) -> &Path {
        self.place.get(name).map_or(&self.dir, |&i| self.files[i].path())
    }
}

/// Opens every shard the index names; index and shards must agree.
fn open_shards(dir: &Path) -> Result<Vec<TensorFile>> {
    let path = dir.join(INDEX);
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let index: Index = match serde_json::from_str(&text) {
        Ok(index) => index,
        Err(e) => bail_input!("{}: not an index of shards: {e}", path.display()),
    };
    let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, shard) in &index.weight_map {
        shards.entry(shard).or_default().push(tensor);
    }
    let mut files = Vec::with_capacity(shards.len());
    for (shard, tensors) in shards {
        // An index comes from a stranger: a name that leaves the folder could map any file of this machine.
        let inside =
            !shard.is_empty() && Path::new(shard).components().all(|part| matches!(part, Component::Normal(_)));
        if !inside {
            bail_input!(
                "{}: tensor {} is said to be in {shard:?}, outside the folder; this is refused",
                path.display(),
                tensors[0]
            );
        }
        let shard_path = dir.join(shard);
        if !shard_path.is_file() {
            bail_input!(
                "{}: the shard {shard} with {} tensors is not there; download it again",
                path.display(),
                tensors.len()
            );
        }
        let file = TensorFile::open(&shard_path)?;
        if let Some(missing) = tensors.iter().find(|tensor| !file.contains(tensor)) {
            bail_input!(
                "{}: tensor {missing} is said to be in {shard}, which does not hold it; index and shards are not of one model",
                path.display()
            );
        }
        files.push(file);
    }
    Ok(files)
}

/// A tensor that a model folder must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Embedding, norm or output layer, and its shape.
    Dense(String, Vec<usize>),
    /// The weight of a linear layer, `[out, in]`: dense or in NF4.
    Linear(String, [usize; 2]),
}

/// Every tensor of a Llama of these sizes, in the order in which the model uses them.
pub fn expected_tensors(c: &LlamaConfig) -> Vec<Expected> {
    let mut tensors = vec![Expected::Dense("model.embed_tokens.weight".into(), vec![c.vocab, c.hidden])];
    for layer in 0..c.n_layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        tensors.push(Expected::Dense(name("input_layernorm"), vec![c.hidden]));
        tensors.push(Expected::Dense(name("post_attention_layernorm"), vec![c.hidden]));
        tensors.extend(c.linears().map(|(linear, shape)| Expected::Linear(name(linear), shape)));
    }
    tensors.push(Expected::Dense("model.norm.weight".into(), vec![c.hidden]));
    if !c.tied {
        tensors.push(Expected::Dense("lm_head.weight".into(), vec![c.vocab, c.hidden]));
    }
    tensors
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::Dtype;
    use serde_json::json;

    use super::*;
    use crate::checkpoint::fixtures::{Tensors, config_json, model_dir, raw, sentence, tiny, tiny_tensors, write_raw};

    const Q: &str = "model.layers.1.self_attn.q_proj.weight";

    fn refused(edit: impl FnOnce(&mut Tensors)) -> String {
        let mut tensors = tiny_tensors();
        edit(&mut tensors);
        let dir = model_dir(&tiny(), &tensors);
        sentence(ModelFolder::open(dir.path()).and_then(|folder| folder.check()))
    }

    /// The tiny model in two shards, layer 1 in the second, with an index that `edit` may change.
    fn sharded(edit: impl FnOnce(&Path, &mut serde_json::Value)) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config_json(&tiny()).to_string()).unwrap();
        let (two, one): (Tensors, Tensors) =
            tiny_tensors().into_iter().partition(|(name, _)| name.contains(".layers.1."));
        let mut map = serde_json::Map::new();
        for (shard, tensors) in [("one.safetensors", one), ("two.safetensors", two)] {
            write_raw(&dir.path().join(shard), &tensors);
            map.extend(tensors.keys().map(|name| (name.clone(), json!(shard))));
        }
        let mut index = json!({"metadata": {"total_size": 1}, "weight_map": map});
        edit(dir.path(), &mut index);
        std::fs::write(dir.path().join(INDEX), index.to_string()).unwrap();
        dir
    }

    fn refused_shards(edit: impl FnOnce(&Path, &mut serde_json::Value)) -> String {
        sentence(ModelFolder::open(sharded(edit).path()).and_then(|folder| folder.check()))
    }

    #[test]
    fn single_file_and_shards_give_the_same_tensors() {
        let (one, two) = (model_dir(&tiny(), &tiny_tensors()), sharded(|_, _| {}));
        let (one, two) = (ModelFolder::open(one.path()).unwrap(), ModelFolder::open(two.path()).unwrap());
        one.check().unwrap();
        two.check().unwrap();
        for (name, (_, shape, bytes)) in tiny_tensors() {
            assert_eq!(one.tensor(&name, &shape).unwrap().bytes, bytes);
            assert_eq!(two.tensor(&name, &shape).unwrap().bytes, bytes);
        }
    }

    #[test]
    fn extra_tensors_are_ignored_and_a_tied_model_needs_no_output_layer() {
        let mut tensors = tiny_tensors();
        tensors.remove("lm_head.weight");
        tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), raw("f", &[8], 1));
        tensors.insert("a.mask".into(), (Dtype::I64, vec![1], vec![0; 8]));
        let dir = model_dir(&LlamaConfig { tied: true, ..tiny() }, &tensors);
        let folder = ModelFolder::open(dir.path()).unwrap();
        folder.check().unwrap();
        assert!(folder.contains("a.mask") && !folder.contains("lm_head.weight"));
        assert!(
            refused(|tensors| drop(tensors.remove("lm_head.weight")))
                .contains("the tensor lm_head.weight [40, 64] is missing")
        );
    }

    #[test]
    fn folder_without_weights_is_refused() {
        let dir = model_dir(&tiny(), &tiny_tensors());
        std::fs::remove_file(dir.path().join(SINGLE)).unwrap();
        assert!(
            sentence(ModelFolder::open(dir.path()))
                .contains("neither model.safetensors nor model.safetensors.index.json")
        );
        std::fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
        assert!(sentence(ModelFolder::open(dir.path())).contains("safe_serialization=True"));
    }

    #[test]
    fn truncated_weights_are_refused() {
        let dir = model_dir(&tiny(), &tiny_tensors());
        let file = std::fs::OpenOptions::new().write(true).open(dir.path().join(SINGLE)).unwrap();
        file.set_len(file.metadata().unwrap().len() - 100).unwrap();
        assert!(sentence(ModelFolder::open(dir.path())).contains("model.safetensors: the file is truncated"));
    }

    #[test]
    fn any_missing_tensor_is_named() {
        for name in tiny_tensors().keys() {
            let text = refused(|tensors| drop(tensors.remove(name)));
            assert!(text.contains(&format!("the tensor {name} [")) && text.contains("is missing"), "{text}");
        }
    }

    #[test]
    fn any_wrong_shape_is_named() {
        for (name, (_, shape, _)) in tiny_tensors() {
            let wrong: Vec<usize> = shape.iter().map(|n| n + 8).collect();
            let text = refused(|tensors| drop(tensors.insert(name.clone(), raw(&name, &wrong, 1))));
            assert!(text.contains(&format!("tensor {name} has shape {wrong:?}; {shape:?} was expected")), "{text}");
        }
    }

    #[test]
    fn a_wrong_dtype_is_named() {
        let text = refused(|tensors| drop(tensors.insert(Q.into(), (Dtype::I8, vec![64, 64], vec![0; 4096]))));
        assert!(text.contains(&format!("tensor {Q} has dtype I8; F32, F16 or BF16 was expected")), "{text}");
    }

    #[test]
    fn a_planted_nan_is_found_with_its_place() {
        let mut tensors = tiny_tensors();
        let bytes = &mut tensors.get_mut(Q).unwrap().2;
        bytes[4 * (3 * 64 + 5)..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
        let dir = model_dir(&tiny(), &tensors);
        let folder = ModelFolder::open(dir.path()).unwrap();
        let tensor = folder.tensor(Q, &[64, 64]).unwrap();
        assert_eq!(tensor.first_non_finite(), Some(3 * 64 + 5));
        let text = sentence(tensor.check_finite());
        assert!(text.contains(Q) && text.contains("[3, 5]"), "{text}");
    }

    #[test]
    fn a_missing_shard_is_refused() {
        let text = refused_shards(|dir, _| std::fs::remove_file(dir.join("two.safetensors")).unwrap());
        assert!(text.contains("the shard two.safetensors with 9 tensors is not there"), "{text}");
    }

    #[test]
    fn shards_that_disagree_with_their_index_are_refused() {
        let text = refused_shards(|_, index| index["weight_map"][Q] = json!("one.safetensors"));
        assert!(
            text.contains(&format!("tensor {Q} is said to be in one.safetensors, which does not hold it")),
            "{text}"
        );
        let text =
            refused_shards(|dir, _| drop(std::fs::copy(dir.join("two.safetensors"), dir.join("one.safetensors"))));
        assert!(text.contains("which does not hold it"), "{text}");
        let text = refused_shards(|dir, index| {
            std::fs::copy(dir.join("two.safetensors"), dir.join("three.safetensors")).unwrap();
            index["weight_map"][Q] = json!("three.safetensors");
        });
        assert!(text.contains("is both in"), "{text}");
    }

    #[test]
    fn an_index_that_points_outside_its_folder_is_refused() {
        for outside in ["../one.safetensors", "/etc/passwd", "sub/../../x", "", "."] {
            let text = refused_shards(|_, index| index["weight_map"][Q] = json!(outside));
            assert!(text.contains("outside the folder"), "{outside}: {text}");
        }
    }

    #[test]
    fn a_broken_index_is_refused() {
        let dir = sharded(|_, _| {});
        std::fs::write(dir.path().join(INDEX), "{\"weight_map\": [1]").unwrap();
        assert!(sentence(ModelFolder::open(dir.path())).contains("not an index of shards"));
    }
}
