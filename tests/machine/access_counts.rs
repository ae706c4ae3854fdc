//! Every kernel's memory transactions at 13B's widths and few rows, held to tools/access_counts.tsv: a kernel whose
//! efficiency falls, or that asks for more, is refused. How to read the table: kernels/README.md. `just counts-write`
//! writes it anew.

use super::counters::{Row, count};
use llamacare::device::{Compute, DType, Device, Tensor};
use llamacare::ops::activation::{Activation, activation};
use llamacare::ops::adamw::{AdamwConfig, Weights, adamw};
use llamacare::ops::adamw8::{Moment8, adamw8, maps_on};
use llamacare::ops::attention::{Paged, SequenceLayout, attention};
use llamacare::ops::attention_decode::attention_decode;
use llamacare::ops::blocks8::quantize;
use llamacare::ops::cross_entropy::cross_entropy;
use llamacare::ops::dense::dense;
use llamacare::ops::dropout::Dropout;
use llamacare::ops::eci_pool::eci_pool;
use llamacare::ops::embedding::embedding;
use llamacare::ops::fp8::{Fp8, Fp8Product, Fp8Scales, Orientation, Road, matmul_fp8_by};
use llamacare::ops::grad_norm::grad_norm;
use llamacare::ops::kv_append::kv_append;
use llamacare::ops::matmul::{Cut, Layout, Product, matmul_cut};
use llamacare::ops::nf4::{Nf4Weight, nested_map_on};
use llamacare::ops::rms_norm::rms_norm;
use llamacare::ops::rotary::{RotaryTable, rotary};
use llamacare::ops::rows::gather_rows;
use llamacare::ops::softmax_ce::softmax_ce;
use llamacare::ops::swiglu::swiglu;
use llamacare::ops::token_pool::{TokenPool, token_pool};
use llamacare::tape::{Factors, Gradient, Param, Tape, Var, Write};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

const TABLE: &str = "tools/access_counts.tsv";
const HEADER: &str = "case\tkernel\taccess\trequests\ttransactions\tleast\ta request\t%\tworst line";
const C: usize = 5120;
const F: usize = 13824;
const D: usize = 128;

/// Cases, and what they asked of memory.
struct Cases {
    device: Device,
    rows: Vec<(String, Row)>,
}

impl Cases {
    fn count(&mut self, case: &str, work: impl FnOnce()) {
        self.rows.extend(count(work).into_iter().map(|row| (case.to_string(), row)));
    }

    /// Numbers like weights: spread, of either sign, the same on every run.
    fn tensor(&self, dtype: DType, shape: &[usize]) -> Tensor {
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|i| ((i * 37 % 8191) as f32 / 4096.0 - 1.0) * 0.05).collect();
        self.device.upload("x", dtype, shape, &values).unwrap()
    }

    fn act(&self, shape: &[usize]) -> Tensor {
        self.tensor(self.device.act(), shape)
    }

    fn f32(&self, shape: &[usize]) -> Tensor {
        self.tensor(DType::F32, shape)
    }

    /// An operation of the tape, forward and backward.
    fn on_tape(&mut self, case: &str, inputs: Vec<Tensor>, op: impl FnOnce(&mut Tape, Vec<Var>) -> Var) {
        let device = self.device.clone();
        let mut tape = Tape::new(&device);
        let inputs: Vec<Var> = inputs.into_iter().map(|x| tape.var(x, true)).collect();
        self.count(case, || {
            let y = op(&mut tape, inputs);
            let dy =
                device.upload("dy", y.value().dtype(), y.value().shape(), &vec![0.01; y.value().n_elems()]).unwrap();
            tape.backward(vec![(y.id(), dy)]).unwrap();
        });
    }
}

fn products(cases: &mut Cases) {
    let (nt, nn, tn) = (Layout::NT, Layout::NN, Layout::TN);
    let mut product =
        |case: &str, layout: Layout, [m, n, k]: [usize; 3], rank: usize, dtype: DType, tile: Option<usize>| {
            let pair = |k: usize| match layout {
                Layout::NT => (cases.act(&[m, k]), cases.act(&[n, k])),
                Layout::NN => (cases.act(&[m, k]), cases.act(&[k, n])),
                Layout::TN => (cases.act(&[k, m]), cases.act(&[k, n])),
            };
            let (main, lora) = (pair(k), (rank > 0).then(|| pair(rank)));
            let segments: Vec<_> = [Some(&main), lora.as_ref()].into_iter().flatten().map(|(a, b)| (a, b)).collect();
            let y = cases.device.zeros("y", dtype, &[m, n]).unwrap();
            let product = Product { segments, y: &y, alpha: 1.0, write: Write::Set };
            cases.count(case, || matmul_cut(layout, &[product], Cut { tile, slices: None }).unwrap());
        };
    let (act, f32) = (DType::Bf16, DType::F32);
    // Tiles of the table in matmul.cu: 128 x 256, 128 x 128, and Hopper's of 256, 192 and 128 columns.
    for (name, tile) in
        [("widest tiles", 1), ("large tiles", 2), ("Hopper, 256", 10), ("Hopper, 192", 11), ("Hopper, 128", 12)]
    {
        product(&format!("y, {name}"), nt, [1024, 1024, 128], 16, act, Some(tile));
        product(&format!("dx, {name}"), nn, [1024, 1024, 128], 0, act, Some(tile));
    }
    product("dw, large tiles", tn, [1024, 1024, 128], 0, f32, Some(2));
    product("y, few rows", nt, [72, 256, 512], 16, act, Some(3));
    product("dx, few rows", nn, [72, 256, 512], 0, act, Some(3));
    product("dw, few rows", tn, [72, 256, 512], 0, f32, Some(3));
    product("x At of LoRA", nt, [256, 16, C], 0, act, None);
    product("dy B of LoRA", nn, [256, 16, C], 0, act, None);
    product("dB of LoRA", tn, [C, 16, 128], 0, f32, None);
    product("dA of LoRA", tn, [16, C, 128], 0, f32, None);
    product("y of 8 rows", nt, [8, 512, C], 0, act, None);
    product("logits", nt, [64, 512, C], 0, f32, None);
}

fn nf4(cases: &mut Cases) {
    let (n, k) = (128, C);
    let dense = cases.act(&[n, k]);
    let map = nested_map_on(&cases.device).unwrap();
    let mut weight = None;
    cases.count("NF4", || weight = Some(Nf4Weight::quantize(&dense, Some(&map)).unwrap()));
    let weight = weight.expect("counted once");
    let rows = cases.act(&[n, k]);
    cases.count("NF4", || weight.dequantize_into(&rows).unwrap());
    for m in [1, 8] {
        let (x, y) = (cases.act(&[m, k]), cases.act(&[m, n]));
        cases.count(&format!("{m} tokens"), || weight.matmul(&x, &y, Write::Set).unwrap());
    }
}

fn fp8(cases: &mut Cases) {
    let map = nested_map_on(&cases.device).unwrap();
    let weight = Nf4Weight::quantize(&cases.act(&[128, C]), Some(&map)).unwrap();
    let mut scales = None;
    cases.count("NF4", || scales = Some(Fp8Scales::of(&weight).unwrap()));
    let scales = scales.expect("counted once");
    for (shape, orientation) in [([128, C], Orientation::Rows), ([C, 128], Orientation::Transposed)] {
        let codes = cases.device.zeros("codes", DType::U8, &shape).unwrap();
        cases.count("NF4", || scales.decode_into(&weight, &codes, orientation).unwrap());
    }
    let x = cases.act(&[4, C]);
    cases.count("4 rows", || drop(Fp8::of(&x, "x8").unwrap()));
    for (case, [m, n, k]) in [("large tiles", [1024, 1024, 128]), ("few rows", [72, 256, 512])] {
        let [a, b] = [m, n].map(|rows| Fp8::of(&cases.act(&[rows, k]), "operand").unwrap());
        let y = cases.device.zeros("y", DType::Bf16, &[m, n]).unwrap();
        for (way, layout) in [("y", Layout::NT), ("dx", Layout::NN)] {
            let lora = (cases.act(&[m, 16]), cases.act(&if layout == Layout::NT { [n, 16] } else { [16, n] }));
            let product = Fp8Product { eight: vec![(&a, &b)], wide: vec![(&lora.0, &lora.1)], y: &y };
            for road in [Road::Chosen, Road::Wgmma] {
                let products = [product.clone()];
                cases.count(&format!("{way}, {case}"), || matmul_fp8_by(road, layout, &products, Write::Set).unwrap());
            }
        }
    }
}

fn layers(cases: &mut Cases) {
    let device = cases.device.clone();
    let (x, residual, w) = (cases.act(&[8, C]), cases.act(&[8, C]), cases.act(&[C]));
    cases.on_tape("8 rows", vec![x, residual], |tape, v| rms_norm(tape, &v[0], Some(&v[1]), &w, 1e-5).unwrap().1);
    let (gate, up) = (cases.act(&[4, F]), cases.act(&[4, F]));
    cases.on_tape("4 rows", vec![gate, up], |tape, v| swiglu(tape, &v[0], &v[1]).unwrap());

    let (t, h) = (192, 2);
    let layout = Arc::new(SequenceLayout::packed(&device, &[0, 128, t]).unwrap());
    let table = Arc::new(RotaryTable::new(&device, 128, D, 10_000.0).unwrap());
    let [q, k, v] = [(); 3].map(|()| cases.act(&[t as usize, h * D]));
    let x = cases.act(&[t as usize, h * D]);
    cases.on_tape("192 rows", vec![x], |tape, mut v| rotary(tape, v.remove(0), &table, &layout, h, D).unwrap());
    cases.on_tape("192 rows", vec![q, k.clone(), v.clone()], |tape, x| {
        attention(tape, &x[0], &x[1], &x[2], &layout, h, h, D).unwrap()
    });
    let paged =
        |past: usize, new: usize| SequenceLayout::paged(&device, &[Paged { pages: &[2, 0, 1], past, new }]).unwrap();
    let (new, one, two) = (cases.act(&[2, h * D]), paged(t as usize - 1, 1), Arc::new(paged(t as usize - 2, 2)));
    let first = new.rows(0, 1);
    cases.count("a new token", || drop(attention_decode(&first, &k, &v, &one, h, h, D).unwrap()));
    cases.count("a new token, 2 heads a kv head", || {
        let [k, v] = [&k, &v].map(|x| x.view(&[2 * t as usize, D]));
        drop(attention_decode(&first, &k, &v, &one, h, 1, D).unwrap());
    });
    cases.count("2 new tokens", || {
        let mut tape = Tape::inference(&device);
        let [q, k, v] = [&new, &k, &v].map(|x| tape.var(x.clone(), false));
        attention(&mut tape, &q, &k, &v, &two, h, h, D).unwrap();
    });
    let table = RotaryTable::new(&device, t as usize, D, 10_000.0).unwrap();
    let [new_k, new_v] = [(); 2].map(|()| cases.act(&[2, h * D]));
    cases.count("2 new tokens", || kv_append([&new, &new_k, &new_v], &table, &two, [&k, &v]).unwrap());

    let hidden = cases.act(&[8, C]);
    let ids: Vec<i32> = (0..8).map(|i| i * 3 % 8).collect();
    cases.count("8 rows", || drop(embedding(&mut Tape::inference(&device), &hidden, &ids).unwrap()));
    cases.on_tape("3 of 8 rows", vec![hidden.clone()], |tape, v| gather_rows(tape, &v[0], &[1, 2, 6]).unwrap());
    let mask = Dropout { p: 0.05, seed: 1, step: 2, tensor: 3 };
    cases.count("8 rows", || mask.apply(&hidden, &hidden, Write::Set).unwrap());
    let wide = cases.act(&[4, F]);
    let mut blocks = None;
    cases.count("blocks8", || blocks = Some(quantize("blocks", &wide).unwrap()));
    let blocks = blocks.expect("counted once");
    cases.count("blocks8", || drop(blocks.dequantize("x").unwrap()));
    let (logits, targets) =
        (cases.f32(&[4, 32_000]), device.upload_i32("targets", &[4], &[3, 4, -100, 31_999]).unwrap());
    let (loss, dlogits) = (cases.f32(&[4]), cases.act(&[4, 32_000]));
    cases.count("4 rows", || cross_entropy(&logits, 32_000, &targets, 0.1, &loss, Some(&dlogits)).unwrap());
}

fn head(cases: &mut Cases) {
    let device = cases.device.clone();
    let h = cases.act(&[96, C]);
    cases.on_tape("96 rows", vec![h.clone()], |tape, v| eci_pool(tape, &v[0], &[0, 64, 96], &[60, 32], 64).unwrap());
    for (case, pool) in [("mean", TokenPool::Mean), ("last", TokenPool::Last), ("max", TokenPool::Max)] {
        cases.on_tape(case, vec![h.clone()], |tape, v| token_pool(tape, &v[0], &[0, 64, 96], &[60, 32], pool).unwrap());
    }
    let (n_in, n_out) = (C, 64);
    let weight = cases.f32(&[n_out, n_in]);
    let rows = Rc::new(Factors::new(&device, "factors", 4, [n_out, n_in]).unwrap());
    let (stored, factors) = (Gradient::Stored(cases.f32(&[n_out, n_in])), Gradient::Factors(rows));
    let x = cases.f32(&[4, n_in]);
    for (case, grad) in [("dW stored", stored), ("dW in factors", factors)] {
        let w = Param::with("W", weight.clone(), grad.clone());
        let bias = Param::new("bias", cases.f32(&[n_out]), cases.f32(&[n_out]));
        cases.on_tape(case, vec![x.clone()], |tape, v| dense(tape, &v[0], &w, &bias).unwrap());
        optimiser(cases, case, &grad);
    }
    let logits = cases.f32(&[8, 3]);
    cases.count("8 rows", || {
        let mut tape = Tape::new(&device);
        let logits = tape.var(logits.clone(), true);
        softmax_ce(&mut tape, &logits, &[0, 1, 2, 0, 1, 2, 0, -1], 0.1).unwrap();
    });
    let x = cases.f32(&[8, 1024]);
    cases.on_tape("8 x 1024", vec![x], |tape, v| activation(tape, &v[0], Activation::Gelu).unwrap());
}

fn optimiser(cases: &mut Cases, case: &str, grad: &Gradient) {
    let n = grad.n_elems();
    let weights = Weights { master: cases.f32(&[n]), grad: grad.clone(), copy: Some(cases.act(&[n])) };
    let config = AdamwConfig { lr: 1e-4, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };
    let [m, v] = ["m", "v"].map(|name| cases.device.zeros(name, DType::F32, &[n]).unwrap());
    let [m8, v8] = ["m", "v"].map(|name| Moment8::zeros(&cases.device, name, n).unwrap());
    let maps = maps_on(&cases.device).unwrap();
    let mut clip = None;
    cases.count(case, || clip = Some(grad_norm(&[grad], 1.0).unwrap().clip()));
    cases.count(case, || adamw(&weights, [&m, &v], &config, clip.as_ref(), 1).unwrap());
    cases.count(case, || adamw8(&weights, [&m8, &v8], &maps, &config, clip.as_ref(), 1).unwrap());
}

/// The table's key, and its numbers.
type Entry = ((String, String, String), [u64; 3], String);

fn measured() -> Vec<Entry> {
    let mut cases = Cases { device: Device::cpu(Compute::Bf16).unwrap(), rows: Vec::new() };
    products(&mut cases);
    nf4(&mut cases);
    fp8(&mut cases);
    layers(&mut cases);
    head(&mut cases);
    let mut entries = Vec::new();
    for (i, (case, row)) in cases.rows.iter().enumerate().filter(|(_, (_, row))| row.line == "total") {
        // Below a total stand its lines, the worst first.
        let worst = &cases.rows[i + 1].1;
        let line = if worst.transactions > worst.least { source(&worst.line) } else { "-".into() };
        let key = (case.clone(), row.kernel.clone(), row.access.clone());
        entries.push((key, [row.requests, row.transactions, row.least], line));
    }
    let keys: BTreeSet<_> = entries.iter().map(|(key, ..)| key).collect();
    assert_eq!(keys.len(), entries.len(), "two cases of one name");
    entries.sort_by(|(a, ..), (b, ..)| (&a.1, &a.0, &a.2).cmp(&(&b.1, &b.0, &b.2)));
    entries
}

/// What stands at "file:line": it holds longer than the line's number.
fn source(place: &str) -> String {
    let (file, line) = place.split_once(':').expect("file:line");
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("a kernel");
    let text = text.lines().nth(line.parse::<usize>().expect("a number") - 1).expect("a line").trim();
    format!("{}: {}", file.trim_start_matches("kernels/"), text.chars().take(90).collect::<String>())
}

fn written(entries: &[Entry]) -> String {
    let mut text = format!("{HEADER}\n");
    for ((case, kernel, access), [requests, transactions, least], line) in entries {
        let (a_request, percent) =
            (*transactions as f64 / *requests as f64, 100.0 * *least as f64 / *transactions as f64);
        writeln!(
            text,
            "{case}\t{kernel}\t{access}\t{requests}\t{transactions}\t{least}\t{a_request:.2}\t{percent:.1}\t{line}"
        )
        .expect("a string takes text");
    }
    text
}

/// What is worse than the table says, or not in it; and how much is better.
fn compare(table: &str, entries: &[Entry]) -> (Vec<String>, usize) {
    let mut known = BTreeMap::new();
    for line in table.lines().skip(1) {
        let cells: Vec<&str> = line.split('\t').collect();
        let key = (cells[0].to_string(), cells[1].to_string(), cells[2].to_string());
        known.insert(key, [3, 4, 5].map(|i| cells[i].parse::<u64>().expect("a count")));
    }
    let (mut faults, mut better) = (Vec::new(), 0);
    for (key, now @ [requests, transactions, least], line) in entries {
        let name = format!("{}, {}, {}", key.1, key.0, key.2);
        let Some(was) = known.remove(key) else {
            faults.push(format!("{name}: not in {TABLE}"));
            continue;
        };
        if u128::from(*least) * u128::from(was[1]) < u128::from(was[2]) * u128::from(*transactions) {
            faults.push(format!(
                "{name}: least / transactions fell from {}/{} to {least}/{transactions}; {line}",
                was[2], was[1]
            ));
        } else if *requests > was[0] || *transactions > was[1] {
            faults.push(format!(
                "{name}: {requests} requests, {transactions} transactions; were {} and {}",
                was[0], was[1]
            ));
        }
        better += usize::from(*now != was);
    }
    faults.extend(known.keys().map(|(case, kernel, access)| format!("{kernel}, {case}, {access}: no longer there")));
    (faults, better)
}

#[test]
fn no_kernel_asks_for_more_than_the_table_says() {
    let entries = measured();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(TABLE);
    if std::env::var_os("LC_COUNTS_WRITE").is_some() {
        std::fs::write(&path, written(&entries)).unwrap();
        println!("wrote {TABLE}");
        return;
    }
    let table = std::fs::read_to_string(&path).unwrap_or_default();
    let (faults, better) = compare(&table, &entries);
    let advice = "Mend the kernel; or, where it is meant, `just counts-write` and say why in the commit";
    assert!(faults.is_empty(), "{}\n{advice}", faults.join("\n"));
    if better > 0 {
        println!("{better} rows are better than {TABLE} says: `just counts-write`");
    }
}

#[test]
fn what_is_worse_or_missing_is_refused_and_what_is_better_is_not() {
    let entry = |numbers| (("4 rows".into(), "k".into(), "global load".into()), numbers, "k.cu: x".into());
    let table = written(&[entry([4, 20, 16])]);
    let refused = |numbers| compare(&table, &[entry(numbers)]).0;
    assert!(refused([4, 20, 16]).is_empty() && refused([4, 16, 16]).is_empty() && refused([2, 20, 16]).is_empty());
    assert!(refused([4, 21, 16])[0].contains("fell from 16/20 to 16/21; k.cu: x"));
    assert!(refused([4, 20, 15])[0].contains("fell"));
    assert!(refused([5, 20, 16])[0].contains("5 requests"));
    assert!(refused([4, 40, 32])[0].contains("40 transactions"));
    let (faults, _) = compare(&table, &[]);
    assert!(faults[0].contains("no longer there"));
    let (faults, _) = compare(&written(&[]), &[entry([1, 1, 1])]);
    assert!(faults[0].contains("not in tools/access_counts.tsv"));
}
