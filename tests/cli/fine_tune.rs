//! Whole runs: what they leave behind, and what may not change their result.

use super::{Bench, assert_says, report};
use llamacare::checkpoint::{LlamaConfig, check_adapter, load_adapter, load_heads};
use llamacare::train::log::{self, StepLog};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// The names that report.json promises.
const REPORT: [&str; 28] = [
    "device",
    "compute",
    "model",
    "data.train",
    "data.test",
    "seconds",
    "tokens_per_second",
    "peak_device_bytes",
    "planned_device_bytes",
    "layers_keep",
    "lm.loss_before",
    "lm.loss_after",
    "text.accuracy_before",
    "text.accuracy_after",
    "eci.accuracy_before",
    "eci.accuracy_after",
    "eci.macro_f1_after",
    "eci.majority",
    "energy.measured",
    "energy.steps",
    "energy.joules_per_step",
    "energy.joules_per_token",
    "energy.joules_per_target_token",
    "energy.watts",
    "energy.kwh",
    "energy.grid_factor",
    "energy.co2_grams",
    "adapter_sha256",
];

fn names(value: &Value, prefix: &str) -> BTreeSet<String> {
    let Some(map) = value.as_object() else { return BTreeSet::from([prefix.to_string()]) };
    let join = |key: &String| if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
    map.iter().flat_map(|(key, value)| names(value, &join(key))).collect()
}

fn steps(bench: &Bench, out: &str) -> Vec<StepLog> {
    log::read(&bench.path(out).join("log.jsonl")).expect("a log")
}

#[test]
fn a_run_leaves_its_report_its_log_and_an_adapter_that_loads() {
    let bench = Bench::new();
    let said = bench.trained("out", "--steps 4");
    assert_says(&said, &["3 test rows", "LM loss", "ECI accuracy", "report.html"]);
    let out = bench.path("out");

    let report = report(&out);
    assert_eq!(names(&report, ""), REPORT.map(String::from).into());
    assert_eq!((report["data"]["train"].as_u64(), report["data"]["test"].as_u64()), (Some(8), Some(3)));
    for name in REPORT.iter().filter(|name| name.contains("loss") || name.contains("seconds")) {
        let value = name.split('.').fold(&report, |value, key| &value[key]).as_f64();
        assert!(value.is_some_and(|v| v > 0.0), "{name} is {value:?}");
    }
    let (before, after) = (&report["lm"]["loss_before"], &report["lm"]["loss_after"]);
    assert!(after.as_f64() < before.as_f64(), "nothing was learnt: {before} then {after}");

    let steps = steps(&bench, "out");
    assert_eq!(steps.iter().map(|s| s.step).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(steps.iter().all(|s| s.lm_loss.is_finite() && s.grad_norm > 0.0 && s.ce_loss.is_some() && s.lr > 0.0));
    assert!(steps[3].validation.is_some());

    let (config, tensors) = load_adapter(&out).expect("an adapter");
    assert_eq!((config.r, tensors.len()), (4, 14));
    check_adapter(&LlamaConfig::load(&bench.path("model")).unwrap(), &config, &tensors).expect("of this model");
    let file = std::fs::read(out.join("adapter_model.safetensors")).unwrap();
    let sha256: String = Sha256::digest(&file).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(report["adapter_sha256"], sha256.as_str());
    let heads = load_heads(&out).expect("a head");
    assert_eq!((heads.heads.len(), &heads.heads[0].0.name[..]), (1, "maybe-no-yes"));
    let labels = heads.heads[0].0.labels.clone();
    assert_eq!((labels, heads.adapter_sha256), (["maybe", "no", "yes"].map(String::from).into(), Some(sha256)));
    assert!(std::fs::read_to_string(out.join("report.html")).unwrap().contains("<svg"));
}

#[test]
fn the_seed_decides_and_threads_do_not() {
    let bench = Bench::new();
    bench.trained("a", "--threads 1");
    bench.trained("b", "--threads 2");
    bench.trained("c", "--threads 3");
    bench.trained("d", "--seed 2");
    assert_eq!(bench.adapter_sha256("a"), bench.adapter_sha256("b"));
    assert_eq!(bench.adapter_sha256("a"), bench.adapter_sha256("c"));
    assert_ne!(bench.adapter_sha256("a"), bench.adapter_sha256("d"));
}

#[test]
fn accumulation_splits_a_step_without_changing_it() {
    let bench = Bench::new();
    // Each step takes all 8 rows: as one micro-batch, as two or three, and row by row.
    for (out, split) in
        [("one", "--tokens 4000"), ("few", "--tokens 600 --accumulate 8"), ("rows", "--tokens 300 --accumulate 8")]
    {
        bench.trained(out, &format!("--compute fp32 --steps 3 --eci mean {split}"));
    }
    let whole = steps(&bench, "one");
    for out in ["few", "rows"] {
        for (split, whole) in steps(&bench, out).iter().zip(&whole) {
            assert_eq!(split.tokens, whole.tokens);
            for (what, got, want) in [
                ("LM loss", split.lm_loss, whole.lm_loss),
                ("CE loss", split.ce_loss.unwrap(), whole.ce_loss.unwrap()),
                ("gradient norm", split.grad_norm, whole.grad_norm),
            ] {
                let error = ((got - want) / want).abs();
                assert!(error <= 1e-5, "{out}, step {}, {what}: {got}, in one piece {want}", whole.step);
            }
        }
    }
}

#[test]
fn every_kind_of_head_trains_and_none_does_too() {
    let bench = Bench::new();
    for kind in ["paper --eci-positions 300 --eci-dims 16,8", "mean", "last", "max", "none"] {
        let out = kind.split(' ').next().unwrap();
        bench.trained(out, &format!("--eci {kind}"));
        let report = report(&bench.path(out));
        assert_eq!(report["eci"]["accuracy_after"].is_null(), kind == "none", "{kind}");
        assert!(report["lm"]["loss_after"].is_number(), "{kind}");
    }
}
