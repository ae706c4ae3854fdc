//! Settings, devices and output folders that cannot be used.

use super::{Bench, assert_says, finetune, refusal, snapshot, text};
use llamacare::device::Device;
use std::ffi::OsString;

#[test]
fn an_unknown_field_of_a_file_gets_the_nearest_known_name() {
    let bench = Bench::new();
    let config = bench.file("mine.toml", "[lora]\nrank = 4\nrnak = 8\n");
    let said = bench.refused(&format!("--config {config}"));
    assert_says(&said, &["mine.toml:3: unknown field rnak in [lora]; did you mean rank?"]);
    let config = bench.file("mine.toml", "[trian]\nlr = 1e-4\n");
    assert_says(&bench.refused(&format!("--config {config}")), &["unknown section [trian]; did you mean train?"]);
}

#[test]
fn a_field_out_of_range_or_of_the_wrong_kind() {
    let bench = Bench::new();
    let config = bench.file("mine.toml", "[eci]\nweight = 1.5\n");
    let said = bench.refused(&format!("--config {config}"));
    assert_says(&said, &["mine.toml: eci.weight is 1.5; allowed: 0 to 1"]);
    let config = bench.file("mine.toml", "[train]\nlr = \"fast\"\n");
    let said = bench.refused(&format!("--config {config}"));
    assert_says(&said, &["mine.toml:2: lr: found string \"fast\", expected a number (above 0, at most 1)"]);
    let config = bench.file("mine.toml", "[machine]\nbudget = \"24\"\n");
    let said = bench.refused(&format!("--config {config}"));
    assert_says(
        &said,
        &["mine.toml: machine.budget = \"24\": expected an amount of memory with its unit, such as 24GiB"],
    );
    for (setting, kind) in [("[machine]\nbudget = 24", "budget"), ("[train]\noptimizer_states = \"nine\"", "nine")] {
        let config = bench.file("mine.toml", setting);
        assert_says(&bench.refused(&format!("--config {config}")), &["mine.toml:2: ", kind]);
    }
    let config = bench.file("mine.toml", "[train\nlr = 1\n");
    assert_says(&bench.refused(&format!("--config {config}")), &["mine.toml:1: not TOML"]);
    assert_says(&bench.refused("--config no/such.toml"), &["no/such.toml", "one of demo, llama2-13b, pubmedqa"]);
}

#[test]
fn flags_out_of_range() {
    let bench = Bench::new();
    for (flags, says) in [
        ("--lr 5", "--lr is 5; allowed: above 0, at most 1"),
        ("--lr nan", "--lr is NaN; allowed: above 0, at most 1"),
        ("--rank 0", "--rank is 0; allowed: 1 to 256"),
        ("--targets q_porj", "--targets: unknown layer q_porj; did you mean q_proj?"),
        ("--device gpu", "--device is \"gpu\"; expected auto, cpu, cuda or cuda:N"),
        ("--eci none --eci-weight 0.5", "--eci-weight 0.5 needs a head"),
        ("--tokens 64 --max-length 100", "data.max_length is 100, more than the 64 tokens of a micro-batch"),
        (
            "--budget 1MiB",
            "of device memory even when every layer keeps its input alone, the budget is 1.00 MiB; lower --tokens",
        ),
        ("--budget 24", "--budget = \"24\": expected an amount of memory with its unit, such as 24GiB"),
        ("--budget lots", "--budget = \"lots\": expected an amount of memory with its unit"),
        ("--host-budget 1.5", "--host-budget = \"1.5\": expected an amount of memory with its unit"),
        ("--keep everything", "--keep everything: `everything` is no policy; expected auto, or outputs, eight, host"),
        ("--keep input:2", "--keep input:2: that is 2 layers, the model has 1"),
        (
            "--keep outputs --budget 1500KiB",
            "of device memory with --keep outputs, the budget is 1.46 MiB; leave out --keep, lower --tokens, or raise",
        ),
        ("--template tree_step", "no template is called \"tree_step\""),
    ] {
        assert_says(&bench.refused(flags), &[says]);
    }
}

#[test]
fn an_unknown_flag_gets_the_nearest_known_one() {
    let output = Bench::new().run("new", "--dropuot 0.1");
    assert_eq!(output.status.code(), Some(2));
    assert_says(&text(&output.stderr), &["unexpected argument '--dropuot'", "'--dropout'"]);
}

#[test]
fn an_unknown_choice_gets_the_known_ones() {
    let output = Bench::new().run("new", "--optimizer-states nine");
    assert_eq!(output.status.code(), Some(2));
    assert_says(&text(&output.stderr), &["'nine'", "'--optimizer-states <TYPE>'", "fp32, eight"]);
}

#[test]
fn an_output_folder_that_holds_a_run_or_is_a_file() {
    let bench = Bench::new();
    bench.trained("out", "");
    let before = snapshot(&bench.path("out"));
    let said = refusal(&bench.run("out", "--lr 0.1"), 2);
    assert_says(&said, &["/out: this folder already holds a run", "choose another output folder"]);
    assert_eq!(snapshot(&bench.path("out")), before);
    // With the flag that allows it the old run goes, and only that.
    bench.file("out/notes.txt", "mine");
    bench.trained("out", "--lr 0.1 --overwrite");
    assert_ne!(snapshot(&bench.path("out")), before);
    assert_eq!(std::fs::read_to_string(bench.path("out/notes.txt")).unwrap(), "mine");
    bench.file("taken", "mine");
    assert_says(&refusal(&bench.run("taken", "--overwrite"), 2), &["the output must be a folder, but this is a file"]);
    assert_eq!(std::fs::read_to_string(bench.path("taken")).unwrap(), "mine");
}

#[test]
fn a_settings_file_in_the_output_folder_is_not_written_over() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("out")).unwrap();
    let config = bench.file("out/config.toml", "[lora]\nalpha = 8.0\n");
    let said = refusal(&bench.run("out", &format!("--config {config}")), 2);
    assert_says(&said, &["this folder already holds a run (config.toml)"]);
    assert_eq!(std::fs::read_to_string(config).unwrap(), "[lora]\nalpha = 8.0\n");
}

#[test]
fn cuda_on_a_machine_without_it() {
    if Device::cuda(0).is_ok() {
        eprintln!("skipped: a GPU can be used here");
        return;
    }
    let said = Bench::new().refused("--device cuda");
    assert!(said.contains("CUDA") && said.contains("--device cpu"), "{said}");
}

#[test]
fn fp32_on_a_gpu() {
    let said = Bench::new().refused("--device cuda --compute fp32");
    assert_says(&said, &["--compute fp32 runs on the CPU device only; add --device cpu"]);
}

#[test]
fn resuming_what_is_no_run() {
    let bench = Bench::new();
    let resume = |name: &str, more: &[&str]| {
        let words = more.iter().map(OsString::from);
        finetune(["--resume".into(), bench.path(name).into()].into_iter().chain(words))
    };
    assert_says(&refusal(&resume("nowhere", &[]), 2), &["no config.toml in it, so no run was started there"]);
    bench.trained("out", "");
    let before = snapshot(&bench.path("out"));
    let said = refusal(&resume("out", &["--lr", "0.1"]), 2);
    assert_says(&said, &["--lr cannot be changed with --resume"]);
    assert_says(&refusal(&resume("out", &[]), 2), &["/out: this run is finished, report.json is there"]);
    assert_eq!(snapshot(&bench.path("out")), before);
    // As after an interruption; then with a state that does not belong here, or is cut short.
    std::fs::remove_file(bench.path("out/report.json")).unwrap();
    let settings = std::fs::read_to_string(bench.path("out/config.toml")).unwrap();
    bench.file("out/config.toml", &settings.replace("steps = 2", "steps = 9"));
    assert_says(&refusal(&resume("out", &[]), 2), &["this run was made with other settings"]);
    bench.file("out/config.toml", &settings);
    let state = std::fs::read(bench.path("out/run_state.safetensors")).unwrap();
    std::fs::write(bench.path("out/run_state.safetensors"), &state[..state.len() / 2]).unwrap();
    let before = snapshot(&bench.path("out"));
    assert_says(&refusal(&resume("out", &[]), 2), &["run_state.safetensors: the file is truncated"]);
    assert_eq!(snapshot(&bench.path("out")), before);
}
