//! A conversation: what was said before goes into each question, the answer comes as it is written, and Ctrl-C stops it.
//!
//! Answers and labels go to stdout, all else to stderr, so that a conversation can be piped in and out.

use std::io::Write;

use super::input::Lines;
use super::stop::Answering;
use super::{Answerer, Decide, Decision, NOTICE, Question, Said};
use crate::cli::chat::Chat;
use crate::data::{Exchange, Record};
use crate::generate::{Finish, Sampling};
use crate::subject::Subject;
use crate::{Error, Result};

const HELP: &str = "\
/new           begins another conversation
/system TEXT   what the assistant is to be; without TEXT: as at the start
/label SET     what is decided about a question, by name or labels; off: nothing; without SET: which there are
/help          these lines
/quit          leaves, as Ctrl-D does; Ctrl-C stops an answer";

/// A line that is no question.
#[derive(Debug, PartialEq)]
enum Command<'a> {
    New,
    System(&'a str),
    Label(&'a str),
    Help,
    Quit,
    Unknown(&'a str),
}

impl Command<'_> {
    /// None: the line is a question.
    fn parse(line: &str) -> Option<Command<'_>> {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        Some(match word {
            "/new" => Command::New,
            "/system" => Command::System(rest.trim()),
            "/label" => Command::Label(rest.trim()),
            "/help" => Command::Help,
            "/quit" | "/exit" => Command::Quit,
            word if word.starts_with('/') => Command::Unknown(word),
            _ => return None,
        })
    }
}

/// One conversation.
struct Conversation<'a> {
    answerer: Answerer<'a>,
    /// Whether control characters would reach a screen.
    to_screen: bool,
    /// All but the question: history, system text, contexts.
    record: Record,
    decide: Decide,
    max_new: usize,
    sampling: Sampling,
}

/// Talks until the lines end. Exit code 1 where lines come from a pipe and a question could not be asked.
pub(super) fn run(
    typed: &Chat,
    subject: &Subject,
    answerer: Answerer,
    contexts: Vec<String>,
    decide: Decide,
    sampling: Sampling,
) -> Result<()> {
    let mut lines = Lines::open()?;
    let record = Record::ask("chat", "", contexts);
    let to_screen = lines.is_terminal();
    let mut talk = Conversation { answerer, to_screen, record, decide, max_new: typed.new_tokens, sampling };
    eprintln!("{NOTICE}");
    if !typed.quiet {
        let adapter = subject.adapter.as_ref().map(|adapter| format!("{} on ", adapter.dir.display()));
        eprintln!("{}{}; /help lists commands", adapter.unwrap_or_default(), subject.folder.dir().display());
    }
    let mut n_failed = 0;
    while let Some(line) = lines.next()? {
        let done = match Command::parse(&line) {
            Some(Command::Quit) => break,
            Some(command) => talk.obey(command),
            None => talk.answer(&line, typed.quiet),
        };
        match done {
            // A question that cannot be asked ends no conversation.
            Err(Error::Input(sentence)) => {
                eprintln!("error: {sentence}");
                n_failed += 1;
            }
            done => done?,
        }
    }
    match n_failed > 0 && !lines.is_terminal() {
        true => Err(Error::Unmet(format!("{n_failed} of the lines could not be answered; the reasons stand above"))),
        false => Ok(()),
    }
}

impl Conversation<'_> {
    fn obey(&mut self, command: Command) -> Result<()> {
        match command {
            Command::New => {
                self.record.history.clear();
                eprintln!("a new conversation");
            }
            Command::System("") => self.record.system = None,
            Command::System(text) => self.record.system = Some(text.to_string()),
            Command::Label("") => eprintln!("{}", self.labels()),
            Command::Label(name) => {
                let name = if name == "off" { "none" } else { name };
                self.decide = Decide::parse(Some(name), self.answerer.sets())?;
                eprintln!("{}", self.labels());
            }
            Command::Help => eprintln!("{HELP}"),
            Command::Unknown(word) => {
                return Err(Error::Input(format!("no command is called {word}; /help lists them")));
            }
            Command::Quit => {}
        }
        Ok(())
    }

    /// What is decided, and what could be.
    fn labels(&self) -> String {
        let sets = self.answerer.sets();
        let name = |set: usize| format!("{} ({})", sets[set].name, sets[set].labels.join(","));
        let now = self.decide.of(&self.record, sets).ok().flatten().map_or("nothing".to_string(), name);
        let all: Vec<String> = (0..sets.len()).map(name).collect();
        format!(
            "decided about each question: {now}; there are {}",
            if all.is_empty() { "no label sets".into() } else { all.join(", ") }
        )
    }

    /// Asks, shows the answer as it comes and the label behind it, and remembers both sides.
    fn answer(&mut self, asked: &str, quiet: bool) -> Result<()> {
        let record = Record { question: asked.to_string(), ..self.record.clone() };
        let set = self.decide.of(&record, self.answerer.sets())?;
        let mut question = Question { record, set, max_new: self.max_new, sampling: self.sampling.clone() };
        let prompt = self.answerer.prompt(&question)?;
        question.max_new =
            self.answerer.room(prompt.len(), self.max_new).map_err(|e| match (e, self.record.history.is_empty()) {
                (Error::Input(sentence), false) => {
                    Error::Input(format!("{sentence}, or begin another conversation with /new"))
                }
                (e, _) => e,
            })?;
        let ticket = self.answerer.ask(&question, prompt)?;
        let answering = Answering::begin()?;
        let (mut answered, mut decision, mut finish) = (String::new(), None, None);
        while finish.is_none() && !answering.is_stopped() {
            for (_, said) in self.answerer.step()? {
                match said {
                    Said::Label(probabilities) => {
                        decision = set.map(|set| Decision::new(&self.answerer.sets()[set], &probabilities));
                    }
                    Said::Text(piece) => {
                        self.show(&piece)?;
                        answered.push_str(&piece);
                    }
                    Said::Done(how, _) => finish = Some(how),
                }
            }
        }
        drop(answering);
        if finish.is_none() {
            self.answerer.cancel(ticket);
        }
        println!();
        if let Some(decision) = decision {
            println!("[{decision}]");
        }
        println!();
        match finish {
            None => eprintln!("stopped; this question and its answer are forgotten"),
            Some(Finish::Length) if question.max_new > 0 && !quiet => {
                eprintln!("cut after {} tokens (--new-tokens, or the model's context)", question.max_new);
            }
            Some(_) => {}
        }
        let answered = answered.trim().to_string();
        // An empty answer is nothing that was said; remembered, it would teach the model to say nothing.
        if finish.is_some() && !answered.is_empty() {
            self.record.history.push(Exchange { asked: asked.to_string(), answered });
        }
        Ok(())
    }

    /// Writes a piece of text as it comes. What a model writes must not move the cursor or change the terminal.
    fn show(&self, piece: &str) -> Result<()> {
        match self.to_screen {
            false => print!("{piece}"),
            true => {
                let plain = |c: char| if c.is_control() && c != '\n' && c != '\t' { '\u{FFFD}' } else { c };
                print!("{}", piece.chars().map(plain).collect::<String>());
            }
        }
        std::io::stdout().flush().map_err(Error::io("standard output"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_question_unless_it_begins_with_a_stroke() {
        assert_eq!(Command::parse("Does 1/2 help?"), None);
        assert_eq!(Command::parse("/system You are  brief. "), Some(Command::System("You are  brief.")));
        assert_eq!(Command::parse("/system"), Some(Command::System("")));
        assert_eq!(Command::parse("/label yes, no"), Some(Command::Label("yes, no")));
        assert_eq!(Command::parse("/newer"), Some(Command::Unknown("/newer")));
        for (line, command) in [("/new", Command::New), ("/help", Command::Help), ("/quit", Command::Quit)] {
            assert_eq!(Command::parse(line), Some(command));
            assert!(HELP.contains(line));
        }
    }
}
