//! Writes src/ffi/bindings/<op>.rs from kernels/<op>.h, one file per contract, so that a fresh machine needs no libclang.
//!
//! `cargo run --manifest-path tools/bindings/Cargo.toml [-- --check]`; `--check` only compares and fails when one is
//! stale. libclang is found as bindgen finds it; tools/bindings.sh brings one from PyPI.

use anyhow::{Context, Result, bail, ensure};
use std::{fs, path::Path};

fn main() -> Result<()> {
    let check = std::env::args().any(|a| a == "--check");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let out = root.join("src/ffi/bindings");
    let mut stems: Vec<String> = fs::read_dir(root.join("kernels"))?
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".h").map(String::from))
        .collect();
    stems.sort();
    let mut stale = Vec::new();
    for stem in &stems {
        let text = bind(&root, stem).with_context(|| format!("kernels/{stem}.h"))?;
        let path = out.join(format!("{stem}.rs"));
        if fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            stale.push(stem.clone());
            if !check {
                fs::write(&path, text)?;
            }
        }
    }
    for entry in fs::read_dir(&out)? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        let stem = name.strip_suffix(".rs").context("a file that is no binding")?;
        ensure!(stems.iter().any(|s| s == stem), "src/ffi/bindings/{name} has no kernels/{stem}.h");
    }
    match (check, stale.is_empty()) {
        (_, true) => println!("bindings: {} headers, all current", stems.len()),
        (true, _) => bail!("stale bindings: {}; run `just bindings`", stale.join(", ")),
        (false, _) => println!("bindings: wrote {}", stale.join(", ")),
    }
    Ok(())
}

/// The binding of one header: its own items only; `lc.h`'s words come from the binding of `lc`.
fn bind(root: &Path, stem: &str) -> Result<String> {
    let kernels = root.join("kernels");
    let mut builder = bindgen::Builder::default()
        .header_contents("contract.h", &format!("#include \"{stem}.h\"\n"))
        .clang_arg(format!("-I{}", kernels.display()))
        .allowlist_file(format!(".*/{stem}\\.h"))
        .allowlist_recursively(stem == "lc")
        .must_use_type("lc_status")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .derive_default(false)
        .layout_tests(true)
        .generate_comments(true)
        .formatter(bindgen::Formatter::Prettyplease);
    if stem == "lc" {
        builder = builder.blocklist_type("__.*").blocklist_type("u?int.*_t").blocklist_item("_.*|.*_MAX|.*_MIN|.*_WIDTH");
    }
    Ok(builder.generate()?.to_string())
}
