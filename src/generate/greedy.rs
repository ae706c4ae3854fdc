//! Greedy decoding of many prompts at once: one packed prefill, then one token a step for every sequence still open.

use crate::device::{DType, Device, Tensor};
use crate::model::{KvCache, Llama};
use crate::ops::matmul::{Layout, matmul};
use crate::ops::rows::gather_rows;
use crate::ops::sequences::SequenceLayout;
use crate::tape::{Tape, Write};
use crate::{Error, Result};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// When to stop, and how much to have under way.
#[derive(Debug, Clone)]
pub struct Greedy {
    /// New tokens at most.
    pub max_new: usize,
    /// Tokens that end an answer; they are not part of it.
    pub eos: Vec<u32>,
    /// Tokens of one prefill at most: bounds the memory of a group of prompts.
    pub max_tokens: usize,
}

/// The answer to each prompt, without its closing token. `done` is told how many prompts have been answered.
pub fn generate(
    model: &Llama,
    device: &Device,
    prompts: &[&[u32]],
    greedy: &Greedy,
    mut done: impl FnMut(usize),
) -> Result<Vec<Vec<u32>>> {
    let mut answers = Vec::with_capacity(prompts.len());
    let mut begin = 0;
    while begin < prompts.len() {
        let mut tokens = 0;
        let fits = prompts[begin..].iter().take_while(|p| {
            tokens += p.len() + greedy.max_new;
            tokens <= greedy.max_tokens.max(prompts[begin].len() + greedy.max_new)
        });
        let end = begin + fits.count();
        answers.extend(generate_group(model, device, &prompts[begin..end], greedy)?);
        done(end);
        begin = end;
    }
    Ok(answers)
}

/// A sequence under way.
struct Open {
    index: usize,
    k_begin: usize,
    n_tokens: usize,
    next: Vec<u32>,
}

fn generate_group(model: &Llama, device: &Device, prompts: &[&[u32]], greedy: &Greedy) -> Result<Vec<Vec<u32>>> {
    let c = &model.config;
    let mut n_rows = 0;
    let mut open: Vec<Open> = Vec::new();
    for (index, prompt) in prompts.iter().enumerate() {
        let n_tokens = prompt.len() + greedy.max_new;
        if prompt.is_empty() || n_tokens > c.max_positions {
            return Err(Error::Input(format!(
                "prompt {index} has {} tokens and may grow by {}; the model takes 1 to {} tokens",
                prompt.len(),
                greedy.max_new,
                c.max_positions
            )));
        }
        open.push(Open { index, k_begin: n_rows, n_tokens: 0, next: prompt.to_vec() });
        n_rows += n_tokens;
    }
    let cache = Rc::new(RefCell::new(KvCache::new(device, c.n_layers, n_rows, c.n_kv_heads * c.head_dim)?));
    let mut answers = vec![Vec::new(); prompts.len()];
    for _ in 0..greedy.max_new {
        let tokens = next_tokens(model, device, &mut open, &cache)?;
        for (sequence, token) in open.iter_mut().zip(tokens) {
            sequence.n_tokens += sequence.next.len();
            sequence.next = vec![token];
            if !greedy.eos.contains(&token) {
                answers[sequence.index].push(token);
            }
        }
        open.retain(|s| !greedy.eos.contains(&s.next[0]));
        if open.is_empty() {
            break;
        }
    }
    Ok(answers)
}

/// One forward over the new tokens of every open sequence; the likeliest next token of each.
fn next_tokens(model: &Llama, device: &Device, open: &mut [Open], cache: &Rc<RefCell<KvCache>>) -> Result<Vec<u32>> {
    let (mut ids, mut rows, mut last, mut entries) = (vec![], vec![], vec![], vec![]);
    for s in open.iter() {
        entries.push((s.k_begin as i32, s.n_tokens as i32, s.next.len() as i32));
        for (i, &id) in s.next.iter().enumerate() {
            ids.push(id as i32);
            rows.push((s.k_begin + s.n_tokens + i) as i32);
        }
        last.push(ids.len() as i32 - 1);
    }
    let layout = Arc::new(SequenceLayout::decode(device, &entries)?);
    cache.borrow_mut().begin(rows);
    let mut tape = Tape::inference(device);
    let hidden = model.forward_cached(&mut tape, &ids, &layout, cache)?;
    let hidden = gather_rows(&mut tape, &hidden, &last)?;
    let logits = logits(model, hidden.value())?.read_f32()?;
    let (width, vocab) = (model.head.shape()[0], model.config.vocab);
    logits.chunks(width).map(|row| argmax(&row[..vocab])).collect()
}

/// Logits [n, Vp] fp32 of hidden states [n, C]; columns from V on are padding.
pub fn logits(model: &Llama, hidden: &Tensor) -> Result<Tensor> {
    let out = hidden.device().empty("logits", DType::F32, &[hidden.shape()[0], model.head.shape()[0]])?;
    matmul(Layout::NT, &[(hidden, &model.head)], &out, 1.0, Write::Set)?;
    Ok(out)
}

/// The first of the largest, as torch.argmax takes it. A value that is no number is an error, not a token.
fn argmax(row: &[f32]) -> Result<u32> {
    let mut best = 0;
    for (i, &v) in row.iter().enumerate() {
        if v.is_nan() {
            return Err(Error::NotFinite("a logit is not a number; the adapter or the base is damaged".into()));
        }
        if v > row[best] {
            best = i;
        }
    }
    Ok(best as u32)
}
