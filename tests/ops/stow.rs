//! Tensors put away come back: from host memory byte for byte, with every wait needed and all memory counted.

use crate::common::for_each_device;
use llamacare::Result;
use llamacare::device::{Compute, DType, Device, MemoryUse, Tensor};
use llamacare::ops::blocks8;
use llamacare::ops::stow::{HostCopy, HostWay, Stowed};

const LAYERS: usize = 5;
const NAME: &str = "gate, up on the host";

fn made(device: &Device, layer: usize, which: usize) -> Result<Tensor> {
    let values: Vec<f32> = (0..96).map(|i| ((i * 37 + layer * 11 + which) % 64) as f32 - 31.5).collect();
    device.upload(["gate", "up"][which], device.act(), &[12, 8], &values)
}

/// A micro-batch: forward puts so many tensors of every layer away, backward fetches each layer's while those of the one below
/// are on their way. Returns where the host copies lay.
fn micro_batch(device: &Device, each: usize) -> Result<Vec<usize>> {
    let way = HostWay::new(device);
    let mut layers: Vec<Vec<HostCopy>> = Vec::new();
    for layer in 0..LAYERS {
        let tensors = (0..each).map(|which| made(device, layer, which)).collect::<Result<Vec<_>>>()?;
        layers.push(way.stow(NAME, tensors)?);
    }
    way.settle()?;
    made(device, 0, 0)?;
    let places = layers.iter().flatten().map(|copy| copy.bytes().address()).collect();
    while let Some(copies) = layers.pop() {
        let fetched = copies.iter().map(|copy| copy.fetch("gate, up again")).collect::<Result<Vec<_>>>()?;
        for (which, tensor) in fetched.iter().enumerate() {
            let truth = made(device, layers.len(), which)?;
            let same = (tensor.shape(), tensor.read_bytes()?) == (truth.shape(), truth.read_bytes()?);
            assert!(same, "layer {} on {}", layers.len(), device.name());
        }
        if let Some(below) = layers.last() {
            below.iter().try_for_each(|copy| copy.prefetch("gate, up again"))?;
        }
        // The main lane goes on with memory that the copies of the layer below must not have been given.
        fetched.iter().try_for_each(Tensor::fill_zero)?;
    }
    Ok(places)
}

#[test]
fn what_went_to_the_host_comes_back_byte_for_byte() {
    for_each_device(|device| drop(micro_batch(device, 2).unwrap()));
}

#[test]
fn the_next_micro_batch_uses_the_same_pinned_memory() {
    let device = Device::cpu(Compute::Bf16).unwrap();
    let mut first = micro_batch(&device, 2).unwrap();
    let counted = device.host_memory_use();
    assert_eq!(counted.peak_bytes, 2 * LAYERS * 4096);
    assert_eq!(counted.at_peak[NAME], counted.peak_bytes);
    assert_eq!(counted.current_bytes, 0);
    let mut second = micro_batch(&device, 2).unwrap();
    first.sort_unstable();
    second.sort_unstable();
    assert_eq!((first, device.host_memory_use().peak_bytes), (second, counted.peak_bytes));
}

#[test]
fn paper_counts_what_a_run_takes() {
    let program = |device: &Device| -> Result<[(usize, usize); 2]> {
        let way = HostWay::new(device);
        let mut layers = Vec::new();
        for layer in 0..LAYERS {
            layers.push(way.stow(NAME, vec![made(device, layer, 0)?, made(device, layer, 1)?])?);
        }
        way.settle()?;
        while let Some(copies) = layers.pop() {
            let fetched = copies.iter().map(|copy| copy.fetch("again")).collect::<Result<Vec<_>>>()?;
            layers.iter().flatten().take(1).try_for_each(|copy| copy.prefetch("again"))?;
            drop(fetched);
        }
        let count = |used: MemoryUse| (used.current_bytes, used.peak_bytes);
        Ok([count(device.memory_use()), count(device.host_memory_use())])
    };
    let run = program(&Device::cpu(Compute::Bf16).unwrap()).unwrap();
    assert_eq!(program(&Device::paper(Compute::Bf16, false)).unwrap(), run);
    assert!(run[1].1 > 0);
}

#[test]
fn device_memory_is_free_again_when_the_next_layer_comes() {
    let device = Device::cpu(Compute::Bf16).unwrap();
    let way = HostWay::new(&device);
    let mut kept = Vec::new();
    let mut in_use = Vec::new();
    for layer in 0..4 {
        kept.push(way.stow(NAME, vec![made(&device, layer, 0).unwrap()]).unwrap());
        in_use.push(device.memory_use().current_bytes);
    }
    assert!(in_use[0] > 0 && in_use.iter().all(|n| *n == in_use[0]), "{in_use:?}");
    way.settle().unwrap();
    assert_eq!(device.memory_use().current_bytes, 0);
}

#[test]
fn every_wait_is_needed_and_one_left_out_is_found() {
    let device = || Device::cpu(Compute::Bf16).unwrap();
    let everything = |device: &Device| {
        // One tensor a layer: a second would find the copy lane waiting already.
        micro_batch(device, 1)?;
        micro_batch(device, 1)?;
        // Put away, asked for, and given up: with the way and the copies dropped while both are under way.
        let way = HostWay::new(device);
        let copies = way.stow(NAME, vec![made(device, 0, 0)?])?;
        drop(way);
        made(device, 0, 0)?.read_bytes()?;
        copies[0].prefetch("again")?;
        drop(copies);
        device.synchronize()
    };
    let whole = device();
    everything(&whole).unwrap();
    let n = whole.n_waits();
    for nth in 0..n {
        let device = device();
        device.skip_wait(nth);
        let found =
            everything(&device).map(|()| nth).expect_err(&format!("wait {nth} of {n} was left out")).to_string();
        assert!(found.contains("no mark and wait order the two") || found.contains("was freed while"), "{found}");
    }
}

#[test]
fn both_ways_of_putting_away_are_fetched_alike() {
    for_each_device(|device| {
        let x = made(device, 0, 0).unwrap();
        let eight = Stowed::Eight(blocks8::quantize("gate, up in 8 bits", &x).unwrap());
        let host = HostWay::new(device).stow(NAME, vec![x.clone()]).unwrap().remove(0);
        for (stowed, off) in [(eight, 0.25), (Stowed::Host(host), 0.0)] {
            stowed.prefetch("gate").unwrap();
            let back = stowed.fetch("gate").unwrap();
            assert_eq!((back.shape(), back.dtype(), back.name()), (x.shape(), x.dtype(), "gate"));
            let (x, back) = (x.read_f32().unwrap(), back.read_f32().unwrap());
            let worst = x.iter().zip(&back).map(|(x, b)| (x - b).abs()).fold(0.0, f32::max);
            assert!(worst <= off, "{worst} on {}", device.name());
        }
        assert_eq!(x.dtype(), if device.act() == DType::F32 { DType::F32 } else { DType::Bf16 });
    });
}
