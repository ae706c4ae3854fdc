//! A run that was stopped goes on as if it had not been.

use super::{Bench, assert_says, finetune, refusal, report, text};
use assert_cmd::Command;
use llamacare::train::log;
use std::ffi::OsString;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

/// Long enough that Ctrl-C comes in the middle.
const STEPS: usize = 100;

/// Runs `finetune` into `out` and sends Ctrl-C when this step is logged. Gives the step it stopped after.
fn interrupted(bench: &Bench, out: &str, step: usize, more: &str) -> usize {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_finetune"))
        .args(bench.arguments(out, more))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process that starts");
    let path = bench.path(out).join("log.jsonl");
    wait(&mut child, || std::fs::read_to_string(&path).is_ok_and(|log| log.lines().count() >= step));
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.is_ok_and(|status| status.success()));
    let output = child.wait_with_output().expect("an end");
    let said = text(&output.stdout);
    assert_says(&text(&output.stderr), &["Stopping: this step is finished and saved first."]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let done = log::read(&path).expect("a log").len();
    assert_says(&said, &[&format!("Stopped after step {done} of {STEPS}; all is saved. To go on: finetune --resume ")]);
    assert!(!bench.path(out).join("report.json").exists());
    done
}

fn wait(child: &mut Child, ready: impl Fn() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(child.try_wait().expect("a child").is_none(), "it ended before it was stopped");
        assert!(start.elapsed() < Duration::from_secs(300), "too slow");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn resume(bench: &Bench, out: &str, more: &[&str]) -> Output {
    let words = more.iter().map(OsString::from);
    finetune(["--resume".into(), bench.path(out).into()].into_iter().chain(words))
}

#[test]
fn interrupted_and_resumed_equals_uninterrupted() {
    let bench = Bench::new();
    let more = format!("--steps {STEPS} --dropout 0.1 --eval-every 20 --save-every 0 --accumulate 2");
    bench.trained("whole", &more);
    interrupted(&bench, "parts", 1, &more);
    let output = resume(&bench, "parts", &["--quiet", "--threads", "1"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(bench.adapter_sha256("parts"), bench.adapter_sha256("whole"));
    let losses = |out: &str| {
        let steps = log::read(&bench.path(out).join("log.jsonl")).expect("a log");
        steps.into_iter().map(|s| (s.step, s.lm_loss, s.ce_loss, s.grad_norm, s.lr)).collect::<Vec<_>>()
    };
    assert_eq!(losses("parts"), losses("whole"));
}

#[test]
fn states_in_8_bits_learn_alike_and_resume_bit_for_bit() {
    let bench = Bench::new();
    let more = |states| format!("--steps {STEPS} --dropout 0.1 --save-every 0 --optimizer-states {states}");
    bench.trained("fp32", &more("fp32"));
    bench.trained("whole", &more("eight"));
    let stopped = interrupted(&bench, "parts", 10, &more("eight"));
    let output = resume(&bench, "parts", &["--quiet"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(bench.adapter_sha256("parts"), bench.adapter_sha256("whole"), "stopped after {stopped}");
    let losses = |out: &str| {
        let steps = log::read(&bench.path(out).join("log.jsonl")).expect("a log");
        steps.into_iter().map(|s| s.joint_loss).collect::<Vec<_>>()
    };
    let (fp32, eight) = (losses("fp32"), losses("whole"));
    assert_eq!(losses("parts"), eight);
    // The first step starts from the same weights; what 8 bits round shows soon, and stays small.
    assert_eq!(fp32[0], eight[0]);
    let worst = fp32.iter().zip(&eight).map(|(a, b)| (b / a - 1.0).abs()).fold(0.0, f64::max);
    println!("joint loss {:.4} to {:.4}, worst {worst:.2e}", fp32[0], fp32[STEPS - 1]);
    assert!(fp32[STEPS - 1] < 0.9 * fp32[0] && worst > 0.0 && worst < 0.02, "{worst}");
    let held = |out: &str| report(&bench.path(out))["planned_device_bytes"].as_u64().expect("bytes");
    assert!(held("whole") < held("fp32"));
}

#[test]
fn the_best_weights_survive_an_interruption() {
    let bench = Bench::new();
    // The head learns so fast that the validation loss soon only rises: what is kept at the end lies before Ctrl-C. Not with
    // every seed is that soon enough to be stopped after it.
    let loss = |s: &log::StepLog| s.validation.as_ref().expect("one each step").joint_loss;
    let early = (1..=12).find_map(|seed| {
        let more = format!(
            "--steps {STEPS} --eval-every 1 --patience 1000 --lr 0.01 --head-lr 0.3 --eci-weight 0.8 --warmup 0 \
             --schedule constant --seed {seed} --overwrite"
        );
        let said = bench.trained("whole", &more);
        let steps = log::read(&bench.path("whole").join("log.jsonl")).expect("a log");
        let best = steps.iter().min_by(|a, b| loss(a).total_cmp(&loss(b))).expect("a step").step;
        (best < STEPS / 2).then_some((more, said, best))
    });
    let (more, whole, best) = early.expect("a seed whose best step comes early");
    let kept = format!("was at step {best}: its weights are kept");
    assert_says(&whole, &[&kept]);
    interrupted(&bench, "parts", best + 1, &more);
    let output = resume(&bench, "parts", &["--quiet"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_says(&text(&output.stdout), &[&kept]);
    assert_eq!(bench.adapter_sha256("parts"), bench.adapter_sha256("whole"));
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_leaves_the_last_good_state() {
    let bench = Bench::new();
    let more = format!("--steps {STEPS} --rank 16 --save-every 5");
    let done = interrupted(&bench, "out", 1, &more);
    let state = std::fs::read(bench.path("out/run_state.safetensors")).unwrap();
    // No file may grow beyond 64 blocks of 512 or 1024 bytes: the log fits, the state does not. With SIGXFSZ ignored the
    // write fails as it does on a full disk.
    assert!(state.len() > 64 * 1024);
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" --resume \"$1\" --quiet"])
        .args([env!("CARGO_BIN_EXE_finetune").as_ref(), bench.path("out").as_os_str()])
        .output()
        .expect("a process that starts");
    assert_says(
        &refusal(&output, 1),
        &["run_state.safetensors", "could not be saved", "what was saved before is untouched"],
    );
    assert_eq!(std::fs::read(bench.path("out/run_state.safetensors")).unwrap(), state, "step {done}");
    assert!(!bench.path("out/report.json").exists());

    let output = resume(&bench, "out", &["--quiet"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    bench.trained("whole", &more);
    assert_eq!(bench.adapter_sha256("out"), bench.adapter_sha256("whole"));
}
