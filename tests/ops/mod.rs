//! Every operation against PyTorch.

mod activation;
mod adamw;
mod adamw8;
mod attention;
mod blocks8;
mod cross_entropy;
mod decoder;
mod dense;
mod dropout;
mod eci_pool;
mod embedding;
mod fp8;
mod grad_norm;
mod linear;
mod linear_fp8;
mod lm_loss;
mod matmul;
mod nf4;
mod rms_norm;
mod rotary;
mod rows;
mod softmax_ce;
mod stow;
mod swiglu;
mod token_pool;
