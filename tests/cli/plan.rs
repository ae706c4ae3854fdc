//! The memory plan: what it prints, what it promises, and that a run keeps to it byte for byte.

use super::{Bench, assert_says, report, text};
use crate::common::fixture::{VOCAB, tiny_config, weight, write_json, write_tensors};
use llamacare::data::SplitMix64;
use serde_json::json;
use std::collections::BTreeSet;

/// Sizes of a model.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    hidden: usize,
    mlp: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocab: usize,
}

const SEVEN_B: Sizes =
    Sizes { hidden: 4096, mlp: 11008, layers: 32, heads: 32, kv_heads: 32, head_dim: 128, vocab: 32000 };
const THIRTEEN_B: Sizes = Sizes { hidden: 5120, mlp: 13824, layers: 40, heads: 40, kv_heads: 40, ..SEVEN_B };

fn write_config(bench: &Bench, s: Sizes) {
    let mut config = tiny_config();
    for (field, value) in [
        ("hidden_size", s.hidden),
        ("intermediate_size", s.mlp),
        ("num_hidden_layers", s.layers),
        ("num_attention_heads", s.heads),
        ("num_key_value_heads", s.kv_heads),
        ("head_dim", s.head_dim),
        ("vocab_size", s.vocab),
        ("max_position_embeddings", 4096),
    ] {
        config[field] = json!(value);
    }
    write_json(&bench.path("model/config.json"), &config);
}

fn write_model(bench: &Bench, s: Sizes) {
    write_config(bench, s);
    let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
    let mut shapes = vec![
        ("model.embed_tokens".to_string(), vec![s.vocab, s.hidden]),
        ("lm_head".into(), vec![s.vocab, s.hidden]),
        ("model.norm".into(), vec![s.hidden]),
    ];
    for layer in 0..s.layers {
        let parts = [
            ("input_layernorm", vec![s.hidden]),
            ("post_attention_layernorm", vec![s.hidden]),
            ("self_attn.q_proj", vec![q, s.hidden]),
            ("self_attn.k_proj", vec![kv, s.hidden]),
            ("self_attn.v_proj", vec![kv, s.hidden]),
            ("self_attn.o_proj", vec![s.hidden, q]),
            ("mlp.gate_proj", vec![s.mlp, s.hidden]),
            ("mlp.up_proj", vec![s.mlp, s.hidden]),
            ("mlp.down_proj", vec![s.hidden, s.mlp]),
        ];
        shapes.extend(parts.map(|(part, shape)| (format!("model.layers.{layer}.{part}"), shape)));
    }
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let name = format!("{name}.weight");
        (name.clone(), weight(&name, shape))
    };
    write_tensors(&bench.path("model"), &shapes.into_iter().map(tensor).collect());
}

/// `--plan` with the 13B recipe: what it says.
fn plan(bench: &Bench, flags: &str) -> std::process::Output {
    let flags = format!("--config llama2-13b --plan {flags}");
    let mut arguments: Vec<std::ffi::OsString> = flags.split_whitespace().map(Into::into).collect();
    for (flag, path) in [("--model", "model"), ("--data", "rows.json"), ("--out", "out")] {
        arguments.extend([flag.into(), bench.path(path).into()]);
    }
    super::finetune(arguments)
}

fn planned(bench: &Bench, flags: &str) -> String {
    let output = plan(bench, flags);
    assert!(output.status.success(), "{flags}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// The number of tokens at the end of the line with these words.
fn tokens(said: &str, words: &str) -> usize {
    let line = said.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("no {words}: {said}"));
    line.split_whitespace().rev().nth(1).and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{line}"))
}

#[test]
fn the_plan_needs_a_configuration_only() {
    let bench = Bench::new();
    for name in ["model.safetensors", "tokenizer.json"] {
        std::fs::remove_file(bench.path("model").join(name)).unwrap();
    }
    let said = bench.trained("out", "--plan");
    assert_says(&said, &["device memory at the peak", "NF4 codes", "gate, up", "layers keep outputs:1", "largest"]);
    assert!(!bench.path("out").exists());
}

/// The promises of the recipe: Llama-2-13B, r = 16 on seven linears, the paper's head at 1200 positions, fp32 Adam.
#[test]
fn llama_2_13b_fits_its_gpu() {
    let bench = Bench::new();
    write_config(&bench, THIRTEEN_B);
    let said = planned(&bench, "--budget 24GiB --tokens 2816");
    assert_says(&said, &["layers keep outputs:40; modelled time of a step +0.0 %"]);
    assert!(tokens(&said, "no product made twice") >= 2816, "{said}");
    let said = planned(&bench, "--budget 20.5GiB --tokens 2048");
    assert_says(&said, &["layers keep outputs:40; modelled time of a step +0.0 %"]);
    for (budget, n) in [("16GiB", 2048), ("12GiB", 1200)] {
        let said = planned(&bench, &format!("--budget {budget} --tokens {n} --host-budget 1MiB"));
        assert!(!said.contains("layers keep outputs:40"), "{budget}: {said}");
        assert!(tokens(&said, "layers computed again") >= n, "{budget}: {said}");
    }
    let refused = plan(&bench, "--budget 8GiB --tokens 1200");
    assert_eq!(refused.status.code(), Some(2));
    assert_says(&text(&refused.stderr), &["even when every layer keeps its input alone", "lower --tokens", "--budget"]);
}

/// A GPU's budget holds what the driver takes as well; a plan for the CPU device has no driver.
#[test]
fn the_drivers_own_memory_counts() {
    let bench = Bench::new();
    write_config(&bench, THIRTEEN_B);
    let gpu = planned(&bench, "--budget 21040MiB --tokens 2048");
    assert_says(&gpu, &["the driver's own context    560 MiB"]);
    let cpu = planned(&bench, "--budget 20480MiB --tokens 2048 --device cpu");
    assert!(!cpu.contains("the driver's own"), "{cpu}");
    let largest = |said: &str| ["no product made twice", "layers computed again"].map(|words| tokens(said, words));
    assert_eq!(largest(&gpu), largest(&cpu));
    let too_much = format!("--budget 20480MiB --keep outputs --tokens {}", largest(&cpu)[0]);
    planned(&bench, &format!("{too_much} --device cpu"));
    assert_says(
        &text(&plan(&bench, &too_much).stderr),
        &["of device memory with --keep outputs, the budget is 20.0 GiB"],
    );
}

/// The oldest layers' activations wait longest for their backward, so theirs are moved first; pinned memory has a budget of
/// its own, of 108 MiB a layer here.
#[test]
fn the_oldest_layers_give_way_first_and_pinned_memory_stays_in_its_budget() {
    let bench = Bench::new();
    write_config(&bench, THIRTEEN_B);
    let said = planned(&bench, "--budget 16GiB --tokens 2048");
    let n: usize = said.split("layers keep host:").nth(1).and_then(|s| s.split(',').next()?.parse().ok()).expect(&said);
    assert_says(&said, &[&format!("layers keep host:{n},outputs:{}; modelled time of a step +0.0 %", 40 - n)]);
    let said = planned(&bench, "--budget 16GiB --tokens 2048 --host-budget 1GiB");
    assert_says(&said, &["layers keep host:9,input:", ",eight:", ", 972 MiB of pinned host memory"]);
    let refused = plan(&bench, "--budget 16GiB --tokens 2048 --host-budget 1GiB --keep host");
    assert_eq!(refused.status.code(), Some(2));
    let says = "needs 4.22 GiB of pinned host memory with --keep host, the host budget is 1.00 GiB; leave out --keep";
    assert_says(&text(&refused.stderr), &[says]);
}

/// Ten random models, budgets and policies: every run reaches exactly what its plan said, to the byte.
#[test]
fn measured_is_planned_to_the_byte() {
    let mut random = SplitMix64::new(11, 0);
    let mut any = |choices: &[usize]| choices[random.below(choices.len())];
    let (mut seen, mut refused) = (BTreeSet::new(), 0);
    for case in 0..10 {
        let (head_dim, kv_heads) = (any(&[16, 32, 64]), any(&[1, 2]));
        let sizes = Sizes {
            hidden: any(&[64, 128, 192]),
            mlp: any(&[64, 136, 256]),
            layers: any(&[1, 2, 3, 5]),
            heads: kv_heads * any(&[1, 2, 3]),
            kv_heads,
            head_dim,
            vocab: VOCAB + any(&[0, 3, 100]),
        };
        let bench = Bench::new();
        write_model(&bench, sizes);
        let head =
            ["--eci paper --eci-positions 300 --eci-dims 16,8", "--eci mean", "--eci last", "--eci none"][case % 4];
        let flags = format!(
            "{head} --rank {} --tokens {} --rows {} --accumulate {} --dropout 0.{} --quant {} {}",
            any(&[4, 16, 24]),
            any(&[260, 600, 900]),
            any(&[1, 2, 64]),
            any(&[1, 2]),
            any(&[0, 1]),
            ["nf4", "nf4", "none"][any(&[0, 1, 2])],
            ["", "--no-double-quant"][any(&[0, 1])],
        );
        let forced = ["outputs", "eight", "host", "gateup", "input", "auto"][case % 6];
        bench.trained("free", &format!("{flags} --keep outputs"));
        let most = report(&bench.path("free"))["planned_device_bytes"].as_u64().unwrap() as usize;
        // Where the policy is not given it is the budget that decides: somewhat less than everything would take.
        let policy = match forced {
            "auto" => format!("--budget {}B", most * any(&[80, 88, 96]) / 100),
            name => format!("--keep {name}"),
        };
        let output = bench.run("run", &format!("{flags} {policy}"));
        if output.status.code() == Some(2) && forced == "auto" {
            refused += 1;
            continue;
        }
        assert!(output.status.success(), "{sizes:?} {flags} {policy}: {}", text(&output.stderr));
        for out in ["free", "run"] {
            let report = report(&bench.path(out));
            let (planned, measured) = (&report["planned_device_bytes"], &report["peak_device_bytes"]);
            assert_eq!(planned, measured, "{out}: {sizes:?} {flags} {policy}");
            let layers = report["layers_keep"].as_str().unwrap();
            let config = std::fs::read_to_string(bench.path(out).join("config.toml")).unwrap();
            // What rounds activations is written down, so that a resumed run rounds the same ones.
            assert!(!layers.contains("eight") || config.contains("keep = \"eight"), "{layers}: {config}");
            seen.insert(layers.to_string());
        }
        assert_says(&text(&output.stdout), &["device memory: planned and measured"]);
    }
    assert!(refused <= 1 && seen.len() >= 6, "too few different plans: {seen:?}, {refused} refused");
}

/// The same adapter whatever the layers keep, with and without dropout; only 8-bit storage makes another one.
#[test]
fn what_layers_keep_changes_no_bit_of_the_adapter() {
    let bench = Bench::new();
    write_model(&bench, Sizes { hidden: 64, mlp: 64, layers: 3, heads: 2, kv_heads: 1, head_dim: 32, vocab: VOCAB });
    for dropout in ["0", "0.2"] {
        let trained = |keep: &str| {
            let out = format!("{keep}{dropout}");
            bench.trained(&out, &format!("--keep {keep} --dropout {dropout}"));
            bench.adapter_sha256(&out)
        };
        let all = trained("outputs");
        for keep in ["host", "gateup", "input", "host:1,gateup:1,input"] {
            assert_eq!(trained(keep), all, "{keep}, dropout {dropout}");
        }
        assert_ne!(trained("eight"), all, "dropout {dropout}");
    }
}
