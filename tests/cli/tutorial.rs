//! docs/tutorial.md as its reader follows it: the commands run as they stand there, in their order, in one shell, and what is pasted
//! below them is what comes.
//!
//! - A block of `sh` is run. One whose first line begins with `# Not run by our tests` is passed over, and says why.
//! - A block of `text` right below it is what it prints on stdout (progress goes to stderr and is not shown).
//! - Numbers differ between machines (times, speeds, the last digits of losses) and with them the widths of columns. So on both sides
//!   every number becomes `#`, every duration `# s`, rulers and runs of spaces become one character, and the name of the processor `CPU`.
//! - A line `...` stands for any lines. A line that begins with `energy` is compared by that word alone: what is measured is the machine's.
//!
//! The reader's folder is a clone after `cargo build --release`: here one with links to this repository's files and binaries.

use super::pages::binaries;
use super::text;
use std::path::Path;
use std::process::{Command, Stdio};

const NOT_RUN: &str = "# Not run by our tests";

struct Step {
    /// Of its first line, in the page.
    line: usize,
    commands: String,
    /// What it prints, where the page shows that.
    prints: Option<String>,
}

/// The blocks of a page with their language and the line they begin at.
fn blocks(page: &str) -> Vec<(usize, String, String)> {
    let (mut found, mut open): (Vec<(usize, String, String)>, bool) = (Vec::new(), false);
    for (i, line) in page.lines().enumerate() {
        match (line.strip_prefix("```"), open) {
            (Some(language), false) => {
                found.push((i + 2, language.into(), String::new()));
                open = true;
            }
            (Some(_), true) => open = false,
            (None, true) => found.last_mut().expect("an open block").2 += &format!("{line}\n"),
            (None, false) => {}
        }
    }
    assert!(!open, "a block of the page has no end");
    found
}

fn steps(page: &str) -> (Vec<Step>, usize) {
    let (mut steps, mut n_skipped): (Vec<Step>, usize) = (Vec::new(), 0);
    let mut last_is_run = false;
    for (line, language, body) in blocks(page) {
        match language.as_str() {
            "sh" if body.starts_with(NOT_RUN) => {
                (n_skipped, last_is_run) = (n_skipped + 1, false);
            }
            "sh" => {
                steps.push(Step { line, commands: body, prints: None });
                last_is_run = true;
            }
            "text" if last_is_run => {
                steps.last_mut().expect("a step").prints = Some(body);
                last_is_run = false;
            }
            _ => last_is_run = false,
        }
    }
    (steps, n_skipped)
}

/// A line as machines agree on it.
fn masked(line: &str) -> String {
    if line.starts_with("energy") {
        return "energy".into();
    }
    let line = line.replace("CPU device (x86_64, bf16)", "CPU").replace('─', "-");
    let mut shown = String::new();
    let mut last = ' ';
    for c in line.chars() {
        let digit = c.is_ascii_digit();
        let goes_on = last == '#' && (digit || c == '.' || c == ',');
        let c = if digit { '#' } else { c };
        let again = (c == ' ' || c == '-') && c == last;
        if !goes_on && !again {
            shown.push(c);
            last = c;
        }
    }
    // A duration, however long.
    shown.trim().replace("# h # min", "# s").replace("# min # s", "# s")
}

/// Whether what is printed is what the page shows; if not, the first line of the page that does not come.
fn differs(page: &str, printed: &str) -> Option<String> {
    let printed: Vec<String> = printed.lines().map(masked).collect();
    let mut rest = printed.as_slice();
    let mut anything = false;
    for line in page.lines() {
        if line.trim() == "..." {
            anything = true;
            continue;
        }
        let wanted = masked(line);
        let at = match anything {
            true => rest.iter().position(|line| *line == wanted),
            false => rest.first().filter(|line| **line == wanted).map(|_| 0),
        };
        let Some(at) = at else { return Some(format!("{line:?}, where {:?} came", rest.first())) };
        (rest, anything) = (&rest[at + 1..], false);
    }
    (!anything && !rest.is_empty()).then(|| format!("the end, where {:?} came", rest[0]))
}

#[test]
#[cfg(unix)]
fn the_tutorials_commands_do_what_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (steps, n_skipped) = steps(&std::fs::read_to_string(root.join("docs/tutorial.md")).expect("the tutorial"));
    println!("{} blocks to run; {n_skipped} need a GPU, large files or the network and say so", steps.len());
    if Command::new("curl").arg("--version").output().is_err() {
        println!("skipped: the tutorial asks the server with curl, which is not on this machine");
        return;
    }
    let clone = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(clone.path().join("target")).expect("a folder");
    for (from, to) in [(root.join("assets"), "assets"), (binaries().into(), "target/release")] {
        std::os::unix::fs::symlink(from, clone.path().join(to)).expect("a link");
    }
    // One shell, as the reader has one terminal; a mark on stdout between the blocks tells them apart.
    let script: String = steps.iter().map(|step| format!("printf '\\n@@@\\n'\n{}", step.commands)).collect();
    let file = clone.path().join("tutorial.sh");
    std::fs::write(&file, script).expect("room on the disk");
    let output = Command::new("sh")
        .arg("-e")
        .arg(&file)
        .current_dir(clone.path())
        .env_remove("LLAMACARE_PYTHON")
        .stdin(Stdio::null())
        .output();
    let output = output.expect("a shell");
    let said = text(&output.stdout);
    let printed: Vec<&str> = said.split("\n@@@\n").skip(1).collect();
    let last = &steps[printed.len().saturating_sub(1).min(steps.len() - 1)];
    assert!(
        output.status.success(),
        "docs/tutorial.md:{}: ended with {}\n{}\n{}",
        last.line,
        output.status,
        last.commands,
        text(&output.stderr)
    );
    assert_eq!(printed.len(), steps.len());
    for (step, printed) in steps.iter().zip(printed) {
        let Some(page) = &step.prints else { continue };
        if let Some(line) = differs(page, printed) {
            panic!("docs/tutorial.md:{}: {}printed\n{printed}\nnot {line}", step.line, step.commands);
        }
    }
}

#[test]
fn what_is_compared_forgives_numbers_and_nothing_else() {
    let page = "LM loss   4.283  0.06\n──────  ───\n...\nfiles in a: b\n";
    assert_eq!(differs(page, "LM loss  12.1  1,234.5\n────  ─\nmore\nand more\nfiles in a: b\n"), None);
    assert!(differs(page, "LM loss  12.1  1.5\n────  ─\nfiles in a: c\n").is_some());
    assert!(differs(page, "ECI loss  12.1  1.5\n────  ─\nfiles in a: b\n").is_some());
    assert!(
        differs(page, "LM loss  12.1  1.5\n────  ─\nfiles in a: b\nand more\n").is_some(),
        "more than the page shows"
    );
    assert!(differs(page, "LM loss  12.1  1.5\n────  ─\n").is_some(), "less than the page shows");
    assert_eq!(differs("energy 1 J a step\n", "energy not measured: no counter\n"), None);
    assert_eq!(masked("in 1 min 3 s"), masked("in 2.5 s"));
    assert_eq!(masked("12 s, 7764 tokens/s on CPU device (x86_64, bf16)"), "# s, # tokens/s on CPU");
}

#[test]
fn blocks_are_run_or_say_why_not() {
    let page = "```sh\na\n```\n\n```text\nA\n```\n```sh\n# Not run by our tests: a GPU\nb\n```\n```text\nB\n```\n```sh\nc\n```\n";
    let (found, n_skipped) = steps(page);
    let found: Vec<(usize, &str, Option<&str>)> =
        found.iter().map(|step| (step.line, &step.commands[..], step.prints.as_deref())).collect();
    assert_eq!((found, n_skipped), (vec![(2, "a\n", Some("A\n")), (16, "c\n", None)], 1));
}
