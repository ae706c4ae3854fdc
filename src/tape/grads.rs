//! The gradients under way in a backward pass.

use super::{Slot, VarId, Write};
use crate::device::{Device, Tensor};
use crate::{Error, Result};
use std::collections::HashMap;

/// Gradients by value. Each is taken once, by the node that produced the value, and freed with it.
pub struct Grads {
    device: Device,
    slots: HashMap<VarId, Tensor>,
}

impl Grads {
    pub(super) fn new(device: &Device) -> Grads {
        Grads { device: device.clone(), slots: HashMap::new() }
    }

    /// The device of the pass.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The gradient of a value, if anything downstream wrote one.
    pub fn take(&mut self, id: VarId) -> Option<Tensor> {
        self.slots.remove(&id)
    }

    /// The gradient of a value that must have one.
    pub fn expect(&mut self, op: &'static str, id: VarId) -> Result<Tensor> {
        self.take(id).ok_or_else(|| {
            Error::Shape(format!(
                "{op}: nothing downstream wrote the gradient of its output: an operation has no backward"
            ))
        })
    }

    /// Hands over a finished gradient where none is there yet. It may be shared: [`Grads::write`] copies before it adds.
    pub fn put(&mut self, id: VarId, gradient: Tensor) {
        let before = self.slots.insert(id, gradient);
        assert!(before.is_none(), "a gradient was already there; use Grads::write");
    }

    /// Whether a gradient is there already.
    pub fn contains(&self, id: VarId) -> bool {
        self.slots.contains_key(&id)
    }

    /// Lets `kernel` write the gradient of `x`: `=` into a fresh tensor, or `+=` onto what is there. Does nothing for a
    /// value with nothing trainable upstream.
    pub fn write(&mut self, x: &Slot, kernel: impl FnOnce(&Tensor, Write) -> Result<()>) -> Result<()> {
        if !x.needs_grad() {
            return Ok(());
        }
        let (gradient, write) = self.open(x)?;
        kernel(&gradient, write)?;
        self.put(x.id(), gradient);
        Ok(())
    }

    /// Where the gradient of `x` goes, and how: for a kernel that writes those of several values at once. Each is handed
    /// back with [`Grads::put`] before any other is asked for twice.
    pub fn open(&mut self, x: &Slot) -> Result<(Tensor, Write)> {
        Ok(match self.slots.remove(&x.id()) {
            // Shared with the gradient of another value (both sides of a sum): it must not change under it.
            Some(shared) if !shared.is_unique() => (shared.duplicate()?, Write::Add),
            Some(own) => (own, Write::Add),
            None => (self.device.empty("gradients", x.dtype(), x.shape())?, Write::Set),
        })
    }
}
