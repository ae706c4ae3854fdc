//! Scores as lm-evaluation-harness computes them, so that they stand beside published ones: tasks `pubmedqa`, `medqa_4options` and
//! `medmcqa` at zero shots, its prompt and its metric, none of ours.
//!
//! ```text
//! pubmedqa         "Abstract: " + contexts by line breaks + "\nQuestion: " + question + "\nAnswer:"      " yes" " no" " maybe"
//! medqa_4options   "Question: " + question + "\nA. " + a + "\nB. " + b + .. + "\nAnswer:"                 " A" .. " D"
//! medmcqa          the same with a line "Choices:" behind the question
//! score            sum of the log-probabilities of the continuation's tokens, those of the whole text behind those of the prompt
//! acc              the greatest score is the right one's; the first of equals wins
//! acc_norm         the same with scores divided by the characters of the choice; equal to acc for A, B, C, D
//! ```

use crate::cli::evaluate::Evaluate;
use crate::data::{Format, LabelSet, Record, TextTokenizer};
use crate::eval::Subject as Model;
use crate::eval::logprob::{Candidates, log_probabilities};
use crate::evaluate::questions::{Found, find};
use crate::subject::Subject;
use crate::table::Table;
use crate::train::prepare::open_device;
use crate::{Result, bail_input};

/// Its task for a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    PubMedQa,
    MedQa,
    MedMcqa,
}

impl Task {
    fn name(self) -> &'static str {
        match self {
            Task::PubMedQa => "pubmedqa",
            Task::MedQa => "medqa_4options",
            Task::MedMcqa => "medmcqa",
        }
    }

    /// Its order of the choices decides ties, so it is its own.
    fn choices(self) -> Vec<String> {
        let choices: &[&str] = match self {
            Task::PubMedQa => &["yes", "no", "maybe"],
            Task::MedQa | Task::MedMcqa => &["A", "B", "C", "D"],
        };
        choices.iter().map(|choice| choice.to_string()).collect()
    }

    fn prompt(self, record: &Record) -> String {
        let options = || record.options.iter().map(|o| format!("\n{}. {}", o.key, o.text)).collect::<String>();
        match self {
            Task::PubMedQa => {
                format!("Abstract: {}\nQuestion: {}\nAnswer:", record.contexts.join("\n"), record.question)
            }
            Task::MedQa => {
                // A vignette that is kept apart from its question is one text there.
                let question = [record.contexts.join(" "), record.question.clone()].join(" ");
                format!("Question: {}{}\nAnswer:", question.trim_start(), options())
            }
            Task::MedMcqa => format!("Question: {}\nChoices:{}\nAnswer:", record.question, options()),
        }
    }
}

/// Asks and prints.
pub(super) fn run(typed: &Evaluate, subject: &Subject) -> Result<()> {
    let Found { records, files, formats, .. } = find(typed, subject.run())?;
    let medmcqa = formats.first().is_some_and(|format| is_medmcqa(*format));
    let task = match records.iter().map(|record| task_of(record, medmcqa)).collect::<Result<Vec<Task>>>()?.as_slice() {
        [first, rest @ ..] if rest.iter().all(|task| task == first) => *first,
        _ => bail_input!("{files} holds questions of different tasks; give the files of one at a time"),
    };
    let ask = |record: &Record| candidates(&subject.tokenizer, &task.prompt(record), &task.choices());
    let asked = records.iter().map(ask).collect::<Result<Vec<_>>>()?;
    let device = open_device(&typed.which.device, typed.which.compute)?;
    let loaded = subject.load(&device, subject.quant())?;
    let model = Model { model: &loaded.model, heads: &[], device: &device };
    let scores = log_probabilities(model, &asked, typed.which.tokens)?;
    let (choices, n) = (task.choices(), records.len() as f64);
    let share = |by_length: bool| {
        let right = scores.iter().zip(&records).filter(|(scores, record)| {
            let score = |i: usize| scores[i] / if by_length { choices[i].chars().count() as f64 } else { 1.0 };
            let best = (0..scores.len()).reduce(|best, i| if score(i) > score(best) { i } else { best });
            best.map(|i| &choices[i]) == record.label.as_ref()
        });
        right.count() as f64 / n
    };
    let mut table =
        Table::new([&format!("{} as lm-evaluation-harness scores it, 0 shots", task.name()), "value", "stderr"]);
    for (name, value) in [("acc,none", share(false)), ("acc_norm,none", share(true))] {
        // Its standard error is that of the sample's mean, with n - 1.
        let stderr = (value * (1.0 - value) / (n - 1.0).max(1.0)).sqrt();
        table.row([name, &format!("{value:.4}"), &format!("{stderr:.4}")]);
    }
    println!("{} questions of {files} on {}\n{table}", records.len(), device.name());
    Ok(())
}

fn is_medmcqa(format: Format) -> bool {
    format.name().starts_with("medmcqa")
}

fn task_of(record: &Record, medmcqa: bool) -> Result<Task> {
    let labels: Vec<&str> = record.options.iter().map(|option| option.key.as_str()).collect();
    let Some(label) = record.label.as_deref() else {
        bail_input!("row {:?} has no label; add it, or leave it out", record.id)
    };
    match labels.as_slice() {
        ["A", "B", "C", "D"] if medmcqa => Ok(Task::MedMcqa),
        ["A", "B", "C", "D"] => Ok(Task::MedQa),
        [] if ["yes", "no", "maybe"].contains(&label) => Ok(Task::PubMedQa),
        _ => bail_input!(
            "row {:?} is of no task of the harness that is known here: pubmedqa (yes, no, maybe), medqa_4options and medmcqa (A to D); \
             its options are {}",
            record.id,
            LabelSet::choices(&labels.iter().map(|label| label.to_string()).collect::<Vec<_>>())
        ),
    }
}

/// A context's ids are those of its text alone; a continuation's are what the text of both has behind them.
fn candidates(tokenizer: &TextTokenizer, context: &str, choices: &[String]) -> Result<Candidates> {
    let alone = tokenizer.encode_prompt(context)?;
    let behind = |choice: &String| Ok(tokenizer.encode_prompt(&format!("{context} {choice}"))?[alone.len()..].to_vec());
    Ok(Candidates { context: alone.clone(), continuations: choices.iter().map(behind).collect::<Result<_>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Choice;

    #[test]
    fn prompts_are_the_harness_s() {
        let record = Record {
            question: "Q?".into(),
            contexts: vec!["One.".into(), "Two.".into()],
            label: Some("yes".into()),
            ..Record::default()
        };
        assert_eq!(task_of(&record, false).unwrap(), Task::PubMedQa);
        assert_eq!(Task::PubMedQa.prompt(&record), "Abstract: One.\nTwo.\nQuestion: Q?\nAnswer:");
        let options: Vec<Choice> = ["A", "B", "C", "D"].map(|k| Choice { key: k.into(), text: format!("t{k}") }).into();
        let choice = Record { options, contexts: vec![], label: Some("B".into()), ..record.clone() };
        assert_eq!(task_of(&choice, false).unwrap(), Task::MedQa);
        assert_eq!(Task::MedQa.prompt(&choice), "Question: Q?\nA. tA\nB. tB\nC. tC\nD. tD\nAnswer:");
        assert_eq!(task_of(&choice, true).unwrap(), Task::MedMcqa);
        assert_eq!(Task::MedMcqa.prompt(&choice), "Question: Q?\nChoices:\nA. tA\nB. tB\nC. tC\nD. tD\nAnswer:");
        let vignette = Record { contexts: vec!["She is 30.".into()], ..choice.clone() };
        assert!(Task::MedQa.prompt(&vignette).starts_with("Question: She is 30. Q?\nA."));
        let five = Record {
            options: [choice.options.clone(), vec![Choice { key: "E".into(), text: "t".into() }]].concat(),
            ..choice
        };
        assert!(task_of(&five, false).unwrap_err().to_string().contains("of no task of the harness"));
        assert!(task_of(&Record { label: Some("perhaps".into()), ..record }, false).is_err());
    }
}
