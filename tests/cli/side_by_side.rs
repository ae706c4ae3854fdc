//! The comparison with the peers before a GPU is there: their token ids are ours, the table says what was measured and nothing
//! else, and losses that should be equal are held to it.

use super::text;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn python(script: &str, words: &[&str]) -> Option<Output> {
    let said = Command::new("python3").arg("-B").arg(root().join("tools").join(script)).args(words).output();
    if said.is_err() {
        println!("skipped: python3 is not on this machine");
    }
    said.ok()
}

fn rows_of(dir: &TempDir, words: &[&str]) -> Option<Vec<Vec<u64>>> {
    let path = dir.path().join("rows.json");
    let said = python("gpu/peer_tokens.py", &[&["--out", path.to_str().unwrap()], words].concat())?;
    assert!(said.status.success(), "{}", text(&said.stderr));
    let value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    Some(serde_json::from_value(value["rows"].clone()).unwrap())
}

#[test]
fn token_ids_are_those_that_pytorch_draws() {
    let dir = TempDir::new().unwrap();
    // What torch 2.15.0 gives for the peers' `batches(32000, 1, 2048, 8)` and `padded(32000, 8, 7)`.
    let Some(rows) = rows_of(&dir, &["--length", "2048", "--rows", "8"]) else { return };
    assert_eq!(rows.iter().map(Vec::len).collect::<Vec<_>>(), [2048; 8]);
    assert_eq!((&rows[0][..3], rows[7][2047]), (&[28344, 25440, 23788][..], 20414));
    assert_eq!(rows.iter().flatten().sum::<u64>(), 261_222_836);
    let Some(rows) = rows_of(&dir, &["--ragged", "--rows", "56"]) else { return };
    assert_eq!(rows[..8].iter().map(Vec::len).collect::<Vec<_>>(), [363, 430, 154, 239, 466, 435, 65, 467]);
    assert_eq!((rows.len(), rows.iter().map(Vec::len).sum::<usize>()), (56, 15317));
    assert_eq!(rows.iter().flatten().sum::<u64>(), 244_244_265);
}

/// A folder of results, and the page that is made of it.
struct Made {
    dir: TempDir,
}

impl Made {
    /// With a record of a GPU, or of a rehearsal.
    fn new(gpu: bool) -> Made {
        let made = Made { dir: TempDir::new().unwrap() };
        let record = json!({"gpu": gpu, "device": "A made-up GPU", "driver": "1.2", "date": "2001-02-03", "compute_capability": "9.0"});
        std::fs::write(made.path("record.json"), record.to_string()).unwrap();
        made
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn put(&self, name: &str, rows: &[Value]) {
        let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
        std::fs::write(self.path(name), lines.join("\n")).unwrap();
    }

    fn page(&self) -> Option<(Output, String)> {
        let out = self.path("page.md");
        let said = python("side_by_side.py", &[self.dir.path().to_str().unwrap(), "--out", out.to_str().unwrap()])?;
        Some((said, std::fs::read_to_string(out).unwrap()))
    }
}

fn row(tag: &str, mb: usize, length: usize, tok_s: f64, loss: f64) -> Value {
    json!({"tag": tag, "mb": mb, "S": length, "accum": 16384 / (mb * length), "tok_per_step": 16384, "tok_s": tok_s,
           "s_per_step": 16384.0 / tok_s, "spread": [1.0, 2.0], "loss": [loss, loss - 0.1], "device_gib": 20.5,
           "useful_tflop_s": 500.0})
}

/// The line of a page that begins so.
fn line<'a>(page: &'a str, begin: &str) -> &'a str {
    page.lines().find(|l| l.starts_with(begin)).unwrap_or_else(|| panic!("no line `{begin}` in\n{page}"))
}

#[test]
fn without_results_every_row_says_not_run_and_that_is_the_page_committed() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("page.md");
    let Some(said) = python("side_by_side.py", &["--out", out.to_str().unwrap()]) else { return };
    assert!(said.status.success(), "{}", text(&said.stderr));
    let page = std::fs::read_to_string(out).unwrap();
    let rows: Vec<&str> = page.lines().filter(|l| l.starts_with("| ") && !l.contains("| goal |")).collect();
    let rows: Vec<&&str> = rows.iter().filter(|l| !l.starts_with("| engine") && !l.starts_with("| kernel")).collect();
    assert!(rows.len() >= 30 && rows.iter().all(|l| l.contains("| not run |")), "{page}");
    let committed = std::fs::read_to_string(root().join("docs/benchmarks.md")).unwrap();
    if committed.contains("No GPU has run any of this") {
        assert_eq!(committed, page, "docs/benchmarks.md: run tools/side_by_side.py");
    }
}

#[test]
fn ratios_gaps_and_agreement_are_those_of_the_rows() {
    let made = Made::new(true);
    made.put(
        "peers.jsonl",
        &[
            row("hf-recipe-gc1-sdpa", 1, 2048, 4000.0, 10.37),
            row("hf-recipe-gc1-sdpa", 4, 2048, 3000.0, 10.37),
            row("hf-tuned-gc1-sdpa", 4, 2048, 5000.0, 10.37),
            json!({"failed": "python3 bench_hf.py llama2-13b --steps 3 --mode tuned --gc 0 --mb 1 --accum 8", "exit_code": 1,
                   "error": "OutOfMemoryError: no room"}),
            row("unsloth-gc_unsloth", 2, 2048, 6000.0, 10.375),
            row("unsloth-gc_unsloth", 4, 2048, 6500.0, 10.37),
            row("unsloth-gc_true", 4, 2048, 6600.0, 10.37),
            row("unsloth-gc_false", 1, 2048, 8000.0, 10.37),
        ],
    );
    let mut rehearsal = row("llamacare-4096", 2, 2048, 99999.0, 10.37);
    rehearsal["rehearsal"] = true.into();
    made.put("ours.jsonl", &[row("llamacare-default", 1, 2048, 10400.0, 10.371), rehearsal]);
    let Some((said, page)) = made.page() else { return };
    assert!(said.status.success(), "{}", text(&said.stderr));
    assert!(line(&page, "Device:").contains("A made-up GPU, driver 1.2, 2001-02-03"), "{page}");
    assert!(line(&page, "| the HF PEFT recipe").ends_with("| 2.60 x | reached |"), "{page}");
    assert!(line(&page, "| Unsloth's default").ends_with("| 1.73 x | reached |"), "{page}");
    assert!(line(&page, "| the best setting of any peer").ends_with("| 1.30 x | reached |"), "{page}");
    assert!(line(&page, "| useful TFLOP/s").ends_with("| 500.0 TFLOP/s | 13.0 % short |"), "{page}");
    assert!(line(&page, "| the best peer, S = 4,096").ends_with("| not run | unproven |"), "{page}");
    assert!(
        line(&page, "| HF PEFT + bitsandbytes: bf16 LoRA, Liger, no checkpointing")
            .contains("failed: OutOfMemoryError"),
        "{page}"
    );
    assert!(line(&page, "| Unsloth: its published setting").ends_with("| agrees (0.0040) |"), "{page}");
    assert!(line(&page, "| llamacare: micro-batches of 4,096").contains("not run"), "a rehearsal is no row: {page}");
    // A best of all is none while a setting has not been run.
    made.put(
        "peers.jsonl",
        &[row("hf-recipe-gc1-sdpa", 1, 2048, 4000.0, 10.37), row("unsloth-gc_unsloth", 2, 2048, 6000.0, 10.375)],
    );
    let page = made.page().unwrap().1;
    assert!(line(&page, "| the best setting of any peer").ends_with("| not run | unproven |"), "{page}");
    assert!(line(&page, "| Unsloth's default").ends_with("| 1.73 x | reached |"), "{page}");
}

#[test]
fn losses_that_differ_say_disagree_and_fail() {
    let made = Made::new(true);
    for (loss, exit) in [(10.3801, 0), (10.3803, 1), (f64::MAX, 1)] {
        made.put("peers.jsonl", &[row("unsloth-gc_unsloth", 2, 2048, 6000.0, loss)]);
        made.put("ours.jsonl", &[row("llamacare-default", 1, 2048, 9000.0, 10.3702)]);
        let Some((said, page)) = made.page() else { return };
        assert_eq!(said.status.code(), Some(exit), "{loss}");
        let of_peer = line(&page, "| Unsloth: its published setting");
        assert_eq!(of_peer.contains("| DISAGREE ("), exit == 1, "{of_peer}");
    }
    // NaN agrees with nothing.
    let nan = row("unsloth-gc_unsloth", 2, 2048, 6000.0, 12345.5).to_string().replace("12345.5", "NaN");
    std::fs::write(made.path("peers.jsonl"), nan).unwrap();
    assert_eq!(made.page().unwrap().0.status.code(), Some(1));
    // Another number of tokens is another batch.
    let mut other = row("unsloth-gc_unsloth", 2, 2048, 6000.0, 11.0);
    other["tok_per_step"] = 8192.into();
    made.put("peers.jsonl", &[other]);
    let (said, page) = made.page().unwrap();
    assert!(said.status.success() && page.contains("other batch: not compared"), "{page}");
}

#[test]
fn kernels_are_held_to_the_ceilings_of_their_own_run_and_a_rehearsal_to_nothing() {
    let head = json!({"device": "A made-up GPU", "gpu": true, "cublaslt": 130200,
                      "ceilings": {"copy_gb_s": 4000.0, "product_tflop_s": 780.0, "product_by": "cuBLASLt"}});
    let kernel = |name: &str, shape: &str, share: f64, ratio: Option<f64>| {
        json!({"name": name, "shape": shape, "us": 100.0, "flops": 0.0, "bytes": 3e8, "percent_of_ceiling": share,
               "of_cublaslt": ratio})
    };
    let mut rows = vec![head];
    rows.extend([82.0, 79.0, 85.0].map(|share| kernel("nf4 decode", "N=1 K=1", share, None)));
    for name in ["matmul q, o", "matmul q,k,v", "matmul gate", "matmul gate,up", "matmul down", "matmul dX of o"] {
        rows.extend([0.99, 0.96].map(|ratio| kernel(name, "NT", 90.0, Some(ratio))));
    }
    for name in
        ["matmul dX of down", "matmul dX of q,k,v", "matmul dX of gate,up", "matmul logits", "matmul dX of logits"]
    {
        rows.extend([0.98, 0.97].map(|ratio| kernel(name, "NN", 90.0, Some(ratio))));
    }
    rows.push(kernel("rotary", "T=2048 heads=40 D=128", 90.0, None));
    for gpu in [true, false] {
        let made = Made::new(gpu);
        made.put("bench.jsonl", &rows);
        let Some((said, page)) = made.page() else { return };
        assert!(said.status.success(), "{}", text(&said.stderr));
        let (gemm, decode) = (line(&page, "| our product against cuBLASLt"), line(&page, "| NF4 decode, share"));
        let measured = gemm.ends_with("| 0.96 x | reached |") && decode.ends_with("| 79.0 % | 1.2 % short |");
        let none = gemm.ends_with("| not run | unproven |") && decode.ends_with("| not run | unproven |");
        assert!(if gpu { measured } else { none }, "{gemm}\n{decode}");
        assert_eq!(page.contains("| matmul gate,up | NT | 100.0 |"), gpu);
        assert!(
            line(&page, "| kernels bound by memory").ends_with("| not run | unproven |"),
            "not all of them are there"
        );
    }
}
