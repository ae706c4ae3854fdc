//! Where the gradient of a parameter goes: into a tensor, or, for a wide layer that few rows pass through, into the
//! factors of the sum of outer products that it is.
//!
//! The first layer of the paper's head has 98 million weights and sees one row a sequence. The factors of a step's rows
//! take 0.4 MB each where the gradient takes 393 MB; the optimiser forms it from them, bit for bit the same one.

use crate::device::{DType, Device, Tensor};
use crate::ffi::lc_gradient;
use crate::{Error, Result};
use std::cell::Cell;
use std::ptr::null;
use std::rc::Rc;

/// A parameter's gradient, fp32. Clones share the memory.
#[derive(Debug, Clone)]
pub enum Gradient {
    /// Stored, in the parameter's shape.
    Stored(Tensor),
    /// `dW[o,i] = sum_r dy[r,o] x[r,i]`, formed where it is needed.
    Factors(Rc<Factors>),
    /// Nowhere: the parameter [shape] is used and not trained.
    Nowhere(Device, Rc<[usize]>),
}

impl Gradient {
    /// The stored tensor; an error for factors, which an operation must know to write, and where nothing is trained.
    pub fn stored(&self) -> Result<&Tensor> {
        match self {
            Gradient::Stored(tensor) => Ok(tensor),
            Gradient::Factors(f) => {
                Err(Error::Shape(format!("the gradient {:?} is kept as factors, not as a tensor", f.shape)))
            }
            Gradient::Nowhere(_, shape) => {
                Err(Error::Shape(format!("the parameter {shape:?} was loaded to be used: it has no gradient")))
            }
        }
    }

    /// The parameter's shape.
    pub fn shape(&self) -> &[usize] {
        match self {
            Gradient::Stored(tensor) => tensor.shape(),
            Gradient::Factors(f) => &f.shape,
            Gradient::Nowhere(_, shape) => shape,
        }
    }

    /// How many weights it is the gradient of.
    pub fn n_elems(&self) -> usize {
        self.shape().iter().product()
    }

    /// The device that holds it.
    pub fn device(&self) -> &Device {
        match self {
            Gradient::Stored(tensor) => tensor.device(),
            Gradient::Factors(f) => f.x.device(),
            Gradient::Nowhere(device, _) => device,
        }
    }

    /// For the optimiser's kernels.
    pub fn args(&self) -> lc_gradient {
        match self {
            Gradient::Nowhere(..) => lc_gradient { dense: null(), dy: null(), x: null(), rows: 0, n_in: 0, n_out: 0 },
            Gradient::Stored(tensor) => {
                lc_gradient { dense: tensor.ptr(), dy: null(), x: null(), rows: 0, n_in: 0, n_out: 0 }
            }
            Gradient::Factors(f) => lc_gradient {
                dense: null(),
                dy: f.dy.ptr(),
                x: f.x.ptr(),
                rows: f.n_rows() as i32,
                n_in: f.shape[1] as i32,
                n_out: f.shape[0] as i32,
            },
        }
    }

    /// The values, on the host; factors are multiplied out in the kernels' order.
    pub fn read_f32(&self) -> Result<Vec<f32>> {
        let f = match self {
            Gradient::Stored(_) | Gradient::Nowhere(..) => return self.stored()?.read_f32(),
            Gradient::Factors(f) => f,
        };
        let [n_out, n_in] = f.shape;
        let (dy, x) = (f.dy.read_f32()?, f.x.read_f32()?);
        let mut values = vec![0.0f32; n_out * n_in];
        for r in 0..f.n_rows() {
            for (o, row) in values.chunks_exact_mut(n_in).enumerate() {
                let d = dy[r * n_out + o];
                row.iter_mut().zip(&x[r * n_in..]).for_each(|(dw, x)| *dw = d.mul_add(*x, *dw));
            }
        }
        Ok(values)
    }
}

/// The rows of a step, in the order they came: `dy` beside `x`.
#[derive(Debug)]
pub struct Factors {
    /// [capacity, n_out]
    dy: Tensor,
    /// [capacity, n_in]
    x: Tensor,
    shape: [usize; 2],
    n_rows: Cell<usize>,
}

impl Factors {
    /// The rule for whether a weight [n_out, n_in] keeps factors: where those of `rows` rows are smaller than its gradient.
    /// They are not slower either: a row costs the optimiser what a micro-batch costs a stored gradient, reading it once.
    pub fn are_smaller(rows: usize, [n_out, n_in]: [usize; 2]) -> bool {
        rows * (n_out + n_in) < n_out * n_in
    }

    /// Room for `rows` rows a step.
    pub fn new(device: &Device, name: &str, rows: usize, [n_out, n_in]: [usize; 2]) -> Result<Factors> {
        let dy = device.empty(name, DType::F32, &[rows, n_out])?;
        let x = device.empty(name, DType::F32, &[rows, n_in])?;
        Ok(Factors { dy, x, shape: [n_out, n_in], n_rows: Cell::new(0) })
    }

    /// Adds the rows of a micro-batch: `dy` [B, n_out], `x` [B, n_in].
    pub fn push(&self, dy: &Tensor, x: &Tensor) -> Result<()> {
        let [b, _] = x.dims("factors x")?;
        dy.expect("factors dy", DType::F32, &[b, self.shape[0]])?;
        x.expect("factors x", DType::F32, &[b, self.shape[1]])?;
        let (begin, end, room) = (self.n_rows(), self.n_rows() + b, self.x.shape()[0]);
        if end > room {
            return Err(Error::Shape(format!(
                "the head's gradient has room for {room} sequences an optimiser step, and this step has at least {end}; \
                 it was planned with too few"
            )));
        }
        self.dy.rows(begin, end).copy_from(dy)?;
        self.x.rows(begin, end).copy_from(x)?;
        self.n_rows.set(end);
        Ok(())
    }

    /// Rows of this step so far.
    pub fn n_rows(&self) -> usize {
        self.n_rows.get()
    }

    /// Forgets all rows: the gradient is zero.
    pub fn reset(&self) {
        self.n_rows.set(0);
    }
}
