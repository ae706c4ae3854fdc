//! `--compute fp8`: its loss against bf16's, its plan, and that it says its name.

use super::{Bench, assert_says, finetune, report, text};
use llamacare::train::log;
use std::ffi::OsString;
use std::path::Path;

/// So many that every run has learned what there is. (After 40 steps some have learned the label, in 8 bits or not, and some
/// have not yet: that says more about luck than about bits.)
const STEPS: usize = 120;
const LAST: usize = 10;
const SEEDS: usize = 5;

/// The demo's model and rows: what the last steps' losses were on average, and the loss of the validation rows at the end.
fn losses(out: &Path, compute: &str, seed: usize) -> [f64; 2] {
    let flags = format!(
        "--config demo --device cpu --threads 2 --quiet --tokens 512 --steps {STEPS} --eval-every 0 --eval-rows 2 --new-tokens 1 \
         --save-every 0 --compute {compute} --seed {seed} --out"
    );
    let arguments = flags.split_whitespace().map(OsString::from).chain([out.into()]);
    let run = finetune(arguments);
    assert!(run.status.success(), "{}", text(&run.stderr));
    assert_eq!(report(out)["compute"], compute);
    assert_eq!(report(out)["planned_device_bytes"], report(out)["peak_device_bytes"], "{compute}");
    let steps = log::read(&out.join("log.jsonl")).expect("a log");
    assert_eq!(steps.len(), STEPS);
    let last = steps[STEPS - LAST..].iter().map(|s| s.joint_loss).sum::<f64>() / LAST as f64;
    [last, steps[STEPS - 1].validation.as_ref().expect("validated at the end").joint_loss]
}

/// The gate of 8-bit products: whoever trains with them gets a run that could have been one of bf16 with another seed.
#[test]
fn the_loss_in_8_bits_lies_within_the_spread_of_bf16_over_seeds() {
    let folder = tempfile::tempdir().unwrap();
    let of = |compute: &str| -> Vec<[f64; 2]> {
        (1..=SEEDS).map(|seed| losses(&folder.path().join(format!("{compute}{seed}")), compute, seed)).collect()
    };
    let (bf16, fp8) = (of("bf16"), of("fp8"));
    for (which, what) in ["last training steps", "validation rows"].into_iter().enumerate() {
        let of = |runs: &[[f64; 2]]| runs.iter().map(|r| r[which]).collect::<Vec<f64>>();
        let (bf16, fp8) = (of(&bf16), of(&fp8));
        let most = bf16.iter().copied().fold(f64::MIN, f64::max);
        let spread = most - bf16.iter().copied().fold(f64::MAX, f64::min);
        println!("{what}: bf16 {bf16:.4?}, spread {spread:.4}; fp8 {fp8:.4?}");
        let mean = |runs: &[f64]| runs.iter().sum::<f64>() / SEEDS as f64;
        let apart = (mean(&fp8) - mean(&bf16)).abs();
        assert!(
            apart <= spread / 4.0,
            "{what}: means lie {apart:.4} apart, a quarter of the spread is {:.4}",
            spread / 4.0
        );
        for (seed, (eight, wide)) in fp8.iter().zip(&bf16).enumerate() {
            assert!(
                (eight - wide).abs() <= spread,
                "{what}, seed {}: {eight:.4}, bf16 {wide:.4} ± {spread:.4}",
                seed + 1
            );
            assert!(eight != wide, "8 bits were not used");
        }
    }
}

#[test]
fn a_run_in_8_bits_says_so_everywhere() {
    let bench = Bench::new();
    let output = finetune(bench.arguments("out", "--compute fp8").into_iter().filter(|a| a != "--quiet"));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert_says(
        &said,
        &["--compute fp8: frozen weights are multiplied in 8 bits (e4m3)", "e4m3 scales", "(--compute fp8)"],
    );
    assert_eq!(report(&bench.path("out"))["compute"], "fp8");
    let page = std::fs::read_to_string(bench.path("out").join("report.html")).unwrap();
    assert!(page.contains("frozen weights multiplied in 8 bits (e4m3)</p>"), "the page's second line");
    assert!(!bench.trained("plain", "").contains("fp8"));
}

#[test]
fn a_run_that_cannot_be_in_8_bits_is_refused() {
    let bench = Bench::new();
    assert_says(
        &bench.refused("--compute fp8 --quant none"),
        &["--compute fp8", "stored in NF4", "leave one of them out"],
    );
}

#[test]
fn the_plan_counts_what_8_bits_take_and_save() {
    let bench = Bench::new();
    let plan = |more: &str| {
        let output = finetune(bench.arguments("new", &format!("--plan {more}")));
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let (bf16, fp8) = (plan(""), plan("--compute fp8"));
    let row =
        |plan: &str, name: &str| plan.lines().find(|l| l.starts_with(name)).map(|l| l[name.len()..].trim().to_string());
    // Two slots for the largest request: 3 x 64 x 64 weights of the tiny model, 2 bytes each and 1.
    println!("{:?} {:?}", row(&bf16, "decoded weights"), row(&fp8, "decoded weights"));
    assert_ne!(row(&bf16, "decoded weights"), row(&fp8, "decoded weights"));
    assert!(row(&fp8, "e4m3 scales").is_some() && row(&bf16, "e4m3 scales").is_none(), "{fp8}");
}
