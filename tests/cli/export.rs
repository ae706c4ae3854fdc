//! `convert merge`, `fold` and `verify-adapter` as a user meets them, against PEFT's own merge (tools/golden/export.py), and what
//! they leave after a fault: nothing.

use super::convert::{hollow, memory_stays_below, refused_around, tensors};
use super::{Bench, assert_says, refusal, text};
use half::{bf16, f16};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub(super) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// `convert WHAT --model .. --adapter .. MORE`, on the CPU and without a Python.
pub(super) fn command(what: &str, model: &Path, adapter: &Path, out: Option<&Path>, more: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_convert"));
    command.arg(what).env_remove("LLAMACARE_PYTHON");
    if what != "fold" {
        command.args(["--threads", "2", "--model"]).arg(model);
    }
    if ["merge", "gguf"].contains(&what) {
        command.args(["--device", "cpu", "--quiet"]);
    }
    command.arg("--adapter").arg(adapter).args(more.split_whitespace());
    if let Some(out) = out {
        command.arg("--out").arg(out);
    }
    command
}

fn run(what: &str, model: &Path, adapter: &Path, out: Option<&Path>, more: &str) -> Output {
    command(what, model, adapter, out, more).output().expect("a process that starts")
}

/// What it says where it succeeds.
#[track_caller]
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a readable file")).expect("JSON")
}

fn floats(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    let bits16 = || bytes.chunks(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    match dtype {
        Dtype::F32 => bytemuck::allocation::pod_collect_to_vec(bytes),
        Dtype::F16 => bits16().map(|b| f16::from_bits(b).to_f32()).collect(),
        Dtype::BF16 => bits16().map(|b| bf16::from_bits(b).to_f32()).collect(),
        other => panic!("{other:?}"),
    }
}

/// Base and adapter of the golden files: plain LoRA on a model without tokenizer, rsLoRA on a tied one.
fn cases() -> [(&'static str, PathBuf, PathBuf); 2] {
    ["llama", "spm"].map(|name| {
        let base = golden(if name == "spm" { "export/spm" } else { "llama" });
        (name, base.clone(), base.join("adapter"))
    })
}

#[test]
fn merged_weights_are_pefts_and_rounded_once() {
    let peft = std::fs::read(golden("export/merged.safetensors")).expect("a golden file");
    let peft = safetensors::SafeTensors::deserialize(&peft).expect("a safetensors file");
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, model, adapter) in cases() {
        let merged = |dtype: &str| {
            let out = folder.path().join(format!("{name} {dtype}"));
            done(&run(
                "merge",
                &model,
                &adapter,
                Some(&out),
                &format!("--dtype {dtype} --no-logits --shard-size 30kB"),
            ));
            tensors(&out)
        };
        let (exact, source) = (merged("f32"), tensors(&model));
        let mut n_compared = 0;
        for (key, (dtype, shape, bytes)) in &exact {
            assert_eq!((*dtype, shape), (Dtype::F32, &source[key].1), "{key}");
            let ours = floats(*dtype, bytes);
            match peft.tensor(&format!("{name}.{key}")) {
                Ok(theirs) => {
                    let theirs = floats(theirs.dtype(), theirs.data());
                    let most = theirs.iter().fold(0f32, |most, x| most.max(x.abs()));
                    let off = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                    assert!(off <= 4e-7 * most, "{name}.{key}: {off} of {most}");
                    let moved =
                        ours.iter().zip(floats(source[key].0, &source[key].2)).any(|(a, b)| (a - b).abs() > 1e-3);
                    assert!(moved, "{key}: the adapter acts");
                    n_compared += 1;
                }
                Err(_) if key.contains("_proj") => {}
                Err(_) => assert_eq!(ours, floats(source[key].0, &source[key].2), "{key}"),
            }
        }
        assert_eq!(n_compared, 7, "{name}");
        // One rounding: the 16-bit folders hold the fp32 folder's values, rounded.
        for (kind, dtype) in [("bf16", Dtype::BF16), ("f16", Dtype::F16)] {
            for (key, (found, _, bytes)) in merged(kind) {
                assert_eq!(found, dtype);
                let round =
                    |x: f32| if dtype == Dtype::F16 { f16::from_f32(x).to_f32() } else { bf16::from_f32(x).to_f32() };
                let expected: Vec<f32> = floats(Dtype::F32, &exact[&key].2).into_iter().map(round).collect();
                assert_eq!(floats(found, &bytes), expected, "{kind} {key}");
            }
        }
    }
}

#[test]
fn the_report_says_what_is_left_and_how_far_the_logits_move() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (_, model, adapter) = cases()[1].clone();
    let report = |dtype: &str| {
        let out = folder.path().join(dtype);
        let said = done(&run("merge", &model, &adapter, Some(&out), &format!("--dtype {dtype}")));
        assert_says(
            &said,
            &["14 weights with the adapter in ", "base: the dense base as it is", "alpha / sqrt(r), alpha 3, r 5"],
        );
        let page = std::fs::read_to_string(out.join("merge_report.md")).expect("a report");
        assert_says(&page, &["1.mlp.down_proj", "# Merged model"]);
        (json_of(&out.join("merge_report.json")), json_of(&out.join("config.json")), said)
    };
    let number = |report: &Value, path: &str| report.pointer(path).and_then(Value::as_f64).expect("a number");
    let ((f32s, config, _), (f16s, _, _), (bf16s, bf16_config, said)) = (report("f32"), report("f16"), report("bf16"));
    assert_eq!((&config["dtype"], &bf16_config["dtype"]), (&json!("float32"), &json!("bfloat16")));
    assert_says(&said, &["--dtype f16 keeps more of the delta"]);
    let all = |report: &Value| {
        report["totals"].as_array().expect("lines").iter().position(|l| l["linear"] == "all").expect("all")
    };
    let error = |report: &Value| number(report, &format!("/totals/{}/error", all(report)));
    let kept = |report: &Value| number(report, &format!("/totals/{}/kept", all(report)));
    // Three bits more: an eighth of the noise.
    assert!(error(&f32s) < 1e-5 && error(&f16s) > 1e-4);
    let ratio = error(&bf16s) / error(&f16s);
    assert!((6.0..10.0).contains(&ratio), "{ratio}");
    assert!((kept(&f32s) - 1.0).abs() < 1e-6 && (kept(&bf16s) - 1.0).abs() < 1e-3);
    let logits = |report: &Value| number(report, "/logits/max_relative");
    assert!(logits(&f32s) < 1e-5, "{}", logits(&f32s));
    assert!(logits(&f16s) > logits(&f32s) && logits(&bf16s) > 2.0 * logits(&f16s) && logits(&bf16s) < 0.1);
    assert!(number(&f16s, "/logits/kl") >= 0.0 && number(&f16s, "/logits/n_positions") > 40.0);
}

#[test]
fn a_merge_into_the_dequantised_base_is_a_merge_into_the_folder_in_four_bits() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    let (_, model, adapter) = cases()[0].clone();
    let quantise = Command::new(env!("CARGO_BIN_EXE_convert"))
        .args(["quantize", "--device", "cpu", "--quiet", "--model"])
        .arg(&model)
        .arg("--out")
        .arg(path("nf4"))
        .output();
    assert!(quantise.expect("a process that starts").status.success());
    let merged = |name: &str, model: &Path, more: &str| {
        let said = done(&run("merge", model, &adapter, Some(&path(name)), &format!("--dtype f32 {more}")));
        (tensors(&path(name)), json_of(&path(name).join("merge_report.json")), said)
    };
    let (of_nf4, report, said) = merged("of nf4", &path("nf4"), "");
    assert_says(&said, &["base: the 4-bit base, dequantised"]);
    assert!(json_of(&path("of nf4/config.json")).get("quantization_config").is_none());
    let (through, through_report, said) = merged("through", &model, "--base dequantized");
    assert_says(&said, &["quantised to NF4 and dequantised as in training"]);
    assert!(of_nf4 == through, "the same values");
    let (original, ..) = merged("original", &model, "--no-logits");
    assert!(original != through);
    // bf16 of the decoded values and fp32 of our engine's are all that lies between.
    for report in [report, through_report] {
        assert!(report["logits"]["max_relative"].as_f64().expect("a number") < 0.02, "{report}");
    }
}

#[test]
fn a_fault_leaves_nothing_and_a_wrong_adapter_is_refused() {
    let bench = Bench::new();
    let (_, llama, adapter) = cases()[0].clone();
    let out = bench.path("out");
    let refused = |model: &Path, adapter: &Path, out: &Path, more: &str| {
        refused_around(command("merge", model, adapter, Some(out), more), bench.path("").as_path(), 2)
    };
    assert_says(
        &refused(&bench.path("model"), &adapter, &out, ""),
        &["the base needs", "the adapter is of another model"],
    );
    assert_says(&refused(&llama, &bench.path("none"), &out, ""), &["there is no adapter_config.json"]);
    bench.file("taken", "mine");
    assert_says(&refused(&llama, &adapter, &bench.path("taken"), ""), &["this already exists"]);
    assert_says(&refused(&llama, &adapter, &adapter.join("out"), ""), &["inside the model's own folder"]);
    // A disk that is full in the middle.
    let merge = command("merge", &llama, &adapter, Some(&out), "--no-logits --dtype f32");
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"";
    let sh = Command::new("sh").arg("-c").arg(script).arg(merge.get_program()).args(merge.get_args()).output();
    let said = refusal(&sh.expect("a shell"), 1);
    assert_says(&said, &["/out/model.safetensors: could not be saved: File too large", "nothing of it is left"]);
    assert!(!out.exists() && std::fs::read_dir(bench.path("")).expect("a folder").count() == 3, "model, rows, taken");
}

#[test]
fn a_weight_beyond_f16_is_named() {
    let bench = Bench::new();
    let name = "model.norm.weight";
    bench.edit_tensors(|t| t.get_mut(name).expect("a norm").2[..2].copy_from_slice(&bf16::from_f32(1e5).to_le_bytes()));
    bench.trained("run", "--quant none");
    let merge = |dtype: &str| {
        command(
            "merge",
            &bench.path("model"),
            &bench.path("run"),
            Some(&bench.path(dtype)),
            &format!("--no-logits --dtype {dtype}"),
        )
    };
    let said = refused_around(merge("f16"), &bench.path(""), 2);
    assert_says(&said, &["tensor model.norm.weight holds 99840, which f16 cannot hold", "choose bf16"]);
    done(&merge("bf16").output().expect("a process that starts"));
}

/// An adapter of rank 4 on the query projections of a hollow model of these sizes.
fn adapter_on_hollow(dir: &Path, hidden: usize, n_layers: usize) {
    std::fs::create_dir_all(dir).expect("a folder");
    let config = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]});
    std::fs::write(dir.join("adapter_config.json"), config.to_string()).expect("room on the disk");
    let bytes = |n: usize| (0..n).flat_map(|i| ((i % 7) as f32 * 0.01).to_le_bytes()).collect::<Vec<u8>>();
    let mut all = crate::common::fixture::Tensors::new();
    for layer in 0..n_layers {
        let key = format!("base_model.model.model.layers.{layer}.self_attn.q_proj");
        all.insert(format!("{key}.lora_A.weight"), (Dtype::F32, vec![4, hidden], bytes(4 * hidden)));
        all.insert(format!("{key}.lora_B.weight"), (Dtype::F32, vec![hidden, 4], bytes(4 * hidden)));
    }
    crate::common::fixture::write_tensors(dir, &all);
    std::fs::rename(dir.join("model.safetensors"), dir.join("adapter_model.safetensors")).expect("a rename");
}

#[test]
#[cfg(target_os = "linux")]
fn host_memory_of_a_merge_does_not_grow_with_the_model() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (model, adapter, out) = (folder.path().join("model"), folder.path().join("adapter"), folder.path().join("out"));
    hollow(&model, [2048, 5632, 1, 32000], "F16");
    adapter_on_hollow(&adapter, 2048, 1);
    // 350 MiB in and out: the largest tensor is 125 MiB, and no more than pieces of one are held.
    memory_stays_below(96 << 20, command("merge", &model, &adapter, Some(&out), "--no-logits"), &out);
}

#[test]
fn a_folded_adapter_computes_the_same_and_keeps_what_lies_beside_it() {
    let bench = Bench::new();
    bench.trained("run", "--quant none");
    bench.edit_json("run/adapter_config.json", |config| config["use_rslora"] = json!(true));
    let (run_dir, folded) = (bench.path("run"), bench.path("folded"));
    let said = done(&run("fold", &bench.path("model"), &run_dir, Some(&folded), ""));
    assert_says(&said, &["with rsLoRA is lora_alpha", "scale"]);
    let config = json_of(&folded.join("adapter_config.json"));
    let before = json_of(&run_dir.join("adapter_config.json"));
    assert_eq!((&before["use_rslora"], &config["use_rslora"]), (&json!(true), &json!(false)));
    let alpha = |config: &Value| config["lora_alpha"].as_f64().expect("a number");
    assert!((alpha(&config) - 2.0 * alpha(&before)).abs() < 1e-6, "sqrt(4)");
    for name in ["prompt.json", "template.jinja", "provenance.json", "config.toml", "eci_head.safetensors"] {
        let read = |dir: &Path| std::fs::read(dir.join(name)).expect("a readable file");
        assert!(read(&folded) == read(&run_dir), "{name}");
    }
    // Every check of ours takes the folder, heads included, and its merge is the same folder.
    for (name, adapter) in [("of run", &run_dir), ("of folded", &folded)] {
        done(&run("merge", &bench.path("model"), adapter, Some(&bench.path(name)), "--no-logits --dtype f32"));
    }
    assert!(tensors(&bench.path("of run")) == tensors(&bench.path("of folded")));
    assert_says(
        &refused_around(command("fold", Path::new(""), &run_dir, Some(&folded), ""), &bench.path(""), 2),
        &["already exists"],
    );
}

#[test]
fn a_sound_adapter_is_proven_and_a_spoiled_one_is_not() {
    let (_, model, adapter) = cases()[1].clone();
    let said = done(&run("verify-adapter", &model, &adapter, None, ""));
    let parts = [
        "14 pairs of rank 5",
        "no matrix is zero",
        "effect on the base: ",
        "logits behind \"Question: Does aspirin",
        "not proven: that PEFT",
    ];
    assert_says(&said, &parts);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let spoiled = folder.path().join("adapter");
    std::fs::create_dir(&spoiled).expect("a folder");
    std::fs::copy(adapter.join("adapter_config.json"), spoiled.join("adapter_config.json")).expect("a copy");
    let spoil = |edit: &dyn Fn(&mut crate::common::fixture::Tensors)| {
        let mut all = tensors(&adapter);
        edit(&mut all);
        crate::common::fixture::write_tensors(&spoiled, &all);
        std::fs::rename(spoiled.join("model.safetensors"), spoiled.join("adapter_model.safetensors"))
            .expect("a rename");
        run("verify-adapter", &model, &spoiled, None, "")
    };
    let rename = |key: &str, to: &str| {
        let (key, to) = (key.to_string(), to.to_string());
        move |all: &mut crate::common::fixture::Tensors| {
            let tensor = all.remove(&key).expect("a key of PEFT's");
            all.insert(to.clone(), tensor);
        }
    };
    let key = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight";
    let extra = |all: &mut crate::common::fixture::Tensors| {
        let tensor = all[key].clone();
        all.insert("model.layers.1.mlp.up_proj.lora_B.weight".into(), tensor);
    };
    assert_says(&refusal(&spoil(&extra), 1), &["are read by nobody, model.layers.1.mlp.up_proj.lora_B.weight first"]);
    let prefix = spoil(&|all| {
        *all = std::mem::take(all).into_iter().map(|(k, t)| (k.replacen("model.model", "model", 1), t)).collect()
    });
    assert_says(&refusal(&prefix, 2), &["neither LoRA A nor B"]);
    assert_says(&refusal(&spoil(&rename(key, "lora_B.weight")), 2), &["its partner", "is missing"]);
    let zero = spoil(&|all| all.get_mut(key).expect("a key").2.fill(0));
    assert_says(&refusal(&zero, 1), &["is zero throughout (layer 1, mlp.up_proj)"]);
    let nan = spoil(&|all| all.get_mut(key).expect("a key").2[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
    assert_says(&refusal(&nan, 2), &["not finite at [0, 0]"]);
    let fewer = |all: &mut crate::common::fixture::Tensors| all.retain(|key, _| !key.contains("layers.1.mlp.up_proj"));
    assert_says(&refusal(&spoil(&fewer), 1), &["layers.1.mlp.up_proj.lora_A.weight", "is missing"]);
}

#[test]
fn consumers_give_our_logits() {
    let Some(python) = std::env::var_os("LLAMACARE_PYTHON") else {
        println!("skipped: LLAMACARE_PYTHON names no Python with torch, transformers, peft and gguf");
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/check_exports.py");
    for (name, model, adapter) in cases() {
        let check = Command::new(&python)
            .arg(&script)
            .arg(env!("CARGO_BIN_EXE_convert"))
            .args([&model, &adapter])
            .env("LLAMACARE_PYTHON", &python)
            .output()
            .expect("a Python that starts");
        println!("{name}\n{}", text(&check.stdout));
        assert!(check.status.success(), "{}{}", text(&check.stdout), text(&check.stderr));
    }
}
