//! AdamW against tools/golden/adamw.py.

use crate::common::{Golden, for_each_device};
use llamacare::device::{DType, Device, Tensor};
use llamacare::ops::adamw::{AdamwConfig, Weights, adamw};
use llamacare::ops::grad_norm::grad_norm;
use llamacare::tape::Gradient;

const CONFIG: AdamwConfig = AdamwConfig { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 };

/// Flat weights with their gradients and moments, and a copy in storage type of the first `n_copied`.
struct State {
    master: Tensor,
    grad: Tensor,
    m: Tensor,
    v: Tensor,
    copy: Tensor,
}

impl State {
    fn new(device: &Device, master: Tensor, n_copied: usize) -> State {
        let zeros = || device.zeros("adamw", DType::F32, master.shape()).unwrap();
        let copy = device.zeros("copy", device.act(), &[n_copied]).unwrap();
        State { grad: zeros(), m: zeros(), v: zeros(), copy, master }
    }

    /// Updates the elements `begin..end`.
    fn update(&self, [begin, end]: [usize; 2], config: &AdamwConfig, clip: Option<&Tensor>, step: usize) {
        let part = |t: &Tensor| t.rows(begin, end);
        let copy = (end <= self.copy.n_elems()).then(|| part(&self.copy));
        let w = Weights { master: part(&self.master), grad: Gradient::Stored(part(&self.grad)), copy };
        adamw(&w, [&part(&self.m), &part(&self.v)], config, clip, step).unwrap();
    }

    fn clip(&self, max_norm: f32) -> Tensor {
        grad_norm(&[&Gradient::Stored(self.grad.clone())], max_norm).unwrap().clip()
    }
}

#[test]
fn five_clipped_steps_over_two_groups_match_torch() {
    let golden = Golden::load("adamw");
    for_each_device(|device| {
        for case in golden.cases() {
            let split = golden.ints(&case, "split")[0] as usize;
            let master = golden.upload(device, &case, "w", DType::F32);
            let n = master.n_elems();
            let state = State::new(device, master, split);
            for (step, grad) in golden.floats(&case, "grads").chunks(n).enumerate() {
                state.grad.write_f32(grad).unwrap();
                let clip = state.clip(1.0);
                state.update([0, split], &CONFIG, Some(&clip), step + 1);
                let second = AdamwConfig { lr: 3e-3, weight_decay: 0.0, ..CONFIG };
                state.update([split, n], &second, Some(&clip), step + 1);
            }
            golden.check(device, &case, "w", &state.master, 2.0);
            golden.check(device, &case, "m", &state.m, 2.0);
            golden.check(device, &case, "v", &state.v, 2.0);
            // The working copy is the master of the first group, rounded.
            let rounded = device.empty("rounded", device.act(), &[split]).unwrap();
            rounded.write_f32(&state.master.read_f32().unwrap()[..split]).unwrap();
            assert_eq!(state.copy.read_bytes().unwrap(), rounded.read_bytes().unwrap());
        }
    });
}

#[test]
fn gradients_that_are_not_finite_change_nothing() {
    for_each_device(|device| {
        let state = State::new(device, device.upload("w", DType::F32, &[3], &[1.0, 2.0, 3.0]).unwrap(), 3);
        state.grad.write_f32(&[1.0, f32::NAN, 1.0]).unwrap();
        let clip = state.clip(1.0);
        state.update([0, 3], &CONFIG, Some(&clip), 1);
        assert_eq!(state.master.read_f32().unwrap(), [1.0, 2.0, 3.0]);
        assert_eq!(state.m.read_f32().unwrap(), [0.0; 3]);
        assert_eq!(state.v.read_f32().unwrap(), [0.0; 3]);
        assert_eq!(state.copy.read_f32().unwrap(), [0.0; 3]);
    });
}

#[test]
fn groups_leave_their_neighbours_alone() {
    for_each_device(|device| {
        let state = State::new(device, device.upload("w", DType::F32, &[5], &[1.0; 5]).unwrap(), 5);
        state.grad.write_f32(&[1.0; 5]).unwrap();
        state.update([1, 4], &CONFIG, None, 1);
        let w = state.master.read_f32().unwrap();
        assert_eq!((w[0], w[4]), (1.0, 1.0));
        assert!(w[1..4].iter().all(|&w| (w - 0.989).abs() < 1e-5), "{w:?}");
        let copy = state.copy.read_f32().unwrap();
        assert!(copy[0] == 0.0 && copy[4] == 0.0 && copy[1..4].iter().all(|&w| (w - 0.989).abs() < 4e-3), "{copy:?}");
        let w = Weights { master: state.master, grad: Gradient::Stored(state.grad.rows(0, 4)), copy: None };
        let error = adamw(&w, [&state.m, &state.v], &CONFIG, None, 1).unwrap_err().to_string();
        assert_eq!(error, "adamw: 5 weights, a gradient [4]");
    });
}
