//! Ticks and watched launches: what benches of a whole step stand on.

use crate::common::for_each_device;
use llamacare::device::{DType, Device, Lane};
use llamacare::ffi::watch;
use llamacare::ops::matmul::{Layout, matmul};
use llamacare::tape::Write;
use std::time::{Duration, Instant};

fn product(device: &Device, name: &str) {
    let [a, b] = [device.zeros("a", device.act(), &[32, 16]), device.zeros(name, device.act(), &[64, 16])];
    let y = device.empty("y", DType::F32, &[32, 64]).unwrap();
    matmul(Layout::NT, &[(&a.unwrap(), &b.unwrap())], &y, 1.0, Write::Set).unwrap();
}

#[test]
fn every_launch_of_the_work_is_seen_once_in_its_order_and_none_outside_it() {
    for_each_device(|device| {
        product(device, "before");
        let clock = Instant::now();
        let ((), seen) = watch(|| {
            product(device, "one");
            device.on(Lane::Side, || ());
            product(device, "two");
        });
        let all = clock.elapsed();
        product(device, "after");
        let names: Vec<&str> = seen.iter().map(|launch| launch.tensors[1].0.as_str()).collect();
        assert_eq!(names, ["one", "two"]);
        for launch in &seen {
            assert_eq!((launch.name, launch.lane), ("matmul", Lane::Main));
            let shapes: Vec<&[usize]> = launch.tensors.iter().map(|(_, shape)| shape.as_slice()).collect();
            assert_eq!(shapes, [&[32, 16][..], &[64, 16], &[32, 64]]);
            assert!(launch.seconds(device).unwrap() > 0.0);
        }
        let launched: f64 = seen.iter().map(|launch| launch.seconds(device).unwrap()).sum();
        // What runs beside the host on a GPU may end after it.
        assert!(device.is_cuda() || launched <= all.as_secs_f64(), "{launched} s in {all:?}");
        assert!(watch(|| ()).1.is_empty(), "those of the work before are gone");
    });
}

#[test]
fn work_that_panics_is_watched_no_longer() {
    let device = Device::cpu(llamacare::device::Compute::Bf16).unwrap();
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| watch(|| panic!("planned"))));
    assert!(unwound.is_err());
    product(&device, "after");
    assert!(watch(|| ()).1.is_empty());
}

#[test]
fn time_between_two_ticks_is_what_passed() {
    let device = Device::cpu(llamacare::device::Compute::Bf16).unwrap();
    let (from, clock) = (device.tick().unwrap(), Instant::now());
    std::thread::sleep(Duration::from_millis(20));
    let (slept, to) = (clock.elapsed(), device.tick().unwrap());
    let seconds = device.seconds_between(&from, &to).unwrap();
    assert!(seconds >= slept.as_secs_f64() && seconds < slept.as_secs_f64() + 1.0, "{seconds} for {slept:?}");
}
