//! Lanes of work: what is ordered by a mark and a wait passes, everything else is found and named, and the host's pinned memory
//! is counted and used again.

use llamacare::device::{Compute, DType, Device, Lane, Tensor};
use llamacare::ops::nf4::{Nf4Weight, Scales};

fn cpu() -> Device {
    Device::cpu(Compute::Bf16).unwrap()
}

fn weight(device: &Device) -> Nf4Weight {
    let packed = device.zeros("codes", DType::U8, &[512]).unwrap();
    Nf4Weight::new(packed, Scales::Plain(device.zeros("scales", DType::F32, &[16]).unwrap()), [16, 64]).unwrap()
}

fn slot(device: &Device) -> Tensor {
    device.empty("slot", DType::Bf16, &[16, 64]).unwrap()
}

fn decode_aside(device: &Device, w: &Nf4Weight, y: &Tensor) -> llamacare::Result<()> {
    device.on(Lane::Side, || w.dequantize_into(y))
}

fn wait(device: &Device, waiting: Lane, lane: Lane) {
    device.wait(waiting, &device.mark(lane).unwrap()).unwrap();
}

fn said(result: llamacare::Result<impl std::fmt::Debug>) -> String {
    result.expect_err("an access out of order").to_string()
}

#[test]
fn marks_and_waits_order_two_lanes() {
    let device = cpu();
    let (w, y) = (weight(&device), slot(&device));
    for _ in 0..3 {
        wait(&device, Lane::Side, Lane::Main);
        decode_aside(&device, &w, &y).unwrap();
        wait(&device, Lane::Main, Lane::Side);
        assert!(y.read_f32().unwrap().iter().all(|v| *v == 0.0));
        y.fill_zero().unwrap();
    }
    assert_eq!(device.n_waits(), 6);
    assert_eq!(device.lane(), Lane::Main);
}

#[test]
fn a_lane_that_does_not_wait_is_found_and_named() {
    let device = cpu();
    let (w, y) = (weight(&device), slot(&device));
    assert_eq!(
        said(decode_aside(&device, &w, &y)),
        "nf4_dequantize: the side lane reads it while `fill with zeros` on the main lane may still be at it: no mark and \
         wait order the two (codes)"
    );
    wait(&device, Lane::Side, Lane::Main);
    decode_aside(&device, &w, &y).unwrap();
    assert_eq!(
        said(y.read_bytes()),
        "download: the main lane reads it while `nf4_dequantize` on the side lane may still be at it: no mark and wait \
         order the two (slot)"
    );
    // A mark made too early is no help.
    let early = device.mark(Lane::Side).unwrap();
    decode_aside(&device, &w, &y).unwrap();
    device.wait(Lane::Main, &early).unwrap();
    assert!(said(y.fill_zero()).contains("the main lane writes it while `nf4_dequantize`"));
}

#[test]
fn lanes_may_read_side_by_side_but_a_writer_waits_for_readers() {
    let device = cpu();
    let (w, y, z) = (weight(&device), slot(&device), slot(&device));
    wait(&device, Lane::Side, Lane::Main);
    decode_aside(&device, &w, &y).unwrap();
    w.dequantize_into(&z).unwrap();
    assert!(said(w.packed().fill_zero()).contains("the main lane writes it while `nf4_dequantize` on the side lane"));
    wait(&device, Lane::Main, Lane::Side);
    w.packed().fill_zero().unwrap();
}

#[test]
fn waiting_is_passed_on_from_lane_to_lane() {
    let device = cpu();
    let (w, y) = (weight(&device), slot(&device));
    let host = device.host_buffer("host", y.n_bytes()).unwrap();
    wait(&device, Lane::Copy, Lane::Main);
    wait(&device, Lane::Side, Lane::Main);
    decode_aside(&device, &w, &y).unwrap();
    assert!(said(device.on(Lane::Copy, || host.copy_from(&y))).contains("on the side lane"));
    wait(&device, Lane::Copy, Lane::Side);
    device.on(Lane::Copy, || host.copy_from(&y)).unwrap();
    wait(&device, Lane::Main, Lane::Copy);
    // Behind the copy, and so behind what the copy waited for.
    y.fill_zero().unwrap();
}

#[test]
fn fresh_memory_belongs_to_the_main_lane_until_another_has_waited() {
    let device = cpu();
    let w = weight(&device);
    wait(&device, Lane::Side, Lane::Main);
    slot(&device).fill_zero().unwrap();
    let y = slot(&device);
    assert!(said(decode_aside(&device, &w, &y)).contains("`the last user of its memory` on the main lane"));
    wait(&device, Lane::Side, Lane::Main);
    decode_aside(&device, &w, &y).unwrap();
    device.synchronize().unwrap();
}

#[test]
fn memory_freed_under_another_lane_is_found() {
    let device = cpu();
    let (w, y) = (weight(&device), slot(&device));
    wait(&device, Lane::Side, Lane::Main);
    decode_aside(&device, &w, &y).unwrap();
    drop(y);
    let text = "`slot` was freed while `nf4_dequantize` on the side lane may still use it; the main lane must wait for it first";
    assert_eq!(said(device.zeros("next", DType::U8, &[8])), text);
    assert_eq!(said(device.synchronize()), text);
}

#[test]
fn the_host_waiting_for_everything_orders_everything() {
    let device = cpu();
    let (w, y) = (weight(&device), slot(&device));
    device.synchronize().unwrap();
    decode_aside(&device, &w, &y).unwrap();
    device.synchronize().unwrap();
    drop(y);
    device.synchronize().unwrap();
}

#[test]
fn pinned_memory_carries_bytes_is_counted_and_used_again() {
    let device = cpu();
    let x = device.upload_i32("x", &[1000], &(0..1000).collect::<Vec<_>>()).unwrap();
    let host = device.host_buffer("gate, up on the host", x.n_bytes()).unwrap();
    host.copy_from(&x).unwrap();
    x.fill_zero().unwrap();
    host.copy_to(&x).unwrap();
    assert_eq!(x.read_i32().unwrap(), (0..1000).collect::<Vec<_>>());
    let first = host.address();
    let count = |device: &Device| (device.host_memory_use().current_bytes, device.host_memory_use().peak_bytes);
    assert_eq!(count(&device), (4096, 4096));
    assert_eq!(device.host_memory_use().at_peak["gate, up on the host"], 4096);
    drop(host);
    assert_eq!(count(&device), (0, 4096));
    let shorter = device.host_buffer("other", 17).unwrap();
    assert_eq!((shorter.address(), count(&device)), (first, (4096, 4096)));
    let second = device.host_buffer("second", 4097).unwrap();
    assert_eq!(count(&device), (12288, 12288));
    // One too short makes room: the pool does not grow with every new length.
    drop(second);
    let _long = device.host_buffer("third", 5 * 4096).unwrap();
    assert_eq!(count(&device), (6 * 4096, 6 * 4096));
    let wrong = shorter.copy_to(&x).unwrap_err().to_string();
    assert_eq!(wrong, "copy from host memory: `other` has 17 bytes, `x` has 4000");
}

#[test]
fn paper_counts_pinned_memory_by_the_same_rules() {
    let uses = [cpu(), Device::paper(Compute::Bf16, true)].map(|device| {
        let x = device.zeros("x", DType::U8, &[10_000]).unwrap();
        for n in [5000, 10_000, 7000] {
            let buffers = [n, n + 1].map(|n| device.host_buffer("host", n).unwrap());
            if n == 10_000 {
                device.on(Lane::Copy, || device.wait(Lane::Copy, &device.mark(Lane::Main).unwrap())).unwrap();
                device.on(Lane::Copy, || buffers[0].copy_from(&x)).unwrap();
                wait(&device, Lane::Main, Lane::Copy);
            }
        }
        let used = device.host_memory_use();
        (used.current_bytes, used.peak_bytes, used.at_peak)
    });
    assert_eq!(uses[0], uses[1]);
    assert_eq!((uses[0].0, uses[0].1), (0, 2 * 12288));
}
