//! NF4 weights as dense ones, decoded one request ahead: while the main lane multiplies by one weight, the side lane decodes
//! the next into the other of two slots.
//!
//! Which one is next is learned: training asks for the same weights in the same order in every pass, so the follower of two
//! requests is what followed them the last time. A wrong guess costs its time and nothing else: what is returned was always
//! decoded from the weights that were asked for. On the CPU device the same work is done in the same order of slots, so its
//! tests are tests of this.

use crate::device::{DType, Device, Lane, Mark, Tensor};
use crate::ops::nf4::Nf4Weight;
use crate::{Error, Result};
use std::collections::HashMap;

/// The two slots, in the memory plan.
pub const DECODED: &str = "decoded weights";

/// Weights of one request start on multiples of this in their slot, as buffers do in the arena.
const ALIGN: usize = 256;

/// Two slots, and what is known of the order of requests.
#[derive(Debug)]
pub struct Decoder {
    device: Device,
    slots: [Slot; 2],
    /// The slot of the last request.
    current: usize,
    /// The last two requests.
    past: [Key; 2],
    /// What followed two requests the last time.
    followers: HashMap<[Key; 2], Vec<Nf4Weight>>,
    n_requests: usize,
    n_late: usize,
}

#[derive(Debug)]
struct Slot {
    memory: Tensor,
    /// The request whose weights lie here. Holding the weights keeps their addresses, which are keys, from being reused.
    holds: Vec<Nf4Weight>,
    /// Where the side lane decoded it and the main lane has not waited yet.
    ready: Option<Mark>,
}

/// A request: the addresses of its weights' codes.
type Key = Vec<usize>;

fn key(weights: &[Nf4Weight]) -> Key {
    weights.iter().map(|w| w.packed().ptr::<u8>() as usize).collect()
}

impl Decoder {
    /// With slots of this many elements each; see [`Decoder::request_elems`].
    pub fn new(device: &Device, slot_elems: usize) -> Result<Decoder> {
        let slot = || {
            let memory = device.empty(DECODED, device.act(), &[slot_elems])?;
            Ok(Slot { memory, holds: Vec::new(), ready: None })
        };
        Ok(Decoder {
            device: device.clone(),
            slots: [slot()?, slot()?],
            current: 0,
            past: Default::default(),
            followers: HashMap::new(),
            n_requests: 0,
            n_late: 0,
        })
    }

    /// What a slot must hold for a request of weights of these shapes.
    pub fn request_elems(act: DType, shapes: &[[usize; 2]]) -> usize {
        shapes.iter().map(|&[n, k]| places(act, n * k)).sum()
    }

    /// The weights of one request as dense tensors [N,K]. They must be dropped before the request after the next one: their
    /// memory is one of two slots.
    pub fn decode(&mut self, weights: &[&Nf4Weight]) -> Result<Vec<Tensor>> {
        let weights: Vec<Nf4Weight> = weights.iter().map(|&w| w.clone()).collect();
        let wanted = key(&weights);
        let shapes: Vec<_> = weights.iter().map(Nf4Weight::shape).collect();
        let (needed, there) = (Decoder::request_elems(self.device.act(), &shapes), self.slots[0].memory.n_elems());
        if needed > there {
            return Err(Error::Shape(format!(
                "decoding {shapes:?} takes {needed} elements, a slot of `{DECODED}` has {there}; the plan must count this request"
            )));
        }
        self.n_requests += 1;
        let slot = match self.holding(&wanted) {
            Some(slot) => slot,
            None => self.decode_now(&weights)?,
        };
        if let Some(ready) = self.slots[slot].ready.take() {
            self.device.wait(Lane::Main, &ready)?;
        }
        self.current = slot;
        let tensors = self.tensors(slot, &weights);
        self.learn(weights);
        self.past = [std::mem::take(&mut self.past[1]), wanted];
        self.decode_ahead()?;
        Ok(tensors)
    }

    /// A pass has ended: nothing is decoded ahead over its end, and the next one begins as the first did.
    pub fn rest(&mut self) {
        self.learn(Vec::new());
        self.past = Default::default();
    }

    /// Requests, and how many of them were not decoded when they came.
    pub fn late(&self) -> (usize, usize) {
        (self.n_requests, self.n_late)
    }

    fn learn(&mut self, next: Vec<Nf4Weight>) {
        match self.followers.get_mut(&self.past) {
            Some(known) => *known = next,
            None => drop(self.followers.insert(self.past.clone(), next)),
        }
    }

    fn holding(&self, wanted: &Key) -> Option<usize> {
        self.slots.iter().position(|slot| !slot.holds.is_empty() && key(&slot.holds) == *wanted)
    }

    /// Decodes in the main lane: the order of that lane keeps it behind earlier readers of the slot. The slot of the last
    /// request comes first, since what was decoded ahead into the other may still be asked for.
    fn decode_now(&mut self, weights: &[Nf4Weight]) -> Result<usize> {
        self.n_late += 1;
        let free = [self.current, 1 - self.current].into_iter().find(|&s| self.slots[s].memory.is_unique());
        let Some(slot) = free else {
            return Err(Error::Shape(format!(
                "both slots of `{DECODED}` are in use; the tensors of an earlier request must be dropped first"
            )));
        };
        if let Some(other_guess) = self.slots[slot].ready.take() {
            self.device.wait(Lane::Main, &other_guess)?;
        }
        self.decode_into(slot, weights)?;
        Ok(slot)
    }

    /// Decodes what followed the last two requests the last time, in the side lane, into the slot that is not in use. Its
    /// last readers were launched in the main lane before now, so that is where the side lane waits for.
    fn decode_ahead(&mut self) -> Result<()> {
        let slot = 1 - self.current;
        let Some(next) = self.followers.get(&self.past).filter(|next| !next.is_empty()) else { return Ok(()) };
        if self.holding(&key(next)).is_some() || !self.slots[slot].memory.is_unique() {
            return Ok(());
        }
        let (device, next) = (self.device.clone(), next.clone());
        device.wait(Lane::Side, &device.mark(Lane::Main)?)?;
        device.on(Lane::Side, || self.decode_into(slot, &next))?;
        self.slots[slot].ready = Some(device.mark(Lane::Side)?);
        Ok(())
    }

    fn decode_into(&mut self, slot: usize, weights: &[Nf4Weight]) -> Result<()> {
        self.slots[slot].holds.clear();
        for (tensor, weight) in self.tensors(slot, weights).iter().zip(weights) {
            weight.dequantize_into(tensor)?;
        }
        self.slots[slot].holds = weights.to_vec();
        Ok(())
    }

    fn tensors(&self, slot: usize, weights: &[Nf4Weight]) -> Vec<Tensor> {
        let (memory, mut begin) = (&self.slots[slot].memory, 0);
        let tensor = |w: &Nf4Weight| {
            let n = w.shape().iter().product::<usize>();
            let tensor = memory.rows(begin, begin + n).view(&w.shape());
            begin += places(memory.dtype(), n);
            tensor
        };
        weights.iter().map(tensor).collect()
    }
}

impl Drop for Decoder {
    /// The side lane may still write a slot whose memory now goes to the main lane.
    fn drop(&mut self) {
        for ready in self.slots.iter_mut().filter_map(|slot| slot.ready.take()) {
            // Where this fails the device is lost, and whoever uses it next is told.
            let _ = self.device.wait(Lane::Main, &ready);
        }
    }
}

/// Elements from the start of a weight to the start of the next.
fn places(act: DType, n_elems: usize) -> usize {
    n_elems.next_multiple_of(ALIGN / act.bytes())
}
