//! A minimal autograd tape: operations push a node in the forward, the nodes run in reverse in the backward.
//!
//! The tape knows no operation. A node is a struct with a name, the values it saves ([`Saved`]: kept, or made again when
//! asked for) and `backward`. A [segment](Tape::segment) is a part of the network (a decoder layer) that may drop
//! everything but its inputs and run again when its gradient is asked for: the same kernels on the same inputs, so
//! bit-equal.

mod gradient;
mod grads;
mod param;
mod value;

pub use gradient::{Factors, Gradient};
pub use grads::Grads;
pub use param::Param;
pub use value::{Again, Saved, Slot, Var, VarId};

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

/// One operation of the forward, with what its backward needs.
pub trait Node {
    /// The operation, for errors and profiles.
    fn name(&self) -> &'static str;
    /// Takes the gradients of its outputs from `grads` and writes those of its inputs.
    fn backward(&self, grads: &mut Grads) -> Result<()>;
}

/// Whether a segment keeps what its nodes saved, or its inputs alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// What its nodes save.
    Nodes,
    /// The inputs; the rest is computed again in the backward.
    Inputs,
}

/// Why a segment's body runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// For its outputs.
    Forward,
    /// For its nodes: the contents of its outputs are not read again, and what only they need may be left out.
    Again,
}

/// A part of the network as a function of its inputs.
pub type SegmentBody = Rc<dyn Fn(&mut Tape, &[Var], Pass) -> Result<Vec<Var>>>;

/// The record of one forward pass.
pub struct Tape {
    device: Device,
    nodes: Vec<(Place, Box<dyn Node>)>,
    next: Rc<Cell<u64>>,
    place: Place,
    recording: bool,
}

/// The part of the network under way, for errors.
type Place = Option<Rc<str>>;

impl Tape {
    /// A tape that records.
    pub fn new(device: &Device) -> Tape {
        Tape { device: device.clone(), nodes: Vec::new(), next: Rc::default(), place: None, recording: true }
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

    /// What follows is part of `place`: an error of a backward names it.
    pub fn enter(&mut self, place: Option<&str>) {
        self.place = place.map(Rc::from);
    }

    /// A tape of its own, for values of this one.
    fn branch(&self, recording: bool) -> Tape {
        Tape {
            device: self.device.clone(),
            nodes: Vec::new(),
            next: self.next.clone(),
            place: self.place.clone(),
            recording,
        }
    }

    /// A value with a name. `needs_grad`: whether something trainable lies upstream of it.
    pub fn var(&self, value: Tensor, needs_grad: bool) -> Var {
        let id = self.next.get();
        self.next.set(id + 1);
        Var::new(VarId(id), value, needs_grad)
    }

    /// Records a node, if this tape records.
    pub fn push(&mut self, node: impl Node + 'static) {
        if self.recording {
            self.nodes.push((self.place.clone(), Box::new(node)));
        }
    }

    /// How many nodes were recorded.
    pub fn n_nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Runs `body` on `inputs`. With [`Hold::Inputs`] its nodes are dropped and `body` runs again in the backward, so it
    /// must be a function of its inputs alone (random numbers are counter-based, which makes dropout one).
    pub fn segment(&mut self, hold: Hold, inputs: &[Var], body: SegmentBody) -> Result<Vec<Var>> {
        if hold == Hold::Nodes || !self.recording {
            return body(self, inputs, Pass::Forward);
        }
        let outputs = body(&mut self.branch(false), inputs, Pass::Forward)?;
        self.push(Segment {
            tape: self.branch(true),
            inputs: inputs.iter().map(Var::save).collect(),
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
        while let Some((place, node)) = self.nodes.pop() {
            node.backward(grads).map_err(|e| {
                let place = place.as_deref().map_or(String::new(), |place| format!(" of {place}"));
                e.within(&format!("the backward of {}{place}", node.name()))
            })?; // and the node, with what it saved, is dropped here
        }
        Ok(())
    }
}

struct Segment {
    /// Empty: its settings are those of the tape it stands on.
    tape: Tape,
    inputs: Vec<Saved>,
    outputs: Vec<VarId>,
    body: SegmentBody,
}

impl Node for Segment {
    fn name(&self) -> &'static str {
        "segment"
    }
    fn backward(&self, grads: &mut Grads) -> Result<()> {
        let mut again = self.tape.branch(true);
        let inputs = self.inputs.iter().map(Saved::revive).collect::<Result<Vec<_>>>()?;
        let outputs = (self.body)(&mut again, &inputs, Pass::Again)?;
        drop(inputs);
        for (old, new) in self.outputs.iter().zip(&outputs) {
            if let Some(gradient) = grads.take(*old) {
                grads.put(new.id(), gradient);
            }
        }
        drop(outputs);
        again.run_backward(grads)
    }
}
