//! AdamW with 8-bit moments against tools/golden/adamw8.py.

use crate::common::{Golden, for_each_device};
use llamacare::device::{DType, Device, Tensor};
use llamacare::ops::adamw::{AdamwConfig, Weights};
use llamacare::ops::adamw8::{BLOCK, Moment8, adamw8, maps_on};
use llamacare::ops::grad_norm::grad_norm;
use llamacare::ops::nf4::dynamic_map;
use llamacare::tape::Gradient;

const CONFIG: AdamwConfig = AdamwConfig { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 };
const STEPS: usize = 12;

/// Flat weights, all with a copy, at the start of their training.
struct State {
    weights: Weights,
    moments: [Moment8; 2],
    maps: Tensor,
}

impl State {
    fn new(device: &Device, master: Tensor) -> State {
        let n = master.n_elems();
        let grad = Gradient::Stored(device.zeros("grad", DType::F32, &[n]).unwrap());
        let copy = Some(device.zeros("copy", device.act(), &[n]).unwrap());
        let moments = ["m", "v"].map(|name| Moment8::zeros(device, name, n).unwrap());
        State { weights: Weights { master, grad, copy }, moments, maps: maps_on(device).unwrap() }
    }

    fn update(&self, grad: &[f32], step: usize, clip: Option<&Tensor>) {
        self.weights.grad.stored().unwrap().write_f32(grad).unwrap();
        adamw8(&self.weights, self.moments.each_ref(), &self.maps, &CONFIG, clip, step).unwrap();
    }

    fn bytes(&self) -> Vec<Vec<u8>> {
        let [m, v] = &self.moments;
        let copy = self.weights.copy.as_ref().unwrap();
        let all = [&self.weights.master, copy, &m.codes, &m.scales, &v.codes, &v.scales];
        all.map(|t| t.read_bytes().unwrap()).to_vec()
    }
}

fn relative<T: Copy + Into<f64>>(got: &[f32], want: &[T]) -> f64 {
    let pairs = got.iter().zip(want).map(|(&g, &w)| (f64::from(g), w.into()));
    let (off, size) = pairs.fold((0.0, 0.0), |(off, size), (g, w)| (off + (g - w).powi(2), size + w * w));
    (off / size).sqrt()
}

#[test]
fn the_maps_are_those_of_bitsandbytes_bit_for_bit() {
    let golden = Golden::load("adamw8");
    for (name, signed) in [("signed_map", true), ("unsigned_map", false)] {
        let bits = |map: &[f32]| map.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&dynamic_map(signed)), bits(&golden.floats("7", name)), "{name}");
    }
}

#[test]
fn a_moment_right_between_two_codes_takes_the_lower() {
    // m is half of the gradient and the largest gradient is 1: nothing is rounded on the way to the search.
    let config = AdamwConfig { beta1: 0.5, ..CONFIG };
    let map = dynamic_map(true);
    let grad: Vec<f32> = map.windows(2).map(|w| (w[0] + w[1]) * 0.5).chain([1.0]).collect();
    for_each_device(|device| {
        let state = State::new(device, device.zeros("w", DType::F32, &[256]).unwrap());
        state.weights.grad.stored().unwrap().write_f32(&grad).unwrap();
        adamw8(&state.weights, state.moments.each_ref(), &state.maps, &config, None, 1).unwrap();
        let codes = state.moments[0].codes.read_bytes().unwrap();
        assert_eq!(codes, (0..=255).collect::<Vec<u8>>(), "{}", device.name());
    });
}

/// One code is one step of the map: where our m and PyTorch's differ in their last bit, right at a midpoint, codes may
/// differ by it. None does, after one step or twelve.
#[test]
fn codes_and_scales_are_those_of_torch() {
    let golden = Golden::load("adamw8");
    for_each_device(|device| {
        for case in golden.cases() {
            let state = State::new(device, golden.upload(device, &case, "w", DType::F32));
            let n = state.weights.master.n_elems();
            for (i, grad) in golden.floats(&case, "grads").chunks(n).enumerate() {
                let step = i + 1;
                state.update(grad, step, None);
                if step != 1 && step != STEPS {
                    continue;
                }
                let name = |what: &str| format!("{what}_{step}");
                for (moment, what) in state.moments.iter().zip(["m", "v"]) {
                    let codes: Vec<i32> = moment.codes.read_bytes().unwrap().into_iter().map(i32::from).collect();
                    let want = golden.ints(&case, &name(&format!("{what}_codes")));
                    let off = codes.iter().zip(&want).filter(|(a, b)| a != b).count();
                    assert_eq!(off, 0, "{case}: {off} of {n} codes of {what} differ at step {step}");
                    let scales = moment.scales.read_f32().unwrap();
                    let error = relative(&scales, &golden.floats(&case, &name(&format!("{what}_scales"))));
                    assert!(error < 1e-6, "{case}: scales of {what} at step {step}: {error:.2e}");
                }
                let error = relative(&state.weights.master.read_f32().unwrap(), &golden.floats(&case, &name("w")));
                assert!(error < 1e-6, "{case}: weights at step {step}: {error:.2e}");
            }
            // And the reference is no worse than it was when it was made: its error against fp64 without a quantiser.
            let error = relative(&state.weights.master.read_f32().unwrap(), golden.expected(&case, "w"));
            assert!(error <= 1.01 * golden.torch_error(&case, "w"), "{case}: {error:.2e}");
            assert!(error < 0.02, "{case}: {error:.2e}");
        }
    });
}

#[test]
fn the_copy_is_the_master_rounded() {
    for_each_device(|device| {
        let state = State::new(device, device.upload("w", DType::F32, &[300], &[0.3; 300]).unwrap());
        state.update(&[0.5; 300], 1, None);
        let rounded = device.empty("rounded", device.act(), &[300]).unwrap();
        rounded.write_f32(&state.weights.master.read_f32().unwrap()).unwrap();
        assert_eq!(state.bytes()[1], rounded.read_bytes().unwrap());
    });
}

#[test]
fn gradients_that_are_not_finite_change_nothing() {
    for_each_device(|device| {
        let state = State::new(device, device.upload("w", DType::F32, &[300], &[0.5; 300]).unwrap());
        state.update(&[1.0; 300], 1, None);
        let before = state.bytes();
        let mut grad = vec![1.0; 300];
        grad[270] = f32::NAN;
        state.weights.grad.stored().unwrap().write_f32(&grad).unwrap();
        let norm = grad_norm(&[&state.weights.grad], 1.0).unwrap();
        state.update(&grad, 2, Some(&norm.clip()));
        assert_eq!(state.bytes(), before);
    });
}

#[test]
fn clipped_gradients_are_smaller_gradients() {
    for_each_device(|device| {
        let grad: Vec<f32> = (0..300).map(|i| (i as f32).sin()).collect();
        let states = [(); 2].map(|()| State::new(device, device.upload("w", DType::F32, &[300], &[0.5; 300]).unwrap()));
        let half = device.upload("clip", DType::F32, &[1], &[0.5]).unwrap();
        states[0].update(&grad, 1, Some(&half));
        states[1].update(&grad.iter().map(|g| 0.5 * g).collect::<Vec<_>>(), 1, None);
        assert_eq!(states[0].bytes(), states[1].bytes());
    });
}

#[test]
fn a_stretch_leaves_its_neighbours_alone() {
    for_each_device(|device| {
        let whole = State::new(device, device.upload("w", DType::F32, &[900], &[1.0; 900]).unwrap());
        let (w, range) = (&whole.weights, BLOCK..600);
        let part = |t: &Tensor| t.rows(range.start, range.end);
        w.grad.stored().unwrap().write_f32(&[1.0; 900]).unwrap();
        let copy = w.copy.as_ref().map(part);
        let weights = Weights { master: part(&w.master), grad: Gradient::Stored(part(w.grad.stored().unwrap())), copy };
        let moments = whole.moments.each_ref().map(|m| m.part(&range));
        adamw8(&weights, moments.each_ref(), &whole.maps, &CONFIG, None, 1).unwrap();
        let w = w.master.read_f32().unwrap();
        assert!((0..900).all(|i| (w[i] == 1.0) != range.contains(&i)));
        for moment in &whole.moments {
            let codes = moment.codes.read_bytes().unwrap();
            assert!((0..900).all(|i| (codes[i] == 0) != range.contains(&i)));
            let scales = moment.scales.read_f32().unwrap();
            assert!(scales[0] == 0.0 && scales[1] > 0.0 && scales[2] > 0.0 && scales[3] == 0.0, "{scales:?}");
        }
    });
}

/// m = 0.1 g is in the map's range and stays; v's root is below the range of a neighbour's. Rounded to zero it would make
/// the next step m / eps, ten million times too long.
#[test]
fn a_small_second_moment_never_becomes_zero() {
    for_each_device(|device| {
        let state = State::new(device, device.upload("w", DType::F32, &[2], &[0.0, 0.0]).unwrap());
        let outlier = [1e4, 0.0];
        state.update(&outlier, 1, None);
        for step in 2..40 {
            state.update(&[0.0, if step == 30 { 1e-4 } else { 0.0 }], step, None);
        }
        let moved = state.weights.master.read_f32().unwrap()[1].abs();
        assert!(moved > 0.0 && moved < 0.1, "{moved}");
    });
}

#[test]
fn what_never_had_a_gradient_stays_zero() {
    for_each_device(|device| {
        let state = State::new(device, device.zeros("w", DType::F32, &[300]).unwrap());
        let grad: Vec<f32> = (0..300).map(|i| if i < 200 { 1.0 } else { 0.0 }).collect();
        for step in 1..6 {
            state.update(&grad, step, None);
        }
        let w = state.weights.master.read_f32().unwrap();
        assert!(w[..200].iter().all(|v| *v != 0.0) && w[200..].iter().all(|v| *v == 0.0));
        let codes = state.moments[1].codes.read_bytes().unwrap();
        assert!(codes[200..].iter().all(|c| *c == 0));
    });
}
