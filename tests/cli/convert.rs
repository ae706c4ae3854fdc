//! `convert quantize` as a user meets it: bitsandbytes' bytes (tools/golden/convert.py), one sentence for what it refuses, and
//! nothing that looks finished after a kill or on a full disk.

use super::{Bench, assert_says, refusal, snapshot, text};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

type Named = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn golden(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/convert").join(kind)
}

fn command(model: &Path, out: &Path, more: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_convert"));
    command.args(["quantize", "--device", "cpu", "--threads", "2", "--model"]).arg(model).arg("--out").arg(out);
    command.args(more.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn convert(model: &Path, out: &Path, more: &str) -> Output {
    command(model, out, more).output().expect("a process that starts")
}

/// The sentence of a refusal, after which the folder around holds what it held.
fn refused(model: &Path, out: &Path, more: &str, code: i32) -> String {
    let around = out.parent().expect("a folder around");
    let before = snapshot(around);
    let sentence = refusal(&convert(model, out, more), code);
    assert_eq!(snapshot(around), before, "{sentence}");
    sentence
}

/// What a command says that is refused, after which the folder `around` holds what it held; files with holes by their length.
pub(super) fn refused_around(mut command: Command, around: &Path, code: i32) -> String {
    fn listed(dir: &Path, into: &mut Vec<(PathBuf, u64)>) {
        for entry in std::fs::read_dir(dir).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => listed(&path, into),
                false => into.push((path.clone(), path.metadata().expect("a file").len())),
            }
        }
        into.sort();
    }
    let (mut before, mut after) = (Vec::new(), Vec::new());
    listed(around, &mut before);
    let sentence = refusal(&command.output().expect("a process that starts"), code);
    listed(around, &mut after);
    assert_eq!(before, after, "{sentence}");
    sentence
}

/// Every tensor of every shard.
pub(super) fn tensors(dir: &Path) -> Named {
    let mut found = Named::new();
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            let bytes = std::fs::read(&path).expect("a readable file");
            let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
            found.extend(
                file.tensors().into_iter().map(|(k, t)| (k, (t.dtype(), t.shape().to_vec(), t.data().to_vec()))),
            );
        }
    }
    found
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a readable file")).expect("JSON")
}

#[test]
fn the_tensors_are_those_that_bitsandbytes_saves() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (kind, flags) in [("double", ""), ("plain", "--no-double-quant"), ("double", "--shard-size 20kB --quiet")] {
        let out = folder.path().join(format!("{kind} {}", flags.len()));
        let output = convert(&golden("dense"), &out, flags);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_says(
            &text(&output.stdout),
            &[&out.display().to_string(), "7 linear layers in NF4", "next: finetune --model"],
        );
        let (ours, theirs) = (tensors(&out), tensors(&golden(kind)));
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
        for (name, theirs) in &theirs {
            assert!(ours[name] == *theirs, "{kind}: {name}");
        }
        let strip = |path: &Path| {
            let mut config = json_of(path);
            // transformers says with what it would compute; the rest must be equal.
            config.as_object_mut().expect("an object").retain(|key, _| key != "use_cache");
            config
        };
        assert_eq!(strip(&out.join("config.json")), strip(&golden(kind).join("config.json")));
        let sharded = flags.contains("shard");
        assert_eq!(out.join("model.safetensors").exists(), !sharded);
        if sharded {
            let map = &json_of(&out.join("model.safetensors.index.json"))["weight_map"];
            assert!(map.as_object().expect("a map").keys().eq(ours.keys()));
            assert!(out.join(map["lm_head.weight"].as_str().expect("a name")).is_file());
        }
    }
}

#[test]
fn fp32_weights_are_not_rounded_before_they_are_quantised() {
    let bench = Bench::new();
    // Every value a little further from zero than bf16 can say: a scale that went through bf16 has lost its lower half.
    bench.edit_tensors(|tensors| {
        for (dtype, _, bytes) in tensors.values_mut() {
            let wide = bytes.chunks(2).flat_map(|b| [0x34, 0x12, b[0], b[1]]).collect();
            (*dtype, *bytes) = (Dtype::F32, wide);
        }
    });
    let out = bench.path("new");
    assert!(convert(&bench.path("model"), &out, "--no-double-quant").status.success());
    let (source, ours) = (tensors(&bench.path("model")), tensors(&out));
    let floats = |bytes: &[u8]| -> Vec<f32> { bytemuck::allocation::pod_collect_to_vec(bytes) };
    for (name, (_, _, bytes)) in source.iter().filter(|(name, _)| name.contains("_proj")) {
        let largest: Vec<f32> =
            floats(bytes).chunks(64).map(|w| w.iter().fold(0.0, |m: f32, x| m.max(x.abs()))).collect();
        assert_eq!(floats(&ours[&format!("{name}.absmax")].2), largest, "{name}");
        assert_says(&text(&ours[&format!("{name}.quant_state.bitsandbytes__nf4")].2), &["\"dtype\": \"float32\""]);
    }
    assert_eq!(ours["model.norm.weight"], source["model.norm.weight"]);
}

#[test]
fn a_fine_tune_of_the_quantised_folder_is_that_of_its_source() {
    let bench = Bench::new();
    for (kind, flag) in [("double", ""), ("plain", "--no-double-quant")] {
        let quantised = bench.path(kind);
        assert!(convert(&bench.path("model"), &quantised, flag).status.success());
        bench.trained(&format!("from dense {kind}"), flag);
        // How the folder is stored, not what is asked for, decides.
        let said = bench.trained(&format!("from {kind}"), &format!("--model {}", quantised.display()));
        assert_eq!(bench.adapter_sha256(&format!("from {kind}")), bench.adapter_sha256(&format!("from dense {kind}")));
        assert_says(&said, &["device memory: planned and measured "]);
        let refused = bench.refused(&format!("--model {} --quant none", quantised.display()));
        assert_says(&refused, &["--quant none: the model's weights are stored in NF4"]);
    }
}

#[test]
fn what_a_user_needs_beside_the_weights_is_copied() {
    let bench = Bench::new();
    bench.file("model/generation_config.json", "{}");
    bench.file("model/LICENSE.txt", "as it is");
    bench.file("model/notes.txt", "mine");
    let out = bench.path("new/in/here");
    assert!(convert(&bench.path("model"), &out, "").status.success());
    for name in ["tokenizer.json", "generation_config.json", "LICENSE.txt"] {
        let read = |dir: &Path| std::fs::read(dir.join(name)).expect("a readable file");
        assert_eq!(read(&out), read(&bench.path("model")), "{name}");
    }
    assert_eq!(std::fs::read_dir(&out).expect("a folder").count(), 5, "config, weights and these three");
}

#[test]
fn an_output_that_exists_or_lies_in_the_model_is_refused() {
    let bench = Bench::new();
    let model = bench.path("model");
    bench.file("old", "mine");
    assert_says(&refused(&model, &bench.path("old"), "", 2), &["/old: this already exists; choose another name"]);
    assert_says(&refused(&model, &model, "", 2), &["this lies inside the model's own folder"]);
    for inside in ["model/new", "model/a/b", "model/../model/new"] {
        assert_says(
            &refusal(&convert(&model, &bench.path(inside), ""), 2),
            &["--out ", "inside the model's own folder"],
        );
    }
    assert_eq!(std::fs::read_dir(&model).expect("a folder").count(), 3);
}

#[test]
fn a_source_that_is_quantised_damaged_or_incomplete_is_refused() {
    let bench = Bench::new();
    let (model, out) = (bench.path("model"), bench.path("new"));
    assert_says(
        &refused(&golden("double"), &out, "", 2),
        &["double: this model is already quantised; give the folder"],
    );
    let q = "model.layers.0.self_attn.q_proj.weight";
    bench.edit_tensors(|t| t.get_mut(q).expect("a weight").2[2 * 65..][..2].copy_from_slice(&[0xc0, 0x7f]));
    assert_says(&refused(&model, &out, "", 2), &[&format!("tensor {q} holds a value that is not finite at [1, 1]")]);
    bench.edit_tensors(|t| drop(t.remove(q)));
    assert_says(&refused(&model, &out, "", 2), &[&format!("the tensor {q} [64, 64] is missing")]);
    let index = json!({"weight_map": {q: "../../elsewhere.safetensors"}});
    std::fs::remove_file(model.join("model.safetensors")).expect("a file");
    bench.file("model/model.safetensors.index.json", &index.to_string());
    assert_says(&refused(&model, &out, "", 2), &["elsewhere.safetensors", "outside the folder; this is refused"]);
    assert_says(&refused(&bench.path("none"), &out, "", 2), &["there is no config.json"]);
}

/// A Llama of zeros whose file takes no place on the disk: one header, and the rest a hole.
pub(super) fn hollow(dir: &Path, [hidden, mlp, n_layers, vocab]: [usize; 4], dtype: &str) -> u64 {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": mlp,
        "num_hidden_layers": n_layers, "num_attention_heads": hidden / 128, "vocab_size": vocab, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2
    });
    let mut shapes =
        vec![("model.embed_tokens".to_string(), vec![vocab, hidden]), ("lm_head".into(), vec![vocab, hidden])];
    shapes.push(("model.norm".into(), vec![hidden]));
    for layer in 0..n_layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        shapes.extend(["input_layernorm", "post_attention_layernorm"].map(|norm| (name(norm), vec![hidden])));
        shapes.extend(["q", "k", "v", "o"].map(|p| (name(&format!("self_attn.{p}_proj")), vec![hidden, hidden])));
        shapes.extend(["gate", "up"].map(|p| (name(&format!("mlp.{p}_proj")), vec![mlp, hidden])));
        shapes.push((name("mlp.down_proj"), vec![hidden, mlp]));
    }
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in shapes {
        let begin = end;
        end += shape.iter().product::<usize>() * if dtype == "F32" { 4 } else { 2 };
        header.insert(format!("{name}.weight"), json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}));
    }
    std::fs::create_dir_all(dir).expect("a folder");
    std::fs::write(dir.join("config.json"), config.to_string()).expect("room on the disk");
    let header = Value::Object(header).to_string();
    let path = dir.join("model.safetensors");
    std::fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat())
        .expect("room on the disk");
    let n_bytes = (8 + header.len() + end) as u64;
    std::fs::OpenOptions::new().write(true).open(&path).and_then(|f| f.set_len(n_bytes)).expect("a file with a hole");
    n_bytes
}

/// Whether the conversion into `out` has begun to write its shard of this number.
fn has_begun(out: &Path, shard: usize) -> bool {
    let prefix = format!("model-{shard:05}-of-");
    let Ok(entries) = std::fs::read_dir(staging(out)) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
}

/// Where a conversion into `out` works until it is done.
fn staging(out: &Path) -> PathBuf {
    out.with_file_name(format!(".{}.saving.tmp", out.file_name().expect("a name").display()))
}

#[test]
fn a_killed_conversion_leaves_nothing_that_looks_finished_and_the_next_one_cleans_up() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (model, out) = (folder.path().join("model"), folder.path().join("out"));
    hollow(&model, [1024, 2816, 2, 4096], "BF16");
    let mut child = command(&model, &out, "--shard-size 10MB --quiet").spawn().expect("a process that starts");
    let start = Instant::now();
    while !has_begun(&out, 2) {
        assert!(child.try_wait().expect("a child").is_none(), "it ended before it was killed");
        assert!(start.elapsed() < Duration::from_secs(300), "too slow");
    }
    child.kill().expect("a child to kill");
    child.wait().expect("an end");
    assert!(!out.exists());
    // What is left is hidden, and no loader takes it: neither configuration nor index.
    assert!(has_begun(&out, 1) && !has_begun(&out, 4));
    assert!(
        !staging(&out).join("config.json").exists() && !staging(&out).join("model.safetensors.index.json").exists()
    );
    assert_says(&refusal(&convert(&staging(&out), &folder.path().join("more"), ""), 2), &["there is no config.json"]);
    assert!(convert(&model, &out, "--shard-size 10MB").status.success());
    assert!(!staging(&out).exists() && out.join("config.json").exists());
    assert_eq!(tensors(&out).len(), 3 + 2 * 2 + 2 * 7 * 6);
}

#[test]
fn ctrl_c_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (model, out) = (folder.path().join("model"), folder.path().join("out"));
    hollow(&model, [1024, 2816, 2, 4096], "BF16");
    let mut child = command(&model, &out, "--shard-size 1MB --quiet").spawn().expect("a process that starts");
    let start = Instant::now();
    while !has_begun(&out, 1) {
        assert!(child.try_wait().expect("a child").is_none(), "it ended before it was stopped");
        assert!(start.elapsed() < Duration::from_secs(300), "too slow");
    }
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupt.is_ok_and(|status| status.success()));
    let output = child.wait_with_output().expect("an end");
    assert_eq!(output.status.code(), Some(130));
    assert_says(&text(&output.stderr), &["Stopped; ", "/out was not made."]);
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "only the source");
}

#[test]
fn a_full_disk_leaves_nothing_and_says_so() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (model, out) = (folder.path().join("model"), folder.path().join("out"));
    hollow(&model, [256, 512, 2, 512], "F16");
    // With SIGXFSZ ignored, a write beyond the limit fails as it does on a full disk.
    let limited = |blocks: &str| {
        let command = command(&model, &out, "--quiet");
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let sh = Command::new("sh").arg("-c").arg(script).arg(command.get_program()).args(command.get_args()).output();
        sh.expect("a shell")
    };
    let said = refusal(&limited("64"), 1);
    assert_says(
        &said,
        &["/out/model.safetensors: could not be saved: File too large", "free some space and run it again"],
    );
    assert_says(&said, &["nothing of it is left"]);
    let left = std::fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(left, 1, "only the source");
    assert!(limited("unlimited").status.success());
}

#[test]
fn a_disk_that_is_too_small_is_known_before_anything_is_written() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = folder.path().join("model");
    // A TiB of embedding and output layer would be copied as they are; a hole holds them all.
    hollow(&model, [1 << 14, 1 << 14, 1, 1 << 23], "F32");
    let said = refusal(&convert(&model, &folder.path().join("out"), ""), 2);
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "only the source");
    assert_says(&said, &["/out: 1.0", " TiB are needed, but its disk has ", "free some space or choose another disk"]);
}

/// The most anonymous memory that a process ever held, and how it ended.
fn peak_anonymous(mut command: Command) -> (u64, Output) {
    let child = command.spawn().expect("a process that starts");
    let status = format!("/proc/{}/status", child.id());
    let watch = std::thread::spawn(move || {
        let mut peak = 0;
        while let Ok(text) = std::fs::read_to_string(&status) {
            let Some(line) = text.lines().find_map(|line| line.strip_prefix("RssAnon:")) else { break };
            peak = peak.max(line.trim().trim_end_matches(" kB").parse::<u64>().expect("kilobytes") << 10);
            std::thread::sleep(Duration::from_millis(1));
        }
        peak
    });
    let output = child.wait_with_output().expect("an end");
    (watch.join().expect("a watcher"), output)
}

/// Converts a model of zeros and holds host memory to `bound`.
fn quantising_stays_below(bound: u64, sizes: [usize; 4], dtype: &str) {
    let folder: TempDir = tempfile::tempdir().expect("a temporary folder");
    let (model, out) = (folder.path().join("model"), folder.path().join("out"));
    println!("source {} MiB", hollow(&model, sizes, dtype) >> 20);
    memory_stays_below(bound, command(&model, &out, "--quiet --shard-size 1GiB"), &out);
}

/// Holds host memory of a conversion into the folder `out` to `bound`; what was mapped does not count, what the CPU device
/// holds does.
pub(super) fn memory_stays_below(bound: u64, mut conversion: Command, out: &Path) {
    conversion.stdout(Stdio::piped()).stderr(Stdio::piped());
    let (peak, output) = peak_anonymous(conversion);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let n_out: u64 = std::fs::read_dir(out).expect("a folder").map(|e| e.unwrap().metadata().unwrap().len()).sum();
    println!("written {} MiB, RssAnon at most {} MiB", n_out >> 20, peak >> 20);
    assert!(peak > 0 && peak < bound, "{peak} bytes of anonymous memory, {bound} allowed");
    assert!(n_out > 3 * bound / 2, "a conversion that kept what it wrote would not be noticed");
}

#[test]
#[cfg(target_os = "linux")]
fn host_memory_does_not_grow_with_the_model() {
    // 570 MiB in, 300 out; the largest weight is 22 MiB, and 44 on the device in fp32.
    quantising_stays_below(128 << 20, [2048, 5632, 3, 32000], "F16");
}

#[test]
#[ignore = "3.0 GiB in, 1.2 GiB written, a minute: by hand (CONTRIBUTING.md)"]
#[cfg(target_os = "linux")]
fn host_memory_of_a_model_of_three_gibibytes() {
    quantising_stays_below(768 << 20, [5120, 13824, 4, 32000], "F16");
}
