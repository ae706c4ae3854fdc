//! What was spent, as reports show it: joules a step and a token, kilowatt-hours, and the CO2 they stand for on a grid.

use serde::{Deserialize, Serialize};

/// Joules of a kilowatt-hour.
const KWH: f64 = 3.6e6;

/// What one optimiser step brings to the sums.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Step {
    /// None where it was not measured.
    pub joules: Option<f64>,
    /// Tokens, prompts included.
    pub tokens: usize,
    /// Tokens with a target.
    pub targets: usize,
    /// Time.
    pub seconds: f64,
}

/// What a run took. What was not measured is null. Numbers a step and a token are of the steps alone; the rest is of the whole run,
/// evaluations included, as its seconds are.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Energy {
    /// What is measured, or why nothing is.
    pub measured: String,
    /// Steps of which it is known.
    pub steps: usize,
    /// Joules an optimiser step.
    pub joules_per_step: Option<f64>,
    /// Joules a trained token, prompts included.
    pub joules_per_token: Option<f64>,
    /// Joules a target token: those that a loss is computed for.
    pub joules_per_target_token: Option<f64>,
    /// Mean power during the steps.
    pub watts: Option<f64>,
    /// Of the whole run, in kilowatt-hours.
    pub kwh: Option<f64>,
    /// Grams of CO2 equivalent that a kilowatt-hour stands for, as set.
    pub grid_factor: f64,
    /// Grams of CO2 equivalent of the whole run: kilowatt-hours times the grid factor, nothing added for cooling (PUE).
    pub co2_grams: Option<f64>,
}

impl Energy {
    /// Of these steps, and of a whole run that took `joules`, on a grid of `grid_factor` grams a kilowatt-hour.
    pub fn of(measured: &str, steps: impl Iterator<Item = Step>, joules: Option<f64>, grid_factor: f64) -> Energy {
        let known: Vec<(f64, Step)> = steps.filter_map(|step| Some((step.joules?, step))).collect();
        let sum: f64 = known.iter().map(|(joules, _)| joules).sum();
        let a = |n: f64| (n > 0.0).then(|| sum / n);
        let kwh = joules.map(|joules| joules / KWH);
        Energy {
            measured: measured.into(),
            steps: known.len(),
            joules_per_step: a(known.len() as f64),
            joules_per_token: a(known.iter().map(|(_, step)| step.tokens as f64).sum()),
            // A log of an older run does not say how many targets a step had.
            joules_per_target_token: a(known.iter().map(|(_, step)| step.targets as f64).sum())
                .filter(|_| known.iter().all(|(_, step)| step.targets > 0)),
            watts: a(known.iter().map(|(_, step)| step.seconds).sum()),
            kwh,
            grid_factor,
            co2_grams: kwh.map(|kwh| kwh * grid_factor),
        }
    }

    /// What it is called and how much it was, for a table; empty where nothing was measured.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = Vec::new();
        let mut line = |name, value: Option<f64>, unit: &str| {
            lines.extend(value.map(|value| (name, format!("{} {unit}", three_digits(value)))));
        };
        line("an optimiser step", self.joules_per_step, "J");
        line("a trained token, prompts included", self.joules_per_token, "J");
        line("a target token", self.joules_per_target_token, "J");
        line("mean power while training", self.watts, "W");
        line("the whole run, tests included", self.kwh, "kWh");
        let grid = format!("at {} g CO2e/kWh, without cooling (PUE)", self.grid_factor);
        match self.co2_grams.filter(|grams| *grams >= 1000.0) {
            Some(grams) => line("its CO2 equivalent", Some(grams / 1000.0), &format!("kg, {grid}")),
            None => line("its CO2 equivalent", self.co2_grams, &format!("g, {grid}")),
        }
        lines
    }

    /// All of it in one line for the terminal.
    pub fn sentence(&self) -> String {
        let (Some(step), Some(token)) = (self.joules_per_step, self.joules_per_token) else {
            return format!("energy {}", self.measured);
        };
        let whole = match (self.kwh, self.co2_grams) {
            (Some(kwh), Some(grams)) => format!(
                "{} kWh in all, {} g CO2e at {} g/kWh",
                three_digits(kwh),
                three_digits(grams),
                self.grid_factor
            ),
            _ => "not known of the whole run, a part of which was not measured".into(),
        };
        format!(
            "energy {} J a step, {} J a token; {whole} ({})",
            three_digits(step),
            three_digits(token),
            self.measured
        )
    }
}

/// What an evaluation took: of the questions alone, without the loading of the model.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Asking {
    /// What is measured, or why nothing is.
    pub measured: String,
    /// Joules of all questions, all their readings together.
    pub joules: Option<f64>,
    /// Joules a question.
    pub joules_per_question: Option<f64>,
    /// Joules a generated token: all the energy, that of prompts and other readings too, over the tokens that were written.
    pub joules_per_generated_token: Option<f64>,
}

impl Asking {
    /// Of `questions` questions, whose answers were written in `generated` tokens.
    pub fn of(measured: &str, joules: Option<f64>, questions: usize, generated: usize) -> Asking {
        let a = |n: usize| joules.filter(|_| n > 0).map(|joules| joules / n as f64);
        let (joules_per_question, joules_per_generated_token) = (a(questions), a(generated));
        Asking { measured: measured.into(), joules, joules_per_question, joules_per_generated_token }
    }

    /// In one line: how much, or why it is not known.
    pub fn sentence(&self) -> String {
        let Some(question) = self.joules_per_question else { return self.measured.clone() };
        let token = self.joules_per_generated_token;
        let token = token.map_or(String::new(), |joules| format!(", {} J a generated token", three_digits(joules)));
        format!("{} J a question{token}, all readings together ({})", three_digits(question), self.measured)
    }
}

/// A positive number with three digits that count: 1234, 12.3, 0.00123.
pub fn three_digits(value: f64) -> String {
    let digits = if value > 0.0 { (2.0 - value.log10().floor()).clamp(0.0, 12.0) as usize } else { 0 };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(joules: Option<f64>) -> Step {
        Step { joules, tokens: 1000, targets: 100, seconds: 0.5 }
    }

    #[test]
    fn sums_are_of_the_steps_that_were_measured() {
        let steps = [Some(100.0), None, Some(300.0), Some(200.0)].map(step);
        let energy = Energy::of("made up", steps.into_iter(), Some(7.2e6), 458.0);
        assert_eq!(energy.steps, 3);
        assert_eq!(energy.joules_per_step, Some(200.0));
        assert_eq!(energy.joules_per_token, Some(0.2));
        assert_eq!(energy.joules_per_target_token, Some(2.0));
        assert_eq!(energy.watts, Some(400.0));
        assert_eq!((energy.kwh, energy.co2_grams), (Some(2.0), Some(916.0)));
        let shown: Vec<String> = energy.lines().into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
        assert_eq!(
            shown,
            [
                "an optimiser step: 200 J",
                "a trained token, prompts included: 0.200 J",
                "a target token: 2.00 J",
                "mean power while training: 400 W",
                "the whole run, tests included: 2.00 kWh",
                "its CO2 equivalent: 916 g, at 458 g CO2e/kWh, without cooling (PUE)",
            ]
        );
        assert_eq!(
            energy.sentence(),
            "energy 200 J a step, 0.200 J a token; 2.00 kWh in all, 916 g CO2e at 458 g/kWh (made up)"
        );
    }

    #[test]
    fn nothing_measured_is_nothing_shown_and_never_0() {
        let none = Energy::of("not measured: no counter", [step(None)].into_iter(), None, 458.0);
        let fields = (none.joules_per_step, none.joules_per_token, none.watts, none.kwh, none.co2_grams);
        assert_eq!(fields, (None, None, None, None, None));
        assert!(none.lines().is_empty());
        assert_eq!(none.sentence(), "energy not measured: no counter");
    }

    #[test]
    fn a_run_measured_in_part_says_so_and_an_old_log_has_no_targets() {
        let old = Step { targets: 0, ..step(Some(50.0)) };
        let part = Energy::of("made up", [step(Some(50.0)), old].into_iter(), None, 458.0);
        assert_eq!((part.joules_per_step, part.joules_per_target_token), (Some(50.0), None));
        assert!(part.sentence().contains("not known of the whole run"), "{}", part.sentence());
    }

    #[test]
    fn much_co2_is_told_in_kilograms() {
        let energy = Energy::of("made up", [step(Some(1.0))].into_iter(), Some(36e6), 458.0);
        assert_eq!(energy.lines().last().unwrap().1, "4.58 kg, at 458 g CO2e/kWh, without cooling (PUE)");
    }

    #[test]
    fn an_evaluation_has_joules_a_question_and_a_token_where_some_were_written() {
        let asking = Asking::of("made up", Some(60.0), 3, 12);
        assert_eq!(asking.sentence(), "20.0 J a question, 5.00 J a generated token, all readings together (made up)");
        assert_eq!(Asking::of("made up", Some(60.0), 3, 0).joules_per_generated_token, None);
        assert_eq!(Asking::of("not measured: no", None, 3, 12).sentence(), "not measured: no");
        assert_eq!(Asking::of("not measured: no", None, 3, 12).joules_per_question, None);
    }

    #[test]
    fn three_digits_count() {
        let shown = [1234.4, 999.0, 12.34, 1.0, 0.2, 0.001234, 0.0].map(three_digits);
        assert_eq!(shown, ["1234", "999", "12.3", "1.00", "0.200", "0.00123", "0"]);
    }
}
