//! What becomes of a tensor between forward and backward where it does not stay as it is: 8-bit blocks, or pinned host memory.
//!
//! The bus is slower than the memory and faster than a layer: copies run in a lane of their own beside the main lane's
//! products. A tensor on its way to the host stays until the main lane has waited for the copy, which it does when the next
//! layer's tensors come: by then the copy had a whole layer's time.

use crate::Result;
use crate::device::{DType, Device, HostBuffer, Lane, Mark, Tensor};
use crate::ops::blocks8::Blocks8;
use std::cell::RefCell;

/// A tensor that was put away.
#[derive(Debug)]
pub enum Stowed {
    /// In 8-bit blocks: what comes back is near it.
    Eight(Blocks8),
    /// In pinned host memory: what comes back are its bytes.
    Host(HostCopy),
}

impl Stowed {
    /// The tensor again, under this buffer name.
    pub fn fetch(&self, name: &str) -> Result<Tensor> {
        match self {
            Stowed::Eight(blocks) => blocks.dequantize(name),
            Stowed::Host(copy) => copy.fetch(name),
        }
    }

    /// Says that it will be fetched soon, under this name: a copy from the host starts now.
    pub fn prefetch(&self, name: &str) -> Result<()> {
        match self {
            Stowed::Eight(_) => Ok(()),
            Stowed::Host(copy) => copy.prefetch(name),
        }
    }
}

/// What the layers of one pass put away, in their order. The backward fetches in the opposite one: whenever a layer fetches,
/// the layer before it starts on its way back.
#[derive(Debug, Default)]
pub struct Shelf {
    places: RefCell<Vec<Vec<Option<Stowed>>>>,
}

impl Shelf {
    /// Puts the tensors of a layer behind those of the last one; gives their place.
    pub fn put(&self, stowed: Vec<Stowed>) -> usize {
        let mut places = self.places.borrow_mut();
        places.push(stowed.into_iter().map(Some).collect());
        places.len() - 1
    }

    /// Takes tensor `i` of a place off the shelf.
    pub fn fetch(&self, place: usize, i: usize, name: &str) -> Result<Tensor> {
        // This layer's others before the next layer's: the copy lane serves them in this order.
        for place in [Some(place), place.checked_sub(1)].into_iter().flatten() {
            self.places.borrow()[place].iter().flatten().try_for_each(|stowed| stowed.prefetch(name))?;
        }
        let stowed = self.places.borrow_mut()[place][i].take().expect("a tensor is fetched once");
        stowed.fetch(name)
    }
}

/// The way to host memory: one layer's tensors at a time are under way.
#[derive(Debug)]
pub struct HostWay {
    device: Device,
    under_way: RefCell<Option<(Vec<Tensor>, Mark)>>,
}

impl HostWay {
    /// Nothing under way.
    pub fn new(device: &Device) -> HostWay {
        HostWay { device: device.clone(), under_way: RefCell::default() }
    }

    /// Starts moving a layer's tensors to pinned memory of this name. Their device memory is free again when the next
    /// layer's come, or at [`HostWay::settle`], if nobody else holds them.
    pub fn stow(&self, name: &str, tensors: Vec<Tensor>) -> Result<Vec<HostCopy>> {
        self.settle()?;
        let device = &self.device;
        let buffers = tensors.iter().map(|x| device.host_buffer(name, x.n_bytes())).collect::<Result<Vec<_>>>()?;
        device.wait(Lane::Copy, &device.mark(Lane::Main)?)?;
        let started = device.on(Lane::Copy, || buffers.iter().zip(&tensors).try_for_each(|(to, x)| to.copy_from(x)));
        // Also where a copy failed: those before it are under way.
        let shapes: Vec<_> = tensors.iter().map(|x| (x.dtype(), x.shape().to_vec())).collect();
        *self.under_way.borrow_mut() = Some((tensors, device.mark(Lane::Copy)?));
        started?;
        let copy = |(bytes, (dtype, shape))| {
            let ahead = RefCell::default();
            HostCopy { device: device.clone(), bytes, dtype, shape, ahead }
        };
        Ok(buffers.into_iter().zip(shapes).map(copy).collect())
    }

    /// The main lane waits for what is under way, and lets go of its device memory.
    pub fn settle(&self) -> Result<()> {
        match self.under_way.take() {
            Some((_tensors, arrived)) => self.device.wait(Lane::Main, &arrived),
            None => Ok(()),
        }
    }
}

impl Drop for HostWay {
    fn drop(&mut self) {
        // Where this fails the device is lost, and whoever uses it next is told.
        let _ = self.settle();
    }
}

/// A tensor in pinned host memory.
#[derive(Debug)]
pub struct HostCopy {
    device: Device,
    bytes: HostBuffer,
    dtype: DType,
    shape: Vec<usize>,
    /// On its way back: where to, and when it has arrived.
    ahead: RefCell<Option<(Tensor, Mark)>>,
}

impl HostCopy {
    /// Starts copying it back to a fresh tensor. The arena may have taken that memory from tensors whose readers are still
    /// queued in the main lane: the copy lane waits for what was launched there until now.
    pub fn prefetch(&self, name: &str) -> Result<()> {
        if self.ahead.borrow().is_some() {
            return Ok(());
        }
        let device = &self.device;
        let tensor = device.empty(name, self.dtype, &self.shape)?;
        device.wait(Lane::Copy, &device.mark(Lane::Main)?)?;
        device.on(Lane::Copy, || self.bytes.copy_to(&tensor))?;
        *self.ahead.borrow_mut() = Some((tensor, device.mark(Lane::Copy)?));
        Ok(())
    }

    /// The tensor again: waits for the copy in the main lane, not on the host. A second call copies a second time.
    pub fn fetch(&self, name: &str) -> Result<Tensor> {
        self.prefetch(name)?;
        let (tensor, arrived) = self.ahead.take().expect("it was just started");
        self.device.wait(Lane::Main, &arrived)?;
        Ok(tensor)
    }

    /// The pinned memory.
    pub fn bytes(&self) -> &HostBuffer {
        &self.bytes
    }
}

impl Drop for HostCopy {
    /// A copy that nobody fetched may still write memory that now goes to the main lane.
    fn drop(&mut self) {
        if let Some((_tensor, arrived)) = self.ahead.take() {
            // Where this fails the device is lost, and whoever uses it next is told.
            let _ = self.device.wait(Lane::Main, &arrived);
        }
    }
}
