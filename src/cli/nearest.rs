//! The nearest known name to one that is not known, for "did you mean".

/// The known name that is nearest to `typed`, where it is near enough to be what was meant: at most a third of its
/// letters have to change (two in a short name).
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, name) = known.into_iter().map(|name| (edits(typed, name), name)).min()?;
    (distance <= (name.chars().count() / 3).max(2) && distance < name.chars().count()).then_some(name)
}

/// How many letters must be put in, taken out or changed to turn `a` into `b` (Levenshtein), row by row of the table.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted_one_by_one() {
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("abc", "abc"), 0);
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("trian", "train"), 2);
        assert_eq!(edits("wärme", "warme"), 1);
    }

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let known = ["rank", "alpha", "dropout", "targets"];
        assert_eq!(nearest("rnak", known), Some("rank"));
        assert_eq!(nearest("drop_out", known), Some("dropout"));
        assert_eq!(nearest("batch_size", known), None);
        assert_eq!(nearest("xy", ["lr"]), None);
    }
}
