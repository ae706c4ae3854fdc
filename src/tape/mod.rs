//! A minimal autograd tape: operations push a node in the forward, the nodes run in reverse in the backward.
//!
//! The tape knows no operation. A node is a struct with a name, the tensors it saves (so that the memory plan can count
//! them) and `backward`. A [segment](Tape::segment) is a part of the network (a decoder layer) that may drop everything
//! but its inputs and compute again when its gradient is asked for: the same kernels on the same inputs, so bit-equal.

mod gradient;
mod grads;
mod param;

pub use gradient::{Factors, Gradient};
pub use grads::Grads;
pub use param::Param;

use crate::Result;
use crate::device::{Device, Tensor};
use crate::ffi::{LC_ADD, LC_SET, lc_write};
use std::cell::Cell;
use std::rc::Rc;

/// How a gradient is written: the first one sets, later ones add.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// `=`
    Set,
    /// `+=`
    Add,
}

impl Write {
    /// As kernels read it.
    pub fn code(self) -> i32 {
        let code: lc_write = match self {
            Write::Set => LC_SET,
            Write::Add => LC_ADD,
        };
        code as i32
    }
}

/// Names a value on a tape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VarId(u64);

/// A value and its name on the tape.
#[derive(Debug, Clone)]
pub struct Var {
    id: VarId,
    value: Tensor,
    needs_grad: bool,
}

impl Var {
    /// Its name on the tape.
    pub fn id(&self) -> VarId {
        self.id
    }
    /// Its contents.
    pub fn value(&self) -> &Tensor {
        &self.value
    }
    /// Whether anything trainable lies upstream: where not, no gradient need be computed.
    pub fn needs_grad(&self) -> bool {
        self.needs_grad
    }
}

/// One operation of the forward, with what its backward needs.
pub trait Node {
    /// The operation, for errors and profiles.
    fn name(&self) -> &'static str;
    /// The tensors kept alive for the backward.
    fn saved(&self) -> Vec<&Tensor>;
    /// Takes the gradients of its outputs from `grads` and writes those of its inputs.
    fn backward(&self, grads: &mut Grads) -> Result<()>;
}

/// Whether a segment keeps what its nodes saved or computes it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Keep everything.
    All,
    /// Keep the inputs, compute the rest again in the backward.
    Inputs,
}

/// A part of the network as a function of its inputs.
pub type SegmentBody = Rc<dyn Fn(&mut Tape, &[Var]) -> Result<Vec<Var>>>;

/// The record of one forward pass.
pub struct Tape {
    device: Device,
    nodes: Vec<Box<dyn Node>>,
    next: Rc<Cell<u64>>,
    recording: bool,
}

impl Tape {
    /// A tape that records.
    pub fn new(device: &Device) -> Tape {
        Tape { device: device.clone(), nodes: Vec::new(), next: Rc::default(), recording: true }
    }

    /// A tape for inference: operations run and nothing is kept.
    pub fn inference(device: &Device) -> Tape {
        Tape { recording: false, ..Tape::new(device) }
    }

    /// The device everything on this tape lives on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether nodes are kept. An operation may skip saving what only a backward needs.
    pub fn recording(&self) -> bool {
        self.recording
    }

    /// A value with a name. `needs_grad`: whether something trainable lies upstream of it.
    pub fn var(&self, value: Tensor, needs_grad: bool) -> Var {
        let id = self.next.get();
        self.next.set(id + 1);
        Var { id: VarId(id), value, needs_grad }
    }

    /// Records a node, if this tape records.
    pub fn push(&mut self, node: impl Node + 'static) {
        if self.recording {
            self.nodes.push(Box::new(node));
        }
    }

    /// Bytes kept for the backward, by operation, in the order of the forward.
    pub fn saved_bytes(&self) -> Vec<(&'static str, usize)> {
        self.nodes.iter().map(|n| (n.name(), n.saved().iter().map(|t| t.n_bytes()).sum())).collect()
    }

    /// Runs `body` on `inputs`. With [`Keep::Inputs`] its nodes are dropped and `body` runs again in the backward, so it
    /// must be a function of its inputs alone (random numbers are counter-based, which makes dropout one).
    pub fn segment(&mut self, keep: Keep, inputs: &[Var], body: SegmentBody) -> Result<Vec<Var>> {
        if keep == Keep::All || !self.recording {
            return body(self, inputs);
        }
        let mut silent =
            Tape { device: self.device.clone(), nodes: Vec::new(), next: self.next.clone(), recording: false };
        let outputs = body(&mut silent, inputs)?;
        self.push(Segment {
            device: self.device.clone(),
            next: self.next.clone(),
            inputs: inputs.to_vec(),
            outputs: outputs.iter().map(Var::id).collect(),
            body,
        });
        Ok(outputs)
    }

    /// Runs the nodes in reverse. `seeds` are the gradients to start from; every gradient is freed once it is consumed.
    /// Gradients nobody consumed (those of leaves) are returned.
    pub fn backward(self, seeds: Vec<(VarId, Tensor)>) -> Result<Grads> {
        let mut grads = Grads::new(&self.device);
        for (id, gradient) in seeds {
            grads.put(id, gradient);
        }
        self.run_backward(&mut grads)?;
        Ok(grads)
    }

    fn run_backward(mut self, grads: &mut Grads) -> Result<()> {
        while let Some(node) = self.nodes.pop() {
            node.backward(grads)?; // and the node, with what it saved, is dropped here
        }
        Ok(())
    }
}

struct Segment {
    device: Device,
    next: Rc<Cell<u64>>,
    inputs: Vec<Var>,
    outputs: Vec<VarId>,
    body: SegmentBody,
}

impl Node for Segment {
    fn name(&self) -> &'static str {
        "segment"
    }
    fn saved(&self) -> Vec<&Tensor> {
        self.inputs.iter().map(Var::value).collect()
    }
    fn backward(&self, grads: &mut Grads) -> Result<()> {
        let mut again =
            Tape { device: self.device.clone(), nodes: Vec::new(), next: self.next.clone(), recording: true };
        let outputs = (self.body)(&mut again, &self.inputs)?;
        for (old, new) in self.outputs.iter().zip(&outputs) {
            if let Some(gradient) = grads.take(*old) {
                grads.put(new.id(), gradient);
            }
        }
        drop(outputs);
        again.run_backward(grads)
    }
}
