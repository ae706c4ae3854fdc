//! What an adapter was made from: provenance.json beside it.
//!
//! An adapter on another base answers, and badly. Shapes tell a 7B from a 13B but not Llama-2 from its chat model or from another
//! fine-tune, so the base has a fingerprint: a hash over the values of all its norms and some rows of its embedding,
//! rounded to bf16. Those are what a 4-bit copy keeps as they are, so it is the same base; any training moves them.
//! And a test row that was trained on tests nothing, so the rows have theirs.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::host_tensor::HostTensor;
use super::model_folder::{Expected, ModelFolder, expected_tensors};
use super::safe_write::save_files;
use super::tensor_file::write_small;
use crate::{Error, Result, bail_input};

/// Its name.
pub const PROVENANCE_FILE: &str = "provenance.json";
/// Rows of the embedding that count.
const ROWS: usize = 64;

/// What an adapter was made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// [`base_fingerprint`] of its base.
    pub base_sha256: String,
    /// Hashes of the rows it was trained on, in hexadecimal, sorted.
    pub rows: BTreeSet<String>,
}

/// The base of a folder, whatever its weights are stored in; 64 hexadecimal digits.
pub fn base_fingerprint(folder: &ModelFolder) -> Result<String> {
    let config = folder.config();
    let mut hash = Sha256::new();
    for tensor in expected_tensors(config) {
        let Expected::Dense(name, shape) = tensor else { continue };
        if shape.len() == 1 {
            hash.update(name.as_bytes());
            hash.update(bytemuck::cast_slice::<u16, u8>(&folder.tensor(&name, &shape)?.to_bf16_bits()));
        }
    }
    let embedding = folder.tensor("model.embed_tokens.weight", &[config.vocab, config.hidden])?;
    let row_bytes = config.hidden * embedding.dtype.n_bytes();
    for row in (0..config.vocab).step_by((config.vocab / ROWS).max(1)) {
        let bytes = &embedding.bytes[row * row_bytes..][..row_bytes];
        let row = HostTensor { name: String::new(), shape: vec![config.hidden], dtype: embedding.dtype, bytes };
        hash.update(bytemuck::cast_slice::<u16, u8>(&row.to_bf16_bits()));
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Provenance {
    /// Writes it into an adapter's folder.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let mut json = serde_json::to_vec_pretty(self).map_err(|e| Error::io(dir)(e.into()))?;
        json.push(b'\n');
        save_files(dir, &[PROVENANCE_FILE], |staging| write_small(&staging.join(PROVENANCE_FILE), &json))
    }

    /// Reads it; none where the folder holds none, as adapters of other programs.
    pub fn load(dir: &Path) -> Result<Option<Provenance>> {
        let path = dir.join(PROVENANCE_FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|e| Error::Input(format!("{}: not the provenance of an adapter: {e}", path.display())))
    }

    /// That this is the base the adapter in `dir` was trained on.
    pub fn expect_base(&self, dir: &Path, folder: &ModelFolder) -> Result<()> {
        let found = base_fingerprint(folder)?;
        if found != self.base_sha256 {
            bail_input!(
                "{}: this adapter was trained on another base than {} (fingerprint {}.. there, {}.. here); give its own with --model",
                dir.display(),
                folder.dir().display(),
                &self.base_sha256.chars().take(8).collect::<String>(),
                &found[..8]
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::fixtures::{model_dir, raw, tiny, tiny_tensors};

    fn fingerprint(edit: impl FnOnce(&mut crate::checkpoint::fixtures::Tensors)) -> String {
        let mut tensors = tiny_tensors();
        edit(&mut tensors);
        let dir = model_dir(&tiny(), &tensors);
        base_fingerprint(&ModelFolder::open(dir.path()).unwrap()).unwrap()
    }

    #[test]
    fn a_fingerprint_changes_with_a_norm_and_with_the_embedding_and_with_no_linear_layer() {
        let same = fingerprint(|_| ());
        assert_eq!(same.len(), 64);
        assert_eq!(fingerprint(|_| ()), same);
        for (name, changes) in [
            ("model.norm.weight", true),
            ("model.layers.1.input_layernorm.weight", true),
            ("model.embed_tokens.weight", true),
            ("model.layers.0.self_attn.q_proj.weight", false),
        ] {
            let changed = fingerprint(|tensors| {
                let tensor = tensors.get_mut(name).unwrap_or_else(|| panic!("{name} is there"));
                *tensor = raw(name, &tensor.1.clone(), 99);
            });
            assert_eq!(changed != same, changes, "{name}");
        }
    }

    #[test]
    fn provenance_comes_back_and_names_the_wrong_base() {
        let (dir, model) = (tempfile::tempdir().unwrap(), model_dir(&tiny(), &tiny_tensors()));
        let folder = ModelFolder::open(model.path()).unwrap();
        assert_eq!(Provenance::load(dir.path()).unwrap(), None);
        let right = Provenance { base_sha256: base_fingerprint(&folder).unwrap(), rows: ["00ff".to_string()].into() };
        right.save(dir.path()).unwrap();
        assert_eq!(Provenance::load(dir.path()).unwrap(), Some(right.clone()));
        right.expect_base(dir.path(), &folder).unwrap();
        let wrong = Provenance { base_sha256: "0".repeat(64), ..right };
        let said = wrong.expect_base(dir.path(), &folder).unwrap_err().to_string();
        assert!(said.contains("was trained on another base than") && said.contains("00000000.. there"), "{said}");
        std::fs::write(dir.path().join(PROVENANCE_FILE), "{}").unwrap();
        assert!(Provenance::load(dir.path()).unwrap_err().to_string().contains("not the provenance of an adapter"));
    }
}
