//! A model on a set of rows: the LM loss of the answers given, and three readings of each question that has a class: what the model
//! writes, how likely it holds each label, what the head says.

use crate::Result;
use crate::data::decision::{MARK, decision_at, parse_decision};
use crate::data::{LabelSet, Prompt, Record, Room, TextTokenizer, Tokenized, pack};
use crate::device::Device;
use crate::eval::answers::{Answer, Written};
use crate::eval::logprob::{Candidates, log_probabilities};
use crate::generate::{Capacity, generate};
use crate::model::{Batch, EciHead, Llama, RunOptions, class_probabilities};
use crate::ops::lm_loss::{CHUNK, lm_loss};
use crate::ops::rows::gather_rows;
use crate::tape::Tape;

/// What is evaluated: a model, and a head for each set of labels (or none at all).
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The decoder, its adapter in it.
    pub model: &'a Llama,
    /// The heads, in the order of the label sets; empty without any.
    pub heads: &'a [EciHead],
    /// Where they live.
    pub device: &'a Device,
}

/// The questions: rows as ids, and as they were read. Both of one length, in one order.
#[derive(Clone, Copy)]
pub struct Questions<'a> {
    /// As ids.
    pub rows: &'a [Tokenized],
    /// As they were read.
    pub records: &'a [Record],
    /// What can be decided.
    pub sets: &'a [LabelSet],
}

/// What to read, and how much at once.
pub struct Evaluate<'a> {
    /// The model's.
    pub tokenizer: &'a TextTokenizer,
    /// What renders the rows.
    pub prompt: &'a Prompt,
    /// What a micro-batch holds at most.
    pub room: Room,
    /// Tokens of prompts and answers in the cache at most.
    pub cached_tokens: usize,
    /// New tokens of an answer at most; 0: no text is generated.
    pub max_new: usize,
    /// Whether to read the labels' log-probabilities.
    pub logprob: bool,
}

/// The readings of one evaluation.
#[derive(Debug, Clone, Default)]
pub struct Evaluation {
    /// Mean over all target tokens.
    pub lm_loss: f64,
    /// Tokens that had a target.
    pub n_targets: usize,
    /// One for each row that has a class, in the order of the rows.
    pub answers: Vec<Answer>,
    /// What it took, where whoever ran it had a meter that measures.
    pub joules: Option<f64>,
}

impl Evaluate<'_> {
    /// Runs the model over the questions. `progress` is told how many answers are written so far.
    pub fn run(&self, subject: Subject, questions: Questions, progress: impl FnMut(usize)) -> Result<Evaluation> {
        let Questions { rows, records, sets } = questions;
        assert_eq!(rows.len(), records.len(), "each row comes with its record");
        let mut probabilities: Vec<Option<Vec<f64>>> = vec![None; rows.len()];
        let (mut sum, mut n_targets) = (0.0, 0);
        for micro in pack(rows, self.room, 0, 0)? {
            let batch = Batch::new(&micro);
            let (batch_sum, said) = forward(subject, &batch)?;
            sum += batch_sum;
            n_targets += batch.targets.len();
            for (&row, said) in micro.rows.iter().zip(said) {
                probabilities[row] = said;
            }
        }
        let asked: Vec<usize> = (0..rows.len()).filter(|&row| rows[row].label.is_some()).collect();
        let answer = |&row: &usize| {
            let (class, record) = (rows[row].label.expect("filtered"), &records[row]);
            Answer {
                id: rows[row].id.clone(),
                question: record.question.clone(),
                domain: record.domain.clone(),
                labels: sets[class.set].labels.clone(),
                right: class.index,
                eci: probabilities[row].take(),
                ..Answer::default()
            }
        };
        let mut answers: Vec<Answer> = asked.iter().map(answer).collect();
        if self.max_new > 0 {
            self.write(subject, questions, &asked, &mut answers, progress)?;
        }
        if self.logprob {
            let candidates = |(&row, answer): (&usize, &Answer)| self.candidates(&rows[row], answer);
            let candidates = asked.iter().zip(&answers).map(candidates).collect::<Result<Vec<_>>>()?;
            for (answer, scores) in answers.iter_mut().zip(log_probabilities(subject, &candidates, self.room.tokens)?) {
                answer.logprob = Some(scores);
            }
        }
        Ok(Evaluation { lm_loss: sum / n_targets.max(1) as f64, n_targets, answers, joules: None })
    }

    fn write(
        &self,
        subject: Subject,
        questions: Questions,
        asked: &[usize],
        answers: &mut [Answer],
        progress: impl FnMut(usize),
    ) -> Result<()> {
        let prompts: Vec<&[u32]> =
            asked.iter().map(|&row| &questions.rows[row].ids[..questions.rows[row].n_prompt]).collect();
        let capacity =
            Capacity::for_prompts(prompts.iter().copied(), self.max_new, self.room.tokens, self.cached_tokens);
        let written = generate(subject.model, subject.device, &prompts, self.max_new, false, capacity, progress)?;
        for ((ids, answer), &row) in written.into_iter().zip(answers).zip(asked) {
            let text = self.tokenizer.decode(&ids)?.trim().to_string();
            let record = &questions.records[row];
            let option = |label: &String| {
                let found = record.options.iter().find(|option| option.key == *label);
                found.map_or(String::new(), |option| option.text.clone())
            };
            let options: Vec<String> = answer.labels.iter().map(option).collect();
            answer.text = Some(Written {
                class: parse_decision(&text, &answer.labels, &options),
                n_tokens: ids.len(),
                ended: ids.len() < self.max_new,
                text,
            });
        }
        Ok(())
    }

    /// The labels behind the prompt. Where the answer has steps before its decision, they stand behind the steps that the model
    /// itself wrote, up to its "Decision:", or behind that word alone where it wrote none.
    fn candidates(&self, row: &Tokenized, answer: &Answer) -> Result<Candidates> {
        let written = answer.text.as_ref().map_or("", |written| written.text.as_str());
        let lead = match (self.prompt.template.marks_its_decision(), decision_at(written)) {
            (false, _) => String::new(),
            (true, Some(own)) => format!("{} ", &written[..own]),
            (true, None) => format!("{MARK} "),
        };
        let ids = |label: &String| {
            let text = self.prompt.layout.completion(&format!("{lead}{label}"));
            let mut ids = self.tokenizer.encode_completion(text.trim_end())?;
            ids.pop();
            Ok(ids)
        };
        let whole = answer.labels.iter().map(ids).collect::<Result<Vec<Vec<u32>>>>()?;
        Ok(Candidates::new(&row.ids[..row.n_prompt], whole, self.tokenizer.eos()))
    }
}

/// Sum of the LM losses of a micro-batch, and the head's probabilities of each of its sequences that has a class.
pub(crate) fn forward(subject: Subject, batch: &Batch) -> Result<(f64, Vec<Option<Vec<f64>>>)> {
    let mut tape = Tape::inference(subject.device);
    let hidden = subject.model.forward(&mut tape, batch, &RunOptions::default())?;
    let mut said = vec![None; batch.labels.len()];
    for (set, head) in subject.heads.iter().enumerate().filter(|(set, _)| batch.has_labels_of(*set)) {
        let logits = head.forward(&mut tape, &hidden, &batch.cu_seqlens, &batch.n_prompt)?.value().read_f32()?;
        for (row, class) in batch.labels.iter().enumerate() {
            if class.is_some_and(|class| class.set == set) {
                let n_class = head.config.labels.len();
                said[row] = Some(class_probabilities(&logits[row * n_class..][..n_class])?);
            }
        }
    }
    if batch.targets.is_empty() {
        return Ok((0.0, said));
    }
    let states = gather_rows(&mut tape, &hidden, &batch.target_rows)?;
    let (head, vocab) = (&subject.model.head, subject.model.config.vocab);
    let loss = lm_loss(&mut tape, &states, head, vocab, &batch.targets, 0.0, CHUNK)?;
    Ok((loss.sum, said))
}
