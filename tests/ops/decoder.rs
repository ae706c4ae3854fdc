//! Weights decoded one request ahead are the weights, in every order of requests; and every wait of the decoder is needed.

use crate::common::for_each_device;
use llamacare::Result;
use llamacare::device::{Compute, DType, Device, Tensor};
use llamacare::ops::decoder::{DECODED, Decoder};
use llamacare::ops::matmul::{Layout, matmul};
use llamacare::ops::nf4::{Nf4Weight, Scales};
use llamacare::tape::Write;

const SHAPES: [[usize; 2]; 5] = [[16, 64], [8, 24], [24, 64], [7, 9], [64, 16]];

/// What a pass asks for: one by one, then in groups, as a forward and a backward do.
const PASS: [&[usize]; 7] = [&[0], &[1], &[2], &[4], &[4], &[1, 2], &[0, 3]];

fn weights(device: &Device) -> Vec<Nf4Weight> {
    let weight = |(seed, shape): (usize, [usize; 2])| {
        let n: usize = shape.iter().product();
        let codes: Vec<u8> = (0..n.div_ceil(2)).map(|i| (((i + 3 * seed) * 2_654_435) >> 7) as u8).collect();
        let packed = device.empty("codes", DType::U8, &[codes.len()]).unwrap();
        packed.write_bytes(&codes).unwrap();
        let scales: Vec<f32> = (0..n.div_ceil(64)).map(|i| 0.5 + (i + seed) as f32).collect();
        let scales = device.upload("scales", DType::F32, &[scales.len()], &scales).unwrap();
        Nf4Weight::new(packed, Scales::Plain(scales), shape).unwrap()
    };
    SHAPES.into_iter().enumerate().map(weight).collect()
}

fn decoder(device: &Device) -> Decoder {
    Decoder::new(device, Decoder::request_elems(device.act(), &[SHAPES[1], SHAPES[2]])).unwrap()
}

/// Asks for weights, multiplies by each as a layer does, and lets go of them.
fn ask(decoder: &mut Decoder, weights: &[Nf4Weight], request: &[usize]) -> Result<Vec<Vec<u8>>> {
    let wanted: Vec<&Nf4Weight> = request.iter().map(|&i| &weights[i]).collect();
    let dense = decoder.decode(&wanted)?;
    let product = |w: &Tensor| {
        let (device, [n, k]) = (w.device(), w.dims("w")?);
        let x = device.upload("x", w.dtype(), &[2, k], &vec![1.0; 2 * k])?;
        let y = device.empty("y", w.dtype(), &[2, n])?;
        matmul(Layout::NT, &[(&x, w)], &y, 1.0, Write::Set)
    };
    dense.iter().filter(|w| w.shape().iter().all(|n| n % 8 == 0)).try_for_each(product)?;
    dense.iter().map(Tensor::read_bytes).collect()
}

#[test]
fn what_comes_is_what_was_asked_for_in_every_order() {
    for_each_device(|device| {
        let weights = weights(device);
        let truth: Vec<Vec<u8>> =
            weights.iter().map(|w| w.dequantize("dense").unwrap().read_bytes().unwrap()).collect();
        let mut decoder = decoder(device);
        let mut check = |request: &[usize]| {
            let found = ask(&mut decoder, &weights, request).unwrap();
            let right = found.iter().zip(request).all(|(bytes, &i)| *bytes == truth[i]);
            assert!(right && found.len() == request.len(), "{request:?} on {}", device.name());
        };
        let mut random = 1u64;
        let mut draw = |n: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % n
        };
        for _ in 0..3 {
            PASS.iter().for_each(|request| check(request));
        }
        for _ in 0..300 {
            check(PASS[draw(PASS.len())]);
        }
        // A habit, and a break of it in the middle.
        for i in 0..40 {
            check(PASS[if i % 9 == 8 { draw(7) } else { i % 3 }]);
        }
    });
}

#[test]
fn from_the_second_pass_on_every_request_was_decoded_ahead() {
    let device = Device::cpu(Compute::Bf16).unwrap();
    let weights = weights(&device);
    let mut decoder = decoder(&device);
    let pass = |decoder: &mut Decoder| PASS.iter().for_each(|request| drop(ask(decoder, &weights, request).unwrap()));
    pass(&mut decoder);
    // The second request for the same weight finds it still there.
    assert_eq!(decoder.late(), (7, 6));
    pass(&mut decoder);
    // The first request of the pass, and its second, have not followed these two before.
    let (_, late) = decoder.late();
    assert!(late <= 8, "{late}");
    pass(&mut decoder);
    pass(&mut decoder);
    assert_eq!(decoder.late(), (28, late));
}

#[test]
fn nothing_is_decoded_ahead_over_the_end_of_a_pass() {
    let device = Device::cpu(Compute::Bf16).unwrap();
    let weights = weights(&device);
    let mut decoder = decoder(&device);
    for n in 0..4 {
        let (last, others) = PASS.split_last().unwrap();
        others.iter().for_each(|request| drop(ask(&mut decoder, &weights, request).unwrap()));
        let waits = device.n_waits();
        ask(&mut decoder, &weights, last).unwrap();
        assert!(n == 0 || device.n_waits() == waits + 1, "it was waited for, and nothing was started");
        decoder.rest();
        // All of the first pass but the weight that is asked for twice; of the others the first request.
        assert_eq!(decoder.late(), (7 * (n + 1), 6 + n));
    }
}

#[test]
fn a_slot_in_use_is_never_written() {
    for_each_device(|device| {
        let weights = weights(device);
        let mut decoder = decoder(device);
        let ask = |decoder: &mut Decoder, i: usize| decoder.decode(&[&weights[i]]);
        let held: Vec<Tensor> = [0, 1].iter().flat_map(|&i| ask(&mut decoder, i).unwrap()).collect();
        let bytes = || held.iter().map(|t| t.read_bytes().unwrap()).collect::<Vec<_>>();
        let before = bytes();
        let error = ask(&mut decoder, 2).unwrap_err().to_string();
        assert!(error.starts_with("both slots of `decoded weights` are in use"), "{error}");
        assert!(bytes() == before, "on {}", device.name());
        // One of the two again is no new request.
        assert_eq!(ask(&mut decoder, 0).unwrap()[0].read_bytes().unwrap(), before[0]);
        drop(held);
        ask(&mut decoder, 2).unwrap();
        // Not by decoding ahead either: what follows is known now, and the slot it would go to is held.
        decoder.rest();
        (0..3).for_each(|i| drop(ask(&mut decoder, i).unwrap()));
        decoder.rest();
        let held = ask(&mut decoder, 0).unwrap();
        ask(&mut decoder, 1).unwrap();
        assert!(held[0].read_bytes().unwrap() == before[0], "on {}", device.name());
    });
}

#[test]
fn a_request_that_is_too_large_is_refused() {
    let device = Device::cpu(Compute::Bf16).unwrap();
    let weights = weights(&device);
    let error = decoder(&device).decode(&[&weights[0], &weights[2]]).unwrap_err().to_string();
    assert_eq!(
        error,
        "decoding [[16, 64], [24, 64]] takes 2560 elements, a slot of `decoded weights` has 1792; the plan must count this request"
    );
}

#[test]
fn two_slots_are_all_the_memory_there_is() {
    for device in [Device::cpu(Compute::Bf16).unwrap(), Device::paper(Compute::Bf16, true)] {
        let weights = weights(&device);
        let mut decoder = decoder(&device);
        let before = device.memory_use();
        for request in PASS.into_iter().chain(PASS) {
            drop(decoder.decode(&request.iter().map(|&i| &weights[i]).collect::<Vec<_>>()).unwrap());
        }
        let after = device.memory_use();
        assert_eq!((after.current_bytes, after.peak_bytes), (before.current_bytes, before.peak_bytes));
        assert!(after.at_peak[DECODED] >= 2 * 1792 * 2);
    }
}

/// Passes, a wrong guess while a slot is held, and the end of the decoder.
fn everything(device: &Device) -> Result<()> {
    let weights = weights(device);
    let mut decoder = decoder(device);
    for _ in 0..3 {
        for request in PASS {
            ask(&mut decoder, &weights, request)?;
        }
    }
    // Weight 1 is decoded ahead when 0 comes, and 3 is asked for while 0 is held: the guess must be waited for and lost.
    ask(&mut decoder, &weights, &[0, 3])?;
    let held = decoder.decode(&[&weights[0]])?;
    held[0].read_bytes()?;
    ask(&mut decoder, &weights, &[3])?;
    drop(held);
    ask(&mut decoder, &weights, PASS[6])?;
    ask(&mut decoder, &weights, PASS[0])?;
    drop(decoder);
    device.synchronize()
}

#[test]
fn every_wait_is_needed_and_one_left_out_is_found() {
    let device = || Device::cpu(Compute::Bf16).unwrap();
    let whole = device();
    everything(&whole).unwrap();
    let n = whole.n_waits();
    assert!(n > 20, "{n} waits");
    for nth in 0..n {
        let device = device();
        device.skip_wait(nth);
        let found = everything(&device).expect_err(&format!("wait {nth} of {n} was left out")).to_string();
        assert!(found.contains("no mark and wait order the two") || found.contains("was freed while"), "{found}");
    }
}
