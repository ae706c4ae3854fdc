//! The label read back out of generated text: step 3 of the three-step answer.

/// The label that `text` decides for, as its index in `labels`.
///
/// 1. The last line with "Decision:" speaks alone: the one label after the colon (on the next line that is not blank,
///    if nothing follows the colon).
/// 2. Without such a line, the one label that occurs in the whole text.
///
/// Labels count as whole words, small and large letters alike, the longest first ("no effect" is not "no"). Two
/// different labels, or none, are no decision: a guess here would be reported as an answer.
pub fn parse_decision(text: &str, labels: &[String]) -> Option<usize> {
    const MARK: &str = "decision:";
    let text = text.to_lowercase();
    let labels: Vec<String> = labels.iter().map(|label| label.to_lowercase()).collect();
    match text.rfind(MARK) {
        Some(at) => only_label(text[at + MARK.len()..].trim_start().lines().next()?, &labels),
        None => only_label(&text, &labels),
    }
}

/// The label that occurs in `text`, if it is one only.
fn only_label(text: &str, labels: &[String]) -> Option<usize> {
    let mut found = None;
    let mut at = 0;
    while at < text.len() {
        let step = match label_at(text, at, labels) {
            Some(label) if found.is_some_and(|other| other != label) => return None,
            Some(label) => {
                found = Some(label);
                labels[label].len()
            }
            None => text[at..].chars().next().map_or(1, char::len_utf8),
        };
        at += step;
    }
    found
}

/// The longest label that stands at byte `at` as a whole word.
fn label_at(text: &str, at: usize, labels: &[String]) -> Option<usize> {
    let (before, after) = text.split_at(at);
    let joins = |c: char| c.is_alphanumeric() || "-'’".contains(c);
    let ends = |rest: &str| {
        let mut next = rest.chars();
        match next.next() {
            Some(c) if c.is_alphanumeric() => false,
            Some(c) if joins(c) => !next.next().is_some_and(char::is_alphanumeric),
            _ => true,
        }
    };
    if before.ends_with(joins) {
        return None;
    }
    let stands = |label: &String| !label.is_empty() && after.strip_prefix(label.as_str()).is_some_and(ends);
    (0..labels.len()).filter(|&i| stands(&labels[i])).max_by_key(|&i| labels[i].len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(text: &str) -> Option<&'static str> {
        const LABELS: [&str; 3] = ["yes", "no", "maybe"];
        parse_decision(text, &LABELS.map(String::from)).map(|i| LABELS[i])
    }

    #[test]
    fn the_last_decision_line_speaks_alone() {
        assert_eq!(decide("Findings: no change.\nSummary: maybe.\nDecision: yes"), Some("yes"));
        assert_eq!(decide("Decision: no\nWell.\n3. DECISION:  **Maybe**.\nyes"), Some("maybe"));
        assert_eq!(decide("Decision:\n\nno\nmaybe later"), Some("no"));
        assert_eq!(decide("Decision: No. There is no sign of it."), Some("no"));
    }

    #[test]
    fn without_a_decision_line_the_only_label_counts() {
        assert_eq!(decide("The answer is Yes, and yes again."), Some("yes"));
        assert_eq!(decide("yes or no"), None);
        assert_eq!(decide(""), None);
    }

    #[test]
    fn what_is_not_clear_is_no_decision() {
        assert_eq!(decide("Decision: yes or no"), None);
        assert_eq!(decide("There was no change.\nDecision: it is unclear"), None);
        assert_eq!(decide("It is no use.\nDecision:"), None);
    }

    #[test]
    fn labels_are_whole_words() {
        assert_eq!(decide("Decision: nobody knows, noé, 1no"), None);
        assert_eq!(decide("Decision: a no-win, yes's"), None);
        assert_eq!(decide("Decision: -no-"), None);
        assert_eq!(decide("Decision: no- İ"), Some("no"));
    }

    #[test]
    fn the_longest_label_wins_where_labels_begin_alike() {
        let labels = ["no", "no effect", "effect"].map(String::from);
        assert_eq!(parse_decision("Decision: No effect.", &labels), Some(1));
        assert_eq!(parse_decision("Decision: no, an effect", &labels), None);
        assert_eq!(parse_decision("Decision: effect", &labels), Some(2));
    }
}
