//! Dropout against Philox as its authors publish it: the mask bit for bit.

use crate::common::for_each_device;
use llamacare::device::DType;
use llamacare::ops::dropout::{Dropout, dropout};
use llamacare::tape::{Tape, Write};

/// Philox 4x32-10, written down from the paper (Salmon et al. 2011).
fn philox(mut key: [u32; 2], mut c: [u32; 4]) -> [u32; 4] {
    for _ in 0..10 {
        let p0 = u64::from(c[0]) * 0xD251_1F53;
        let p1 = u64::from(c[2]) * 0xCD9E_8D57;
        c = [(p1 >> 32) as u32 ^ c[1] ^ key[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ key[1], p0 as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

#[test]
fn philox_gives_the_published_vectors() {
    assert_eq!(philox([0; 2], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    assert_eq!(philox([!0; 2], [!0; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    let (key, counter) = ([0xa409_3822, 0x299f_31d0], [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]);
    assert_eq!(philox(key, counter), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
}

fn keeps(d: Dropout, element: usize) -> bool {
    let at = element as u64 / 4;
    let words = philox([d.seed as u32, (d.seed >> 32) as u32], [at as u32, (at >> 32) as u32, d.step, d.tensor]);
    words[element % 4] >= (f64::from(d.p) * 4294967296.0) as u32
}

#[test]
fn the_mask_is_philox_of_seed_step_tensor_and_element() {
    for_each_device(|device| {
        for p in [0.0, 0.05, 0.5, 0.9] {
            for (seed, step, tensor) in [(0, 0, 0), (0x0123_4567_89ab_cdef, 3, 41)] {
                let d = Dropout { p, seed, step, tensor };
                let n = 8 * 331;
                let x = device.upload("x", device.act(), &[331, 8], &vec![1.5; n]).unwrap();
                let kept = 1.5 * (1.0 / (1.0 - f64::from(p))) as f32;
                let want: Vec<f32> = (0..n).map(|e| if keeps(d, e) { kept } else { 0.0 }).collect();
                let y = d.of(&x).unwrap();
                let expected = device.upload("expected", device.act(), &[331, 8], &want).unwrap();
                assert!(y.read_bytes().unwrap() == expected.read_bytes().unwrap(), "p={p} on {}", device.name());
                let share = want.iter().filter(|v| **v == 0.0).count() as f64 / n as f64;
                assert!((share - f64::from(p)).abs() < 0.04, "{share} of p={p}");
            }
        }
    });
}

#[test]
fn every_part_of_the_counter_changes_the_mask() {
    for_each_device(|device| {
        let x = device.upload("x", device.act(), &[64], &[1.0; 64]).unwrap();
        let base = Dropout { p: 0.5, seed: 1 << 40 | 9, step: 2, tensor: 3 };
        let mask = |d: Dropout| d.of(&x).unwrap().read_bytes().unwrap();
        assert_eq!(mask(base), mask(base));
        let others =
            [Dropout { seed: 9, ..base }, Dropout { seed: 1 << 40, ..base }, Dropout { step: 3, ..base }, base.nth(1)];
        for other in others {
            assert_ne!(mask(base), mask(other), "{other:?}");
        }
    });
}

#[test]
fn the_gradient_passes_where_the_value_passed() {
    for_each_device(|device| {
        let d = Dropout { p: 0.25, seed: 5, step: 6, tensor: 7 };
        let ones = || device.upload("ones", device.act(), &[9, 24], &[1.0; 9 * 24]).unwrap();
        let mut tape = Tape::new(device);
        let x = tape.var(ones(), true);
        let y = dropout(&mut tape, &x, d).unwrap();
        let value = y.value().read_f32().unwrap();
        let dx = tape.backward(vec![(y.id(), ones())]).unwrap().take(x.id()).unwrap();
        assert_eq!(dx.read_f32().unwrap(), value);
        // Added to what is there, and in place.
        d.apply(&ones(), &dx, Write::Add).unwrap();
        let twice = device.upload("twice", DType::F32, &[9, 24], &value).unwrap();
        let twice: Vec<f32> = twice.read_f32().unwrap().iter().map(|v| v + v).collect();
        let stored = device.upload("twice", device.act(), &[9, 24], &twice).unwrap();
        assert_eq!(dx.read_bytes().unwrap(), stored.read_bytes().unwrap());
        let in_place = ones();
        d.apply(&in_place, &in_place, Write::Set).unwrap();
        assert_eq!(in_place.read_f32().unwrap(), value);
    });
}
