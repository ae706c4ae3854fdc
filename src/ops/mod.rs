//! One file per operation: its shape equations, its launches, and its tape node with forward and backward on one screen.

pub mod dropout;
pub mod linear;
pub mod matmul;
pub mod nf4;
pub mod attention;
pub mod rms_norm;
pub mod rotary;
pub mod sequences;
