//! The page of each command says what its `--help` says: the options in `docs/commands/*.md` are the program's own words.
//!
//! `LC_DOCS_WRITE=1 cargo test --release --test main pages` writes them anew.

use super::text;
use std::path::{Path, PathBuf};
use std::process::Command;

const BEGIN: &str = "<!-- options: written by tests/cli/pages.rs -->";
const END: &str = "<!-- end of options -->";

/// The folder of the built binaries.
pub(super) fn binaries() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_finetune")).parent().expect("a folder")
}

/// The programs of `src/bin`, by name.
fn commands() -> Vec<String> {
    let files = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin")).expect("the programs");
    let mut names: Vec<String> = files
        .map(|file| file.expect("an entry").path().file_stem().expect("a name").to_str().expect("UTF-8").to_string())
        .collect();
    names.sort();
    names
}

fn page_of(command: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/commands/{command}.md"))
}

/// What `--help` says of the command and of each of its parts, as blocks of a page.
fn options(command: &str) -> String {
    let help = |part: Option<&str>| {
        let output = Command::new(binaries().join(command)).args(part).arg("--help").output().expect("a process");
        assert!(output.status.success(), "{command}: {}", text(&output.stderr));
        let lines: Vec<String> = text(&output.stdout).lines().map(|line| line.trim_end().to_string()).collect();
        lines.join("\n").trim().to_string()
    };
    let whole = help(None);
    let parts = whole.split_once("\nCommands:\n").map_or("", |(_, rest)| rest.split("\n\n").next().unwrap_or(""));
    let parts: Vec<&str> = parts
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    let mut shown = format!("```text\n{whole}\n```\n");
    for part in parts {
        shown += &format!("\n### {command} {part}\n\n```text\n{}\n```\n", help(Some(part)));
    }
    shown
}

#[test]
fn every_command_has_a_page_with_its_options() {
    let commands = commands();
    assert!(commands.iter().any(|command| command == "finetune"));
    for command in commands {
        let path = page_of(&command);
        let page = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (before, rest) = page.split_once(BEGIN).unwrap_or_else(|| panic!("{command}.md: no {BEGIN}"));
        let (options_of_page, after) = rest.split_once(END).unwrap_or_else(|| panic!("{command}.md: no {END}"));
        let now = format!("\n\n{}\n", options(&command));
        if std::env::var_os("LC_DOCS_WRITE").is_some() {
            std::fs::write(&path, format!("{before}{BEGIN}{now}{END}{after}")).expect("room on the disk");
        } else {
            let differ = options_of_page.lines().zip(now.lines()).find(|(page, help)| page != help);
            assert!(
                options_of_page == now,
                "docs/commands/{command}.md is not what --help says, first at {differ:?}; LC_DOCS_WRITE=1 writes it"
            );
        }
    }
}

#[test]
fn every_page_has_the_same_parts() {
    for command in commands() {
        let page = std::fs::read_to_string(page_of(&command)).expect("a page");
        let heads: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(heads, ["Examples", "Files", "Exit codes", "Errors one meets", "Options"], "{command}.md");
        assert!(page.starts_with(&format!("# {command}\n")), "{command}.md");
        let examples = page.split("## Files").next().unwrap().matches("```sh\n").count();
        assert!((3..=6).contains(&examples), "{command}.md has {examples} examples");
    }
}

#[test]
fn what_the_pages_show_can_be_typed() {
    let commands = commands();
    let helps: Vec<(String, String)> = commands.iter().map(|command| (command.clone(), options(command))).collect();
    let mut n_flags = 0;
    for command in &commands {
        let page = std::fs::read_to_string(page_of(command)).expect("a page");
        let shown = page.split("```sh\n").skip(1).flat_map(|block| block.split("```").next().unwrap().lines());
        for line in shown {
            let Some((_, help)) = helps.iter().find(|(name, _)| line.split([' ', '|']).any(|word| word == name)) else {
                continue;
            };
            for flag in line.split_whitespace().filter(|word| word.starts_with("--")) {
                assert!(help.contains(&format!("{flag} ")) || help.contains(&format!("{flag}\n")), "{flag} of: {line}");
                n_flags += 1;
            }
        }
    }
    assert!(n_flags > 20, "{n_flags}");
}
