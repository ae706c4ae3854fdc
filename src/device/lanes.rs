//! Lanes: work that runs beside other work on one device.
//!
//! Launches and copies of one lane run in their order; two lanes know nothing of each other but through a [`Mark`] that one
//! leaves and the other waits for. On a GPU a lane is a stream: the main one is CUDA's default stream, with which synchronous
//! copies order themselves, the others are non-blocking streams, which do not wait for it by themselves. On the CPU device a
//! call has finished when it returns, so lanes are names; the order is checked all the same (order.rs).

use super::order::Clock;
use super::{Device, Kind, Tensor, cuda};
use crate::Result;
use crate::ffi::lc_stream;
use std::cell::Cell;
use std::fmt;

/// What runs in the order of its launches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Everything, unless it says otherwise. Memory is freed and handed out again in this lane's order.
    Main,
    /// Decodes weights ahead of the main lane.
    Side,
    /// Moves tensors to host memory and back; a lane of its own, so that no weight waits behind a long copy.
    Copy,
}

pub(super) const LANES: usize = 3;

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Lane::Main => "main",
            Lane::Side => "side",
            Lane::Copy => "copy",
        })
    }
}

thread_local! {
    static CURRENT: Cell<Lane> = const { Cell::new(Lane::Main) };
}

/// A place in the work of a lane that another lane can wait for.
#[derive(Debug)]
pub struct Mark {
    clock: Clock,
    event: Option<cuda::Event>,
}

impl Device {
    /// Runs `work` with its launches and copies in this lane. Allocations, frees and the synchronous copies of tensors stay
    /// the main lane's.
    pub fn on<T>(&self, lane: Lane, work: impl FnOnce() -> T) -> T {
        struct Back(Lane);
        impl Drop for Back {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        let _back = Back(CURRENT.replace(lane));
        work()
    }

    /// The lane that this thread launches in.
    pub fn lane(&self) -> Lane {
        CURRENT.get()
    }

    /// Marks what was launched in `lane` until now.
    pub fn mark(&self, lane: Lane) -> Result<Mark> {
        let event = match self.kind() {
            Kind::Cuda(gpu) => Some(cuda::Event::record(gpu, lane)?),
            Kind::Cpu(_) | Kind::Paper(_) => None,
        };
        Ok(Mark { clock: self.order().mark(lane), event })
    }

    /// What is launched in `lane` from now on runs after what `mark` marked. The host does not wait.
    pub fn wait(&self, lane: Lane, mark: &Mark) -> Result<()> {
        let wanted = self.order().wait(lane, &mark.clock)?;
        match (self.kind(), &mark.event) {
            (Kind::Cuda(gpu), Some(event)) if wanted => event.hold(gpu, lane),
            _ => Ok(()),
        }
    }

    /// How often one lane waited for another.
    pub fn n_waits(&self) -> usize {
        self.order().n_waits()
    }

    /// For tests of the checker, on the CPU device: after `nth` more waits one is not made.
    pub fn skip_wait(&self, nth: usize) {
        assert!(matches!(self.kind(), Kind::Cpu(_)), "a wait left out on a GPU is a race");
        self.order().skip_wait(nth);
    }

    /// The current lane's stream for a launcher, which acts on the context that is current on this thread: now this
    /// device's.
    pub(crate) fn stream(&self) -> Result<lc_stream> {
        match self.kind() {
            Kind::Cuda(gpu) => gpu.bind().map(|()| gpu.stream(self.lane()).cast()),
            Kind::Cpu(_) | Kind::Paper(_) => Ok(std::ptr::null_mut()),
        }
    }

    /// Holds `op` in the current lane to the order of lanes; see order.rs. On paper nothing runs.
    pub(crate) fn check_order(&self, op: &'static str, touched: &[(usize, bool)]) -> Result<()> {
        self.check_order_in(self.lane(), op, touched)
    }

    pub(super) fn check_order_in(&self, lane: Lane, op: &'static str, touched: &[(usize, bool)]) -> Result<()> {
        if self.is_paper() { Ok(()) } else { self.order().run(op, lane, touched) }
    }
}

impl Tensor {
    /// A synchronous copy, which runs in the main lane whatever the current one is.
    pub(super) fn check_main(&self, op: &'static str, writes: bool) -> Result<()> {
        self.device().check_order_in(Lane::Main, op, &[(self.ptr::<u8>() as usize, writes)])
    }
}
