//! Kernels: every header is a contract, every .cu opens with one, and every operation is tested.

use super::{none, root, texts};

/// Operations whose tests stand in a file of another stem: one family, one story.
const TESTED_IN: [(&str, &str); 9] = [
    ("attention_wgmma", "attention"),
    ("fp8_rows", "fp8"),
    ("matmul_fp8", "fp8"),
    ("matmul_fp8_wgmma", "fp8"),
    ("matmul_wgmma", "matmul"),
    ("nf4_dequantize", "nf4"),
    ("nf4_fp8", "fp8"),
    ("nf4_matmul", "nf4"),
    ("nf4_quantize", "nf4"),
];

fn kernels(extension: &str) -> Vec<(String, String)> {
    let here = |path: &str| path.matches('/').count() == 1 && path.ends_with(extension);
    let found: Vec<_> = texts("kernels").into_iter().filter(|(path, _)| here(path)).collect();
    assert!(found.len() > 10, "kernels/*{extension}");
    found
}

fn stem(path: &str) -> &str {
    path.trim_start_matches("kernels/").split('.').next().expect("a stem")
}

#[test]
fn every_pointer_of_an_argument_struct_says_its_shape() {
    let mut faults = Vec::new();
    for (path, text) in kernels(".h") {
        let mut in_struct = false;
        for (i, line) in text.lines().enumerate() {
            in_struct |= line.starts_with("typedef struct lc_") && line.ends_with("_args {");
            in_struct &= !line.starts_with('}');
            let code = line.split("/*").next().expect("a first part");
            if in_struct && code.contains('*') {
                let comment = line.split_once("/*").map_or("", |(_, comment)| comment);
                let shape = comment.trim_start().starts_with('[') && comment.contains(']');
                let way = ["in", "out", "scratch"].iter().any(|w| comment.split([' ', ',', ';']).any(|c| c == *w));
                if !shape || !way {
                    faults.push(format!("{path}:{}: {}", i + 1, line.trim()));
                }
            }
        }
    }
    none("behind a pointer stand [its shape] and in, out or scratch", faults);
}

#[test]
fn every_header_and_source_opens_with_its_contract() {
    let mut faults = Vec::new();
    for (path, text) in kernels(".h") {
        let name = stem(&path);
        if !text.starts_with(&format!("/* {name}.h - ")) {
            faults.push(format!("{path}: the first line is not `/* {name}.h - what it is`"));
        }
    }
    for (path, text) in kernels(".cu") {
        let name = stem(&path);
        if !text.starts_with(&format!("// {name}.cu - ")) {
            faults.push(format!("{path}: the first line is not `// {name}.cu - what it does`"));
        }
        let opening: Vec<&str> = text.lines().take_while(|line| line.starts_with("//")).collect();
        for word in ["precision", "work", "checked"] {
            if !opening.iter().any(|line| line.starts_with(&format!("// {word} "))) {
                faults.push(format!("{path}: the contract has no paragraph `{word}`"));
            }
        }
    }
    none("a file says what it is before it does it", faults);
}

#[test]
fn every_operation_has_its_four_files() {
    let mut faults = Vec::new();
    for (path, text) in kernels(".h") {
        let name = stem(&path);
        if !text.contains("\nLC_API lc_status") {
            continue; // words that other headers share
        }
        let test = TESTED_IN.iter().find(|(op, _)| *op == name).map_or(name, |(_, test)| test);
        for file in [
            format!("kernels/{name}.cu"),
            format!("src/ffi/bindings/{name}.rs"),
            format!("src/ops/{test}.rs"),
            format!("tests/ops/{test}.rs"),
            format!("benches/ops/{test}.rs"),
        ] {
            if !root().join(&file).is_file() {
                faults.push(format!("{path}: there is no {file}"));
            }
        }
        // The formula: an equation in the header's opening comment.
        let opening = text.split("*/").next().expect("a first part");
        if !opening.contains('=') {
            faults.push(format!("{path}: no formula in its opening comment"));
        }
    }
    none("an operation is header, source, binding, Rust, test and bench of one stem", faults);
}

#[test]
fn tests_and_benches_of_every_operation_are_listed() {
    let mut faults = Vec::new();
    for folder in ["tests/ops", "benches/ops", "src/ops"] {
        let files = texts(folder);
        let list = &files.iter().find(|(path, _)| path.ends_with("/mod.rs")).expect("a list").1;
        for (path, _) in &files {
            let name = path.rsplit('/').next().expect("a name").trim_end_matches(".rs");
            if name != "mod" && !list.contains(&format!("mod {name};")) {
                faults.push(format!("{path} is compiled nowhere: {folder}/mod.rs lacks it"));
            }
            if folder == "benches/ops" && name != "mod" && !list.contains(&format!("{name}::run(bench);")) {
                faults.push(format!("{path} is never run"));
            }
        }
    }
    none("a file nobody compiles is no test", faults);
}
