//! The ECI reduction against tools/golden/eci_pool.py.

use crate::common::{Golden, for_each_device};
use llamacare::device::DType;
use llamacare::ops::eci_pool::eci_pool;
use llamacare::tape::Tape;

#[test]
fn eci_pool_matches_torch_with_ties_going_to_the_first() {
    let golden = Golden::load("eci_pool");
    for_each_device(|device| {
        for case in golden.cases() {
            for added in [false, true] {
                let mut tape = Tape::new(device);
                let h = tape.var(golden.act(device, &case, "h"), true);
                let (cu_seqlens, n_keep) = (golden.ints(&case, "cu_seqlens"), golden.ints(&case, "n_keep"));
                let n_positions = golden.shape(&case, "dfeatures")[1] / (h.value().shape()[1] / 64);
                let features = eci_pool(&mut tape, &h, &cu_seqlens, &n_keep, n_positions).unwrap();
                golden.check(device, &case, "features", features.value(), 2.0);
                let mut seeds = vec![(features.id(), golden.upload(device, &case, "dfeatures", DType::F32))];
                if added {
                    seeds.push((h.id(), golden.act(device, &case, "above")));
                }
                let dh = tape.backward(seeds).unwrap().take(h.id()).unwrap();
                golden.check(device, &case, if added { "dh_added" } else { "dh" }, &dh, 3.0);
            }
        }
    });
}

#[test]
fn the_gradient_of_a_tie_goes_to_its_first_place_alone() {
    for_each_device(|device| {
        let mut tape = Tape::new(device);
        let mut values = [1.0; 64];
        values[8..16].copy_from_slice(&[-3.0, 2.0, 0.0, 2.0, 2.0, -1.0, 2.0, 1.0]);
        let h = tape.var(device.upload("h", device.act(), &[1, 64], &values).unwrap(), true);
        let features = eci_pool(&mut tape, &h, &[0, 1], &[1], 1).unwrap();
        assert_eq!(features.value().read_f32().unwrap(), [1.125]);
        let seed = device.upload("d", DType::F32, &[1, 1], &[8.0]).unwrap();
        let dh = tape.backward(vec![(features.id(), seed)]).unwrap().take(h.id()).unwrap().read_f32().unwrap();
        let places: Vec<usize> = (0..64).filter(|&i| dh[i] != 0.0).collect();
        assert_eq!(places, [0, 9, 16, 24, 32, 40, 48, 56]);
        assert!(places.iter().all(|&i| dh[i] == 1.0));
    });
}

#[test]
fn a_nan_among_the_hidden_states_reaches_its_feature() {
    for_each_device(|device| {
        for place in [0, 3, 7] {
            let mut values = [1.0; 128];
            values[64 + place] = f32::NAN;
            let mut tape = Tape::new(device);
            let h = tape.var(device.upload("h", device.act(), &[1, 128], &values).unwrap(), true);
            let features = eci_pool(&mut tape, &h, &[0, 1], &[1], 1).unwrap().value().read_f32().unwrap();
            assert!(features[0] == 1.0 && features[1].is_nan(), "{features:?}");
        }
    });
}

#[test]
fn a_sequence_longer_than_the_head_is_refused() {
    for_each_device(|device| {
        let mut tape = Tape::new(device);
        let h = tape.var(device.zeros("h", device.act(), &[9, 64]).unwrap(), true);
        let error = eci_pool(&mut tape, &h, &[0, 4, 9], &[4, 5], 4).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let start = "sequence 1 of the micro-batch has 5 tokens for the ECI head, which takes 4";
        assert!(error.to_string().starts_with(start), "{error}");
        let error = eci_pool(&mut tape, &h, &[0, 4, 9], &[5, 5], 8).unwrap_err().to_string();
        assert_eq!(error, "eci_pool: sequence 0 has 4 tokens, of which 5 were to be kept");
        let error = eci_pool(&mut tape, &h, &[0, 4, 8], &[4, 4], 8).unwrap_err().to_string();
        assert_eq!(error, "eci_pool: expected beginnings of 2 sequences from 0 up to 9, found [0, 4, 8]");
    });
}
