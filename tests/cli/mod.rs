//! The commands as a user meets them: the real binaries, started as processes, on a model made on the spot.

mod bad_data;
mod bad_model;
mod bad_settings;
mod chat;
mod chat_oracle;
mod convert;
mod energy;
mod evaluate;
mod experiment;
mod export;
mod export_gguf;
mod fine_tune;
mod fp8;
mod gpu_scripts;
mod pages;
mod plan;
mod recipe;
mod resume;
mod serve;
mod serve_broken;
mod serve_page;
mod serve_refuses;
mod side_by_side;
mod static_table;
mod tutorial;
mod verify;

use crate::common::fixture::{Tensors, tiny_llama, tiny_rows, tiny_tensors, write_tensors};
use assert_cmd::Command;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::TempDir;

/// A folder with a model, rows and a place for results; it goes when the test ends.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().expect("a temporary folder");
        tiny_llama(&folder.path().join("model"));
        tiny_rows(folder.path());
        Bench { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file and gives its path as an argument.
    fn file(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).expect("room on the disk");
        self.path(name).display().to_string()
    }

    /// Spoils the model's weights.
    fn edit_tensors(&self, edit: impl FnOnce(&mut Tensors)) {
        let mut tensors = tiny_tensors();
        edit(&mut tensors);
        write_tensors(&self.path("model"), &tensors);
    }

    /// Spoils a JSON file.
    fn edit_json(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let text = std::fs::read_to_string(self.path(name)).expect("a file of the bench");
        let mut value = serde_json::from_str(&text).expect("JSON");
        edit(&mut value);
        self.file(name, &value.to_string());
    }

    /// The arguments of a two-step run on this model and these rows into the folder `out`, with `more` behind them.
    fn arguments(&self, out: &str, more: &str) -> Vec<OsString> {
        let usual = "--device cpu --threads 2 --steps 2 --tokens 600 --rank 4 --new-tokens 4 --test-share 0.25 --quiet";
        let mut arguments: Vec<OsString> = Vec::new();
        for (flag, path) in [("--model", "model"), ("--data", "rows.json"), ("--out", out)] {
            if !more.split(' ').any(|word| word == flag) {
                arguments.extend([flag.into(), self.path(path).into()]);
            }
        }
        let more: Vec<&str> = more.split_whitespace().collect();
        let mut words = usual.split(' ').peekable();
        while let Some(flag) = words.next() {
            let value = words.next_if(|next| !next.starts_with("--"));
            // What a test sets itself replaces the usual value.
            if !more.contains(&flag) {
                arguments.extend(std::iter::once(flag).chain(value).map(OsString::from));
            }
        }
        arguments.extend(more.into_iter().map(OsString::from));
        arguments
    }

    /// Runs `finetune` to its end, whatever that is.
    fn run(&self, out: &str, more: &str) -> Output {
        finetune(self.arguments(out, more))
    }

    /// Runs `finetune`, which must succeed, and gives what it wrote on stdout.
    fn trained(&self, out: &str, more: &str) -> String {
        let output = self.run(out, more);
        assert!(output.status.success(), "{more}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// The sentence with which `finetune` refuses this. Exit code 2; nothing was written, nor an older run touched.
    fn refused(&self, more: &str) -> String {
        let sentence = refusal(&self.run("new", more), 2);
        assert!(!self.path("new").exists(), "a folder was made for a run that never began: {sentence}");
        let old = self.path("old");
        std::fs::create_dir_all(&old).expect("a folder");
        for name in ["adapter_model.safetensors", "log.jsonl", "config.toml", "notes.txt"] {
            std::fs::write(old.join(name), "of an older run").expect("room on the disk");
        }
        let before = snapshot(&old);
        let again = refusal(&self.run("old", &format!("{more} --overwrite")), 2);
        assert_eq!(again, sentence, "with --overwrite");
        assert_eq!(snapshot(&old), before, "the older run was touched: {sentence}");
        sentence
    }

    /// The hash of the adapter in the folder `out`, as the report gives it.
    fn adapter_sha256(&self, out: &str) -> String {
        report(&self.path(out))["adapter_sha256"].as_str().expect("a hash").to_string()
    }
}

/// Runs `finetune` with these arguments.
fn finetune(arguments: impl IntoIterator<Item = OsString>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_finetune")).args(arguments).output().expect("a process that starts")
}

/// The one sentence on stderr of a process that ended with `code`; never a panic's text.
fn refusal(output: &Output, code: i32) -> String {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(!said.contains("panicked") && !said.contains("bug in llamacare"), "{said}");
    let sentence = said.strip_prefix("error: ").unwrap_or_else(|| panic!("not an error's sentence: {said}"));
    assert_eq!(sentence.trim_end().lines().count(), 1, "more than one sentence: {said}");
    sentence.trim_end().to_string()
}

/// Holds a sentence to what it must name.
#[track_caller]
fn assert_says(sentence: &str, parts: &[&str]) {
    for part in parts {
        assert!(sentence.contains(part), "{part:?} is not in {sentence:?}");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// report.json of the run in `dir`.
fn report(dir: &Path) -> Value {
    let text = std::fs::read_to_string(dir.join("report.json")).expect("a report");
    serde_json::from_str(&text).expect("JSON")
}

/// Every file below `dir` with its bytes.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => files.extend(snapshot(&path)),
            false => drop(files.insert(path.clone(), std::fs::read(&path).expect("a readable file"))),
        }
    }
    files
}

/// A bench whose model never ends an answer and has room for long ones.
fn endless() -> Bench {
    let bench = Bench::new();
    bench.edit_tensors(|tensors| {
        let (_, shape, bytes) = tensors.get_mut("lm_head.weight").expect("a head");
        let row = shape[1] * 2;
        bytes[2 * row..3 * row].fill(0);
    });
    bench.edit_json("model/config.json", |config| config["max_position_embeddings"] = serde_json::json!(8192));
    bench
}
