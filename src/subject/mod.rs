//! What is asked: a base, an adapter on it with its heads, and the prompt that belongs to them. Whatever does not fit is refused before
//! weights are loaded: an adapter of another base (by shape and by fingerprint), a head of another adapter or of another
//! width, a prompt that this tokenizer encodes otherwise.

mod adapter;
mod capacity;

pub use adapter::Adapter;

use crate::checkpoint::{EciConfig, ModelFolder, NamedTensor};
use crate::cli::options::{ComputeType, Quant};
use crate::cli::{RunConfig, which::Which};
use crate::data::{LabelSet, Prompt, Template, TextTokenizer};
use crate::device::Device;
use crate::model::{EciHead, Llama, OptimiserStates, Params, Source};
use crate::model::{load, put_adapter, put_head, tokenizer};
use crate::train::prepare;
use crate::{Result, bail_input};

/// Everything that is known before weights are loaded.
pub struct Subject {
    /// The base.
    pub folder: ModelFolder,
    /// The adapter, where there is one.
    pub adapter: Option<Adapter>,
    /// The base's.
    pub tokenizer: TextTokenizer,
    /// The adapter's own, or what was typed.
    pub prompt: Prompt,
    /// What could be decided in the adapter's training; empty where that is not known.
    sets: Vec<LabelSet>,
    /// In which numbers it runs.
    pub compute: ComputeType,
    quant: Quant,
    double_quant: bool,
}

/// A model on a device, with its heads.
pub struct Loaded {
    /// The decoder, its adapter in it.
    pub model: Llama,
    /// Its heads, in the order of [`Subject::sets`].
    pub heads: Vec<EciHead>,
    /// Holds the memory of adapter and heads.
    _params: Params,
}

impl Subject {
    /// Opens and checks what was typed. `template` is that of a base and of an adapter that brings no prompt, where none is typed.
    pub fn open(typed: &Which, template: &str) -> Result<Subject> {
        let adapter = typed.adapter.as_deref().map(Adapter::open).transpose()?;
        let run = adapter.as_ref().and_then(|adapter| adapter.run.as_ref());
        let model = typed.model.clone().or_else(|| run.map(|run| run.model.path.clone()));
        let Some(model) = model else {
            bail_input!("which base? Give its folder with --model DIR, or an adapter of finetune with --adapter DIR");
        };
        let folder = ModelFolder::open(&model)?;
        folder.config().supported()?;
        if let Some(adapter) = &adapter {
            adapter.expect_base(&folder)?;
        }
        let tokenizer = tokenizer(folder.dir(), folder.config())?;
        let (prompt, sets) = match adapter.as_ref().and_then(Adapter::stored_prompt) {
            Some(dir) => {
                let given = [
                    ("--template", typed.template.is_some()),
                    ("--layout", typed.layout.is_some()),
                    ("--system", typed.system.is_some()),
                ];
                if let Some((flag, _)) = given.into_iter().find(|(_, given)| *given) {
                    bail_input!(
                        "{}: the adapter brings the prompt it was trained with; leave out {flag}",
                        dir.display()
                    );
                }
                Prompt::load(dir, &tokenizer)?
            }
            None => {
                let name = typed.template.as_deref().unwrap_or(template);
                let layout = typed.layout.unwrap_or_default();
                let system = typed.system.clone().unwrap_or_default();
                (Prompt { layout, system, ..Prompt::plain(Template::named(name)?) }, Vec::new())
            }
        };
        let compute = typed.compute;
        let quant = typed.quant.or(run.map(|run| run.model.quant)).unwrap_or_default();
        let double_quant = run.is_none_or(|run| run.model.double_quant);
        Ok(Subject { folder, adapter, tokenizer, prompt, sets, compute, quant, double_quant })
    }

    /// Whether the prompt is the one that the adapter was trained with.
    pub fn brings_its_prompt(&self) -> bool {
        self.adapter.as_ref().and_then(Adapter::stored_prompt).is_some()
    }

    /// How the base's weights are stored when nothing else is said.
    pub fn quant(&self) -> Quant {
        self.quant
    }

    /// The heads with their tensors; none without any.
    pub fn heads(&self) -> impl Iterator<Item = &(EciConfig, Vec<NamedTensor>)> {
        self.adapter.iter().flat_map(Adapter::heads)
    }

    /// The settings of the run that made the adapter, where it was one of ours.
    pub fn run(&self) -> Option<&RunConfig> {
        self.adapter.as_ref()?.run.as_ref()
    }

    /// The label sets of its heads, in their order; without heads those that it was trained on.
    pub fn sets(&self) -> Vec<LabelSet> {
        let of = |(head, _): &(EciConfig, _)| LabelSet {
            name: head.name.clone(),
            labels: head.labels.clone(),
            weight: None,
        };
        let of_heads: Vec<LabelSet> = self.heads().map(of).collect();
        if of_heads.is_empty() { self.sets.clone() } else { of_heads }
    }

    /// The model on a device; on paper nothing is read.
    pub fn load(&self, device: &Device, quant: Quant) -> Result<Loaded> {
        let frozen = prepare::frozen(quant, self.double_quant, self.compute);
        let lora = self.adapter.as_ref().map(Adapter::lora);
        let source = match device.is_paper() {
            true => Source::Sizes(self.folder.config()),
            false => Source::Folder(&self.folder),
        };
        let (model, params, plans) = load(device, source, frozen, lora.as_ref(), 0, |builder| {
            builder.optimiser_states(OptimiserStates::Unused);
            self.heads().map(|(head, _)| EciHead::plan(builder, head)).collect::<Result<Vec<_>>>()
        })?;
        if let Some(adapter) = self.adapter.as_ref().filter(|_| !device.is_paper()) {
            put_adapter(&params, adapter.config.r, &adapter.tensors)?;
            for (head, tensors) in self.heads() {
                put_head(&params, &head.name, tensors)?;
            }
        }
        let heads = plans.into_iter().map(|plan| EciHead::new(plan, &params)).collect::<Result<_>>()?;
        Ok(Loaded { model, heads, _params: params })
    }
}
