//! Every operation against PyTorch.

mod rms_norm;
