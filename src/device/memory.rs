//! Named buffers, counted: what is in use, what the peak was, and what held it.

use super::{Device, Kind, cuda};
use crate::{Error, Result};
use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Every buffer starts on a multiple of this: a vector load never straddles two buffers.
const ALIGN: usize = 256;

/// Bytes of device memory, by name.
#[derive(Debug, Clone, Default)]
pub struct MemoryUse {
    /// In use now.
    pub current_bytes: usize,
    /// The most that was in use at one time.
    pub peak_bytes: usize,
    /// What was in use at the peak: bytes by buffer name.
    pub at_peak: BTreeMap<String, usize>,
}

/// The books of one device.
#[derive(Debug, Default)]
pub(super) struct Memory {
    live: BTreeMap<String, usize>,
    current: usize,
    peak: usize,
    at_peak: BTreeMap<String, usize>,
    /// Freed buffers by size, handed out again before new memory is asked for.
    free: BTreeMap<usize, Vec<usize>>,
}

impl Memory {
    pub(super) fn report(&self) -> MemoryUse {
        MemoryUse { current_bytes: self.current, peak_bytes: self.peak, at_peak: self.at_peak.clone() }
    }

    fn count(&mut self, name: &str, n_bytes: usize) {
        match self.live.get_mut(name) {
            Some(bytes) => *bytes += n_bytes,
            None => drop(self.live.insert(name.to_string(), n_bytes)),
        }
        self.current += n_bytes;
        if self.current > self.peak {
            self.peak = self.current;
            self.at_peak.clone_from(&self.live);
        }
    }

    fn uncount(&mut self, name: &str, n_bytes: usize) {
        if let Some(bytes) = self.live.get_mut(name) {
            *bytes -= n_bytes;
            if *bytes == 0 {
                self.live.remove(name);
            }
        }
        self.current -= n_bytes;
    }

    pub(super) fn free_all(&mut self, kind: &Kind) {
        for (n_bytes, pointers) in std::mem::take(&mut self.free) {
            for p in pointers {
                release(kind, p, n_bytes);
            }
        }
    }
}

/// Device memory with a name; goes back to its device when the last tensor on it is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    pub(super) device: Device,
    pub(super) name: String,
    pub(super) address: usize,
    /// What was asked for; the allocation is rounded up to a multiple of [`ALIGN`].
    pub(super) n_bytes: usize,
}

impl Buffer {
    pub(super) fn allocate(device: &Device, name: &str, n_bytes: usize) -> Result<Arc<Buffer>> {
        let rounded = rounded(n_bytes);
        let mut memory = device.memory();
        let reused = memory.free.get_mut(&rounded).and_then(Vec::pop);
        let address = match reused {
            Some(address) => address,
            None => match acquire(device.kind(), rounded) {
                Some(address) => address,
                None => {
                    memory.free_all(device.kind());
                    acquire(device.kind(), rounded).ok_or_else(|| out_of_memory(name, n_bytes, &memory))?
                }
            },
        };
        memory.count(name, rounded);
        drop(memory);
        #[cfg(feature = "checked")]
        super::checked::register(device.kind(), address, n_bytes, name);
        Ok(Arc::new(Buffer { device: device.clone(), name: name.to_string(), address, n_bytes }))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        #[cfg(feature = "checked")]
        super::checked::unregister(self.device.kind(), self.address);
        let rounded = rounded(self.n_bytes);
        let mut memory = self.device.memory();
        memory.uncount(&self.name, rounded);
        memory.free.entry(rounded).or_default().push(self.address);
    }
}

fn rounded(n_bytes: usize) -> usize {
    n_bytes.max(1).div_ceil(ALIGN) * ALIGN
}

fn out_of_memory(name: &str, n_bytes: usize, memory: &Memory) -> Error {
    Error::Device(format!(
        "out of device memory: `{name}` needs {n_bytes} bytes and {} are in use; use fewer tokens per micro-batch",
        memory.current
    ))
}

fn acquire(kind: &Kind, n_bytes: usize) -> Option<usize> {
    match kind {
        Kind::Cpu(_) => {
            let layout = Layout::from_size_align(n_bytes, ALIGN).ok()?;
            // SAFETY: the size is at least ALIGN (see `rounded`), so it is not zero.
            let p = unsafe { alloc(layout) } as usize;
            (p != 0).then_some(p)
        }
        Kind::Cuda(gpu) => cuda::allocate(gpu, n_bytes),
    }
}

fn release(kind: &Kind, address: usize, n_bytes: usize) {
    match kind {
        Kind::Cpu(_) => {
            let layout = Layout::from_size_align(n_bytes, ALIGN).expect("the layout it was allocated with");
            // SAFETY: `acquire` returned this address for this layout, and the free list hands an address out once.
            unsafe { dealloc(address as *mut u8, layout) }
        }
        Kind::Cuda(gpu) => cuda::free(gpu, address),
    }
}
