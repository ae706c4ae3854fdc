//! The validated configuration: every field has a value, every value is allowed.

use serde::Serialize;

use super::numbers::{Number, find};
use super::options::{EciKind, Options};
pub use super::sections::*;
use crate::data::LabelSet;
use crate::{Error, Result, bail_input, bytes};

/// What a fine-tune is told. Written as TOML it reads back as itself: the fields are the keys of a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunConfig {
    /// The base model.
    pub model: ModelConfig,
    /// The rows.
    pub data: DataConfig,
    /// The prompt.
    pub prompt: PromptConfig,
    /// The adapter.
    pub lora: LoraConfig,
    /// The classification head.
    pub eci: EciConfig,
    /// The training.
    pub train: TrainConfig,
    /// Validation and the test before and after.
    pub eval: EvalConfig,
    /// Where and how it runs.
    pub machine: MachineConfig,
    /// What is written.
    pub output: OutputConfig,
}

/// The linear layers of a Llama block that can have an adapter, in the model's order.
const LINEARS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Chooses between flag, file and default, and remembers which it was for the sentence when a value is refused.
struct Sources<'a> {
    typed: &'a Options,
    file: &'a Options,
    file_name: &'a str,
}

impl Sources<'_> {
    fn get<T: Clone>(&self, field: impl Fn(&Options) -> &Option<T>) -> Option<T> {
        field(self.typed).clone().or_else(|| field(self.file).clone())
    }

    /// A number within its range, from the table of numbers.
    fn number<T: Amount>(&self, key: &str, field: impl Fn(&Options) -> &Option<T>) -> Result<T> {
        let number: &Number = find(key);
        match self.get(&field) {
            None => Ok(T::from_f64(number.default)),
            Some(value) if number.allows(value.to_f64()) => Ok(value),
            Some(value) => {
                let found = self.name(key, field(self.typed).is_some());
                bail_input!("{found} is {}; allowed: {}", value.to_f64(), number.range())
            }
        }
    }

    /// How the user called a setting: `--lr`, or `my.toml: train.lr`.
    fn name(&self, key: &str, typed: bool) -> String {
        if typed { super::finetune::flag_of(key) } else { format!("{}: {key}", self.file_name) }
    }
}

/// Numbers as the table of numbers has them.
trait Amount: Copy {
    fn to_f64(self) -> f64;
    fn from_f64(value: f64) -> Self;
}

macro_rules! amount {
    ($($t:ty),+) => { $(impl Amount for $t {
        fn to_f64(self) -> f64 { self as f64 }
        fn from_f64(value: f64) -> $t { value as $t }
    })+ };
}
amount!(f64, usize, u64);

impl RunConfig {
    /// Puts flags over the file (called `file_name` in messages) over the defaults, and checks everything that can be
    /// checked without opening a file.
    pub fn resolve(typed: &Options, file: &Options, file_name: &str) -> Result<RunConfig> {
        let mut file = file.clone();
        if typed.data.train.is_some() {
            // The file's split belongs to the file's rows.
            let data = &mut file.data;
            (data.validation, data.test, data.test_ids, data.labels) = (None, None, None, None);
            (data.formats, data.weights, file.eci.heads) = (None, None, None);
        }
        if typed.train.steps.is_some_and(|steps| steps > 0) {
            file.train.epochs = Some(0.0);
        }
        if typed.train.epochs.is_some_and(|epochs| epochs > 0.0) {
            file.train.steps = Some(0);
        }
        let from = Sources { typed, file: &file, file_name };
        let config = RunConfig {
            model: ModelConfig {
                path: from.get(|o| &o.model.path).unwrap_or_default(),
                quant: from.get(|o| &o.model.quant).unwrap_or_default(),
                double_quant: from.get(|o| &o.model.double_quant).unwrap_or(true),
            },
            data: data(&from)?,
            prompt: PromptConfig {
                template: from.get(|o| &o.prompt.template).unwrap_or_else(|| "three_step".into()),
                layout: from.get(|o| &o.prompt.layout).unwrap_or_default(),
                system: from.get(|o| &o.prompt.system).unwrap_or_default(),
                shots: from.number("prompt.shots", |o| &o.prompt.shots)?,
            },
            lora: LoraConfig {
                rank: from.number("lora.rank", |o| &o.lora.rank)?,
                alpha: from.number("lora.alpha", |o| &o.lora.alpha)?,
                dropout: from.number("lora.dropout", |o| &o.lora.dropout)?,
                targets: targets(&from)?,
            },
            eci: eci(&from)?,
            train: train(&from)?,
            eval: EvalConfig {
                every: from.number("eval.every", |o| &o.eval.every)?,
                rows: from.number("eval.rows", |o| &o.eval.rows)?,
                new_tokens: from.number("eval.new_tokens", |o| &o.eval.new_tokens)?,
            },
            machine: machine(&from)?,
            output: OutputConfig {
                dir: from.get(|o| &o.output.dir).unwrap_or_default(),
                save_every: from.number("output.save_every", |o| &o.output.save_every)?,
            },
        };
        for (missing, flag, what) in [
            (config.model.path.as_os_str().is_empty(), "--model DIR", "a Hugging Face model folder"),
            (config.data.train.is_empty(), "--data FILE", "a file of rows to train on"),
            (config.output.dir.as_os_str().is_empty(), "--out DIR", "a folder for the results"),
        ] {
            if missing {
                bail_input!("{file_name} names no {}; give {what} with {flag}", &flag[2..flag.find(' ').unwrap_or(2)]);
            }
        }
        Ok(config)
    }

    /// The configuration as a file that [`super::file::parse`] reads back, to be kept beside the adapter.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::Input(format!("the configuration cannot be written as TOML: {e}")))
    }

    /// Every setting as `section.field` and its value, for the report.
    pub fn settings(&self) -> Result<Vec<(String, String)>> {
        let table = toml::Table::try_from(self)
            .map_err(|e| Error::Input(format!("the configuration cannot be written as TOML: {e}")))?;
        let fields = |(section, value): (&String, &toml::Value)| match value {
            toml::Value::Table(t) => t.iter().map(|(field, v)| (format!("{section}.{field}"), v.to_string())).collect(),
            other => vec![(section.clone(), other.to_string())],
        };
        Ok(table.iter().flat_map(fields).collect())
    }
}

fn data(from: &Sources) -> Result<DataConfig> {
    let data = DataConfig {
        train: from.get(|o| &o.data.train).unwrap_or_default(),
        validation: from.get(|o| &o.data.validation).unwrap_or_default(),
        test: from.get(|o| &o.data.test).unwrap_or_default(),
        test_ids: from.get(|o| &o.data.test_ids).unwrap_or_default(),
        validation_share: from.number("data.validation_share", |o| &o.data.validation_share)?,
        test_share: from.number("data.test_share", |o| &o.data.test_share)?,
        labels: from.get(|o| &o.data.labels).unwrap_or_default(),
        formats: from.get(|o| &o.data.formats).unwrap_or_default(),
        weights: from.get(|o| &o.data.weights).unwrap_or_default(),
        allow: from.get(|o| &o.data.allow).unwrap_or_default(),
        over_long: from.get(|o| &o.data.over_long).unwrap_or_default(),
        max_length: match from.number("data.max_length", |o| &o.data.max_length)? {
            0 => from.number("train.tokens", |o| &o.train.tokens)?,
            length => length,
        },
    };
    let n_files = data.train.len();
    if !data.weights.is_empty() && data.weights.len() != n_files {
        bail_input!("data.weights has {} weights for {n_files} data files; give one for each", data.weights.len());
    }
    data.formats()?;
    if let Some(w) = data.weights.iter().find(|w| !(0.0..=1000.0).contains(*w)) {
        bail_input!("data.weights has {w}; allowed: 0 to 1000");
    }
    if !data.weights.is_empty() && data.weights.iter().all(|w| *w == 0.0) {
        bail_input!("data.weights are all 0; one file at least must count");
    }
    if let Some(label) = data.labels.iter().enumerate().find_map(|(i, l)| data.labels[..i].contains(l).then_some(l)) {
        bail_input!("data.labels has {label:?} twice");
    }
    if data.labels.len() == 1 {
        bail_input!("data.labels has one class, {:?}; a head needs two or more", data.labels[0]);
    }
    Ok(data)
}

fn targets(from: &Sources) -> Result<Vec<String>> {
    let typed = from.typed.lora.targets.is_some();
    let named = from.get(|o| &o.lora.targets).unwrap_or_default();
    if let Some(name) = named.iter().find(|name| !LINEARS.contains(&name.as_str())) {
        let key = from.name("lora.targets", typed);
        match super::nearest::nearest(name, LINEARS) {
            Some(known) => bail_input!("{key}: unknown layer {name}; did you mean {known}?"),
            None => bail_input!("{key}: unknown layer {name}; known: {}", LINEARS.join(", ")),
        }
    }
    let chosen = LINEARS.iter().filter(|linear| named.is_empty() || named.iter().any(|name| name == *linear));
    Ok(chosen.map(|linear| linear.to_string()).collect())
}

fn eci(from: &Sources) -> Result<EciConfig> {
    let kind = from.get(|o| &o.eci.kind).unwrap_or_default();
    let weight = from.number("eci.weight", |o| &o.eci.weight)?;
    if kind == EciKind::None && from.typed.eci.weight.is_some_and(|w| w > 0.0) {
        bail_input!("--eci-weight {weight} needs a head; leave it out, or choose another --eci than none");
    }
    let dims = from.get(|o| &o.eci.dims).unwrap_or(vec![1024, 256, 64, 16, 4]);
    if let Some(width) = dims.iter().find(|&&width| !(1..=65536).contains(&width)) {
        let key = from.name("eci.dims", from.typed.eci.dims.is_some());
        bail_input!("{key} has a width of {width}; allowed: 1 to 65536");
    }
    let positions = from.number("eci.positions", |o| &o.eci.positions)?;
    let heads = from.get(|o| &o.eci.heads).unwrap_or_default();
    let sets = heads.iter().map(|head| LabelSet::parse(head)).collect::<Result<Vec<_>>>()?;
    if let Some(set) =
        sets.iter().enumerate().find_map(|(i, s)| sets[..i].iter().any(|o| o.name == s.name).then_some(s))
    {
        bail_input!("two heads are called {}; give each a name of its own", set.name);
    }
    if !heads.is_empty() && from.get(|o| &o.data.labels).is_some_and(|labels| !labels.is_empty()) {
        bail_input!("data.labels and eci.heads both name the classes; give one of them");
    }
    Ok(EciConfig { kind, weight: if kind == EciKind::None { 0.0 } else { weight }, heads, positions, dims })
}

fn train(from: &Sources) -> Result<TrainConfig> {
    let lr = from.number("train.lr", |o| &o.train.lr)?;
    let head_lr = from.number("train.head_lr", |o| &o.train.head_lr)?;
    let steps = from.number("train.steps", |o| &o.train.steps)?;
    let train = TrainConfig {
        from: from.get(|o| &o.train.from).unwrap_or_default(),
        steps,
        // The default of one epoch is for those who say nothing, not beside steps.
        epochs: match from.get(|o| &o.train.epochs) {
            None if steps > 0 => 0.0,
            _ => from.number("train.epochs", |o| &o.train.epochs)?,
        },
        lr,
        head_lr: if head_lr > 0.0 { head_lr } else { lr },
        weight_decay: from.number("train.weight_decay", |o| &o.train.weight_decay)?,
        clip: from.number("train.clip", |o| &o.train.clip)?,
        schedule: from.get(|o| &o.train.schedule).unwrap_or_default(),
        warmup: from.number("train.warmup", |o| &o.train.warmup)?,
        min_ratio: from.number("train.min_ratio", |o| &o.train.min_ratio)?,
        tokens: from.number("train.tokens", |o| &o.train.tokens)?,
        rows: from.number("train.rows", |o| &o.train.rows)?,
        accumulate: from.number("train.accumulate", |o| &o.train.accumulate)?,
        optimizer_states: from.get(|o| &o.train.optimizer_states).unwrap_or_default(),
        seed: from.number("train.seed", |o| &o.train.seed)?,
        patience: from.number("train.patience", |o| &o.train.patience)?,
    };
    let max_length = from.number("data.max_length", |o| &o.data.max_length)?;
    match (train.steps > 0, train.epochs > 0.0) {
        (true, true) => bail_input!(
            "{}: train.steps is {} and train.epochs is {}; set one of them to 0",
            from.file_name,
            train.steps,
            train.epochs
        ),
        (false, false) => bail_input!("train.steps and train.epochs are both 0; how long to train? Give one of them"),
        _ if max_length > train.tokens => bail_input!(
            "data.max_length is {max_length}, more than the {} tokens of a micro-batch; rows are not cut in two, so raise \
             --tokens or lower --max-length",
            train.tokens
        ),
        _ => Ok(train),
    }
}

fn machine(from: &Sources) -> Result<MachineConfig> {
    let device = from.get(|o| &o.machine.device).unwrap_or_else(|| "auto".into());
    let ordinal = device.strip_prefix("cuda:").map(|n| n.parse::<usize>().is_ok());
    if !(["auto", "cpu", "cuda"].contains(&device.as_str()) || ordinal == Some(true)) {
        let key = from.name("machine.device", from.typed.machine.device.is_some());
        bail_input!("{key} is {device:?}; expected auto, cpu, cuda or cuda:N");
    }
    let budget = from.get(|o| &o.machine.budget).unwrap_or_else(|| "24GiB".into());
    let host_budget = from.get(|o| &o.machine.host_budget).unwrap_or_else(|| "16GiB".into());
    Ok(MachineConfig {
        device,
        compute: from.get(|o| &o.machine.compute).unwrap_or_default(),
        threads: from.number("machine.threads", |o| &o.machine.threads)?,
        keep: from.get(|o| &o.machine.keep).filter(|k| !k.is_empty()).unwrap_or_else(|| "auto".into()),
        budget: bytes::parse(&from.name("machine.budget", from.typed.machine.budget.is_some()), &budget)?,
        host_budget: bytes::parse(
            &from.name("machine.host_budget", from.typed.machine.host_budget.is_some()),
            &host_budget,
        )?,
        grid_factor: from.number("machine.grid_factor", |o| &o.machine.grid_factor)?,
    })
}
