//! Which lane may touch which memory: the rule that lanes are ordered by marks and waits alone, checked at every launch.
//!
//! On a GPU two lanes run side by side, and a wait that was forgotten shows as wrong numbers once in a thousand runs. On the
//! CPU device everything has finished when a call returns, so nothing would show at all. Here each lane has a clock, each
//! buffer remembers who touched it last, and an access that no mark and wait put behind the last one of another lane is an
//! error that names both. It costs a look into a table per pointer, so it is always on.

use super::lanes::{LANES, Lane};
use crate::{Error, Result};
use std::collections::BTreeMap;

/// How many operations of each lane something is ordered behind.
pub(super) type Clock = [u64; LANES];

/// The books of one device.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// For each lane: what its next operation is ordered behind. Its own entry counts its operations.
    seen: [Clock; LANES],
    buffers: BTreeMap<usize, Record>,
    /// A buffer that was freed too early: there is no result to say it in, so every operation from then on does.
    freed_too_early: Option<String>,
    /// For tests: this many waits from now, one is not made.
    skip: Option<usize>,
    n_waits: usize,
}

#[derive(Debug)]
struct Record {
    n_bytes: usize,
    name: String,
    written: Access,
    read: [Option<Access>; LANES],
}

#[derive(Debug, Clone, Copy)]
struct Access {
    op: &'static str,
    lane: Lane,
    time: u64,
}

impl Order {
    /// A buffer from the arena. What used this memory before was launched on the main lane, or that lane waited for it (see
    /// [`Order::freed`]): another lane must have seen the main lane up to here before it may touch it.
    pub(super) fn allocated(&mut self, address: usize, n_bytes: usize, name: &str) {
        let time = self.seen[Lane::Main as usize][Lane::Main as usize];
        let written = Access { op: "the last user of its memory", lane: Lane::Main, time };
        self.buffers.insert(address, Record { n_bytes, name: name.into(), written, read: Default::default() });
    }

    /// The memory goes back to the arena, and from there to whoever comes next on the main lane.
    pub(super) fn freed(&mut self, address: usize) {
        let Some(record) = self.buffers.remove(&address) else { return };
        let main = &self.seen[Lane::Main as usize];
        let last = record.read.into_iter().flatten().chain([record.written]);
        if let Some(late) = last.into_iter().find(|a| a.lane != Lane::Main && a.time > main[a.lane as usize]) {
            self.freed_too_early.get_or_insert(format!(
                "`{}` was freed while `{}` on the {} lane may still use it; the main lane must wait for it first",
                record.name, late.op, late.lane
            ));
        }
    }

    /// `op` runs on `lane` and touches memory at these addresses; true where it writes. Unknown addresses are nobody's
    /// concern.
    pub(super) fn run(&mut self, op: &'static str, lane: Lane, touched: &[(usize, bool)]) -> Result<()> {
        self.fault()?;
        let seen = &mut self.seen[lane as usize];
        seen[lane as usize] += 1;
        let now = Access { op, lane, time: seen[lane as usize] };
        for &(address, writes) in touched {
            let below = self.buffers.range_mut(..=address).next_back();
            let Some((_, record)) = below.filter(|(begin, r)| address - **begin < r.n_bytes.max(1)) else { continue };
            let behind = |other: &Access| other.lane == lane || seen[other.lane as usize] >= other.time;
            let readers = record.read.iter().flatten().filter(|_| writes);
            if let Some(other) = std::iter::once(&record.written).chain(readers).find(|other| !behind(other)) {
                let (does, lanes) = (if writes { "writes" } else { "reads" }, (lane, other.lane));
                let message = format!(
                    "the {} lane {does} it while `{}` on the {} lane may still be at it: no mark and wait order the two",
                    lanes.0, other.op, lanes.1
                );
                return Err(Error::Kernel { op, message, tensors: record.name.clone() });
            }
            match writes {
                true => (record.written, record.read) = (now, Default::default()),
                false => record.read[lane as usize] = Some(now),
            }
        }
        Ok(())
    }

    pub(super) fn mark(&self, lane: Lane) -> Clock {
        self.seen[lane as usize]
    }

    /// False where the wait is to be left out.
    pub(super) fn wait(&mut self, lane: Lane, clock: &Clock) -> Result<bool> {
        self.fault()?;
        self.n_waits += 1;
        match self.skip {
            Some(0) => {
                self.skip = None;
                return Ok(false);
            }
            Some(n) => self.skip = Some(n - 1),
            None => {}
        }
        for (seen, marked) in self.seen[lane as usize].iter_mut().zip(clock) {
            *seen = (*seen).max(*marked);
        }
        Ok(true)
    }

    pub(super) fn n_waits(&self) -> usize {
        self.n_waits
    }

    pub(super) fn skip_wait(&mut self, nth: usize) {
        self.skip = Some(nth);
    }

    /// The host waited for everything: so did every lane.
    pub(super) fn synchronized(&mut self) -> Result<()> {
        let all: Clock = std::array::from_fn(|lane| self.seen[lane][lane]);
        self.seen = [all; LANES];
        self.fault()
    }

    fn fault(&self) -> Result<()> {
        self.freed_too_early.as_ref().map_or(Ok(()), |text| Err(Error::Shape(text.clone())))
    }
}
