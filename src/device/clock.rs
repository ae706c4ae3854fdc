//! Time as a device sees it: a tick is put into the current lane's work and read when the lane has passed it. On a GPU it is
//! an event, which neither waits for the host nor counts its delays; on the CPU device, where a call has finished when it
//! returns, the clock on the wall.

use super::{Device, Kind, cuda};
use crate::Result;
use std::time::Instant;

/// A moment in the work of a lane.
#[derive(Debug)]
pub struct Tick {
    host: Instant,
    event: Option<cuda::Event>,
}

impl Device {
    /// Notes when the current lane has done everything launched in it until now.
    pub fn tick(&self) -> Result<Tick> {
        let event = match self.kind() {
            Kind::Cuda(gpu) => Some(cuda::Event::record_timed(gpu, self.lane())?),
            Kind::Cpu(_) | Kind::Paper(_) => None,
        };
        Ok(Tick { host: Instant::now(), event })
    }

    /// Seconds from one tick of this device to a later one; waits until that has passed.
    pub fn seconds_between(&self, from: &Tick, to: &Tick) -> Result<f64> {
        match (self.kind(), &from.event, &to.event) {
            (Kind::Cuda(gpu), Some(from), Some(to)) => to.seconds_since(gpu, from),
            _ => Ok(to.host.duration_since(from.host).as_secs_f64()),
        }
    }
}
