//! Named buffers in one arena, counted: what is in use, how far the arena ever reached, and what held it then.
//!
//! The allocator is address-ordered first fit with merging of free neighbours: where a buffer lands depends only on the
//! sequence of allocations and frees. A device that merely counts ([`Device::paper`]) runs the same sequence through the
//! same allocator, which is how a plan knows the peak of a run to the byte. (A free list by size, the first design, never
//! merged: what was freed at one size stayed lost to every other.)

use super::{Device, Kind, cuda};
use crate::{Error, Result, bytes};
use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Every buffer starts on a multiple of this: a vector load never straddles two buffers.
const ALIGN: usize = 256;

/// Bytes between two buffers that belong to none: a checked build finds a kernel that writes past the end of its buffer.
const RED_ZONE: usize = if cfg!(feature = "checked") { ALIGN } else { 0 };

/// What a device without a plan asks the system for at least.
const SLAB: usize = 64 << 20;

/// Device memory, by name.
#[derive(Debug, Clone, Default)]
pub struct MemoryUse {
    /// In use now.
    pub current_bytes: usize,
    /// How far the arena ever reached: what a budget has to hold. Buffers at that time, and the gaps between them.
    pub peak_bytes: usize,
    /// What lay in the arena at the peak: bytes by buffer name.
    pub at_peak: BTreeMap<String, usize>,
}

/// A stretch of device memory from the system.
#[derive(Debug)]
struct Slab {
    begin: usize,
    n_bytes: usize,
    /// End of the highest buffer it ever held, from its beginning.
    reached: usize,
}

/// The arena of one device.
#[derive(Debug, Default)]
pub(super) struct Memory {
    slabs: Vec<Slab>,
    /// Free stretches: address to length. Neighbours are merged.
    free: BTreeMap<usize, usize>,
    /// One slab, given at the start, and never another.
    reserved: bool,
    live: BTreeMap<String, usize>,
    current: usize,
    at_peak: BTreeMap<String, usize>,
}

impl Memory {
    pub(super) fn report(&self) -> MemoryUse {
        MemoryUse { current_bytes: self.current, peak_bytes: self.peak(), at_peak: self.at_peak.clone() }
    }

    pub(super) fn peak(&self) -> usize {
        self.slabs.iter().map(|slab| slab.reached).sum()
    }

    /// Asks the system for all memory there will be.
    pub(super) fn reserve(&mut self, kind: &Kind, n_bytes: usize) -> Result<()> {
        assert!(self.slabs.is_empty(), "memory is reserved before the first buffer");
        let n_bytes = rounded(n_bytes);
        self.grow(kind, n_bytes).ok_or_else(|| {
            let free = kind.free_bytes().map_or(String::new(), |free| format!(", {} are free", bytes::readable(free)));
            Error::Device(format!(
                "the device does not give {} in one piece{free}; close other programs, or set a lower --budget",
                bytes::readable(n_bytes)
            ))
        })?;
        self.reserved = true;
        Ok(())
    }

    fn grow(&mut self, kind: &Kind, n_bytes: usize) -> Option<()> {
        let begin = match kind {
            // Nobody looks at these addresses; they only must not be null and not touch.
            Kind::Paper(_) => self.slabs.last().map_or(ALIGN, |slab| slab.begin + slab.n_bytes + ALIGN),
            _ => acquire(kind, n_bytes)?,
        };
        self.slabs.push(Slab { begin, n_bytes, reached: 0 });
        self.free.insert(begin, n_bytes);
        Some(())
    }

    /// The first free stretch that is long enough.
    fn place(&mut self, n_bytes: usize) -> Option<usize> {
        let (&begin, &length) = self.free.iter().find(|(_, length)| **length >= n_bytes)?;
        self.free.remove(&begin);
        if length > n_bytes {
            self.free.insert(begin + n_bytes, length - n_bytes);
        }
        Some(begin)
    }

    fn take(&mut self, kind: &Kind, name: &str, n_bytes: usize) -> Result<usize> {
        let address = match self.place(n_bytes) {
            Some(address) => address,
            None => {
                // On paper there is no system to ask: one slab without end, as a reserved arena is one slab.
                let wanted = if let Kind::Paper(_) = kind { usize::MAX / 2 } else { n_bytes.max(SLAB) };
                let grown = !self.reserved && (self.grow(kind, wanted).or_else(|| self.grow(kind, n_bytes))).is_some();
                let placed = if grown { self.place(n_bytes) } else { None };
                placed.ok_or_else(|| self.out_of_memory(name, n_bytes))?
            }
        };
        self.count(name, address, n_bytes);
        Ok(address)
    }

    fn count(&mut self, name: &str, address: usize, n_bytes: usize) {
        match self.live.get_mut(name) {
            Some(bytes) => *bytes += n_bytes,
            None => drop(self.live.insert(name.to_string(), n_bytes)),
        }
        self.current += n_bytes;
        let slab = self.slabs.iter_mut().find(|s| (s.begin..s.begin + s.n_bytes).contains(&address));
        let slab = slab.expect("a buffer lies in a slab");
        let end = address + n_bytes - slab.begin;
        if end > slab.reached {
            slab.reached = end;
            self.at_peak.clone_from(&self.live);
        }
    }

    fn give_back(&mut self, name: &str, address: usize, n_bytes: usize) {
        if let Some(bytes) = self.live.get_mut(name) {
            *bytes -= n_bytes;
            if *bytes == 0 {
                self.live.remove(name);
            }
        }
        self.current -= n_bytes;
        let (mut begin, mut length) = (address, n_bytes);
        if let Some((&before, &n)) = self.free.range(..address).next_back().filter(|(b, n)| **b + **n == address) {
            self.free.remove(&before);
            (begin, length) = (before, n + length);
        }
        if let Some(n) = self.free.remove(&(address + n_bytes)) {
            length += n;
        }
        self.free.insert(begin, length);
    }

    fn out_of_memory(&self, name: &str, n_bytes: usize) -> Error {
        let (wanted, used) = (bytes::readable(n_bytes), bytes::readable(self.current));
        Error::Device(match self.reserved {
            true => format!("`{name}` needs {wanted} more than the plan has, {used} are in use; use fewer --tokens"),
            false => format!("out of device memory: `{name}` needs {wanted}, {used} are in use; use fewer --tokens"),
        })
    }

    /// Gives everything back to the system; no buffer may be in use any more.
    pub(super) fn release_all(&mut self, kind: &Kind) {
        for slab in std::mem::take(&mut self.slabs) {
            release(kind, slab.begin, slab.n_bytes);
        }
        self.free.clear();
    }
}

/// Device memory with a name; goes back to its device when the last tensor on it is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    pub(super) device: Device,
    pub(super) name: String,
    pub(super) address: usize,
    /// What was asked for; what is taken is rounded up to a multiple of [`ALIGN`].
    pub(super) n_bytes: usize,
}

impl Buffer {
    pub(super) fn allocate(device: &Device, name: &str, n_bytes: usize) -> Result<Arc<Buffer>> {
        let address = device.memory().take(device.kind(), name, taken(n_bytes))?;
        device.order().allocated(address, n_bytes, name);
        #[cfg(feature = "checked")]
        super::checked::register(device.kind(), address, n_bytes, name);
        Ok(Arc::new(Buffer { device: device.clone(), name: name.to_string(), address, n_bytes }))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        #[cfg(feature = "checked")]
        super::checked::unregister(self.device.kind(), self.address);
        self.device.order().freed(self.address);
        self.device.memory().give_back(&self.name, self.address, taken(self.n_bytes));
    }
}

fn rounded(n_bytes: usize) -> usize {
    n_bytes.max(1).div_ceil(ALIGN) * ALIGN
}

fn taken(n_bytes: usize) -> usize {
    rounded(n_bytes) + RED_ZONE
}

/// Ordinary memory, for the CPU device; `n_bytes` is not zero.
pub(super) fn allocate(n_bytes: usize, align: usize) -> Option<usize> {
    assert!(n_bytes > 0, "an allocation of nothing");
    let layout = Layout::from_size_align(n_bytes, align).ok()?;
    // SAFETY: the size is not zero, which was just asserted; what comes back is checked for null below.
    let p = unsafe { alloc(layout) } as usize;
    (p != 0).then_some(p)
}

/// # Safety
/// [`allocate`] gave this address for this size and alignment, and nobody uses it any more.
pub(super) unsafe fn deallocate(address: usize, n_bytes: usize, align: usize) {
    let layout = Layout::from_size_align(n_bytes, align).expect("the layout it was allocated with");
    // SAFETY: the caller promises that `allocate` gave this address for this layout, and that it is used no more.
    unsafe { dealloc(address as *mut u8, layout) }
}

fn acquire(kind: &Kind, n_bytes: usize) -> Option<usize> {
    match kind {
        Kind::Cpu(_) => allocate(n_bytes, ALIGN),
        Kind::Cuda(gpu) => cuda::allocate(gpu, n_bytes),
        Kind::Paper(_) => None,
    }
}

fn release(kind: &Kind, address: usize, n_bytes: usize) {
    match kind {
        // SAFETY: `acquire` returned this address for this size, and the slabs are released once.
        Kind::Cpu(_) => unsafe { deallocate(address, n_bytes, ALIGN) },
        Kind::Cuda(gpu) => cuda::free(gpu, address),
        Kind::Paper(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use crate::device::{Compute, DType, Device};

    fn paper() -> Device {
        Device::paper(Compute::Bf16, false)
    }

    #[test]
    fn freed_neighbours_merge_and_are_handed_out_again() {
        let device = paper();
        let one = |name: &str, kib: usize| device.empty(name, DType::U8, &[kib << 10]).unwrap();
        let (a, b, c) = (one("a", 1), one("b", 2), one("c", 4));
        let peak = device.memory_use().peak_bytes;
        drop(a);
        drop(b);
        let d = one("d", 3);
        assert_eq!(device.memory_use().peak_bytes, peak, "d takes the place of a and b together");
        drop(c);
        drop(d);
        let all = one("e", 7);
        assert_eq!(device.memory_use().peak_bytes, peak, "everything was free again, in one piece");
        drop(all);
        assert_eq!(device.memory_use().current_bytes, 0);
    }

    #[test]
    fn a_gap_counts_at_the_peak() {
        let device = paper();
        let one = |name: &str, kib: usize| device.empty(name, DType::U8, &[kib << 10]).unwrap();
        let (a, _b) = (one("a", 1), one("b", 1));
        drop(a);
        let _c = one("c", 2);
        let memory = device.memory_use();
        let in_use: usize = memory.at_peak.values().sum();
        assert_eq!(memory.at_peak.keys().map(String::as_str).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(memory.peak_bytes - in_use, super::taken(1 << 10), "the hole that a left");
    }

    #[test]
    fn a_reserved_device_never_asks_for_more() {
        let device = Device::cpu(Compute::Bf16).unwrap();
        device.reserve(8 << 10).unwrap();
        let a = device.empty("a", DType::U8, &[6 << 10]).unwrap();
        let said = device.empty("b", DType::U8, &[4 << 10]).unwrap_err().to_string();
        assert!(said.contains("`b` needs 4.00 KiB more than the plan has"), "{said}");
        drop(a);
        device.empty("b", DType::U8, &[4 << 10]).unwrap();
    }

    #[test]
    fn paper_and_memory_place_the_same_sequence_alike() {
        let (paper, real) = (paper(), Device::cpu(Compute::Bf16).unwrap());
        let mut held: [Vec<_>; 2] = Default::default();
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        for _ in 0..2000 {
            let (size, drop_one, at) = (random() % 5000, random() % 2 == 0, random());
            for (held, device) in held.iter_mut().zip([&paper, &real]) {
                if drop_one && !held.is_empty() {
                    drop(held.swap_remove(at % held.len()));
                }
                held.push(device.empty("x", DType::U8, &[size]).unwrap());
            }
        }
        let [a, b] = [&paper, &real].map(Device::memory_use);
        assert_eq!((a.peak_bytes, a.current_bytes), (b.peak_bytes, b.current_bytes));
        drop(held);
        assert_eq!(real.memory_use().current_bytes, 0);
    }
}
