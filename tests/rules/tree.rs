//! The tree: files one can read in one sitting, and nothing that holds only on one machine.

use super::{has_extension, none, texts};

const LIMIT: usize = 500;

/// Longer files, and why.
const LONGER: [(&str, usize, &str); 1] =
    [("tests/kernels/machine.cu", 540, "one list: every promise of the machine, each a few lines")];

#[test]
fn files_are_short() {
    let mut faults = Vec::new();
    for (path, text) in texts(".") {
        let path = path.trim_start_matches("./");
        if !has_extension(path, &["rs", "cu", "cuh", "h", "cpp", "py", "sh"]) || path.starts_with("src/ffi/bindings/") {
            continue;
        }
        let limit = LONGER.iter().find(|(file, ..)| *file == path).map_or(LIMIT, |(_, limit, _)| *limit);
        let n = text.lines().count();
        if n > limit {
            faults.push(format!("{path}: {n} lines, {limit} at most"));
        }
        if limit > LIMIT && n <= LIMIT {
            faults.push(format!("{path} is short again: strike the exception"));
        }
    }
    none("one idea a file", faults);
}

#[test]
fn no_file_names_a_machine() {
    // Put together here, so that this file does not name them either.
    let names: Vec<String> = ["work", "home", "Users"].iter().map(|n| format!("/{n}/")).collect();
    let shelf = ["..", "shared"].join("/");
    let mut faults = Vec::new();
    for (path, text) in texts(".") {
        if path.ends_with("Cargo.lock") {
            continue;
        }
        for (i, line) in text.lines().enumerate() {
            // A slash behind a letter goes on with a path: not from the root.
            let begins = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-*}".contains(c));
            let named = names.iter().any(|name| line.match_indices(name.as_str()).any(|(at, _)| begins(at)));
            if named || line.contains(&shelf) {
                faults.push(format!("{path}:{}: {}", i + 1, line.trim()));
            }
        }
    }
    none("what is committed holds on every machine", faults);
}
