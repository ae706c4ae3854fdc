//! Texts at which an answer ends, found while it comes in pieces: what may be the beginning of one is held back.

/// The stop texts of one answer.
#[derive(Debug, Default)]
pub(super) struct Stops {
    texts: Vec<String>,
    held: String,
}

impl Stops {
    /// None of them empty.
    pub(super) fn new(texts: Vec<String>) -> Stops {
        Stops { texts, held: String::new() }
    }

    /// What may be shown now that `piece` has come, and whether the answer ends with it.
    pub(super) fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        if let Some(at) = self.texts.iter().filter_map(|text| self.held.find(text)).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let begins = |&at: &usize| self.texts.iter().any(|text| text.starts_with(&self.held[at..]));
        let at = self.held.char_indices().map(|(at, _)| at).find(begins).unwrap_or(self.held.len());
        let later = self.held.split_off(at);
        (std::mem::replace(&mut self.held, later), false)
    }

    /// What was held back when nothing more comes.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown of these pieces, and whether a stop ended it.
    fn shown(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut stops = Stops::new(stops.iter().map(|s| s.to_string()).collect());
        let mut said = Vec::new();
        for piece in pieces {
            let (text, ended) = stops.push(piece);
            said.push(text);
            if ended {
                return (said, true);
            }
        }
        said.push(stops.finish());
        (said, false)
    }

    #[test]
    fn an_answer_ends_before_the_first_of_its_stops_however_it_is_cut() {
        for pieces in [&["a STOP b"][..], &["a S", "TO", "P b"], &["a", " ", "S", "T", "O", "P"], &["a ", "STOP"]] {
            let (said, ended) = shown(&["STOP", "never"], pieces);
            assert_eq!((said.concat().as_str(), ended), ("a ", true), "{pieces:?}");
        }
        assert_eq!(shown(&["b", "ab"], &["xab"]).0.concat(), "x");
    }

    #[test]
    fn what_only_looks_like_a_stop_is_shown_later() {
        assert_eq!(shown(&["STOP"], &["a ST", "ONE", "S"]).0, ["a ", "STONE", "", "S"]);
        assert_eq!(shown(&["aab"], &["aaa", "b"]), (vec!["a".into(), "".into()], true));
        assert_eq!(shown(&["é!"], &["né", "e"]).0, ["n", "ée", ""]);
        assert_eq!(shown(&[], &["a", "b"]), (vec!["a".into(), "b".into(), "".into()], false));
    }
}
