//! What `cost` measured, as tables and verdicts; and the same costs of Llama-2-13B, which need no run: sizes and two formulas.

use super::cost::{Given, LENGTHS, Measured, PAPER_DIMS, Peak, TRAINING_BYTES, Times, cache_per_token, n_params};
use super::report::{TitledTable, Verdict};
use crate::bytes::readable;
use crate::checkpoint::{EciConfig, LlamaConfig};
use crate::eval::bootstrap::Interval;
use crate::ops::attention::PAGE;
use crate::table::Table;

pub(super) fn titled(title: &str, table: Table) -> TitledTable {
    TitledTable { title: title.into(), table }
}

fn ms(value: f64) -> String {
    if value < 0.1 { format!("{value:.4}") } else { format!("{value:.2}") }
}

fn span(interval: Interval) -> String {
    format!("{} to {}", ms(interval.low), ms(interval.high))
}

fn written(length: usize) -> String {
    match length {
        1 => "prompt and first token".into(),
        n => format!("answer of {n} tokens"),
    }
}

pub(super) fn time_table(measured: &[Measured]) -> Table {
    let mut table = Table::new([
        "questions at once",
        "what",
        "ms",
        "95 %",
        "ms a question",
        "ms a further token",
        "times the head's",
        "95 %",
    ]);
    for one in measured {
        let batch = one.batch.to_string();
        let a_question = |times: &Times| ms(times.median() / one.batch as f64);
        let (time, interval) = (ms(one.head.median()), span(one.head.interval()));
        table.row([&batch, "forward with the head", &time, &interval, &a_question(&one.head), "–", "1", "–"]);
        for (length, times) in LENGTHS.into_iter().zip(&one.answers) {
            let ratio = times.over(&one.head);
            let further = match length {
                1 => "–".into(),
                n => ms((times.median() - one.answers[0].median()) / (n - 1) as f64),
            };
            table.row([
                &batch,
                &written(length),
                &ms(times.median()),
                &span(times.interval()),
                &a_question(times),
                &further,
                &format!("{:.2}", ratio.median()),
                &span(ratio.interval()),
            ]);
        }
    }
    table
}

pub(super) fn memory_table(given: &Given, measured: &[Measured], config: &LlamaConfig, element: usize) -> Table {
    let mut table = Table::new(["questions at once", "what", "peak", "keys and values", "the same by the formula"]);
    for one in measured {
        let batch = one.batch.to_string();
        let peak = |peak: &Peak| format!("{}{}", if peak.at_most { "at most " } else { "" }, readable(peak.n_bytes));
        table.row([&batch, "forward with the head", &peak(&one.head_bytes), "–", "–"]);
        for (length, bytes) in LENGTHS.into_iter().zip(&one.answer_bytes) {
            // The cache is handed out in pages.
            let pages = |prompt: &&[u32]| (prompt.len() + length).next_multiple_of(PAGE);
            let tokens: usize = given.drawn(0, one.batch).iter().map(pages).sum();
            let formula = readable(tokens * cache_per_token(config, element));
            table.row([&batch, &written(length), &peak(bytes), &readable(bytes.cache), &formula]);
        }
    }
    table
}

pub(super) fn head_table(heads: &[EciConfig], own: &[[Times; 2]], measured: &[Measured]) -> Table {
    let mut table = Table::new([
        "kind",
        "positions",
        "features",
        "parameters",
        "weights",
        "in training",
        "ms, 1 question",
        "95 %",
        "ms, 8 questions",
        "95 %",
        "of the forward, 1 and 8",
    ]);
    for (head, times) in heads.iter().zip(own) {
        let n = n_params(head);
        let positions = if head.positions == 0 { "–".into() } else { head.positions.to_string() };
        let [one, eight] = times;
        let share = |i: usize| format!("{:.1} %", 100.0 * times[i].median() / measured[i].head.median());
        table.row([
            &head.kind,
            &positions,
            &head.n_features().to_string(),
            &n.to_string(),
            &readable(4 * n),
            &readable(TRAINING_BYTES * n),
            &ms(one.median()),
            &span(one.interval()),
            &ms(eight.median()),
            &span(eight.interval()),
            &format!("{}, {}", share(0), share(1)),
        ]);
    }
    table
}

/// Sizes of the paper's model and of its head: what the formulas need.
pub(super) fn llama_2_13b() -> (LlamaConfig, EciConfig) {
    let config = LlamaConfig::llama_2_13b();
    let head = EciConfig {
        name: "eci".into(),
        kind: "paper".into(),
        hidden: config.hidden,
        positions: 1200,
        dims: PAPER_DIMS.to_vec(),
        activation: "leaky_relu".into(),
        slope: 0.01,
        labels: ["yes", "no", "maybe"].map(String::from).into(),
        weight: 0.2,
    };
    (config, head)
}

pub(super) fn planned_table() -> Table {
    let (config, head) = llama_2_13b();
    let (n, token) = (n_params(&head), cache_per_token(&config, 2));
    let mut table = Table::new(["what", "count", "bytes", "how"]);
    let mut row = |what: &str, count: &str, n_bytes: usize, how: &str| {
        table.row([what, count, &format!("{n_bytes} ({})", readable(n_bytes)), how]);
    };
    let million = format!("{:.1} million parameters", n as f64 / 1e6);
    row("paper's head, 1200 positions, inference", &million, 4 * n, "4 bytes each");
    row("the same in training", &million, TRAINING_BYTES * n, "16 bytes each: fp32 weight, gradient, two moments");
    row("keys and values", "1 token", token, "2 x 40 layers x 40 heads x 128 x 2 bytes");
    for tokens in LENGTHS.into_iter().skip(1) {
        row("keys and values", &format!("{tokens} tokens"), tokens * token, "the same, a token");
    }
    let equal = (4 * n) as f64 / token as f64;
    row(
        "as much as the head's weights",
        &format!("{equal:.0} tokens"),
        4 * n,
        "the head's weights / one token's keys and values",
    );
    table
}

pub(super) fn method(given: &Given, config: &LlamaConfig) -> Vec<String> {
    let n = given.prompts.len();
    let mean = given.prompts.iter().map(Vec::len).sum::<usize>() as f64 / n as f64;
    vec![
        format!(
            "{n} questions of {mean:.0} tokens on average; a base of hidden size {}, {} layers; LoRA rank {}; head of kind {}. Costs do not \
             depend on the values of weights: adapter and head are as initialised, and every answer is written to its full length.",
            config.hidden, config.n_layers, given.lora.rank, given.head.kind
        ),
        format!(
            "Time: the median of {} repetitions after a cold one, each with the next questions; in a repetition everything is measured on the \
             same questions in turn, so that the ratio is one of neighbours. 95 % by the bootstrap over repetitions: it does not know what \
             else ran on the machine. The prompt and first token are the prefill and its last row, without the head.",
            given.n_repeats()
        ),
        "Memory: how far the device's memory reached above the loaded model, each on a device opened anew. Keys and values take 2 x layers x \
         key-value heads x head width x bytes of an element for each token of prompt and answer; the paper's head has positions x hidden / 64 \
         features, then widths 1024, 256, 64, 16, 4 and one output a label, in fp32."
            .into(),
    ]
}

pub(super) fn verdicts(measured: &[Measured], heads: &[EciConfig], own: &[[Times; 2]]) -> Vec<Verdict> {
    let verdict = |expected: &str, each: Vec<(bool, String)>| Verdict {
        expected: expected.into(),
        holds: each.iter().all(|(holds, _)| *holds),
        found: each.into_iter().map(|(_, found)| found).collect::<Vec<_>>().join("; ") + ".",
    };
    let ratio = |one: &Measured, times: &Times, to: &Times| {
        let interval = times.over(to).interval();
        (interval.low > 1.0, format!("{} at once: {} times", one.batch, span(interval)))
    };
    let last = LENGTHS.len() - 1;
    let of_mean = heads.iter().zip(own).filter(|(head, _)| head.kind == "mean").flat_map(|(_, times)| {
        times.iter().zip(measured).map(|(own, one)| {
            let share = own.interval().high / one.head.interval().low;
            (share < 0.1, format!("{} at once: at most {:.1} %", one.batch, 100.0 * share))
        })
    });
    let memory = measured.iter().map(|one| {
        let (head, answer) = (one.head_bytes.n_bytes, one.answer_bytes[1].n_bytes);
        (head <= answer, format!("{} at once: {} against {}", one.batch, readable(head), readable(answer)))
    });
    vec![
        verdict(
            "an answer of 8 tokens takes longer than the forward with the head",
            measured.iter().map(|one| ratio(one, &one.answers[1], &one.head)).collect(),
        ),
        verdict(
            "an answer of 64 tokens takes longer than one of 8",
            measured.iter().map(|one| ratio(one, &one.answers[last], &one.answers[1])).collect(),
        ),
        verdict("the head needs no more memory than an answer of 8 tokens", memory.collect()),
        verdict("a head of kind mean takes less than a tenth of the time of its forward", of_mean.collect()),
    ]
}
