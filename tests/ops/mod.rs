//! Every operation against PyTorch.

mod attention;
mod dropout;
mod linear;
mod matmul;
mod nf4;
mod rms_norm;
mod rotary;
