//! Where a step spends its time: every launch of it, by what it is for. The parts and the gap sum to the step.
//!
//! On a GPU the main lane's launches are summed, each between two events; what weights decoded ahead and copies take in
//! lanes of their own stands beside, since it runs at the same time, and the gap is the main lane waiting: for them, for
//! the host, and between kernels. On the CPU device launches of all lanes run one after another.

use crate::engine::Engine;
use llamacare::Result;
use llamacare::device::Lane;
use llamacare::ffi::{Launched, watch};
use llamacare::model::Keep;
use llamacare::ops::decoder::DECODED;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a launch is for.
pub fn part(launch: &Launched) -> String {
    let name = |i: usize| launch.tensors.get(i).map_or("", |(name, _)| name.as_str());
    let y = name(launch.tensors.len().saturating_sub(1));
    // Of a base product LoRA is a later segment; where the first one is LoRA's, or the result, nothing else is.
    let of_matmul = || match y {
        "logits" => "output layer, products",
        _ if name(0) == "logit gradients" => "output layer, products",
        _ if [name(0), name(1), y].contains(&"LoRA") => "LoRA, products",
        "gradients" => "frozen weights, dX",
        _ => "frozen weights, forward",
    };
    let known = match launch.name {
        "nf4_dequantize" | "nf4_fp8" | "nf4_fp8_scales" => "decoding NF4",
        "fp8_rows" => "activations to e4m3",
        "nf4_matmul" => "products that decode NF4",
        "attention_fwd" => "attention, forward",
        "attention_bwd" => "attention, backward",
        "cross_entropy" => "cross entropy",
        "softmax_ce" => "ECI head",
        name if name.starts_with("matmul") => of_matmul(),
        name => match name.split('_').next().unwrap_or(name) {
            "rms" => "RMSNorm",
            "rotary" => "rotary",
            "swiglu" => "SwiGLU",
            "eci" | "token" | "dense" | "activation" => "ECI head",
            "adamw" | "adamw8" | "grad" => "optimiser",
            "blocks8" => "activations to 8 bits and back",
            "embedding" | "rows" => "embedding, rows",
            "dropout" => "dropout",
            _ => return format!("other: {name}"),
        },
    };
    known.into()
}

/// One step, watched: its table as text, and as an object.
pub fn table(engine: &mut Engine) -> Result<(String, Value)> {
    let (result, launches) = watch(|| engine.timed_step());
    let (_, seconds) = result?;
    let gpu = engine.device.is_cuda();
    let (mut parts, mut beside) = (BTreeMap::new(), BTreeMap::new());
    for launch in &launches {
        let kept_apart = gpu && launch.lane != Lane::Main;
        let sums: &mut BTreeMap<String, (usize, f64)> = if kept_apart { &mut beside } else { &mut parts };
        let sum = sums.entry(part(launch)).or_default();
        sum.0 += 1;
        sum.1 += launch.seconds(&engine.device)?;
    }
    let launched: f64 = parts.values().map(|(_, s)| s).sum();
    let line = |name: &str, n: usize, s: f64| {
        format!("  {name:<32} {n:>7} {:>12.3} ms {:>6.1} %\n", s * 1e3, 100.0 * s / seconds)
    };
    let mut sorted: Vec<_> = parts.iter().collect();
    sorted.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    let mut text = format!("  {:<32} {:>7}\n", "part of a step, watched", "calls");
    sorted.iter().for_each(|(name, (n, s))| text += &line(name, *n, *s));
    text += &line("gaps", 0, seconds - launched);
    text += &line("the step", launches.len(), seconds);
    beside.iter().for_each(|(name, (n, s))| text += &line(&format!("beside: {name}"), *n, *s));
    let object = |sums: &BTreeMap<String, (usize, f64)>| -> Value {
        sums.iter().map(|(name, (n, s))| (name.clone(), json!({"calls": n, "seconds": s}))).collect()
    };
    let gap = seconds - launched;
    assert!(gap > -0.01 * seconds, "parts of {launched} s in a step of {seconds} s: a launch was counted twice");
    Ok((text, json!({"seconds": seconds, "gaps": gap, "parts": object(&parts), "beside": object(&beside)})))
}

/// The memory that the layers' policies and the decoder take, for the line above the table.
pub fn describe(engine: &Engine) -> String {
    let keep: &[Keep] = &engine.plan.keep;
    let scratch = engine.plan.at_peak.iter().find(|(name, _)| name == DECODED).map_or(0, |(_, n)| *n);
    format!(
        "layers keep {}; arena {:.3} GiB, {:.3} of it decoded weights",
        llamacare::model::describe_layers(keep),
        engine.plan.arena as f64 / f64::from(1 << 30),
        scratch as f64 / f64::from(1 << 30)
    )
}
