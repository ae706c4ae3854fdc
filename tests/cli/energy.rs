//! Energy as a user meets it, counted by a made-up CPU: the real binaries read RAPL's files from a folder that the test keeps moving.

use super::{Bench, assert_says, report, text};
use llamacare::train::log::{self, StepLog};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Where the made-up counter starts again, in microjoules.
const RANGE: u64 = 100_000_000_000;
const JOULE: u64 = 1_000_000;

/// A processor that takes some joules every two milliseconds until it is dropped.
struct Cpu {
    folder: TempDir,
    /// Microjoules it has taken.
    taken: Arc<AtomicU64>,
    off: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Cpu {
    fn new() -> Cpu {
        Cpu::taking(1)
    }

    /// One that takes so many joules at a time. Its counter starts again in the first second.
    fn taking(joules: u64) -> Cpu {
        let begin = RANGE - 50 * joules * JOULE;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let package = folder.path().join("intel-rapl:0");
        std::fs::create_dir(&package).expect("a folder");
        for (file, value) in
            [("name", "package-0"), ("max_energy_range_uj", &RANGE.to_string()), ("energy_uj", &begin.to_string())]
        {
            std::fs::write(package.join(file), value).expect("room on the disk");
        }
        let (taken, off) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (sum, stop) = (taken.clone(), off.clone());
        let thread = std::thread::spawn(move || {
            while !stop.load(Relaxed) {
                let now = begin + sum.fetch_add(joules * JOULE, Relaxed);
                // Renamed into place: a reader sees the old number or the new one, as of the kernel's file.
                let new = package.join("new");
                std::fs::write(&new, (now % RANGE).to_string()).expect("room on the disk");
                std::fs::rename(&new, package.join("energy_uj")).expect("one disk");
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Cpu { folder, taken, off, thread: Some(thread) }
    }

    fn joules(&self) -> f64 {
        self.taken.load(Relaxed) as f64 / 1e6
    }

    /// A command that finds this processor, or none at all.
    fn command(this: Option<&Cpu>, binary: &str) -> Command {
        let folder = this.map_or(PathBuf::from("no-such-folder"), |cpu| cpu.folder.path().into());
        let mut command = Command::new(binary);
        command.env("LLAMACARE_RAPL", folder).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end, which must be good, and gives what it wrote on stdout.
    fn run<S: AsRef<std::ffi::OsStr>>(
        this: Option<&Cpu>,
        binary: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> String {
        let output = Cpu::command(this, binary).args(arguments).output().expect("a process that starts");
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        self.off.store(true, Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

const FINETUNE: &str = env!("CARGO_BIN_EXE_finetune");
const EVALUATE: &str = env!("CARGO_BIN_EXE_evaluate");

fn steps(bench: &Bench, out: &str) -> Vec<StepLog> {
    log::read(&bench.path(out).join("log.jsonl")).expect("a log")
}

fn sum(steps: &[StepLog]) -> f64 {
    steps.iter().map(|step| step.joules.expect("every step is measured")).sum()
}

fn number(report: &Value, name: &str) -> f64 {
    report["energy"][name].as_f64().unwrap_or_else(|| panic!("{name} of {}", report["energy"]))
}

/// Equal but for what a number loses on its way through text.
#[track_caller]
fn assert_near(got: f64, want: f64) {
    assert!((got / want - 1.0).abs() <= 1e-9, "{got}, not {want}");
}

#[test]
fn a_run_says_what_its_steps_and_tokens_took_and_the_whole_in_co2() {
    let (bench, cpu) = (Bench::new(), Cpu::new());
    let said = Cpu::run(Some(&cpu), FINETUNE, bench.arguments("out", "--steps 6 --grid-factor 250"));
    assert_says(&said, &["J a step", "J a token", "g CO2e at 250 g/kWh (CPU packages, RAPL counters"]);

    let (report, steps) = (report(&bench.path("out")), steps(&bench, "out"));
    let in_steps = sum(&steps);
    assert!(in_steps > 0.0 && number(&report, "steps") == 6.0);
    assert_near(number(&report, "joules_per_step"), in_steps / 6.0);
    let (tokens, targets): (usize, usize) = steps.iter().fold((0, 0), |(t, n), s| (t + s.tokens, n + s.targets));
    assert!(0 < targets && targets < tokens);
    assert_near(number(&report, "joules_per_token"), in_steps / tokens as f64);
    assert_near(number(&report, "joules_per_target_token"), in_steps / targets as f64);
    assert_near(number(&report, "watts"), in_steps / steps.iter().map(|s| s.seconds).sum::<f64>());

    // The whole run has its tests too, and cannot have taken more than there was.
    let whole = number(&report, "kwh") * 3.6e6;
    assert!(in_steps < whole && whole <= cpu.joules(), "{in_steps} in steps, {whole} in all, {} taken", cpu.joules());
    assert_near(number(&report, "co2_grams"), number(&report, "kwh") * 250.0);
    let page = std::fs::read_to_string(bench.path("out/report.html")).unwrap();
    assert_says(&page, &["g, at 250 g CO2e", "a target token", "Energy of a step"]);
}

#[test]
fn what_is_not_measured_is_missing_and_the_report_says_why() {
    let bench = Bench::new();
    let said = Cpu::run(None, FINETUNE, bench.arguments("out", ""));
    let why =
        "not measured: no-such-folder: No such file or directory (os error 2); this machine shows no RAPL counters";
    assert_says(&said, &[why]);
    assert_says(&std::fs::read_to_string(bench.path("out/report.html")).unwrap(), &[why]);
    assert!(!std::fs::read_to_string(bench.path("out/log.jsonl")).unwrap().contains("joules"));
    let energy = &report(&bench.path("out"))["energy"];
    for name in ["joules_per_step", "joules_per_token", "joules_per_target_token", "watts", "kwh", "co2_grams"] {
        assert!(energy[name].is_null(), "{name} of {energy}");
    }
    assert_eq!((energy["steps"].as_u64(), energy["grid_factor"].as_f64()), (Some(0), Some(458.0)));
}

/// Starts a long run into `out` and ends it after a few steps, by Ctrl-C.
fn interrupted(bench: &Bench, cpu: Option<&Cpu>, out: &str) {
    let arguments = bench.arguments(out, "--steps 100 --save-every 0");
    let mut child: Child = Cpu::command(cpu, FINETUNE).args(arguments).spawn().expect("a process that starts");
    let (log, start) = (bench.path(out).join("log.jsonl"), Instant::now());
    while !std::fs::read_to_string(&log).is_ok_and(|log| log.lines().count() >= 3) {
        assert!(child.try_wait().expect("a child").is_none(), "it ended before it was stopped");
        assert!(start.elapsed() < Duration::from_secs(300), "too slow");
        std::thread::sleep(Duration::from_millis(1));
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.is_ok_and(|status| status.success()));
    let output = child.wait_with_output().expect("an end");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(!bench.path(out).join("report.json").exists());
}

#[test]
fn a_resumed_run_has_the_energy_of_both_parts_and_not_of_the_time_between() {
    // The first part takes far more than the second, so that it cannot be missing in the sum.
    let (bench, first) = (Bench::new(), Cpu::taking(100));
    interrupted(&bench, Some(&first), "out");
    let (before, first_part) = (sum(&steps(&bench, "out")), first.joules());
    drop(first);

    // While nobody trained the counter went on: by as much as is not to be found in the report.
    let second = Cpu::new();
    second.taken.fetch_add(1_000_000 * JOULE, Relaxed);
    let idle = second.joules();
    Cpu::run(Some(&second), FINETUNE, ["--resume".into(), bench.path("out").into_os_string(), "--quiet".into()]);
    let (report, steps) = (report(&bench.path("out")), steps(&bench, "out"));
    let in_steps = sum(&steps);
    assert_eq!((steps.len(), number(&report, "steps")), (100, 100.0));
    assert_near(number(&report, "joules_per_step"), in_steps / 100.0);
    let (whole, second_part) = (number(&report, "kwh") * 3.6e6, second.joules() - idle);
    assert!(before < in_steps && in_steps < whole, "{before} then {in_steps} in steps, {whole} in all");
    assert!(whole <= first_part + second_part + 1.0, "{whole} in all, taken {first_part} and {second_part}");
    // More than the second part alone took: the first part is in it.
    assert!(whole > second_part, "{whole} in all, {second_part} in the second part");
}

#[test]
fn a_run_of_which_a_part_was_not_measured_has_no_total() {
    let (bench, cpu) = (Bench::new(), Cpu::new());
    interrupted(&bench, None, "out");
    let unmeasured = steps(&bench, "out").len();
    let resume = ["--resume".into(), bench.path("out").into_os_string(), "--quiet".into()];
    let said = Cpu::run(Some(&cpu), FINETUNE, resume);
    assert_says(&said, &["J a step", "not known of the whole run, a part of which was not measured"]);
    let report = report(&bench.path("out"));
    assert_eq!(number(&report, "steps"), (100 - unmeasured) as f64);
    assert!(report["energy"]["kwh"].is_null() && report["energy"]["co2_grams"].is_null());
}

#[test]
fn an_evaluation_says_what_a_question_and_a_written_token_took() {
    let (bench, cpu) = (Bench::new(), Cpu::new());
    bench.trained("a", "--eci mean --eci-dims 8");
    let ask = |cpu: Option<&Cpu>, out: &str| {
        let words = ["--device", "cpu", "--threads", "2", "--quiet", "--new-tokens", "6"].map(String::from);
        let folders = [("--adapter", "a"), ("--out", out)];
        let folders = folders.map(|(flag, name)| [flag.to_string(), bench.path(name).display().to_string()]);
        let said = Cpu::run(cpu, EVALUATE, words.into_iter().chain(folders.concat()));
        let json = std::fs::read_to_string(bench.path(out).join("evaluation.json")).unwrap();
        (said, serde_json::from_str::<Value>(&json).unwrap())
    };
    let (said, report) = ask(Some(&cpu), "e");
    let answers = std::fs::read_to_string(bench.path("e/answers.jsonl")).unwrap();
    let answers: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let written: u64 = answers.iter().map(|answer| answer["text"]["n_tokens"].as_u64().unwrap()).sum();
    let joules = number(&report, "joules");
    assert!(joules > 0.0 && written > 0);
    assert_near(number(&report, "joules_per_question"), joules / answers.len() as f64);
    assert_near(number(&report, "joules_per_generated_token"), joules / written as f64);
    assert_says(&said, &["energy: ", "J a question, ", "J a generated token, all readings together (CPU packages"]);
    for file in ["evaluation.html", "evaluation.md"] {
        assert_says(&std::fs::read_to_string(bench.path("e").join(file)).unwrap(), &["J a question, "]);
    }

    let (said, report) = ask(None, "unmeasured");
    assert_says(&said, &["energy: not measured: no-such-folder: "]);
    assert!(report["energy"]["joules"].is_null() && report["energy"]["joules_per_question"].is_null(), "{report}");
    assert_says(&std::fs::read_to_string(bench.path("unmeasured/evaluation.md")).unwrap(), &["energy: not measured"]);
}
