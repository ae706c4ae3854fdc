//! The engine: what it answers is what the whole forward over the same text says, whoever else is under way and however small the
//! cache is.

use super::{batch, folder, rows, trainer_of};
use crate::common::{Golden, for_each_device};
use llamacare::data::Tokenized;
use llamacare::device::{Compute, Device};
use llamacare::generate::{Capacity, Engine, Event, Finish, Request, Sampling, Ticket, generate, logits};
use llamacare::model::{OptimiserStates, Quantise, RunOptions, class_probabilities};
use llamacare::tape::Tape;
use llamacare::train::Trainer;
use std::collections::BTreeMap;

/// The vocabulary of the golden model, and the token that ends its answers.
const VOCAB: usize = 91;
const EOS: u32 = 2;

/// The golden model, for longer texts.
fn trainer(device: &Device, quantise: Quantise, with_head: bool) -> Trainer {
    let dir = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path()).filter(|path| path.is_file()) {
        std::fs::copy(&file, dir.path().join(file.file_name().unwrap())).unwrap();
    }
    let path = dir.path().join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let longer = text.replace("\"max_position_embeddings\": 64", "\"max_position_embeddings\": 128");
    assert_ne!(text, longer);
    std::fs::write(&path, longer).unwrap();
    trainer_of(dir.path(), device, quantise, with_head, OptimiserStates::Fp32, None)
}

fn capacity(tokens: usize, pages: usize, sequences: usize) -> Capacity {
    Capacity { tokens, pages, sequences, positions: 128 }
}

fn request(prompt: &[u32], max_new: usize) -> Request {
    Request { prompt: prompt.to_vec(), max_new, sampling: Sampling::default(), head: None, ignore_eos: false }
}

/// Prompts of lengths around a page of 64: the golden sequences, repeated.
fn prompts() -> Vec<Vec<u32>> {
    let ids: Vec<u32> = rows(&Golden::load("llama")).into_iter().flat_map(|row| row.ids).collect();
    let cut = |(i, n): (usize, &usize)| ids.iter().cycle().skip(7 * i).take(*n).copied().collect();
    [1, 5, 63, 64, 65, 17, 9, 30].iter().enumerate().map(cut).collect()
}

/// Hidden states of one text, by a forward over all of it.
fn whole(trainer: &Trainer, ids: &[u32]) -> llamacare::device::Tensor {
    let row = Tokenized { id: "p".into(), n_prompt: ids.len(), ids: ids.to_vec(), label: None };
    let mut tape = Tape::inference(trainer.device());
    let one = batch(&[row], &[0]);
    trainer.model.forward(&mut tape, &one, &RunOptions::default()).unwrap().value().clone()
}

/// Greedy decoding without any cache.
fn greedy(trainer: &Trainer, prompt: &[u32], max_new: usize) -> Vec<u32> {
    let mut text = prompt.to_vec();
    for _ in 0..max_new {
        let hidden = whole(trainer, &text);
        let last = logits(&trainer.model, &hidden.rows(text.len() - 1, text.len())).unwrap().read_f32().unwrap();
        let best = (0..VOCAB).fold(0, |best, i| if last[i] > last[best] { i } else { best }) as u32;
        if best == EOS {
            break;
        }
        text.push(best);
    }
    text.split_off(prompt.len())
}

/// Every request's events, from beginning to end.
fn run(engine: &mut Engine) -> BTreeMap<Ticket, Vec<Event>> {
    let mut all: BTreeMap<Ticket, Vec<Event>> = BTreeMap::new();
    while !engine.is_idle() {
        for (ticket, event) in engine.step().unwrap() {
            all.entry(ticket).or_default().push(event);
        }
    }
    all
}

fn tokens(events: &[Event]) -> Vec<u32> {
    events.iter().filter_map(|event| if let Event::Token(id) = event { Some(*id) } else { None }).collect()
}

#[test]
fn a_paged_cache_answers_as_whole_forwards_do_whatever_its_size() {
    let device = Device::cpu(Compute::Fp32).unwrap();
    for quantise in [Quantise::None, Quantise::Nf4Double] {
        let trainer = trainer(&device, quantise, false);
        let prompts = prompts();
        let want: Vec<Vec<u32>> = prompts.iter().map(|prompt| greedy(&trainer, prompt, 12)).collect();
        assert!(want.iter().any(|answer| answer.len() == 12), "{want:?}");
        let views: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        // All at once; a few at a time; one after another with just the pages of the longest.
        for capacity in [capacity(1000, 16, 8), capacity(70, 5, 3), capacity(1, 2, 8)] {
            let mut seen = Vec::new();
            let got = generate(&trainer.model, &device, &views, 12, false, capacity, |n| seen.push(n)).unwrap();
            assert_eq!(got, want, "{quantise:?} {capacity:?}");
            assert!(seen.is_sorted() && seen.last() == Some(&prompts.len()));
        }
    }
}

#[test]
fn requests_come_and_go_and_leave_every_page_behind() {
    for_each_device(|device| {
        let trainer = trainer(device, Quantise::Nf4Double, false);
        let prompts = prompts();
        let mut engine = Engine::new(&trainer.model, &[], device, capacity(200, 9, 4)).unwrap();
        let alone = |prompt: &[u32]| {
            let mut engine = Engine::new(&trainer.model, &[], device, capacity(200, 9, 4)).unwrap();
            engine.submit(request(prompt, 8)).unwrap();
            tokens(run(&mut engine).values().next().unwrap())
        };
        let first: Vec<Ticket> = prompts[..3].iter().map(|p| engine.submit(request(p, 8)).unwrap()).collect();
        let mut said: BTreeMap<Ticket, Vec<Event>> = BTreeMap::new();
        for _ in 0..2 {
            for (ticket, event) in engine.step().unwrap() {
                said.entry(ticket).or_default().push(event);
            }
        }
        engine.cancel(first[1]);
        let later: Vec<Ticket> = prompts[3..].iter().map(|p| engine.submit(request(p, 8)).unwrap()).collect();
        engine.cancel(later[1]); // has not begun
        for (ticket, events) in run(&mut engine) {
            said.entry(ticket).or_default().extend(events);
        }
        assert_eq!(engine.n_free_pages(), 9);
        for (i, ticket) in first.iter().chain(&later).enumerate() {
            let cancelled = *ticket == first[1] || *ticket == later[1];
            let events = said.get(ticket).cloned().unwrap_or_default();
            let ended = matches!(events.last(), Some(Event::Done(_)));
            assert_eq!(ended, !cancelled, "{i}: {events:?}");
            if device.act() == llamacare::device::DType::F32 && !cancelled {
                assert_eq!(tokens(&events), alone(&prompts[i]), "prompt {i}");
            }
        }
    });
}

#[test]
fn the_head_says_of_a_prompt_what_it_says_of_the_whole_forward() {
    let device = Device::cpu(Compute::Fp32).unwrap();
    let trainer = trainer(&device, Quantise::None, true);
    let (mut prompts, head) = (prompts(), &trainer.heads[0]);
    prompts.retain(|prompt| prompt.len() <= head.config.positions);
    assert!(prompts.len() > 3);
    let mut engine = Engine::new(&trainer.model, &trainer.heads, &device, capacity(200, 9, 8)).unwrap();
    let with_head = |prompt: &[u32], max_new| Request { head: Some(0), ..request(prompt, max_new) };
    let said = engine.submit(with_head(&[3; 25], 1)).unwrap_err().to_string();
    assert!(said.contains("25 tokens") && said.contains("the head eci has room for 24"), "{said}");
    let tickets: Vec<Ticket> =
        prompts.iter().enumerate().map(|(i, p)| engine.submit(with_head(p, 3 * (i % 2))).unwrap()).collect();
    let said = run(&mut engine);
    for (i, (ticket, prompt)) in tickets.iter().zip(&prompts).enumerate() {
        let mut tape = Tape::inference(&device);
        let hidden = tape.var(whole(&trainer, prompt), false);
        let n = prompt.len() as i32;
        let logits = head.forward(&mut tape, &hidden, &[0, n], &[n]).unwrap().value().read_f32().unwrap();
        let Event::Label(got) = &said[ticket][0] else { panic!("the label comes first: {:?}", said[ticket]) };
        for (got, want) in got.iter().zip(class_probabilities(&logits).unwrap()) {
            assert!((got - want).abs() < 1e-6, "prompt {i}: {got} and {want}");
        }
        assert!((got.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        if i % 2 == 0 {
            assert_eq!(said[ticket][1..], [Event::Done(Finish::Length)], "only the label was asked for");
        }
    }
}

#[test]
fn a_seed_gives_an_answer_and_another_seed_another() {
    let device = Device::cpu(Compute::Fp32).unwrap();
    let trainer = trainer(&device, Quantise::None, false);
    let answer = |sampling: Sampling| {
        let mut engine = Engine::new(&trainer.model, &[], &device, capacity(200, 9, 4)).unwrap();
        engine.submit(Request { sampling, ignore_eos: true, ..request(&prompts()[1], 20) }).unwrap();
        tokens(run(&mut engine).values().next().unwrap())
    };
    let warm = |seed| Sampling { temperature: 1.0, seed, ..Sampling::default() };
    assert_eq!(answer(warm(1)), answer(warm(1)));
    assert_ne!(answer(warm(1)), answer(warm(2)));
    assert_eq!(answer(Sampling { top_k: 1, ..warm(1) }), answer(Sampling::default()), "the likeliest of one");
    assert_eq!(answer(Sampling { top_p: 1e-6, ..warm(2) }), answer(Sampling::default()));
    let penalised = answer(Sampling { repetition_penalty: 100.0, ..Sampling::default() });
    let mut distinct = penalised.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), penalised.len(), "nothing is said twice: {penalised:?}");
}

#[test]
fn what_can_never_be_answered_is_refused_at_once() {
    let device = Device::cpu(Compute::Fp32).unwrap();
    let trainer = trainer(&device, Quantise::None, false);
    let mut engine = Engine::new(&trainer.model, &[], &device, capacity(200, 1, 4)).unwrap();
    let mut refusal = |request: Request| engine.submit(request).unwrap_err().to_string();
    assert!(refusal(request(&[], 1)).contains("a prompt without tokens"));
    let said = refusal(request(&[3; 120], 9));
    assert!(said.contains("the prompt has 120 tokens and the answer may have 9; there is room for 128"), "{said}");
    let said = refusal(request(&[3; 60], 6));
    assert!(said.contains("the memory set aside holds 64"), "{said}");
    for sampling in [
        Sampling { temperature: -1.0, ..Sampling::default() },
        Sampling { temperature: f32::NAN, ..Sampling::default() },
        Sampling { top_p: 0.0, ..Sampling::default() },
        Sampling { repetition_penalty: 0.0, ..Sampling::default() },
    ] {
        assert!(refusal(Request { sampling, ..request(&[3], 1) }).contains("expected"));
    }
    // The last token of an answer is never read, so 60 and 5 fit a page of 64.
    engine.submit(request(&[3; 60], 5)).unwrap();
    assert!(!run(&mut engine).is_empty());
}
