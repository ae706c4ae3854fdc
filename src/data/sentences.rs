//! Sentences of a context, and which of them are the findings that matter: step 1 of the three-step answer.
//!
//! PubMedQA does not say which sentences an answer rests on, so the training target is made by a rule that anyone can
//! check by hand: the sentences that share the most words with the question and its long answer.

use std::collections::HashSet;

/// How many sentences [`findings`] holds at most.
pub const MAX_FINDINGS: usize = 2;

/// Cuts a text into its sentences; blanks between them belong to none.
///
/// A sentence ends at `.`, `!` or `?` (with closing quotes and brackets) before blanks and something else than a small
/// letter. "E. coli", "p = 0.05", "vs. Placebo" and "et al. Found" are not cut.
pub fn sentences(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = first_end(rest);
        found.push(&rest[..end]);
        rest = rest[end..].trim_start();
    }
    found
}

/// The bytes of the first sentence of `text`.
fn first_end(text: &str) -> usize {
    for (at, stop) in text.char_indices().filter(|(_, c)| ".!?".contains(*c)) {
        let after = &text[at + 1..];
        let closing = after.len() - after.trim_start_matches(['"', '\'', ')', ']', '”', '’', '.', '!', '?']).len();
        let next = &after[closing..];
        let is_end = next.starts_with(char::is_whitespace) && !next.trim_start().starts_with(char::is_lowercase);
        if is_end && (stop != '.' || !is_short_form(&text[..at])) {
            return at + 1 + closing;
        }
    }
    text.len()
}

/// Whether the full stop after this text ends a short form rather than a sentence.
fn is_short_form(before: &str) -> bool {
    let word = before.rsplit(|c: char| !c.is_alphanumeric() && c != '.').next().unwrap_or_default();
    let is_initial = word.chars().count() == 1 && word.starts_with(char::is_alphabetic);
    is_initial
        || ["vs", "al", "fig", "dr", "mr", "mrs", "prof", "approx", "e.g", "i.e"].contains(&&*word.to_lowercase())
}

/// The findings that matter: of all sentences of the contexts, at most [`MAX_FINDINGS`] that share the most words with
/// the question and its answer, in their original order.
///
/// The overlap of a sentence is the number of different words in it that the question or the answer has too (letters and
/// digits only, small letters). Equal overlaps: the earlier sentence. A second finding must have more than half the
/// overlap of the best, so that one good sentence does not drag along one that only shares its "the" and "of"; a
/// sentence without a common word is never a finding.
pub fn findings<'a>(contexts: &'a [String], question: &str, answer: &str) -> Vec<&'a str> {
    let reference: HashSet<String> = words(question).chain(words(answer)).collect();
    let overlap = |sentence: &str| words(sentence).collect::<HashSet<_>>().intersection(&reference).count();
    let all: Vec<(usize, &str)> = contexts.iter().flat_map(|c| sentences(c)).map(|s| (overlap(s), s)).collect();
    let best = all.iter().map(|&(overlap, _)| overlap).max().unwrap_or(0);
    let mut chosen: Vec<usize> = (0..all.len()).filter(|&i| 2 * all[i].0 > best).collect();
    chosen.sort_by_key(|&i| (std::cmp::Reverse(all[i].0), i));
    chosen.truncate(MAX_FINDINGS);
    chosen.sort_unstable();
    chosen.into_iter().map(|i| all[i].1).collect()
}

/// Takes the last sentence off the last context that has one; `false` when nothing is left to take.
pub fn drop_last_sentence(contexts: &mut Vec<String>) -> bool {
    while let Some(mut last) = contexts.pop() {
        let Some(n_bytes) = sentences(&last).last().map(|sentence| sentence.len()) else { continue };
        last.truncate(last.trim_end().len() - n_bytes);
        last.truncate(last.trim_end().len());
        if !last.is_empty() {
            contexts.push(last);
        }
        return true;
    }
    false
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_at_the_ends_of_its_sentences_only() {
        let text = " E. coli grew (p = 0.05).  \"Did it?\" Yes! We saw 3 vs. Placebo 4, e.g. Two days.\nThe end ";
        let expected =
            ["E. coli grew (p = 0.05).", "\"Did it?\"", "Yes!", "We saw 3 vs. Placebo 4, e.g. Two days.", "The end"];
        assert_eq!(sentences(text), expected);
        assert_eq!(sentences("Wait... What?! 5 left."), ["Wait...", "What?!", "5 left."]);
        assert_eq!(
            sentences("It fell (5 mg resp. seven). Then approx. 3 rose."),
            ["It fell (5 mg resp. seven).", "Then approx. 3 rose."]
        );
        assert_eq!(sentences("Group no. three won! as expected."), ["Group no. three won! as expected."]);
        assert_eq!(sentences("Δψ fell. Énorme."), ["Δψ fell.", "Énorme."]);
        assert!(sentences(" \n").is_empty());
    }

    #[test]
    fn findings_are_the_two_closest_sentences_in_their_order() {
        let contexts = ["We asked about pain. Drug A lowered pain strongly.", "Nobody slept. Pain fell with drug A."];
        let contexts = contexts.map(String::from);
        let found = findings(&contexts, "Does drug A lower pain?", "Drug A lowered pain.");
        assert_eq!(found, ["Drug A lowered pain strongly.", "Pain fell with drug A."]);
    }

    #[test]
    fn equal_findings_go_to_the_earlier_and_weak_ones_are_left_out() {
        let contexts = vec!["Pain fell. Pain rose. Pain stayed.".to_string()];
        assert_eq!(findings(&contexts, "Pain?", ""), ["Pain fell.", "Pain rose."]);
        let contexts = vec!["The pain of the drug rose. Drug A had an effect on pain. It is over.".to_string()];
        assert_eq!(
            findings(&contexts, "Effect of drug A on pain?", "It had an effect."),
            ["Drug A had an effect on pain."]
        );
        assert!(findings(&contexts, "Köln?", "").is_empty());
        assert!(findings(&[], "Pain?", "").is_empty());
    }

    #[test]
    fn sentences_are_dropped_from_the_end() {
        let mut contexts = vec!["One.  Two.".to_string(), "Three. Four ".to_string(), " ".to_string()];
        let mut left = Vec::new();
        while drop_last_sentence(&mut contexts) {
            left.push(contexts.join("|"));
        }
        assert_eq!(left, ["One.  Two.|Three.", "One.  Two.", "One.", ""]);
        assert!(contexts.is_empty());
    }
}
