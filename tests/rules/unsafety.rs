//! `unsafe` stands in two rooms and one function, and each time a SAFETY comment argues why it is sound.

use super::{none, texts};

/// A map of a file is sound only while nobody shortens it: the one place outside ffi and device.
const MAP: &str = "src/checkpoint/tensor_file.rs";

/// The least an argument takes.
const MIN_CHARS: usize = 40;

#[test]
fn unsafe_stands_only_at_the_boundary() {
    let mut faults = Vec::new();
    let mut maps = 0;
    for (path, text) in texts("src") {
        if path.starts_with("src/ffi/") || path.starts_with("src/device/") {
            continue;
        }
        for (i, line) in code_lines(&text) {
            if has_word(line, "unsafe") {
                maps += usize::from(path == MAP);
                if path != MAP {
                    faults.push(format!("{path}:{}: {}", i + 1, line.trim()));
                }
            }
        }
    }
    assert_eq!(maps, 1, "{MAP} has one unsafe line, the map itself");
    none("unsafe is for src/ffi and src/device", faults);
}

#[test]
fn every_unsafe_is_argued() {
    let mut faults = Vec::new();
    let mut n = 0;
    for (path, text) in texts("src") {
        if path.starts_with("src/ffi/bindings/") {
            continue;
        }
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in code_lines(&text) {
            if !["unsafe {", "unsafe impl"].iter().any(|form| line.contains(form)) {
                continue;
            }
            n += 1;
            let argument = comment_above(&lines, i);
            match argument.split_once("SAFETY:") {
                Some((_, why)) if why.trim().len() >= MIN_CHARS || why.trim().starts_with("as above") => {}
                Some((_, why)) => faults.push(format!("{path}:{}: `{}` is no argument", i + 1, why.trim())),
                None => faults.push(format!("{path}:{}: no SAFETY comment", i + 1)),
            }
        }
    }
    assert!(n > 10, "found {n} uses of unsafe; does this test still read them?");
    none("a SAFETY comment argues", faults);
}

fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == word)
}

/// The comment that ends right above line `i`, or above the statement that the line goes on with.
fn comment_above(lines: &[&str], i: usize) -> String {
    let is_comment = |j: usize| lines[j].trim_start().starts_with("//");
    let end = (i.saturating_sub(4)..i).rev().find(|&j| is_comment(j));
    let Some(end) = end else { return String::new() };
    let start = (0..=end).rev().take_while(|&j| is_comment(j)).last().unwrap_or(end);
    let text: Vec<&str> = lines[start..=end].iter().map(|line| line.trim().trim_start_matches("//").trim()).collect();
    text.join(" ")
}
