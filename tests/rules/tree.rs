//! The tree: files one can read in one sitting, and nothing that holds only on one machine.

use super::{has_extension, none, texts};

const LIMIT: usize = 500;

#[test]
fn files_are_short() {
    let mut faults = Vec::new();
    for (path, text) in texts(".") {
        let path = path.trim_start_matches("./");
        if !has_extension(path, &["rs", "cu", "cuh", "h", "cpp", "py", "sh"]) || path.starts_with("src/ffi/bindings/") {
            continue;
        }
        let n = text.lines().count();
        if n > LIMIT {
            faults.push(format!("{path}: {n} lines, {LIMIT} at most"));
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
