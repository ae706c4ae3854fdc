//! An adapter's folder: LoRA, heads, and what is known of the run that made it.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::checkpoint::{AdapterConfig, EciConfig, Heads, ModelFolder, NamedTensor, Provenance};
use crate::checkpoint::{check_adapter, has_heads, load_adapter, load_heads};
use crate::cli::finetune::CONFIG_FILE;
use crate::cli::{RunConfig, file};
use crate::data::prompt::PROMPT_FILE;
use crate::model::LoraSpec;
use crate::{Error, Result, bail_input};

/// An adapter's folder, read and checked by itself.
pub struct Adapter {
    /// Its folder.
    pub dir: PathBuf,
    /// Rank, scale, targets.
    pub config: AdapterConfig,
    /// The LoRA matrices, on the host.
    pub tensors: Vec<NamedTensor>,
    heads: Option<Heads>,
    /// Its base and the rows it has seen, where they are known.
    pub provenance: Option<Provenance>,
    /// The settings of the run that made it, where it was one of ours.
    pub run: Option<RunConfig>,
}

impl Adapter {
    /// Reads and checks the folder by itself.
    pub fn open(dir: &Path) -> Result<Adapter> {
        let (config, tensors) = load_adapter(dir)?;
        let heads = if has_heads(dir) { Some(load_heads(dir)?) } else { None };
        if let Some(stated) = heads.as_ref().and_then(|heads| heads.adapter_sha256.as_ref()) {
            let path = dir.join("adapter_model.safetensors");
            let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
            let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            if found != *stated {
                bail_input!(
                    "{}: the ECI head was trained with another adapter_model.safetensors than the one beside it; put the two of \
                     one run together",
                    dir.display()
                );
            }
        }
        let settings = dir.join(CONFIG_FILE);
        let run = match settings.is_file() {
            false => None,
            true => {
                let name = settings.display().to_string();
                Some(RunConfig::resolve(&Default::default(), &file::load(&name)?.0, &name)?)
            }
        };
        Ok(Adapter { dir: dir.to_path_buf(), config, tensors, heads, provenance: Provenance::load(dir)?, run })
    }

    /// That it fits this base.
    pub fn expect_base(&self, folder: &ModelFolder) -> Result<()> {
        let dir = self.dir.display();
        check_adapter(folder.config(), &self.config, &self.tensors)
            .map_err(|e| Error::Input(format!("{dir} on {}: {e}", folder.dir().display())))?;
        for (head, _) in self.heads() {
            if head.hidden != folder.config().hidden {
                bail_input!(
                    "{dir}: the ECI head {} reads hidden states of {}, the base {} has {}; give the base it was trained on",
                    head.name,
                    head.hidden,
                    folder.dir().display(),
                    folder.config().hidden
                );
            }
        }
        self.provenance.as_ref().map_or(Ok(()), |provenance| provenance.expect_base(&self.dir, folder))
    }

    /// The folder that [`Prompt::load`](crate::data::Prompt::load) reads, where a prompt lies beside the adapter.
    pub(super) fn stored_prompt(&self) -> Option<&Path> {
        self.dir.join(PROMPT_FILE).is_file().then_some(self.dir.as_path())
    }

    pub(super) fn heads(&self) -> impl Iterator<Item = &(EciConfig, Vec<NamedTensor>)> {
        self.heads.iter().flat_map(|heads| &heads.heads)
    }

    pub(super) fn lora(&self) -> LoraSpec {
        LoraSpec { rank: self.config.r, scale: self.config.scale(), targets: self.config.targets.clone() }
    }
}
