//! A fine-tune from its configuration to its report.

use crate::bytes;
use crate::checkpoint::{LlamaConfig, ModelFolder, Provenance, base_fingerprint, claim_output, last_good};
use crate::cli::options::ComputeType;
use crate::cli::{RunConfig, Start, finetune::CONFIG_FILE};
use crate::data::{LabelSet, MicroBatch, efficiency, pack, pack_rows};
use crate::device::{Compute, Device};
use crate::energy::{self, Energy, Meter};
use crate::eval::{Confusion, Evaluate, Evaluation, Questions, Reading, confusion};
use crate::model::{Batch, HostMasters, RunOptions, Source, describe_layers};
use crate::report::summary::REPORT_FILE;
use crate::report::{Page, Report, SetScores};
use crate::train::ceiling::{Flops, measure_ceiling};
use crate::train::check::check_data;
use crate::train::earlier::Earlier;
use crate::train::early_stop::Verdict;
use crate::train::log::Validation;
use crate::train::plan::{CONTEXT, Plan, Planner};
use crate::train::prepare::{self, Data, compute, open_device, room};
use crate::train::progress::Mode;
use crate::train::ready::Ready;
use crate::train::save::{restore_state, save_result, save_state};
use crate::train::show_plan::show_plan;
use crate::train::{EarlyStop, Interrupt, Log, Losses, Progress, Schedule, StepLog, Trainer};
use crate::{Error, Result, bail_input};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// Runs a fine-tune, or goes on with one, and says what came of it on stdout.
pub fn finetune(start: &Start) -> Result<()> {
    let (config, dir) = (&start.config, start.config.output.dir.as_path());
    let model_config = LlamaConfig::load(&config.model.path)?;
    model_config.supported()?;
    if start.plan {
        return planned(config, &model_config);
    }
    if start.check_data {
        let report = check_data(config, &model_config, start.quiet)?;
        print!("{report}");
        return expect_no_faults(report.errors());
    }
    if start.resume && dir.join(REPORT_FILE).exists() {
        bail_input!(
            "{}: this run is finished, {REPORT_FILE} is there; start another in a new folder with --out",
            dir.display()
        );
    }
    let folder = ModelFolder::open(&config.model.path)?;
    let device = open_device(&config.machine.device, config.machine.compute)?;
    folder.check()?;
    let earlier = earlier(start, &folder)?;
    let ready = Ready::of(start, &folder, device)?;
    if !start.resume && !start.overwrite && dir.exists() {
        // Refused in a second, not after the base is loaded.
        claim_output(dir, false)?;
    }
    run(ready, earlier, dir).map(drop)
}

/// `--plan`: the plan for the largest micro-batch, on stdout.
pub(super) fn planned(config: &RunConfig, model: &LlamaConfig) -> Result<()> {
    let compute = compute(config.machine.compute);
    let cuda = config.machine.device != "cpu" && compute == Compute::Bf16;
    let sets = planned_sets(config)?;
    let context = if cuda { CONTEXT } else { 0 };
    show_plan(&Planner { config, source: Source::Sizes(model), sets: &sets, compute, cuda, context, free: None })
}

/// What `--check-data` ends with.
pub(super) fn expect_no_faults(n_faults: usize) -> Result<()> {
    if n_faults > 0 {
        bail_input!("{n_faults} faults in the rows would train something wrong; mend them, or name them with --allow");
    }
    Ok(())
}

/// The adapter that a run goes on from. A resumed one has it in its own state.
pub(super) fn earlier(start: &Start, folder: &ModelFolder) -> Result<Option<Earlier>> {
    if start.resume { Ok(None) } else { Earlier::open(&start.config, folder) }
}

/// Trains what is ready, tests it and writes its report; none where Ctrl-C came first. `whole`: the folder to resume then.
pub(super) fn run(ready: Ready, earlier: Option<Earlier>, whole: &Path) -> Result<Option<Report>> {
    let Ready { start, folder, device, data, plan, .. } = ready;
    let (config, dir) = (&start.config, start.config.output.dir.as_path());
    // On a device of its own: what is measured here is no part of the run's memory.
    let ceiling = measure_ceiling(&Device::open(&config.machine.device, compute(config.machine.compute))?)?;
    device.reserve(plan.arena)?;
    let trainer = prepare::trainer(config, &device, Source::Folder(folder), &data.sets)?;
    if let Some(earlier) = &earlier {
        earlier.put(&trainer)?;
    }
    if !start.resume {
        // An older run goes only now that nothing of the input can stop the new one.
        claim_output(dir, start.overwrite)?;
    }
    let flops = Flops::of(&trainer);
    let (clock, meter) = (Instant::now(), Meter::open(&device));
    // What an earlier part of the run took stands in its state, and is read with it.
    let spent = Spent { begun: meter.read(), millijoules: (!start.resume).then_some(0) };
    let mut rows = data.seen.clone();
    rows.extend(earlier.into_iter().flat_map(|earlier| earlier.rows));
    let provenance = Provenance { base_sha256: base_fingerprint(folder)?, rows };
    let mut run =
        Run { start, config, dir, whole, device, data, trainer, plan, clock, meter, spent, ceiling, flops, provenance };
    run.introduce()?;
    run.go()
}

/// What can be decided, as a plan has it before the rows are read.
fn planned_sets(config: &RunConfig) -> Result<Vec<LabelSet>> {
    let named = prepare::named_sets(config)?;
    Ok(if named.is_empty() { vec![LabelSet::of(&["yes", "no", "maybe"].map(String::from))] } else { named })
}

struct Run<'a> {
    start: &'a Start,
    config: &'a RunConfig,
    dir: &'a Path,
    /// What is resumed after Ctrl-C: `dir`, or the recipe's folder.
    whole: &'a Path,
    device: Device,
    data: Data,
    trainer: Trainer,
    plan: Plan,
    clock: Instant,
    meter: Meter,
    spent: Spent,
    /// Operations a second that this device's own matrix product reaches.
    ceiling: f64,
    flops: Flops,
    /// What the adapter is made from.
    provenance: Provenance,
}

/// The energy of a run.
struct Spent {
    /// The meter's reading when this process began.
    begun: Option<f64>,
    /// Of the parts before this process; none where they were not measured.
    millijoules: Option<u64>,
}

/// What stands in the report of one evaluation of the test rows.
#[derive(Default)]
struct Scores {
    evaluation: Evaluation,
    /// Of each set of labels: its name, what the head said and what the text said.
    sets: Vec<(String, Option<Confusion>, Option<Confusion>)>,
}

impl Scores {
    fn of(evaluation: Evaluation, sets: &[LabelSet]) -> Scores {
        let said = |set: &LabelSet| {
            let [head, text] = [Reading::Eci, Reading::Text].map(|r| confusion(&evaluation.answers, &set.labels, r));
            (set.name.clone(), head, text)
        };
        Scores { sets: sets.iter().map(said).collect(), evaluation }
    }

    fn heads(&self) -> Vec<&Confusion> {
        self.sets.iter().filter_map(|(_, head, _)| head.as_ref()).collect()
    }

    fn texts(&self) -> Vec<&Confusion> {
        self.sets.iter().filter_map(|(.., text)| text.as_ref()).collect()
    }
}

/// Share of right answers over all sets of labels.
fn accuracy(all: &[&Confusion]) -> Option<f64> {
    let n: usize = all.iter().map(|c| c.total()).sum();
    (n > 0).then(|| all.iter().map(|c| c.n_right()).sum::<usize>() as f64 / n as f64)
}

/// The mean over the sets of labels, each as much as it has rows.
fn mean(all: &[&Confusion], measure: impl Fn(&Confusion) -> Option<f64>) -> Option<f64> {
    let n: usize = all.iter().map(|c| c.total()).sum();
    (n > 0).then(|| all.iter().map(|c| measure(c).unwrap_or(0.0) * c.total() as f64).sum::<f64>() / n as f64)
}

impl Run<'_> {
    fn introduce(&mut self) -> Result<()> {
        if !self.start.resume {
            let mut settings = self.config.clone();
            if !self.plan.keep.iter().all(|keep| keep.is_exact()) {
                // A resumed run is to round the same activations, also where another budget would choose otherwise.
                settings.machine.keep = describe_layers(&self.plan.keep);
            }
            let settings = settings.to_toml()?;
            std::fs::write(self.dir.join(CONFIG_FILE), settings).map_err(Error::io(self.dir))?;
            self.provenance.save(self.dir)?;
            self.data.prompt.save(self.dir, &self.data.sets, &self.data.tokenizer)?;
        }
        for note in &self.data.notes {
            println!("note: {note}");
        }
        let (d, c) = (&self.data, self.config);
        if !self.start.quiet {
            println!(
                "{} on {}: {} train, {} validation, {} test rows; {} trainable numbers, seed {}",
                c.model.path.display(),
                self.device.name(),
                d.train.len(),
                d.validation.len(),
                d.test.len(),
                self.trainer.params.n_elems(),
                c.train.seed
            );
            if c.machine.compute == ComputeType::Fp8 {
                println!("--compute fp8: frozen weights are multiplied in 8 bits (e4m3), all else is computed in bf16");
            }
            println!("{}", self.plan.table());
            println!("{}", self.plan.layers());
            let batches = self.micro_batches(0)?;
            println!(
                "{} micro-batches an epoch of at most {} tokens, {:.1} % full; matrix product {:.1} GFLOP/s",
                batches.len(),
                c.train.tokens,
                100.0 * efficiency(&batches, c.train.tokens),
                self.ceiling / 1e9
            );
        }
        Ok(())
    }

    fn go(&mut self) -> Result<Option<Report>> {
        let interrupt = Interrupt::install()?;
        let before = if self.start.resume { Scores::default() } else { self.test("before")? };
        let Some((steps, seconds)) = self.train(&interrupt)? else { return Ok(None) };
        let sha256 = save_result(self.config, &self.trainer, self.dir)?;
        let after = self.test("after")?;
        self.report(&before, &after, &steps, seconds, sha256).map(Some)
    }

    /// Trains to the end; none where Ctrl-C came first and everything is saved for later.
    fn train(&mut self, interrupt: &Interrupt) -> Result<Option<(Vec<StepLog>, f64)>> {
        let c = &self.config.train;
        let mut epoch = (0, self.micro_batches(0)?);
        let per_epoch = epoch.1.len().div_ceil(c.accumulate);
        let total = c.total_steps(per_epoch);
        let schedule = Schedule::new(c.schedule, total, c.warmup, c.min_ratio);
        let mut stop = EarlyStop::new(c.patience);
        let mut best: Option<HostMasters> = None;
        let (mut log, mut steps) = if self.start.resume {
            (best, self.spent.millijoules) = restore_state(self.config, &mut self.trainer, &last_good(self.dir)?)?;
            let (log, steps) = Log::resume(self.dir, self.trainer.step)?;
            stop.replay(steps.iter().filter_map(|s| Some((s.step, s.validation.as_ref()?.joint_loss))));
            (log, steps)
        } else {
            (Log::create(self.dir)?, Vec::new())
        };
        let mut progress = Progress::new(Mode::choose(self.start.quiet, total), total, self.trainer.step);
        let clock = Instant::now();
        while self.trainer.step < total {
            let step = self.trainer.step;
            if epoch.0 != step / per_epoch {
                epoch = (step / per_epoch, self.micro_batches((step / per_epoch) as u64)?);
            }
            let first = step % per_epoch * c.accumulate;
            let micro = &epoch.1[first..(first + c.accumulate).min(epoch.1.len())];
            let mut line = self.step(micro, schedule.ratio(step + 1))?;
            line.epoch = (step + 1) as f64 / per_epoch as f64;
            let done = self.trainer.step;
            let due = |every: usize| (every > 0 && done.is_multiple_of(every)) || done == total;
            let mut verdict = Verdict::Wait;
            if due(self.config.eval.every) && !self.data.validation.is_empty() {
                let validation = self.validate()?;
                verdict = stop.judge(done, validation.joint_loss);
                line.validation = Some(validation);
            }
            progress.step(&line);
            log.write(&line)?;
            steps.push(line);
            if verdict == Verdict::Best && c.patience > 0 {
                best = Some(self.trainer.params.read_masters()?);
            }
            if due(self.config.output.save_every) || interrupt.requested() {
                save_state(self.config, &self.trainer, best.as_ref(), self.millijoules(), self.dir)?;
                save_result(self.config, &self.trainer, self.dir)?;
            }
            if interrupt.requested() && done < total {
                progress.finish();
                println!("{}", Interrupt::farewell(self.whole, done, total));
                return Ok(None);
            }
            if verdict == Verdict::Stop {
                break;
            }
        }
        progress.finish();
        if let (Some(masters), Some((loss, step))) = (best, stop.best()) {
            println!("the best validation loss, {loss:.4}, was at step {step}: its weights are kept");
            self.trainer.params.write_masters(&masters)?;
        }
        Ok(Some((steps, clock.elapsed().as_secs_f64())))
    }

    fn micro_batches(&self, epoch: u64) -> Result<Vec<MicroBatch>> {
        let seed = self.config.train.seed;
        pack_rows(&self.data.train, self.data.epoch(seed, epoch), room(self.config), seed, epoch)
    }

    fn step(&mut self, micro: &[MicroBatch], ratio: f64) -> Result<StepLog> {
        let c = self.config;
        let (clock, energy) = (Instant::now(), self.meter.read());
        let batches: Vec<Batch> = micro.iter().map(Batch::new).collect();
        let tokens: usize = batches.iter().map(|b| b.ids.len()).sum();
        let dropout = prepare::dropout(c, self.trainer.step);
        let options = RunOptions { keep: self.plan.keep.clone(), dropout };
        let rows = || micro.iter().flat_map(|m| &m.rows).map(|&r| self.data.train[r].id.clone()).collect::<Vec<_>>();
        let named = |e: Error| match e {
            Error::NotFinite(text) => Error::NotFinite(format!("{text} (rows {})", rows().join(", "))),
            other => other,
        };
        let losses = self.trainer.gradients(&batches, &options).map_err(named)?;
        let (lr, head_lr) = (c.train.lr * ratio, c.train.head_lr * ratio);
        let grad_norm = self.trainer.update(lr, head_lr).map_err(named)?;
        self.device.synchronize()?;
        let (seconds, joules) = (clock.elapsed().as_secs_f64(), self.meter.since(energy));
        let flops = tokens as f64 * self.flops.token + losses.n_targets as f64 * self.flops.target;
        Ok(StepLog {
            step: self.trainer.step,
            epoch: 0.0,
            lm_loss: losses.lm,
            ce_loss: (!self.trainer.heads.is_empty()).then_some(losses.ce),
            head_losses: self.head_losses(&losses),
            joint_loss: losses.joint,
            lr,
            head_lr,
            grad_norm,
            tokens,
            targets: losses.n_targets,
            tokens_per_second: tokens as f64 / seconds,
            ceiling_fraction: (self.ceiling > 0.0).then(|| flops / seconds / self.ceiling),
            peak_device_bytes: self.device.peak_bytes(),
            seconds,
            joules,
            validation: None,
        })
    }

    /// Energy of the whole run so far, in all its parts; none where one of them was not measured.
    fn millijoules(&self) -> Option<u64> {
        let here = self.meter.since(self.spent.begun)?;
        Some(self.spent.millijoules? + (here * 1e3).round() as u64)
    }

    fn energy(&self, steps: &[StepLog]) -> Energy {
        let of =
            |s: &StepLog| energy::Step { joules: s.joules, tokens: s.tokens, targets: s.targets, seconds: s.seconds };
        let whole = self.millijoules().map(|millijoules| millijoules as f64 / 1e3);
        Energy::of(self.meter.what(), steps.iter().map(of), whole, self.config.machine.grid_factor)
    }

    /// The loss of each head by its name, where there are several.
    fn head_losses(&self, losses: &Losses) -> BTreeMap<String, f64> {
        let named = self.trainer.heads.iter().zip(&losses.heads).filter(|_| self.trainer.heads.len() > 1);
        named.filter(|(_, loss)| loss.n_labelled > 0).map(|(head, loss)| (head.config.name.clone(), loss.ce)).collect()
    }

    fn validate(&self) -> Result<Validation> {
        let micro = pack(&self.data.validation, room(self.config), 0, 0)?;
        let batches: Vec<Batch> = micro.iter().map(Batch::new).collect();
        let losses = self.trainer.losses(&batches)?;
        let head = !self.trainer.heads.is_empty();
        Ok(Validation {
            lm_loss: losses.lm,
            ce_loss: head.then_some(losses.ce),
            joint_loss: losses.joint,
            eci_accuracy: losses.accuracy().filter(|_| head),
        })
    }

    fn test(&self, when: &str) -> Result<Scores> {
        if self.data.test.is_empty() {
            return Ok(Scores::default());
        }
        let data = &self.data;
        let evaluate = Evaluate {
            tokenizer: &data.tokenizer,
            prompt: &data.prompt,
            room: room(self.config),
            cached_tokens: self.plan.cached_tokens,
            max_new: if data.sets.is_empty() { 0 } else { self.config.eval.new_tokens },
            logprob: false,
        };
        let questions = Questions { rows: &data.test, records: &data.test_records, sets: &data.sets };
        if !self.start.quiet {
            println!("testing {when} training: {} rows", self.data.test.len());
        }
        let evaluation = evaluate.run(self.trainer.subject(), questions, |_| ())?;
        // Before training it is the first step that says so.
        if when == "after" && !evaluation.lm_loss.is_finite() {
            return Err(Error::NotFinite(format!(
                "the LM loss of the test rows after training is {}; look at the last losses in log.jsonl",
                evaluation.lm_loss
            )));
        }
        Ok(Scores::of(evaluation, &data.sets))
    }

    fn report(
        &self,
        before: &Scores,
        after: &Scores,
        steps: &[StepLog],
        seconds: f64,
        sha256: String,
    ) -> Result<Report> {
        let memory = self.device.memory_use();
        let trained: f64 = steps.iter().map(|s| s.seconds).sum();
        let tokens: usize = steps.iter().map(|s| s.tokens).sum();
        let mut report = Report {
            device: self.device.name(),
            compute: self.config.machine.compute.name().into(),
            model: self.config.model.path.display().to_string(),
            seconds: self.clock.elapsed().as_secs_f64().max(seconds),
            tokens_per_second: tokens as f64 / trained.max(1e-9),
            peak_device_bytes: memory.peak_bytes,
            planned_device_bytes: self.plan.arena,
            layers_keep: describe_layers(&self.plan.keep),
            adapter_sha256: sha256,
            energy: self.energy(steps),
            ..Report::default()
        };
        report.data.train = self.data.train.len();
        report.data.test = self.data.test.len();
        let tested = !self.data.test.is_empty();
        let was_tested = tested && !self.start.resume;
        report.lm.loss_before = was_tested.then_some(before.evaluation.lm_loss);
        report.lm.loss_after = tested.then_some(after.evaluation.lm_loss);
        (report.text.accuracy_before, report.text.accuracy_after) =
            (accuracy(&before.texts()), accuracy(&after.texts()));
        (report.eci.accuracy_before, report.eci.accuracy_after) = (accuracy(&before.heads()), accuracy(&after.heads()));
        report.eci.macro_f1_after = mean(&after.heads(), Confusion::macro_f1);
        let either = if after.heads().is_empty() { after.texts() } else { after.heads() };
        report.eci.majority = mean(&either, Confusion::majority);
        if after.sets.len() > 1 {
            let of_set = |(name, head, text): &(String, Option<Confusion>, Option<Confusion>)| SetScores {
                name: name.clone(),
                test_rows: head.as_ref().or(text.as_ref()).map_or(0, Confusion::total),
                text_accuracy: text.as_ref().and_then(Confusion::accuracy),
                eci_accuracy: head.as_ref().and_then(Confusion::accuracy),
                eci_macro_f1: head.as_ref().and_then(Confusion::macro_f1),
                majority: head.as_ref().or(text.as_ref()).and_then(Confusion::majority),
            };
            report.sets = after.sets.iter().map(of_set).collect();
        }
        report.write(self.dir)?;
        let at_peak: Vec<(String, usize)> = memory.at_peak.into_iter().collect();
        let title = self.dir.display().to_string();
        let settings = self.config.settings()?;
        let several = after.sets.len() > 1;
        let titled = |title: &str, name: &str| if several { format!("{title}, {name}") } else { title.to_string() };
        let of_set = |(name, head, text): &(String, Option<Confusion>, Option<Confusion>)| {
            let head = head.clone().map(|c| (titled("ECI head", name), c));
            head.into_iter().chain(text.clone().map(|c| (titled("Written answers", name), c))).collect::<Vec<_>>()
        };
        let matrices: Vec<(String, Confusion)> = after.sets.iter().flat_map(of_set).collect();
        let page =
            Page { title: &title, report: &report, steps, matrices: &matrices, memory: &at_peak, settings: &settings };
        page.write(self.dir)?;
        println!("{}", report.table());
        println!("{}", report.closing(self.dir));
        let (planned, measured) = (self.plan.arena, memory.peak_bytes);
        match planned == measured {
            true => println!("device memory: planned and measured {} ({measured} bytes)", bytes::readable(measured)),
            false => println!("device memory: planned {planned} bytes, measured {measured}"),
        }
        Ok(report)
    }
}
