//! What the house promises about its own files: which room may use which, sizes, contracts, where `unsafe` may stand.
//!
//! These tests read the sources as text. They know no operation and no file by name but for the exceptions, and each
//! exception says why it is one; one that is no longer needed fails, so that the lists only get shorter.

mod contracts;
mod layering;
mod tree;
mod unsafety;

use std::fs;
use std::path::{Path, PathBuf};

/// What git ignores, and git itself.
const NOT_OURS: [&str; 8] = [".git", "target", ".cuda", ".venv", "runs", "carry", "__pycache__", "models"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder` of the repository as (path from its root with `/`, contents), without binary files.
fn texts(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path: PathBuf = entry.expect("a readable folder").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() {
                if !NOT_OURS.contains(&name.as_str()) {
                    open.push(path);
                }
            } else if name != ".git"
                && let Ok(text) = fs::read_to_string(&path)
            {
                let relative = path.strip_prefix(root()).expect("below the root");
                found.push((relative.to_string_lossy().replace('\\', "/"), text));
            }
        }
    }
    found.sort();
    found
}

fn has_extension(path: &str, extensions: &[&str]) -> bool {
    path.rsplit_once('.').is_some_and(|(_, e)| extensions.contains(&e))
}

/// Fails with all faults at once, one a line.
fn none(rule: &str, faults: Vec<String>) {
    assert!(faults.is_empty(), "{rule}:\n  {}", faults.join("\n  "));
}
