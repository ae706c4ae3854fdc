//! Every operation against PyTorch.

mod attention;
mod rms_norm;
mod rotary;
