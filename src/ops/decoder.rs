//! NF4 weights as operands of products, decoded one request ahead: while the main lane multiplies by one weight, the side lane
//! decodes the next into the other of two slots. Decoded to the storage type, or, where a model is loaded so, to e4m3.
//!
//! Which one is next is learned: training asks for the same weights in the same order in every pass, so the follower of two
//! requests is what followed them the last time. A wrong guess costs its time and nothing else: what is returned was always
//! decoded from the weights that were asked for. On the CPU device the same work is done in the same order of slots, so its
//! tests are tests of this.

use crate::device::{DType, Device, Lane, Mark, Tensor};
use crate::ops::fp8::{Fp8, Fp8Scales};
use crate::ops::nf4::{Nf4Weight, Orientation};
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
    followers: HashMap<[Key; 2], Vec<Wanted>>,
    n_requests: usize,
    n_late: usize,
}

#[derive(Debug)]
struct Slot {
    memory: Tensor,
    /// The request whose weights lie here. Holding the weights keeps their addresses, which are keys, from being reused.
    holds: Vec<Wanted>,
    /// Where the side lane decoded it and the main lane has not waited yet.
    ready: Option<Mark>,
}

/// A weight, and as what.
#[derive(Debug, Clone)]
struct Wanted {
    weight: Nf4Weight,
    form: Form,
}

#[derive(Debug, Clone)]
enum Form {
    /// [N,K] in the storage type.
    Dense,
    /// In e4m3 with these scales.
    Fp8(Fp8Scales, Orientation),
}

impl Wanted {
    fn shape(&self) -> [usize; 2] {
        let [n, k] = self.weight.shape();
        if matches!(self.form, Form::Fp8(_, Orientation::Transposed)) { [k, n] } else { [n, k] }
    }

    fn decode_into(&self, tensor: &Tensor) -> Result<()> {
        match &self.form {
            Form::Dense => self.weight.dequantize_into(tensor, Orientation::Rows),
            Form::Fp8(scales, orientation) => scales.decode_into(&self.weight, tensor, *orientation),
        }
    }
}

/// A request: the addresses of its weights' codes, and whether they are wanted turned.
type Key = Vec<(usize, bool)>;

fn key(request: &[Wanted]) -> Key {
    let one = |w: &Wanted| {
        let turned = matches!(w.form, Form::Fp8(_, Orientation::Transposed));
        (w.weight.packed().ptr::<u8>() as usize, turned)
    };
    request.iter().map(one).collect()
}

impl Decoder {
    /// Decodes to the storage type, into slots of this many elements each; see [`Decoder::request_elems`].
    pub fn new(device: &Device, slot_elems: usize) -> Result<Decoder> {
        Decoder::of(device, device.act(), slot_elems)
    }

    /// Decodes to `dtype`: the storage type, or U8 for e4m3.
    pub fn of(device: &Device, dtype: DType, slot_elems: usize) -> Result<Decoder> {
        let slot = || {
            let memory = device.empty(DECODED, dtype, &[slot_elems])?;
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
    pub fn request_elems(dtype: DType, shapes: &[[usize; 2]]) -> usize {
        shapes.iter().map(|&[n, k]| places(dtype, n * k)).sum()
    }

    /// The weights of one request as dense tensors [N,K]. They must be dropped before the request after the next one: their
    /// memory is one of two slots.
    pub fn decode(&mut self, weights: &[&Nf4Weight]) -> Result<Vec<Tensor>> {
        self.fetch(weights.iter().map(|&w| Wanted { weight: w.clone(), form: Form::Dense }).collect())
    }

    /// The same in e4m3, with its scales.
    pub fn decode_fp8(&mut self, weights: &[(&Nf4Weight, &Fp8Scales)], orientation: Orientation) -> Result<Vec<Fp8>> {
        let one = |&(w, scales): &(&Nf4Weight, &Fp8Scales)| Wanted {
            weight: w.clone(),
            form: Form::Fp8(scales.clone(), orientation),
        };
        let codes = self.fetch(weights.iter().map(one).collect())?.into_iter();
        let with_scales =
            |(codes, (_, of)): (Tensor, &(_, &Fp8Scales))| Fp8 { codes, scales: of.along(orientation).clone() };
        Ok(codes.zip(weights).map(with_scales).collect())
    }

    fn fetch(&mut self, weights: Vec<Wanted>) -> Result<Vec<Tensor>> {
        let wanted = key(&weights);
        let shapes: Vec<_> = weights.iter().map(Wanted::shape).collect();
        let memory = &self.slots[0].memory;
        let (needed, there) = (Decoder::request_elems(memory.dtype(), &shapes), memory.n_elems());
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

    fn learn(&mut self, next: Vec<Wanted>) {
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
    fn decode_now(&mut self, weights: &[Wanted]) -> Result<usize> {
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

    fn decode_into(&mut self, slot: usize, weights: &[Wanted]) -> Result<()> {
        self.slots[slot].holds.clear();
        for (tensor, weight) in self.tensors(slot, weights).iter().zip(weights) {
            weight.decode_into(tensor)?;
        }
        self.slots[slot].holds = weights.to_vec();
        Ok(())
    }

    fn tensors(&self, slot: usize, weights: &[Wanted]) -> Vec<Tensor> {
        let (memory, mut begin) = (&self.slots[slot].memory, 0);
        let tensor = |w: &Wanted| {
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
fn places(dtype: DType, n_elems: usize) -> usize {
    n_elems.next_multiple_of(ALIGN / dtype.bytes())
}
