//! Every number that can be set: its default and its range. One table, from which values are checked and `--help` is made.
//!
//! The defaults are the 13B recipe (assets/configs/llama2-13b.toml; a test holds the two together).

/// One setting that is a number.
#[derive(Clone, Copy, Debug)]
pub struct Number {
    /// `section.field`.
    pub key: &'static str,
    /// Its value where neither a flag nor the file gives one.
    pub default: f64,
    /// The least value allowed; where `above`, the value that all allowed ones lie above.
    pub low: f64,
    /// The greatest value allowed.
    pub high: f64,
    above: bool,
}

const fn number(key: &'static str, default: f64, low: f64, high: f64) -> Number {
    Number { key, default, low, high, above: false }
}

const fn positive(key: &'static str, default: f64, high: f64) -> Number {
    Number { key, default, low: 0.0, high, above: true }
}

/// All of them, in the order of `--help`.
pub const NUMBERS: &[Number] = &[
    number("data.validation_share", 0.1, 0.0, 0.5),
    number("data.test_share", 0.1, 0.0, 0.9),
    number("data.max_length", 0.0, 0.0, 65536.0),
    number("prompt.shots", 0.0, 0.0, 64.0),
    number("lora.rank", 16.0, 1.0, 256.0),
    positive("lora.alpha", 32.0, 1024.0),
    number("lora.dropout", 0.0, 0.0, 0.9),
    number("eci.weight", 0.2, 0.0, 1.0),
    number("eci.positions", 1200.0, 1.0, 8192.0),
    number("train.steps", 0.0, 0.0, 1e7),
    number("train.epochs", 1.0, 0.0, 1000.0),
    positive("train.lr", 2e-4, 1.0),
    number("train.head_lr", 0.0, 0.0, 1.0),
    number("train.weight_decay", 0.001, 0.0, 1.0),
    number("train.clip", 1.0, 0.0, 1000.0),
    number("train.warmup", 0.03, 0.0, 0.5),
    number("train.min_ratio", 0.0, 0.0, 1.0),
    number("train.tokens", 2816.0, 16.0, 65536.0),
    number("train.rows", 64.0, 1.0, 4096.0),
    number("train.accumulate", 6.0, 1.0, 1024.0),
    number("train.seed", 1.0, 0.0, 9007199254740991.0),
    number("train.patience", 0.0, 0.0, 1000.0),
    number("eval.every", 100.0, 0.0, 1e7),
    number("eval.rows", 0.0, 0.0, 1e7),
    number("eval.new_tokens", 256.0, 1.0, 4096.0),
    number("machine.threads", 0.0, 0.0, 1024.0),
    // The world's average in 2025: Ember, Global Electricity Review 2026 (docs/energy.md).
    number("machine.grid_factor", 458.0, 0.0, 10_000.0),
    number("output.save_every", 100.0, 0.0, 1e7),
];

/// The entry of `key`, which must be in the table.
pub fn find(key: &str) -> &'static Number {
    NUMBERS.iter().find(|n| n.key == key).unwrap_or_else(|| panic!("{key} is not in cli::numbers::NUMBERS"))
}

impl Number {
    /// Whether `value` is allowed; NaN never is.
    pub fn allows(&self, value: f64) -> bool {
        (value > self.low || (!self.above && value == self.low)) && value <= self.high
    }

    /// The range in words: "0 to 0.9", "above 0, at most 1".
    pub fn range(&self) -> String {
        let (low, high) = (self.low, self.high);
        if self.above { format!("above {low}, at most {high}") } else { format!("{low} to {high}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_a_range_belong_to_it_unless_it_says_above() {
        let share = find("data.test_share");
        assert!(share.allows(0.0) && share.allows(0.9) && !share.allows(0.91) && !share.allows(-0.001));
        let lr = find("train.lr");
        assert!(!lr.allows(0.0) && lr.allows(1e-9) && lr.allows(1.0) && !lr.allows(1.01));
        assert!(!lr.allows(f64::NAN) && !lr.allows(f64::INFINITY) && !share.allows(f64::NAN));
        assert_eq!(lr.range(), "above 0, at most 1");
    }

    #[test]
    fn every_default_is_allowed() {
        for n in NUMBERS {
            assert!(n.allows(n.default), "{}", n.key);
        }
    }
}
