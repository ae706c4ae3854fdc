//! One file per operation: its shape equations, its launches, and its tape node with forward and backward on one screen.

pub mod activation;
pub mod adamw;
pub mod adamw8;
pub mod attention;
pub mod blocks8;
pub mod cross_entropy;
pub mod decoder;
pub mod dense;
pub mod dropout;
pub mod eci_pool;
pub mod embedding;
pub mod fp8;
pub mod grad_norm;
pub mod linear;
mod linear_fp8;
pub mod lm_loss;
pub mod matmul;
pub mod nf4;
pub mod rms_norm;
pub mod rotary;
pub mod rows;
pub mod sequences;
pub mod softmax_ce;
pub mod stow;
pub mod swiglu;
pub mod token_pool;
