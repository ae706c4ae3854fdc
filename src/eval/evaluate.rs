//! A model on a set of rows: LM loss, what the head says, and what the text says.

use crate::data::{Room, TextTokenizer, Tokenized, pack, parse_decision};
use crate::eval::metrics::argmax;
use crate::generate::{Greedy, generate};
use crate::model::{Batch, RunOptions};
use crate::ops::lm_loss::{CHUNK, lm_loss};
use crate::ops::rows::gather_rows;
use crate::tape::Tape;
use crate::train::Trainer;
use crate::{Error, Result};

/// The readings of one evaluation, row by row.
#[derive(Debug, Clone, Default)]
pub struct Evaluation {
    /// Mean over all target tokens.
    pub lm_loss: f64,
    /// The true class of each row that has one.
    pub labels: Vec<usize>,
    /// The head's class of the same rows; empty without a head.
    pub head: Vec<usize>,
    /// The class read out of the generated text of the same rows; none: no clear label.
    pub text: Vec<Option<usize>>,
    /// The generated answers of the same rows.
    pub answers: Vec<String>,
}

impl Evaluation {
    /// Share of rows whose text gives the right class; no clear label counts as wrong. None where no text was made.
    pub fn text_accuracy(&self) -> Option<f64> {
        share(self.text.iter().zip(&self.labels).map(|(t, l)| *t == Some(*l)))
    }

    /// Share of rows whose head gives the right class.
    pub fn head_accuracy(&self) -> Option<f64> {
        share(self.head.iter().zip(&self.labels).map(|(h, l)| h == l))
    }
}

fn share(right: impl ExactSizeIterator<Item = bool>) -> Option<f64> {
    let n = right.len();
    (n > 0).then(|| right.filter(|r| *r).count() as f64 / n as f64)
}

/// What to evaluate, and how much at once.
pub struct Evaluate<'a> {
    /// Classes, in the order of the head's outputs.
    pub classes: &'a [String],
    /// What a micro-batch holds at most.
    pub room: Room,
    /// Tokens of prompts and answers that are decoded together at most.
    pub group_tokens: usize,
    /// New tokens of an answer at most; 0: no text is generated.
    pub max_new: usize,
}

impl Evaluate<'_> {
    /// Runs the model over `rows`. `progress` is told how many answers there are so far.
    pub fn run(
        &self,
        trainer: &Trainer,
        rows: &[Tokenized],
        tokenizer: &TextTokenizer,
        progress: impl FnMut(usize),
    ) -> Result<Evaluation> {
        let mut out = Evaluation::default();
        let mut classes = vec![None; rows.len()];
        let (mut sum, mut n) = (0.0, 0);
        for micro in pack(rows, self.room, 0, 0)? {
            let batch = Batch::new(&micro);
            let (batch_sum, head) = forward(trainer, &batch)?;
            sum += batch_sum;
            n += batch.targets.len();
            for (&row, class) in micro.rows.iter().zip(head) {
                classes[row] = Some(class);
            }
        }
        out.lm_loss = sum / n.max(1) as f64;
        let labelled: Vec<usize> = (0..rows.len()).filter(|&r| rows[r].label.is_some()).collect();
        out.labels = labelled.iter().filter_map(|&r| rows[r].label).collect();
        out.head = labelled.iter().filter_map(|&r| classes[r]).collect();
        if self.max_new > 0 {
            self.generate(trainer, rows, &labelled, tokenizer, progress, &mut out)?;
        }
        Ok(out)
    }

    fn generate(
        &self,
        trainer: &Trainer,
        rows: &[Tokenized],
        labelled: &[usize],
        tokenizer: &TextTokenizer,
        progress: impl FnMut(usize),
        out: &mut Evaluation,
    ) -> Result<()> {
        let prompts: Vec<&[u32]> = labelled.iter().map(|&r| &rows[r].ids[..rows[r].n_prompt]).collect();
        let eos = trainer.model.config.eos.clone();
        let greedy = Greedy { max_new: self.max_new, eos, max_tokens: self.group_tokens };
        for ids in generate(&trainer.model, trainer.device(), &prompts, &greedy, progress)? {
            let text = tokenizer.decode(&ids)?;
            out.text.push(parse_decision(&text, self.classes));
            out.answers.push(text);
        }
        Ok(())
    }
}

/// Sum of the LM losses of a micro-batch, and the head's class of each of its sequences, labelled or not.
pub(crate) fn forward(trainer: &Trainer, batch: &Batch) -> Result<(f64, Vec<usize>)> {
    let mut tape = Tape::inference(trainer.device());
    let hidden = trainer.model.forward(&mut tape, batch, &RunOptions::default())?;
    let mut classes = Vec::new();
    if let Some(head) = &trainer.head {
        let logits = head.forward(&mut tape, &hidden, &batch.cu_seqlens, &batch.n_prompt)?.value().read_f32()?;
        let damaged = || {
            Error::NotFinite("a class logit of a tested row is not a number; the adapter or the base is damaged".into())
        };
        let class = |row| argmax(row).ok_or_else(damaged);
        classes = logits.chunks(head.config.labels.len()).map(class).collect::<Result<_>>()?;
    }
    if batch.targets.is_empty() {
        return Ok((0.0, classes));
    }
    let states = gather_rows(&mut tape, &hidden, &batch.target_rows)?;
    let loss =
        lm_loss(&mut tape, &states, &trainer.model.head, trainer.model.config.vocab, &batch.targets, 0.0, CHUNK)?;
    Ok((loss.sum, classes))
}
