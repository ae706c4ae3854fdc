//! The decoder with LoRA against tools/golden/llama.py.

use super::{batch, folder, rows, trainer};
use crate::common::{Golden, for_each_device};
use llamacare::checkpoint::load_adapter;
use llamacare::device::DType;
use llamacare::generate::logits;
use llamacare::model::{Quantise, RunOptions, adapter_tensors, unpad};
use llamacare::tape::Tape;

#[test]
fn logits_loss_and_every_lora_gradient_match_torch() {
    let golden = Golden::load("llama");
    for_each_device(|device| {
        let trainer = trainer(device, Quantise::None, false);
        let rows = rows(&golden);
        let batch = batch(&rows, &[0, 1, 2, 3]);
        let want: Vec<i32> = golden.ints("packed", "targets").into_iter().filter(|t| *t >= 0).collect();
        assert_eq!(batch.targets, want, "the rows' targets are the golden file's");
        let mut tape = Tape::inference(device);
        let hidden = trainer.model.forward(&mut tape, &batch, &RunOptions::default()).unwrap();
        let padded = logits(&trainer.model, hidden.value()).unwrap();
        let width = padded.shape()[1];
        let values: Vec<f32> = padded.read_f32().unwrap().chunks(width).flat_map(|row| row[..91].to_vec()).collect();
        let got = device.upload("logits", DType::F32, &[values.len() / 91, 91], &values).unwrap();
        golden.check(device, "packed", "logits", &got, 2.0);
        let losses = trainer.gradients(&[batch], &RunOptions::default()).unwrap();
        assert!((losses.lm - golden_loss(&golden)).abs() < 0.02, "loss {}", losses.lm);
        for (param, ..) in trainer.params.iter() {
            let gradient = unpad(&param.name, param.grad.shape(), &param.grad.read_f32().unwrap(), 5);
            let gradient = device.upload("gradient", DType::F32, &[gradient.len()], &gradient).unwrap();
            golden.check(device, "packed", &format!("grad.base_model.model.{}.weight", param.name), &gradient, 3.0);
        }
    });
}

fn golden_loss(golden: &Golden) -> f64 {
    golden.expected("packed", "loss")[0]
}

#[test]
fn an_adapter_put_in_comes_out_bit_for_bit() {
    let golden = load_adapter(&folder().join("adapter")).unwrap();
    for_each_device(|device| {
        let trainer = trainer(device, Quantise::Nf4Double, false);
        let out = adapter_tensors(&trainer.params, 5).unwrap();
        assert_eq!(out.len(), golden.1.len());
        for tensor in &out {
            let want = golden.1.iter().find(|t| t.name == tensor.name).expect("PEFT's key");
            assert_eq!((&tensor.shape, &tensor.values), (&want.shape, &want.values), "{}", tensor.name);
        }
    });
}
