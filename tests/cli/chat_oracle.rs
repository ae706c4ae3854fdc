//! `chat --once` on a Hugging Face folder says token for token what transformers' greedy generate says: ten prompts, two models (plain and
//! grouped heads, two kinds of tokenizer), alone, with a PEFT adapter and with a repetition penalty. tools/golden/generate.py wrote what
//! is expected, and saw to it that no choice is close enough for the order of sums to decide.

use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/chat").join(name)
}

/// What was expected of a model in one variant.
fn expected(model: &str, variant: &str) -> (Vec<Value>, String, String) {
    let text = std::fs::read_to_string(folder(model).join("expected.json")).expect("a golden file");
    let mut all: Value = serde_json::from_str(&text).expect("JSON");
    let Value::Array(answers) = all[variant].take() else { panic!("no variant {variant}") };
    (answers, all["new_tokens"].to_string(), all["factor"].to_string())
}

/// What the binary says to the ten prompts.
fn answers(model: &str, variant: &str, compute: &str) -> Vec<Value> {
    let (_, new_tokens, penalty) = expected(model, variant);
    let mut command = Command::new(env!("CARGO_BIN_EXE_chat"));
    command.arg("--once").arg("--model").arg(folder(model)).arg("--in").arg(folder("prompts.jsonl"));
    command.args(["--quant", "none", "--device", "cpu", "--threads", "2", "--quiet", "--compute", compute]);
    command.args(["--new-tokens", &new_tokens]);
    match variant {
        "adapter" => drop(command.arg("--adapter").arg(folder(model).join("adapter"))),
        "penalty" => drop(command.args(["--repetition-penalty", &penalty])),
        _ => {}
    }
    let output = command.output().expect("a process that starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8(output.stdout).expect("UTF-8");
    stdout.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

fn holds(variant: &str) {
    for model in ["mha", "gqa"] {
        let (expected, ..) = expected(model, variant);
        let got = answers(model, variant, "fp32");
        assert_eq!((got.len(), expected.len()), (10, 10));
        for (got, want) in got.iter().zip(&expected) {
            let what = format!("{model}, {variant}, {}", want["id"]);
            assert_eq!(got["id"], want["id"], "{what}");
            assert_eq!(got["n_prompt"].as_u64(), want["prompt"].as_array().map(|ids| ids.len() as u64), "{what}");
            assert_eq!(got["tokens"], want["tokens"], "{what}");
            assert_eq!((&got["answer"], &got["finish"]), (&want["answer"], &want["finish"]), "{what}");
        }
        // A test of ends needs both of them.
        for finish in ["eos", "length"] {
            assert!(expected.iter().filter(|answer| answer["finish"] == finish).count() >= 2, "{model}, {variant}");
        }
        // In bf16 a close choice may fall otherwise; how often is worth seeing.
        let rounded = answers(model, variant, "bf16");
        let same = rounded.iter().zip(&expected).filter(|(got, want)| got["tokens"] == want["tokens"]).count();
        println!("{model}, {variant}: {same} of 10 answers are the same in bf16");
    }
}

#[test]
fn a_model_alone_says_what_transformers_says() {
    holds("alone");
}

#[test]
fn an_adapter_says_what_peft_says() {
    holds("adapter");
}

#[test]
fn a_repetition_penalty_acts_as_in_transformers() {
    holds("penalty");
}
