//! The devices: an NVIDIA GPU; the CPU, where the same kernels run on a small CUDA machine in C++ (kernels/host); and
//! paper, which runs nothing and only counts.
//!
//! A [`Device`] owns its memory, one arena of named buffers. Work runs in the order it was launched, but for what is put in
//! a [`Lane`] of its own.
#![allow(unsafe_code)]

#[cfg(feature = "checked")]
mod checked;
mod clock;
mod cuda;
mod host_buffer;
mod lanes;
mod memory;
mod order;
mod tensor;

pub use clock::Tick;
pub use host_buffer::HostBuffer;
pub use lanes::{Lane, Mark};
pub use memory::MemoryUse;
pub use tensor::{DType, Tensor};

use crate::{Error, Result, bail_input};
use host_buffer::HostMemory;
use memory::{Buffer, Memory};
use order::Order;
use std::sync::{Arc, Mutex, MutexGuard};

/// The storage type of activations on the CPU device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compute {
    /// As on a GPU: bf16 storage, fp32 accumulation.
    Bf16,
    /// fp32 storage: no rounding to hide a wrong scale or mask behind. CPU only.
    Fp32,
}

/// What a [`Device`] is.
#[derive(Debug)]
pub enum Kind {
    /// The CPU, with this storage type.
    Cpu(Compute),
    /// A GPU.
    Cuda(cuda::Gpu),
    /// No device at all: buffers have names and places but no memory, launches and copies do nothing, and what is read back
    /// is zeros. A program run on it leaves its memory plan.
    Paper(Paper),
}

/// What a paper device stands for.
#[derive(Debug, Clone, Copy)]
pub struct Paper {
    compute: Compute,
    cuda: bool,
}

impl Kind {
    /// Device memory that nobody uses; unknown where the device does not say.
    fn free_bytes(&self) -> Option<usize> {
        match self {
            Kind::Cuda(gpu) => cuda::free_bytes(gpu),
            Kind::Cpu(_) | Kind::Paper(_) => None,
        }
    }
}

/// A handle to a device; clones share it.
#[derive(Debug, Clone)]
pub struct Device(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    memory: Mutex<Memory>,
    host_memory: Mutex<HostMemory>,
    order: Mutex<Order>,
    /// LLAMACARE_SYNC: wait after every launch.
    synchronous: bool,
}

impl Device {
    /// The CPU device.
    pub fn cpu(compute: Compute) -> Result<Device> {
        if !crate::ffi::cpu_is_new_enough() {
            bail_input!(
                "the CPU device needs AVX2, FMA and BMI2 (x86-64-v3), which this processor lacks; use a GPU or another machine"
            );
        }
        Ok(Device::new(Kind::Cpu(compute)))
    }

    /// GPU number `ordinal`; one clear sentence when it cannot be used.
    pub fn cuda(ordinal: usize) -> Result<Device> {
        Ok(Device::new(Kind::Cuda(cuda::Gpu::open(ordinal)?)))
    }

    /// Paper: counts the memory that a CPU device, or a GPU, would use for the same calls.
    pub fn paper(compute: Compute, cuda: bool) -> Device {
        Device::new(Kind::Paper(Paper { compute, cuda }))
    }

    /// `auto` (a GPU if one can be used, else the CPU), `cuda`, `cuda:N` or `cpu`. fp32 is for the CPU only.
    pub fn open(name: &str, compute: Compute) -> Result<Device> {
        match (name, compute) {
            ("cpu", _) => Device::cpu(compute),
            ("auto", Compute::Fp32) => Device::cpu(compute),
            ("auto", Compute::Bf16) => Device::cuda(0).or_else(|_| Device::cpu(compute)),
            (_, Compute::Fp32) => bail_input!("--compute fp32 runs on the CPU device only; add --device cpu"),
            ("cuda", _) => Device::cuda(0),
            (other, _) => match other.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
                Some(ordinal) => Device::cuda(ordinal),
                None => bail_input!("--device {other}: expected auto, cpu, cuda or cuda:N"),
            },
        }
    }

    fn new(kind: Kind) -> Device {
        let synchronous = std::env::var_os("LLAMACARE_SYNC").is_some_and(|v| v == "1");
        let (memory, host_memory, order) = Default::default();
        Device(Arc::new(Inner { kind, memory, host_memory, order, synchronous }))
    }

    /// CPU or GPU.
    pub fn kind(&self) -> &Kind {
        &self.0.kind
    }

    /// For reports: the device's own name.
    pub fn name(&self) -> String {
        match self.kind() {
            Kind::Cpu(Compute::Bf16) => format!("CPU device ({}, bf16)", std::env::consts::ARCH),
            Kind::Cpu(Compute::Fp32) => format!("CPU device ({}, fp32)", std::env::consts::ARCH),
            Kind::Cuda(gpu) => gpu.name().to_string(),
            Kind::Paper(_) => "paper".into(),
        }
    }

    /// A GPU's place on the PCI bus, `00000000:01:00.0`: the same for every program, whatever numbers GPUs are given.
    pub fn pci_bus_id(&self) -> Option<String> {
        match self.kind() {
            Kind::Cuda(gpu) => gpu.pci_bus_id(),
            Kind::Cpu(_) | Kind::Paper(_) => None,
        }
    }

    /// The storage type of activations: bf16, or fp32 in the CPU's fp32 build.
    pub fn act(&self) -> DType {
        match self.kind() {
            Kind::Cpu(Compute::Fp32) | Kind::Paper(Paper { compute: Compute::Fp32, .. }) => DType::F32,
            _ => DType::Bf16,
        }
    }

    /// Whether this is a GPU, or stands for one.
    pub fn is_cuda(&self) -> bool {
        matches!(self.kind(), Kind::Cuda(_) | Kind::Paper(Paper { cuda: true, .. }))
    }

    /// Whether kernels made for Hopper run here: on an H100 or H200, and on the CPU device with bf16 storage.
    pub fn runs_hopper(&self) -> bool {
        match self.kind() {
            Kind::Cuda(gpu) => gpu.is_hopper(),
            _ => self.act() == DType::Bf16,
        }
    }

    /// That products of 8-bit operands run here (kernels/matmul_fp8.h); if not, the sentence that says why.
    pub fn expect_fp8(&self) -> Result<()> {
        match self.kind() {
            Kind::Cuda(gpu) => gpu.expect_fp8(),
            _ if self.act() == DType::F32 => bail_input!("8-bit products go with bf16 storage, not with fp32"),
            Kind::Cpu(_) | Kind::Paper(_) => Ok(()),
        }
    }

    /// Whether this is a device without memory.
    pub fn is_paper(&self) -> bool {
        matches!(self.kind(), Kind::Paper(_))
    }

    /// Takes all the memory there will ever be from the system, in one piece, before the first buffer. Without this call a
    /// device asks for more as it goes.
    pub fn reserve(&self, n_bytes: usize) -> Result<()> {
        self.memory().reserve(self.kind(), n_bytes)
    }

    /// Device memory that nobody uses yet, in bytes; none where the device does not say (the CPU).
    pub fn free_bytes(&self) -> Option<usize> {
        self.kind().free_bytes()
    }

    /// A tensor with undefined contents.
    pub fn empty(&self, name: &str, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let n_bytes = shape.iter().product::<usize>() * dtype.bytes();
        Ok(Tensor::whole(Buffer::allocate(self, name, n_bytes)?, dtype, shape))
    }

    /// A tensor of zeros.
    pub fn zeros(&self, name: &str, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let t = self.empty(name, dtype, shape)?;
        t.fill_zero()?;
        Ok(t)
    }

    /// A tensor of `dtype` (Bf16 rounds to nearest even) from host floats.
    pub fn upload(&self, name: &str, dtype: DType, shape: &[usize], values: &[f32]) -> Result<Tensor> {
        let t = self.empty(name, dtype, shape)?;
        t.write_f32(values)?;
        Ok(t)
    }

    /// A tensor from host integers.
    pub fn upload_i32(&self, name: &str, shape: &[usize], values: &[i32]) -> Result<Tensor> {
        let t = self.empty(name, DType::I32, shape)?;
        t.write_bytes(bytemuck::cast_slice(values))?;
        Ok(t)
    }

    /// Bytes in use now, how far the arena ever reached, and what lay in it then.
    pub fn memory_use(&self) -> MemoryUse {
        self.memory().report()
    }

    /// How far the arena ever reached.
    pub fn peak_bytes(&self) -> usize {
        self.memory().peak()
    }

    /// Waits until everything launched has finished, in every lane.
    pub fn synchronize(&self) -> Result<()> {
        if let Kind::Cuda(gpu) = self.kind() {
            gpu.synchronize()?;
        }
        self.order().synchronized()
    }

    /// Where every launch is to be waited for (LLAMACARE_SYNC=1), waits: a fault is then found at the launch that made it,
    /// not at one that came long after.
    pub(crate) fn settle(&self) -> Result<()> {
        match self.kind() {
            Kind::Cuda(gpu) if self.0.synchronous => gpu.synchronize(),
            _ => Ok(()),
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.memory.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn host_memory(&self) -> MutexGuard<'_, HostMemory> {
        self.0.host_memory.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn order(&self) -> MutexGuard<'_, Order> {
        self.0.order.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Kind::Cuda(gpu) = &self.kind {
            // Copies may still be under way. Where this fails the context is gone, and its work with it.
            let _ = gpu.synchronize();
        }
        let memory = self.memory.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        memory.release_all(&self.kind);
        let memory = self.host_memory.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        memory.release_all(&self.kind);
    }
}

fn device_error(what: &str, e: impl std::fmt::Display) -> Error {
    Error::Device(format!("{what}: {e}"))
}
