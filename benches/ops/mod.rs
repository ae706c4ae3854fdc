//! One file per operation.

use crate::harness::Bench;

mod activation;
mod adamw;
mod adamw8;
mod attention;
mod attention_decode;
mod blocks8;
mod cross_entropy;
mod dense;
mod dropout;
mod eci_pool;
mod embedding;
mod fp8;
mod grad_norm;
mod kv_append;
mod lm_loss;
mod matmul;
mod nf4;
mod rms_norm;
mod rotary;
mod rows;
mod softmax_ce;
mod swiglu;
mod token_pool;

/// Every operation's lines.
pub fn run(bench: &mut Bench) {
    activation::run(bench);
    adamw::run(bench);
    adamw8::run(bench);
    attention::run(bench);
    attention_decode::run(bench);
    blocks8::run(bench);
    cross_entropy::run(bench);
    dense::run(bench);
    dropout::run(bench);
    eci_pool::run(bench);
    embedding::run(bench);
    fp8::run(bench);
    grad_norm::run(bench);
    kv_append::run(bench);
    lm_loss::run(bench);
    matmul::run(bench);
    nf4::run(bench);
    rms_norm::run(bench);
    rotary::run(bench);
    rows::run(bench);
    softmax_ce::run(bench);
    swiglu::run(bench);
    token_pool::run(bench);
}
