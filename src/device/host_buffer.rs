//! Pinned host memory: where a GPU copies to and from by itself while it computes. Named and counted as device memory is.
//!
//! Pinning is slow and takes memory from everyone on the machine, so buffers are used again: one that is dropped goes to a
//! pool, and the next request takes the smallest that is long enough. On the CPU device it is ordinary memory; on paper it is
//! only counted, by the same rules. There is no managed memory: what lies where is the plan's decision, not a page fault's.

use super::memory::{allocate, deallocate};
use super::{Device, Kind, MemoryUse, Tensor, cuda};
use crate::{Error, Result, bytes};
use std::collections::{BTreeMap, BTreeSet};

/// Buffers start and end on pages: a device copies whole ones fastest.
const PAGE: usize = 4096;

/// The pinned memory of one device.
#[derive(Debug, Default)]
pub(super) struct HostMemory {
    /// Free buffers by (length, address).
    pool: BTreeSet<(usize, usize)>,
    live: BTreeMap<String, usize>,
    /// Taken from the system, in use or in the pool.
    taken: usize,
    in_use: usize,
    peak: usize,
    at_peak: BTreeMap<String, usize>,
    /// Addresses on paper.
    next: usize,
}

/// A stretch of pinned memory; back to the pool when it is dropped.
#[derive(Debug)]
pub struct HostBuffer {
    device: Device,
    name: String,
    address: usize,
    /// What was asked for.
    n_bytes: usize,
    /// What was taken.
    capacity: usize,
}

impl Device {
    /// Pinned host memory of at least this size, with undefined contents.
    pub fn host_buffer(&self, name: &str, n_bytes: usize) -> Result<HostBuffer> {
        let wanted = n_bytes.max(1).div_ceil(PAGE) * PAGE;
        let mut memory = self.host_memory();
        let found = memory.pool.range((wanted, 0)..).next().copied();
        let (capacity, address) = match found {
            Some(key) => {
                memory.pool.remove(&key);
                key
            }
            None => {
                // One that is too short makes room for one that is not: micro-batches differ in length, and the pool must
                // not grow with each of them.
                if let Some((capacity, address)) = memory.pool.pop_last() {
                    self.synchronize()?;
                    self.order().freed(address);
                    release(self.kind(), address, capacity);
                    memory.taken -= capacity;
                }
                let address = match self.kind() {
                    Kind::Paper(_) => PAGE + memory.next,
                    kind => acquire(kind, wanted).ok_or_else(|| refused(name, wanted, memory.taken))?,
                };
                memory.next += wanted;
                memory.taken += wanted;
                self.order().allocated(address, wanted, name);
                (wanted, address)
            }
        };
        *memory.live.entry(name.into()).or_default() += capacity;
        memory.in_use += capacity;
        if memory.taken > memory.peak {
            memory.peak = memory.taken;
            memory.at_peak = memory.live.clone();
        }
        drop(memory);
        Ok(HostBuffer { device: self.clone(), name: name.into(), address, n_bytes, capacity })
    }

    /// Pinned host memory: in use now, the most that was taken from the system, and what lay in it then.
    pub fn host_memory_use(&self) -> MemoryUse {
        let memory = self.host_memory();
        MemoryUse { current_bytes: memory.in_use, peak_bytes: memory.peak, at_peak: memory.at_peak.clone() }
    }
}

impl HostMemory {
    /// Gives the pool back to the system; buffers hold their device, so none is in use any more.
    pub(super) fn release_all(&mut self, kind: &Kind) {
        for (capacity, address) in std::mem::take(&mut self.pool) {
            release(kind, address, capacity);
        }
    }
}

impl HostBuffer {
    /// Bytes that were asked for.
    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// Where it lies: for tests of the pool.
    pub fn address(&self) -> usize {
        self.address
    }

    /// Starts copying a tensor of the same size here, in the current lane. Both must stay until the copy has finished.
    pub fn copy_from(&self, from: &Tensor) -> Result<()> {
        self.copy("copy to host memory", from, false)
    }

    /// Starts copying this to a tensor of the same size, in the current lane. Both must stay until the copy has finished.
    pub fn copy_to(&self, to: &Tensor) -> Result<()> {
        self.copy("copy from host memory", to, true)
    }

    fn copy(&self, op: &'static str, tensor: &Tensor, to_device: bool) -> Result<()> {
        let (n, at) = (self.n_bytes, tensor.ptr::<u8>() as usize);
        if tensor.n_bytes() != n {
            let (name, found) = (tensor.name(), tensor.n_bytes());
            return Err(Error::Shape(format!("{op}: `{}` has {n} bytes, `{name}` has {found}", self.name)));
        }
        self.device.check_order(op, &[(self.address, !to_device), (at, to_device)])?;
        match self.device.kind() {
            Kind::Cpu(_) => {
                let (from, to) = if to_device { (self.address, at) } else { (at, self.address) };
                // SAFETY: both are n bytes long (checked above; the capacity is at least n_bytes) and belong to different
                // allocations; nothing else runs on the CPU device between calls.
                unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, n) };
            }
            Kind::Paper(_) => {}
            Kind::Cuda(gpu) => cuda::copy_async(gpu, self.device.lane(), at, self.address, n, to_device)?,
        }
        self.device.settle().map_err(|e| match e {
            Error::Device(message) => Error::Kernel { op, message, tensors: tensor.name().into() },
            other => other,
        })
    }
}

impl Drop for HostBuffer {
    /// A copy may still be under way. The pool hands this memory to copies alone, and the order of lanes holds the next one
    /// behind it.
    fn drop(&mut self) {
        let mut memory = self.device.host_memory();
        memory.in_use -= self.capacity;
        if let Some(n) = memory.live.get_mut(&self.name) {
            *n -= self.capacity;
        }
        memory.live.retain(|_, n| *n > 0);
        memory.pool.insert((self.capacity, self.address));
    }
}

fn refused(name: &str, wanted: usize, taken: usize) -> Error {
    let (wanted, taken) = (bytes::readable(wanted), bytes::readable(taken));
    Error::Device(format!(
        "the system does not pin {wanted} of host memory for `{name}`, {taken} are pinned; free some memory, raise the limit \
         on locked memory, or keep gate and up otherwise (--keep)"
    ))
}

fn acquire(kind: &Kind, n_bytes: usize) -> Option<usize> {
    match kind {
        Kind::Cpu(_) => allocate(n_bytes, PAGE),
        Kind::Cuda(gpu) => cuda::allocate_host(gpu, n_bytes),
        Kind::Paper(_) => None,
    }
}

fn release(kind: &Kind, address: usize, n_bytes: usize) {
    match kind {
        // SAFETY: `acquire` returned this address for this size, and it left the pool for good just now.
        Kind::Cpu(_) => unsafe { deallocate(address, n_bytes, PAGE) },
        Kind::Cuda(gpu) => cuda::free_host(gpu, address),
        Kind::Paper(_) => {}
    }
}
