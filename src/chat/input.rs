//! What is said to the model: lines that can be edited in a terminal, plain lines of standard input elsewhere; and whole files.

use std::io::{BufRead, ErrorKind, IsTerminal, Read};
use std::path::Path;

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::{Error, Result, bail_input};

/// Where lines come from.
pub(super) enum Lines {
    /// A terminal; earlier lines come back with the arrow keys.
    Editor(Box<DefaultEditor>),
    /// A pipe or a file.
    Plain,
}

impl Lines {
    /// A terminal is one only if the answers go there too.
    pub(super) fn open() -> Result<Lines> {
        if !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
            return Ok(Lines::Plain);
        }
        let editor = DefaultEditor::new();
        Ok(Lines::Editor(Box::new(editor.map_err(|e| Error::Device(format!("the terminal cannot be used: {e}")))?)))
    }

    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Lines::Editor(_))
    }

    /// The next line that is not blank; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<String>> {
        loop {
            let line = match self {
                Lines::Plain => plain()?,
                Lines::Editor(editor) => edited(editor)?,
            };
            match line {
                Some(line) if line.trim().is_empty() => {}
                line => return Ok(line.map(|line| line.trim().to_string())),
            }
        }
    }
}

fn plain() -> Result<Option<String>> {
    let mut line = String::new();
    match std::io::stdin().lock().read_line(&mut line) {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(line)),
        Err(e) => Err(unreadable(e)),
    }
}

fn edited(editor: &mut DefaultEditor) -> Result<Option<String>> {
    match editor.readline("> ") {
        Ok(line) => {
            // A line that cannot be kept for the arrow keys is still a line.
            let _ = editor.add_history_entry(line.as_str());
            Ok(Some(line))
        }
        Err(ReadlineError::Eof) => Ok(None),
        Err(ReadlineError::Interrupted) => {
            eprintln!("/quit or Ctrl-D leaves");
            Ok(Some(String::new()))
        }
        Err(e) => Err(Error::Device(format!("the terminal cannot be read: {e}"))),
    }
}

/// All of standard input.
pub(super) fn all() -> Result<String> {
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

fn unreadable(e: std::io::Error) -> Error {
    match e.kind() {
        ErrorKind::InvalidData => Error::Input("standard input is not UTF-8; convert it first".into()),
        _ => Error::io("standard input")(e),
    }
}

/// A file's whole text.
pub(super) fn whole(path: &Path) -> Result<String> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| match e.kind() {
        ErrorKind::InvalidData => Error::Input(format!("{name} is not UTF-8; save the file as UTF-8")),
        ErrorKind::NotFound => Error::Input(format!("{name}: no such file; check the path")),
        ErrorKind::IsADirectory => Error::Input(format!("{name} is a folder, not a file; name the file in it")),
        _ => Error::io(path)(e),
    })?;
    match text.trim() {
        "" => bail_input!("{name} is empty, expected a text to read"),
        text => Ok(text.to_string()),
    }
}
