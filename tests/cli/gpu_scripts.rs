//! tools/gpu before a GPU is there: the made-up base is what bitsandbytes would have written, the whole path from packing to
//! record.json runs on the CPU device, and without a GPU nothing runs unasked.

use super::text;
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/gpu").join(name)
}

/// Whether a program can be started here; says so where not.
fn there_is(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        println!("skipped: {program} is not on this machine");
    }
    there
}

/// A tiny base in `dir`.
fn make_base(dir: &Path, more: &str) -> Output {
    let words = ["--size", "tiny", "--out"];
    // -B: the tree of the sources stays as it is.
    let mut command = Command::new("python3");
    command.arg("-B").arg(script("make_synthetic_base.py")).args(words).arg(dir).args(more.split_whitespace());
    command.output().expect("python3 starts")
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).expect("JSON")
}

type Tensors = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

fn tensors(path: &Path) -> Tensors {
    let file = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    file.tensors().into_iter().map(|(name, t)| (name, (t.shape().to_vec(), t.data().to_vec()))).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytemuck::allocation::pod_collect_to_vec(bytes)
}

/// All tensors of a folder; each must be in the file that the index names.
fn folder(dir: &Path) -> Tensors {
    let index = json(&dir.join("model.safetensors.index.json"));
    let map = index["weight_map"].as_object().unwrap();
    let mut all = Tensors::new();
    for file in map.values().map(|v| v.as_str().unwrap()).collect::<BTreeSet<_>>() {
        for (name, tensor) in tensors(&dir.join(file)) {
            assert_eq!(map[&name], file, "{name}");
            all.insert(name, tensor);
        }
    }
    assert_eq!(all.len(), map.len());
    assert_eq!(index["metadata"]["total_size"], all.values().map(|(_, bytes)| bytes.len()).sum::<usize>());
    all
}

#[test]
fn the_synthetic_base_holds_the_tables_of_bitsandbytes_and_weights_of_the_size_meant() {
    if !there_is("python3") {
        return;
    }
    let dir = TempDir::new().unwrap();
    let said = make_base(dir.path(), "");
    assert!(said.status.success(), "{}", text(&said.stderr));
    let golden = tensors(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/nf4.safetensors"));
    let all = folder(dir.path());
    let quantised: Vec<&str> = all.keys().filter_map(|k| k.strip_suffix(".quant_map")).collect();
    assert_eq!(quantised.len(), 14);
    for name in quantised {
        let part = |suffix: &str| &all[&format!("{name}.{suffix}")];
        assert_eq!(part("quant_map").1, golden["nf4_map"].1);
        assert_eq!(part("nested_quant_map").1, golden["nested_map"].1);
        let state: Value = serde_json::from_slice(&part("quant_state.bitsandbytes__nf4").1).unwrap();
        let [n, k] = [0, 1].map(|i| state["shape"][i].as_u64().unwrap() as usize);
        let (packed, codes) = (&all[name], part("absmax"));
        assert_eq!((packed.0.as_slice(), codes.0.as_slice()), ([n * k / 2, 1].as_slice(), [n * k / 64].as_slice()));
        let nested = floats(&part("nested_absmax").1);
        assert_eq!(nested.len(), (n * k / 64).div_ceil(256));
        let (map, scales) = (floats(&golden["nf4_map"].1), floats(&golden["nested_map"].1));
        let offset = state["nested_offset"].as_f64().unwrap();
        let value = |i: usize| {
            let nibble = packed.1[i / 2] >> if i.is_multiple_of(2) { 4 } else { 0 } & 15;
            let scale = f64::from(scales[usize::from(codes.1[i / 64])]) * f64::from(nested[i / 64 / 256]) + offset;
            f64::from(map[usize::from(nibble)]) * scale
        };
        let mean = (0..n * k).map(value).sum::<f64>() / (n * k) as f64;
        let std = ((0..n * k).map(|i| value(i).powi(2)).sum::<f64>() / (n * k) as f64).sqrt();
        let residual = name.contains("o_proj") || name.contains("down_proj");
        let meant = if residual { 0.01 } else { 0.02 };
        // Of 65,536 drawn numbers at least the mean is within 0.4 % of 0, in standard deviations, two times of three.
        assert!((std / meant - 1.0).abs() < 0.02 && mean.abs() < 0.02 * std, "{name}: {mean} {std}");
    }
    let embedding = &all["model.embed_tokens.weight"];
    let values: Vec<f32> = embedding.1.chunks(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
    let std = (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
    assert!(values.len() == 512 * 256 && (std / 0.02 - 1.0).abs() < 0.02, "{std}");
}

#[test]
fn the_synthetic_base_is_the_same_for_any_number_of_workers_and_another_for_another_seed() {
    if !there_is("python3") {
        return;
    }
    let dir = TempDir::new().unwrap();
    let made = |name: &str, more: &str| {
        let said = make_base(&dir.path().join(name), more);
        assert!(said.status.success(), "{}", text(&said.stderr));
        super::snapshot(&dir.path().join(name)).into_values().collect::<Vec<_>>()
    };
    let one = made("one", "--workers 1 --rows 20");
    assert!(one == made("two", "--workers 2 --rows 20"));
    assert!(one != made("other", "--seed 2 --rows 20"));
    let said = make_base(&dir.path().join("one"), "");
    assert_eq!(said.status.code(), Some(1));
    assert!(text(&said.stderr).contains("one: the folder is not empty; name another one"), "{}", text(&said.stderr));
}

/// The folder that travels, with this build's binaries in it.
fn pack(dir: &Path) -> PathBuf {
    let (said, carry) = pack_with(dir, None);
    assert!(said.status.success(), "{}", text(&said.stderr));
    carry
}

/// The same, with the peers' scripts of a folder.
fn pack_with(dir: &Path, peers: Option<&Path>) -> (Output, PathBuf) {
    let (bins, carry) = (dir.join("bins"), dir.join("carry"));
    std::fs::create_dir(&bins).unwrap();
    for (name, from) in [
        ("finetune", env!("CARGO_BIN_EXE_finetune")),
        ("verify", env!("CARGO_BIN_EXE_verify")),
        ("chat", env!("CARGO_BIN_EXE_chat")),
        // Not run in a rehearsal, and large: one that is small stands in for them.
        ("unit_tests", "/bin/true"),
        ("main_tests", "/bin/true"),
        ("bench", "/bin/true"),
    ] {
        std::fs::copy(from, bins.join(name)).unwrap();
    }
    let mut command = Command::new("bash");
    command.arg(script("pack.sh")).env("LLAMACARE_PACK_ANY", "1").env("LLAMACARE_PACK_BINARIES", bins);
    command.env_remove("PEERS").envs(peers.map(|dir| ("PEERS", dir)));
    (command.env("LLAMACARE_PACK_OUT", &carry).output().expect("bash starts"), carry)
}

/// prove.sh with its results in `dir`/prove.
fn prove(carry: &Path, dir: &Path, steps: &[&str], set: &[(&str, &str)]) -> Output {
    let mut command = Command::new("bash");
    command.arg(carry.join("prove.sh")).args(steps).env("OUT", dir.join("prove")).env("BASE_DIR", dir);
    command.env_remove("PROVE_REHEARSE").envs(set.iter().copied()).output().expect("bash starts")
}

#[test]
fn the_path_of_the_13b_run_works_on_the_cpu_and_its_record_says_so() {
    if !["bash", "python3", "tar", "strip"].iter().all(|program| there_is(program)) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let carry = pack(dir.path());
    let set = [("PROVE_REHEARSE", "1"), ("TOKENS", "1280"), ("STEPS", "3"), ("POLICIES", "eight input")];
    let said = prove(&carry, dir.path(), &["plan"], &set);
    assert!(said.status.success(), "{}{}", text(&said.stdout), text(&said.stderr));
    // A second call goes on with the same base and adds to the record.
    let said = prove(&carry, dir.path(), &["train", "policies"], &set);
    assert!(said.status.success(), "{}{}", text(&said.stdout), text(&said.stderr));
    let chat = [("PROVE_REHEARSE", "1"), ("QUESTIONS", "3"), ("NEW_TOKENS", "4")];
    let said = prove(&carry, dir.path(), &["chat"], &chat);
    assert!(said.status.success() && text(&said.stdout).contains("3 of 3 questions"), "{}", text(&said.stdout));
    let record = json(&dir.path().join("prove/record.json"));
    assert_eq!(record["gpu"], false);
    assert_eq!(record["device"], "rehearsal on the CPU device, not a GPU");
    let steps = record["steps"].as_array().unwrap();
    assert_eq!(steps.iter().map(|s| s["name"].as_str().unwrap()).collect::<Vec<_>>()[..3], ["base", "plan", "train"]);
    let train = &steps[2];
    assert_eq!((&train["exit_code"], &train["finished"], &train["steps"]), (&0.into(), &true.into(), &3.into()));
    let losses = &train["losses_of_the_first_20_steps"];
    let first = losses["lm"][0].as_f64().unwrap();
    // The loss of a model that knows nothing of its 512 tokens; rows use a part of them, unevenly.
    assert!((first / 512f64.ln() - 1.0).abs() < 0.06, "{first}");
    assert_eq!(losses["joint"].as_array().unwrap().len(), 3);
    // Three steps each, and all but 8 bits are the same arithmetic.
    assert_eq!(steps[3..].len(), 4, "one of each policy that was asked for, and two of chat");
    for policy in &steps[3..5] {
        let against = &policy["losses_against_train"];
        assert_eq!((&policy["finished"], &against["steps"]), (&true.into(), &3.into()), "{policy}");
        assert_eq!(against["equal"], policy["name"] != "policy_eight", "{policy}");
    }
    let plan: Vec<&str> = train["plan"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert!(plan[0].starts_with("device memory") && plan.iter().any(|l| l.starts_with("all ")), "{plan:?}");
    for name in ["peak_device_bytes", "tokens_per_second", "percent_of_bf16_ceiling", "tokens_a_step"] {
        assert!(train[name].as_f64().unwrap() > 0.0, "{name}: {train}");
    }
    // Rows have up to 1,190 tokens: two steps need not be fuller.
    assert!(train["tokens_a_step"].as_f64().unwrap() > 0.6 * 1280.0, "{train}");
}

#[test]
fn a_run_that_fails_is_recorded_as_failed() {
    if !["bash", "python3", "tar", "strip"].iter().all(|program| there_is(program)) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let carry = pack(dir.path());
    let said = prove(&carry, dir.path(), &["train"], &[("PROVE_REHEARSE", "1"), ("BUDGET", "1MiB")]);
    assert_eq!(said.status.code(), Some(1), "{}", text(&said.stdout));
    assert!(text(&said.stdout).contains("the budget is 1.00 MiB"), "{}", text(&said.stdout));
    let record = json(&dir.path().join("prove/record.json"));
    let train = &record["steps"][1];
    assert_eq!((&train["name"], &train["exit_code"], &train["finished"]), (&"train".into(), &2.into(), &false.into()));
    assert!(train["error"].as_str().unwrap().contains("the budget is 1.00 MiB"), "{train}");
    assert!(train["tokens_per_second"].is_null() && train["peak_device_bytes"].is_null(), "{train}");
}

#[test]
fn the_peers_travel_whole_or_not_at_all_and_wait_for_a_gpu() {
    if !["bash", "python3", "tar", "strip"].iter().all(|program| there_is(program)) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let peers = dir.path().join("the peers");
    std::fs::create_dir_all(peers.join("wheels")).unwrap();
    for file in ["bench_hf.py", "bench_unsloth.py", "common.py", "ballast.py", "make_ckpt.py", "wheels/one.whl"] {
        std::fs::write(peers.join(file), file).unwrap();
    }
    let (said, _) = pack_with(dir.path(), Some(&peers));
    assert_eq!(said.status.code(), Some(2));
    assert!(text(&said.stderr).contains("the peers: there is no micro.py; PEERS names"), "{}", text(&said.stderr));
    std::fs::remove_dir_all(dir.path().join("bins")).unwrap();
    std::fs::write(peers.join("micro.py"), "print()").unwrap();
    let (said, carry) = pack_with(dir.path(), Some(&peers));
    assert!(said.status.success(), "{}", text(&said.stderr));
    let inside = Command::new("tar").arg("-tzf").arg(carry.join("carry.tar.gz")).output().unwrap();
    for file in ["./peers/bench_hf.py", "./peers/wheels/one.whl", "./gpu/peers.sh", "./gpu/peer_ragged.py"] {
        assert!(text(&inside.stdout).lines().any(|l| l == file), "{file}");
    }
    // The bench of this pack is /bin/true, which writes no line: ours has failed, and its command is on record.
    let said = prove(&carry, dir.path(), &["peers"], &[("PROVE_REHEARSE", "1")]);
    assert_eq!(said.status.code(), Some(1), "{}", text(&said.stdout));
    let record = json(&dir.path().join("prove/record.json"));
    let steps = record["steps"].as_array().unwrap();
    let of = |name: &str| steps.iter().find(|s| s["name"] == name).unwrap_or_else(|| panic!("{name} in {record}"));
    for name in ["peers_micro", "peers_hf", "peers_hf_more", "peers_unsloth", "peers_unsloth_more"] {
        assert_eq!(of(name)["result"], "left out: the peers need a GPU");
    }
    assert_eq!(of("peers_ours")["exit_code"], 1);
    let ours = std::fs::read_to_string(dir.path().join("prove/ours.jsonl")).unwrap();
    let failed: Vec<Value> = ours.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(failed.len(), 2, "{ours}");
    assert!(failed[0]["failed"].as_str().unwrap().starts_with("bench --bench --device cpu --ours rows.json"), "{ours}");
}

#[test]
fn without_a_gpu_the_script_says_so_and_runs_nothing() {
    let gpu = Command::new("nvidia-smi").arg("-L").output().is_ok_and(|o| text(&o.stdout).contains("GPU"));
    if gpu || !there_is("bash") {
        println!("skipped: there is a GPU here, or no bash");
        return;
    }
    let dir = TempDir::new().unwrap();
    let tools = script("");
    let said = prove(&tools, dir.path(), &[], &[]);
    assert_eq!(said.status.code(), Some(3));
    assert_eq!(text(&said.stdout), "prove: no NVIDIA GPU on this machine (nvidia-smi finds none); nothing was run\n");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let said = prove(&tools, dir.path(), &["trian"], &[]);
    assert_eq!(said.status.code(), Some(2));
    assert!(text(&said.stdout).contains("trian: no such step; there are tests verify"), "{}", text(&said.stdout));
}
