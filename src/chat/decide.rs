//! What is to be decided about a question, and what the head said of it.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::data::{LabelSet, Record};
use crate::{Result, bail_input};

/// Which label set a question is asked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decide {
    /// The set that the question belongs to ([`LabelSet::is_for`]: by its options, or by the label that a row of data has). Where
    /// it belongs to none: the first set, or, for a question with options of its own, no set.
    Fitting,
    /// This one, by its place.
    Set(usize),
    /// Nothing is decided.
    Nothing,
}

impl Decide {
    /// From a set's name, its labels joined by commas, or "none"; nothing typed: whatever fits.
    pub fn parse(typed: Option<&str>, sets: &[LabelSet]) -> Result<Decide> {
        let Some(typed) = typed else { return Ok(Decide::Fitting) };
        if typed == "none" {
            return Ok(Decide::Nothing);
        }
        let labels: Vec<&str> = typed.split(',').map(str::trim).collect();
        let Some(set) = sets.iter().position(|set| set.name == typed || set.labels == labels) else {
            let known: Vec<String> =
                sets.iter().map(|set| format!("{} ({})", set.name, set.labels.join(","))).collect();
            match known.is_empty() {
                true => bail_input!("no label set {typed:?}: this model was not trained to decide anything; say none"),
                false => bail_input!("no label set {typed:?}; there are {}, or say none", known.join(", ")),
            }
        };
        Ok(Decide::Set(set))
    }

    /// The set for this question, by its place; none where nothing is decided about it.
    ///
    /// # Errors
    /// Where one set is asked for and the question has other options.
    pub fn of(self, record: &Record, sets: &[LabelSet]) -> Result<Option<usize>> {
        match self {
            Decide::Nothing => Ok(None),
            Decide::Fitting => Ok(match sets.iter().position(|set| set.is_for(record)) {
                None => (record.options.is_empty() && !sets.is_empty()).then_some(0),
                found => found,
            }),
            Decide::Set(set) => {
                if !record.options.is_empty() && !sets[set].is_for(record) {
                    let keys: Vec<&str> = record.options.iter().map(|option| option.key.as_str()).collect();
                    bail_input!(
                        "the question has the options {}, the label set {} decides between {}; leave out --label, or the options",
                        keys.join(", "),
                        sets[set].name,
                        sets[set].labels.join(", ")
                    );
                }
                Ok(Some(set))
            }
        }
    }
}

/// The head's label, and how likely it holds each.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decision {
    /// The name of the label set.
    pub set: String,
    /// The likeliest.
    pub label: String,
    /// Its probability.
    pub probability: f64,
    /// Every label's, in the order of the set.
    pub probabilities: Map<String, Value>,
}

impl Decision {
    /// From the head's probabilities, in the order of the set.
    pub fn new(set: &LabelSet, probabilities: &[f64]) -> Decision {
        let best =
            (0..probabilities.len()).fold(0, |best, i| if probabilities[i] > probabilities[best] { i } else { best });
        Decision {
            set: set.name.clone(),
            label: set.labels[best].clone(),
            probability: probabilities[best],
            probabilities: set.labels.iter().cloned().zip(probabilities.iter().map(|&p| p.into())).collect(),
        }
    }
}

/// "yes 91.2 % | no 6.1 % | maybe 2.7 %", the likeliest first.
impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut all: Vec<(&String, f64)> =
            self.probabilities.iter().map(|(label, p)| (label, p.as_f64().unwrap_or(f64::NAN))).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        let all: Vec<String> = all.into_iter().map(|(label, p)| format!("{label} {:.1} %", 100.0 * p)).collect();
        f.write_str(&all.join(" | "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Choice;

    fn sets() -> Vec<LabelSet> {
        ["pubmedqa=yes,no,maybe", "exam=A,B,C", "urgency=low,high"].map(|text| LabelSet::parse(text).unwrap()).into()
    }

    fn question(keys: &str, label: Option<&str>) -> Record {
        let option = |key: char| Choice { key: key.into(), text: "text".into() };
        let options = keys.chars().map(option).collect();
        Record { options, label: label.map(String::from), ..Record::ask("q", "Q?", Vec::new()) }
    }

    #[test]
    fn a_set_is_called_by_its_name_or_by_its_labels() {
        let parse = |typed| Decide::parse(typed, &sets());
        assert_eq!(parse(None).unwrap(), Decide::Fitting);
        assert_eq!(parse(Some("none")).unwrap(), Decide::Nothing);
        assert_eq!(parse(Some("urgency")).unwrap(), Decide::Set(2));
        assert_eq!(parse(Some("A, B,C")).unwrap(), Decide::Set(1));
        let said = parse(Some("yes,no")).unwrap_err().to_string();
        assert_eq!(
            said,
            "no label set \"yes,no\"; there are pubmedqa (yes,no,maybe), exam (A,B,C), urgency (low,high), or say none"
        );
        assert!(Decide::parse(Some("exam"), &[]).unwrap_err().to_string().contains("not trained to decide"));
    }

    #[test]
    fn a_question_is_asked_with_the_set_it_belongs_to() {
        let of = |decide: Decide, record| decide.of(&record, &sets()).unwrap();
        assert_eq!(of(Decide::Fitting, question("", None)), Some(0));
        assert_eq!(of(Decide::Fitting, question("", Some("high"))), Some(2));
        assert_eq!(of(Decide::Fitting, question("", Some("unheard of"))), Some(0));
        assert_eq!(of(Decide::Fitting, question("BCA", None)), Some(1));
        assert_eq!(of(Decide::Fitting, question("ABCD", None)), None);
        assert_eq!(of(Decide::Nothing, question("ABC", None)), None);
        assert_eq!(of(Decide::Set(2), question("", Some("yes"))), Some(2));
        assert_eq!(Decide::Fitting.of(&question("", None), &[]).unwrap(), None);
        let said = Decide::Set(1).of(&question("ABCD", None), &sets()).unwrap_err().to_string();
        assert!(
            said.starts_with("the question has the options A, B, C, D, the label set exam decides between A, B, C;")
        );
    }

    #[test]
    fn a_decision_names_every_label_the_likeliest_first() {
        let decision = Decision::new(&sets()[0], &[0.061, 0.912, 0.027]);
        assert_eq!((decision.label.as_str(), decision.probability), ("no", 0.912));
        assert_eq!(decision.to_string(), "no 91.2 % | yes 6.1 % | maybe 2.7 %");
        let json = serde_json::to_string(&decision).unwrap();
        assert!(json.ends_with(r#""probabilities":{"yes":0.061,"no":0.912,"maybe":0.027}}"#), "{json}");
    }
}
