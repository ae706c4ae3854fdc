//! Fine-tunes Llama-2 and its family on one GPU: NF4 base, LoRA on every linear layer, an ECI classification head,
//! trained jointly. Every kernel is CUDA C++ in `kernels/` and runs on a GPU or, the same file, on a CPU.
//!
//! Data flows one way: bin → cli → {train, eval, generate} → model → ops (on the tape) → device, ffi → .cu.

mod error;

pub mod bytes;
pub mod chat;
pub mod checkpoint;
pub mod cli;
pub mod convert;
pub mod data;
pub mod device;
pub mod energy;
pub mod eval;
pub mod evaluate;
pub mod experiment;
pub mod ffi;
pub mod generate;
pub mod model;
pub mod nf4;
pub mod ops;
pub mod report;
pub mod serve;
pub mod subject;
pub mod table;
pub mod tape;
pub mod train;
pub mod verify;

pub use error::{Error, Result};
