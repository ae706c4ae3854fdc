//! One file per operation: its shape equations, its launches, and its tape node with forward and backward on one screen.

pub mod rms_norm;
