//! Data flows one way: bin → cli → train → {eval, generate, report} → model → ops (on the tape) → device, ffi → .cu.
//!
//! Every `crate::` path of a file outside its tests is an arrow from the file's room to another.

use super::{none, texts};
use std::collections::BTreeSet;

/// A room, and the rooms its files may use. From the bottom up; `error` is used by all.
const ROOMS: [(&str, &[&str]); 24] = [
    ("error", &[]),
    ("bytes", &[]),
    ("table", &[]),
    ("nf4", &[]),
    // Two rooms of one layer: a launch needs to know the device, and a device what was compiled in.
    ("ffi", &["device"]),
    ("device", &["ffi", "bytes"]),
    ("energy", &["device"]),
    ("tape", &["device", "ffi"]),
    ("ops", &["tape", "device", "ffi", "nf4"]),
    // Files in and out know no kernel.
    ("data", &["table"]),
    ("checkpoint", &["nf4", "bytes"]),
    ("model", &["ops", "tape", "device", "checkpoint", "data", "bytes", "table"]),
    ("generate", &["model", "ops", "tape", "device", "data"]),
    ("eval", &["generate", "model", "ops", "tape", "device", "data"]),
    ("report", &["eval", "energy", "checkpoint", "bytes", "table"]),
    // Settings are parsed, checked values: whoever runs reads them, and they run nothing.
    ("cli", &["bytes", "data"]),
    (
        "train",
        &[
            "cli",
            "report",
            "eval",
            "generate",
            "model",
            "ops",
            "tape",
            "energy",
            "device",
            "checkpoint",
            "data",
            "bytes",
            "table",
        ],
    ),
    ("verify", &["train", "generate", "model", "ops", "tape", "device", "checkpoint", "data"]),
    ("subject", &["train", "cli", "generate", "model", "ops", "device", "checkpoint", "data", "bytes"]),
    (
        "convert",
        &[
            "subject",
            "cli",
            "generate",
            "model",
            "ops",
            "tape",
            "device",
            "checkpoint",
            "data",
            "bytes",
            "table",
            "nf4",
        ],
    ),
    (
        "chat",
        &["subject", "train", "cli", "energy", "generate", "model", "device", "checkpoint", "data", "bytes", "table"],
    ),
    ("serve", &["chat", "subject", "train", "cli", "generate", "model", "device", "data", "bytes", "table"]),
    (
        "experiment",
        &["train", "eval", "generate", "model", "ops", "tape", "device", "checkpoint", "data", "bytes", "table"],
    ),
    (
        "evaluate",
        &[
            "experiment",
            "subject",
            "train",
            "cli",
            "report",
            "eval",
            "generate",
            "model",
            "energy",
            "device",
            "checkpoint",
            "data",
            "bytes",
            "table",
        ],
    ),
];

/// Arrows that point the wrong way: file, room, what for.
const EXCEPTIONS: [(&str, &str, &str); 3] = [
    ("src/cli/sections.rs", "train", "the schedule's shape is a setting whose enum stands beside its formula"),
    ("src/cli/options.rs", "train", "as above"),
    ("src/report/page.rs", "train", "the lines of log.jsonl are its input"),
];

#[test]
fn no_arrow_points_back() {
    let mut faults = Vec::new();
    let mut used = BTreeSet::new();
    for (path, text) in texts("src") {
        let Some(room) = room_of(&path) else { continue };
        let allowed = ROOMS.iter().find(|(name, _)| *name == room).map(|(_, allowed)| *allowed);
        let Some(allowed) = allowed else {
            faults.push(format!("{path}: the room {room} has no place in the table of tests/rules/layering.rs"));
            continue;
        };
        for target in arrows(&text) {
            let known = ROOMS.iter().any(|(name, _)| *name == target);
            if !known || target == room || target == "error" || allowed.contains(&target.as_str()) {
                continue;
            }
            match EXCEPTIONS.iter().find(|(file, to, _)| *file == path && *to == target) {
                Some(exception) => drop(used.insert(*exception)),
                None => faults.push(format!("{path} uses {target}: an arrow from {room} may go to {allowed:?} only")),
            }
        }
    }
    for unneeded in EXCEPTIONS.iter().filter(|e| !used.contains(*e)) {
        faults.push(format!("{} no longer uses {}: strike the exception", unneeded.0, unneeded.1));
    }
    none("data flows one way", faults);
}

#[test]
fn the_table_itself_has_no_circle_but_that_of_device_and_ffi() {
    let mut faults = Vec::new();
    for (i, (room, allowed)) in ROOMS.iter().enumerate() {
        for target in *allowed {
            let below = ROOMS[..i].iter().any(|(name, _)| name == target);
            if !below && (*room, *target) != ("ffi", "device") {
                faults.push(format!("{room} → {target}"));
            }
        }
    }
    none("a room uses rooms that stand above it in the table", faults);
}

/// `src/ops/linear.rs` and `src/bytes.rs` are in `ops` and `bytes`; binaries and lib.rs may use everything.
fn room_of(path: &str) -> Option<String> {
    let (room, _) = path.strip_prefix("src/")?.split_once(['/', '.'])?;
    let free = ["bin", "lib"].contains(&room) || path.starts_with("src/ffi/bindings/");
    (path.ends_with(".rs") && !free).then(|| room.to_string())
}

/// The first names behind every `crate::`, also of `crate::{a, b::c}`.
fn arrows(text: &str) -> BTreeSet<String> {
    let without_tests = text.split("#[cfg(test)]\nmod tests").next().expect("a first part");
    let code: Vec<&str> = without_tests.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let mut found = BTreeSet::new();
    for (at, path) in code.match_indices("crate::") {
        let rest = &code[at + path.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(first_name(rest));
            continue;
        };
        let (mut depth, mut start) = (0, 0);
        for (i, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    found.insert(first_name(list[start..i].trim()));
                    start = i + 1;
                }
                _ => {}
            }
            if c == '}' && start == i + 1 {
                break;
            }
        }
    }
    found
}

fn first_name(path: &str) -> String {
    path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn arrows_are_read_from_every_form_of_a_path() {
    let text = "//! crate::not_this\nuse crate::{a, b::{c, d}, e::f as g};\nlet x = crate::h::i(); // pub(crate)\n\
                #[cfg(test)]\nmod tests { use crate::nor_this; }";
    let names: Vec<String> = arrows(text).into_iter().collect();
    assert_eq!(names, ["a", "b", "e", "h"]);
}
