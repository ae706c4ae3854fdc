//! Values on a tape, and what a backward keeps of them.
//!
//! A backward needs some values of the forward again. Each is either kept as it is, or made again when it is asked for:
//! a norm from the residual, a gated product from gate and up, anything from a smaller or a far away copy. The node that
//! asks does not know which.

use crate::Result;
use crate::device::{DType, Tensor};
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

/// Names a value on a tape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VarId(pub(super) u64);

/// Where the gradient of a value goes: all that a backward must know of a value whose contents it does not read.
#[derive(Debug, Clone)]
pub struct Slot {
    pub(super) id: VarId,
    pub(super) needs_grad: bool,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
}

impl Slot {
    /// The value's name on the tape.
    pub fn id(&self) -> VarId {
        self.id
    }
    /// Whether anything trainable lies upstream: where not, no gradient need be computed.
    pub fn needs_grad(&self) -> bool {
        self.needs_grad
    }
    /// Element type of the value and of its gradient.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// Shape of the value and of its gradient.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
}

/// A value of the forward, with its name.
#[derive(Debug, Clone)]
pub struct Var {
    pub(super) slot: Slot,
    value: Tensor,
    again: Option<Again>,
}

impl Var {
    pub(super) fn new(id: VarId, value: Tensor, needs_grad: bool) -> Var {
        let slot = Slot { id, needs_grad, dtype: value.dtype(), shape: value.shape().to_vec() };
        Var { slot, value, again: None }
    }

    /// Its name on the tape.
    pub fn id(&self) -> VarId {
        self.slot.id
    }
    /// Its contents.
    pub fn value(&self) -> &Tensor {
        &self.value
    }
    /// Whether anything trainable lies upstream.
    pub fn needs_grad(&self) -> bool {
        self.slot.needs_grad
    }
    /// Where its gradient goes.
    pub fn slot(&self) -> Slot {
        self.slot.clone()
    }

    /// The same value, of which a backward keeps only how to make it again.
    pub fn made_by(self, again: Again) -> Var {
        Var { again: Some(again), ..self }
    }

    /// What a backward that reads the value is to hold.
    pub fn save(&self) -> Saved {
        let form = match &self.again {
            Some(again) => Form::Again(again.clone()),
            None => Form::Kept(self.value.clone()),
        };
        Saved { slot: self.slot.clone(), form }
    }
}

/// How to make a value again. It is made once, when first asked for, and freed with the last holder of this handle.
#[derive(Clone)]
pub struct Again(Rc<Remake>);

struct Remake {
    make: Box<dyn Fn() -> Result<Tensor>>,
    made: RefCell<Option<Tensor>>,
}

impl Again {
    /// `make` must give the same bytes as the forward did, or what a policy puts in their place.
    pub fn new(make: impl Fn() -> Result<Tensor> + 'static) -> Again {
        Again(Rc::new(Remake { make: Box::new(make), made: RefCell::default() }))
    }

    fn value(&self) -> Result<Tensor> {
        if let Some(made) = &*self.0.made.borrow() {
            return Ok(made.clone());
        }
        let made = (self.0.make)()?;
        *self.0.made.borrow_mut() = Some(made.clone());
        Ok(made)
    }
}

impl fmt::Debug for Again {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Again")
    }
}

/// A value as a backward holds it.
#[derive(Debug, Clone)]
pub struct Saved {
    slot: Slot,
    form: Form,
}

#[derive(Debug, Clone)]
enum Form {
    Kept(Tensor),
    Again(Again),
}

impl Saved {
    /// Where the value's gradient goes.
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// The contents.
    pub fn value(&self) -> Result<Tensor> {
        match &self.form {
            Form::Kept(value) => Ok(value.clone()),
            Form::Again(again) => again.value(),
        }
    }

    /// The value on a tape again, under its old name: for a part of the network that runs twice.
    pub(super) fn revive(&self) -> Result<Var> {
        let value = self.value()?;
        let again = match &self.form {
            Form::Kept(_) => None,
            Form::Again(again) => Some(again.clone()),
        };
        Ok(Var { slot: self.slot.clone(), value, again })
    }
}
