//! `convert gguf` against the `gguf` package's own files of the same folders (tools/golden/export.py): every key of the metadata, and
//! every tensor bit for bit, as a reader written for these tests finds them.

use super::convert::{hollow, refused_around};
use super::export::{command, golden};
use super::{Bench, assert_says, refusal, text};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Reads numbers and texts one behind the other.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        self.at += n;
        &self.bytes[self.at - n..self.at]
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().expect("four bytes"))
    }

    fn u64(&mut self) -> usize {
        u64::from_le_bytes(self.take(8).try_into().expect("eight bytes")) as usize
    }

    fn text(&mut self) -> String {
        let n = self.u64();
        String::from_utf8(self.take(n).to_vec()).expect("UTF-8")
    }

    /// A value and the name of its type.
    fn value(&mut self, kind: u32) -> (Value, &'static str) {
        match kind {
            4 => (json!(self.u32()), "UINT32"),
            5 => (json!(self.u32() as i32), "INT32"),
            6 => (json!(f32::from_bits(self.u32())), "FLOAT32"),
            7 => (json!(self.take(1) == [1]), "BOOL"),
            8 => (json!(self.text()), "STRING"),
            other => panic!("a value of type {other}"),
        }
    }
}

/// A GGUF file in the form of the golden file: keys with types and values, tensors with type, shape and hash.
fn describe(path: &Path) -> Value {
    let bytes = std::fs::read(path).expect("a readable file");
    let mut c = Cursor { bytes: &bytes, at: 0 };
    assert_eq!((c.take(4), c.u32()), (&b"GGUF"[..], 3));
    let (n_tensors, n_keys) = (c.u64(), c.u64());
    let mut metadata = Map::new();
    for _ in 0..n_keys {
        let (key, kind) = (c.text(), c.u32());
        let entry = if kind == 9 {
            let (of, n) = (c.u32(), c.u64());
            let members: Vec<(Value, &str)> = (0..n).map(|_| c.value(of)).collect();
            let name = members.first().expect("a list with members").1;
            json!([["ARRAY", name], members.into_iter().map(|(value, _)| value).collect::<Vec<_>>()])
        } else {
            let (value, name) = c.value(kind);
            json!([[name], value])
        };
        assert!(metadata.insert(key, entry).is_none(), "a key stands once");
    }
    let mut infos = Vec::new();
    for _ in 0..n_tensors {
        let (name, n_dims) = (c.text(), c.u32());
        let shape: Vec<usize> = (0..n_dims).map(|_| c.u64()).collect();
        infos.push((name, shape, c.u32(), c.u64()));
    }
    let data = c.at.next_multiple_of(32);
    let mut tensors = Map::new();
    let mut end = data;
    for (name, shape, kind, offset) in infos {
        let n: usize = shape.iter().product();
        let (kind, n_bytes) = match kind {
            0 => ("F32", 4 * n),
            1 => ("F16", 2 * n),
            8 => ("Q8_0", n / 32 * 34),
            30 => ("BF16", 2 * n),
            other => panic!("type {other}"),
        };
        assert!(offset.is_multiple_of(32) && data + offset == end, "{name} lies where the one before ends");
        end = (data + offset + n_bytes).next_multiple_of(32);
        let hash: String =
            Sha256::digest(&bytes[data + offset..][..n_bytes]).iter().map(|b| format!("{b:02x}")).collect();
        tensors.insert(name, json!([kind, shape, hash]));
    }
    assert_eq!(end, bytes.len());
    json!({"metadata": metadata, "tensors": tensors})
}

/// Numbers of JSON are fp64; those of the file fp32.
fn as_f32(value: &Value) -> Value {
    match value {
        Value::Number(n) => json!(n.as_f64().expect("a number") as f32),
        Value::Array(list) => list.iter().map(as_f32).collect(),
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), as_f32(v))).collect::<Map<_, _>>().into(),
        other => other.clone(),
    }
}

fn gguf(model: &Path, out: &Path, more: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_convert"));
    command.args(["gguf", "--device", "cpu", "--threads", "2", "--quiet", "--model"]).arg(model).arg("--out").arg(out);
    command.args(more.split_whitespace());
    command
}

#[track_caller]
fn written(mut command: Command) -> String {
    let output = command.output().expect("a process that starts");
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn files_are_those_of_the_gguf_package() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let expected: Value =
        serde_json::from_slice(&std::fs::read(golden("export/gguf.json")).expect("a golden file")).expect("JSON");
    let (spm, tiny) = (golden("export/spm"), PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("assets/tiny_base"));
    for (name, expected) in expected.as_object().expect("files") {
        let out = folder.path().join(format!("{name}.gguf"));
        let said = match name.split_once('-') {
            None => written(command("gguf", &spm, &spm.join("adapter"), Some(&out), "--adapter-only")),
            Some((base, kind)) => {
                written(gguf(if base == "spm" { &spm } else { &tiny }, &out, &format!("--type {kind}")))
            }
        };
        let found = as_f32(&describe(&out));
        let expected = as_f32(expected);
        for part in ["metadata", "tensors"] {
            let (found, expected) =
                (found[part].as_object().expect("a map"), expected[part].as_object().expect("a map"));
            let keys = |map: &Map<String, Value>| {
                let mut keys: Vec<String> = map.keys().cloned().collect();
                keys.sort();
                keys
            };
            assert_eq!(keys(found), keys(expected), "{name}");
            for (key, value) in found {
                assert_eq!(value, &expected[key], "{name}: {key}");
            }
        }
        match name.as_str() {
            "spm-q8_0" => assert_says(&said, &["2 tensors are in F16: their rows are no multiple of 32"]),
            "adapter" => assert_says(&said, &["28 tensors", "rsLoRA is folded"]),
            _ => assert!(!said.contains("otherwise") && !said.contains("F16:"), "{said}"),
        }
    }
}

#[test]
fn an_adapter_summed_on_the_way_is_the_merged_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    let spm = golden("export/spm");
    for base in ["original", "dequantized"] {
        let on_the_way = path(&format!("{base} way.gguf"));
        let said = written(command(
            "gguf",
            &spm,
            &spm.join("adapter"),
            Some(&on_the_way),
            &format!("--type q8_0 --base {base}"),
        ));
        assert_says(&said, &["is summed into the dense base", "its head and its prompt are not part of the file"]);
        written(command(
            "merge",
            &spm,
            &spm.join("adapter"),
            Some(&path(base)),
            &format!("--dtype f32 --no-logits --base {base}"),
        ));
        written(gguf(&path(base), &path(&format!("{base} after.gguf")), "--type q8_0"));
        let tensors = |name: String| describe(&path(&name))["tensors"].clone();
        assert_eq!(tensors(format!("{base} way.gguf")), tensors(format!("{base} after.gguf")));
        let without = path(&format!("{base} without.gguf"));
        written(gguf(&spm, &without, "--type q8_0"));
        assert_ne!(describe(&without)["tensors"], tensors(format!("{base} way.gguf")), "the adapter acts");
    }
}

#[test]
fn a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused() {
    let bench = Bench::new();
    let (model, out) = (bench.path("model"), bench.path("out.gguf"));
    let refused = || refused_around(gguf(&model, &out, ""), &bench.path(""), 2);
    written(gguf(&model, &bench.path("whole.gguf"), ""));
    let whole = describe(&bench.path("whole.gguf"));
    assert_eq!(whole["metadata"]["tokenizer.ggml.pre"], json!([["STRING"], "gpt-2"]));
    assert_eq!(whole["metadata"]["tokenizer.ggml.tokens"][1][260], "[PAD260]");
    bench.file("taken.gguf", "mine");
    assert_says(
        &refused_around(gguf(&model, &bench.path("taken.gguf"), ""), &bench.path(""), 2),
        &["this already exists"],
    );
    bench.edit_json("model/tokenizer.json", |file| file["pre_tokenizer"] = json!({"type": "Whitespace"}));
    assert_says(&refused(), &["model/tokenizer.json: its pre_tokenizer (Whitespace) is none that llama.cpp"]);
    bench.edit_json("model/tokenizer.json", |file| file["model"] = json!({"type": "Unigram", "vocab": {}}));
    assert_says(&refused(), &["its model is Unigram; only BPE can be written to GGUF"]);
    std::fs::remove_file(model.join("tokenizer.json")).expect("a file");
    assert_says(&refused(), &["there is no tokenizer.json; a GGUF file holds its tokenizer"]);
}

#[test]
fn merges_that_scores_cannot_say_are_counted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let spm = golden("export/spm");
    let model = folder.path().join("model");
    std::fs::create_dir(&model).expect("a folder");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(spm.join(name), model.join(name)).expect("a copy");
    }
    let mut file: Value =
        serde_json::from_slice(&std::fs::read(spm.join("tokenizer.json")).expect("a file")).expect("JSON");
    // Without its merge the last token is never made in training, and llama.cpp would still make it.
    file["model"]["merges"].as_array_mut().expect("merges").pop();
    std::fs::write(model.join("tokenizer.json"), file.to_string()).expect("room on the disk");
    let said = written(gguf(&model, &folder.path().join("out.gguf"), ""));
    assert_says(&said, &["tokenizer: 1 joins of the vocabulary are not as llama.cpp's scores order them"]);
}

#[test]
fn a_full_disk_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out.gguf");
    let job = gguf(&golden("export/spm"), &out, "--type f32");
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"";
    let sh = Command::new("sh").arg("-c").arg(script).arg(job.get_program()).args(job.get_args()).output();
    let said = refusal(&sh.expect("a shell"), 1);
    assert_says(&said, &["/out.gguf: could not be saved: File too large", "nothing of it is left"]);
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
    let model = folder.path().join("model");
    hollow(&model, [1 << 14, 1 << 14, 1, 1 << 23], "F16");
    std::fs::copy(golden("export/spm/tokenizer.json"), model.join("tokenizer.json")).expect("a copy");
    let said = refused_around(gguf(&model, &out, "--type f32"), folder.path(), 2);
    assert_says(&said, &["/out.gguf: 1.0", " TiB are needed, but its disk has "]);
}
