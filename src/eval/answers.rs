//! What a model said about a question: three readings of one forward, side by side.
//!
//! `answers.jsonl` holds a line for each question. It is all that scores, pages and sheets are made from, so that they can be
//! made again without the model.

use serde::{Deserialize, Serialize};

use crate::eval::metrics::Confusion;
use crate::model::softmax;

/// One question with everything that was read about it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The row's.
    pub id: String,
    /// What was asked, without its contexts.
    pub question: String,
    /// What the question is about, where the data says so.
    pub domain: Option<String>,
    /// The classes it could be, in the order of the head's outputs.
    pub labels: Vec<String>,
    /// The class that is right.
    pub right: usize,
    /// The answer as text; none where none was made.
    pub text: Option<Written>,
    /// The log-probability of each label behind the prompt; none where it was not asked for.
    pub logprob: Option<Vec<f64>>,
    /// The head's probability of each label; none without a head.
    pub eci: Option<Vec<f64>>,
}

/// An answer in words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// What the model wrote.
    pub text: String,
    /// Its tokens.
    pub n_tokens: usize,
    /// Whether the model ended it itself; else the limit on new tokens did.
    pub ended: bool,
    /// The class that it names; none where it names none clearly.
    pub class: Option<usize>,
}

/// A way to read a decision from a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reading {
    /// The label that the written answer names.
    Text,
    /// The label that is likeliest behind the prompt.
    LogProb,
    /// The label of the ECI head.
    Eci,
}

impl Reading {
    /// All of them, in the order of tables.
    pub const ALL: [Reading; 3] = [Reading::Text, Reading::LogProb, Reading::Eci];

    /// In tables.
    pub fn title(self) -> &'static str {
        match self {
            Reading::Text => "written answer",
            Reading::LogProb => "label log-probability",
            Reading::Eci => "ECI head",
        }
    }
}

impl Answer {
    /// Whether the question was read this way.
    pub fn has(&self, reading: Reading) -> bool {
        match reading {
            Reading::Text => self.text.is_some(),
            Reading::LogProb => self.logprob.is_some(),
            Reading::Eci => self.eci.is_some(),
        }
    }

    /// The class this reading gives; none where the text names none clearly, or was not read.
    pub fn said(&self, reading: Reading) -> Option<usize> {
        match reading {
            Reading::Text => self.text.as_ref()?.class,
            Reading::LogProb => likeliest(self.logprob.as_ref()?),
            Reading::Eci => likeliest(self.eci.as_ref()?),
        }
    }

    /// The probability of each class, where the reading gives one: the head's, or the labels' among themselves.
    pub fn probabilities(&self, reading: Reading) -> Option<Vec<f64>> {
        match reading {
            Reading::Text => None,
            Reading::Eci => self.eci.clone(),
            Reading::LogProb => self.logprob.as_deref().map(softmax),
        }
    }
}

/// What a reading said of the questions with these labels; none where it read none of them.
pub fn confusion(answers: &[Answer], labels: &[String], reading: Reading) -> Option<Confusion> {
    let mut confusion = Confusion::new(labels);
    let read = answers.iter().filter(|answer| answer.labels == labels && answer.has(reading));
    read.for_each(|answer| confusion.count(answer.right, answer.said(reading)));
    (confusion.total() > 0).then_some(confusion)
}

/// The first of the greatest; none among nothing.
fn likeliest(values: &[f64]) -> Option<usize> {
    (0..values.len()).reduce(|best, i| if values[i] > values[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Answer {
        Answer {
            id: "7".into(),
            question: "Does it help?".into(),
            labels: ["yes", "no", "maybe"].map(String::from).into(),
            right: 1,
            text: Some(Written { text: "Decision: no".into(), n_tokens: 4, ended: true, class: Some(1) }),
            logprob: Some(vec![-1.0, -3.0, -1.0]),
            eci: Some(vec![0.2, 0.3, 0.5]),
            ..Answer::default()
        }
    }

    #[test]
    fn each_reading_says_its_class_and_the_first_of_equals_wins() {
        assert_eq!(Reading::ALL.map(|r| answer().said(r)), [Some(1), Some(0), Some(2)]);
        let bare = Answer { text: None, logprob: None, eci: None, ..answer() };
        assert_eq!(Reading::ALL.map(|r| (bare.has(r), bare.said(r))), [(false, None); 3]);
    }

    #[test]
    fn log_probabilities_become_shares_of_the_labels() {
        let shares = answer().probabilities(Reading::LogProb).unwrap();
        let scale = 2.0 + (-2f64).exp();
        assert!((shares[0] - 1.0 / scale).abs() < 1e-12 && (shares[1] - (-2f64).exp() / scale).abs() < 1e-12);
        assert_eq!(answer().probabilities(Reading::Eci), Some(vec![0.2, 0.3, 0.5]));
        assert_eq!(answer().probabilities(Reading::Text), None);
        let far = Answer { logprob: Some(vec![-1000.0, -1001.0]), ..answer() };
        assert!(far.probabilities(Reading::LogProb).unwrap()[0] > 0.7);
    }
}
