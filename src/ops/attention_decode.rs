//! Attention of one new token a sequence over a cache in pages (kernels/attention_decode.h). No tape node: decoding has no
//! backward.

use super::sequences::SequenceLayout;
use crate::device::{DType, Tensor};
use crate::ffi::{self, lc_attention_decode_args};
use crate::{Error, Result};

/// `q` [S,H*D], one row a sequence, already turned; `k`, `v` [rows,KV*D], the whole cache, the new keys in it. Returns `o` [S,H*D].
pub fn attention_decode(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &SequenceLayout,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
) -> Result<Tensor> {
    let device = q.device().clone();
    let (act, n, pages) = (device.act(), layout.n_sequences(), layout.pages("attention_decode")?);
    if !pages.single {
        return Err(Error::Shape("attention_decode: a sequence has more than one new token".into()));
    }
    let [n_rows, _] = k.dims("attention_decode k")?;
    q.expect("attention_decode q", act, &[n, n_heads * head_dim])?;
    k.expect("attention_decode k", act, &[n_rows, n_kv_heads * head_dim])?;
    v.expect("attention_decode v", act, &[n_rows, n_kv_heads * head_dim])?;
    if n_rows < layout.n_keys() {
        return Err(Error::Shape(format!(
            "attention_decode k: `{}` has {n_rows} rows, the layout's pages need {}",
            k.name(),
            layout.n_keys()
        )));
    }
    let o = device.empty("attention", act, &[n, n_heads * head_dim])?;
    let sums = device.empty("attention sums", DType::F32, &[n, n_heads, pages.longest, head_dim])?;
    let peaks = device.empty("attention peaks", DType::F32, &[n, n_heads, pages.longest, 2])?;
    let (ldq, ldk) = ((n_heads * head_dim) as i32, (n_kv_heads * head_dim) as i32);
    let args = lc_attention_decode_args {
        q: q.ptr(),
        k: k.ptr(),
        v: v.ptr(),
        sequences: layout.sequences.ptr(),
        pages: pages.numbers.ptr(),
        sums: sums.ptr(),
        peaks: peaks.ptr(),
        o: o.ptr(),
        S: n as i32,
        H: n_heads as i32,
        KV: n_kv_heads as i32,
        D: head_dim as i32,
        n_pages: pages.longest as i32,
        ldq,
        ldk,
        ldo: ldq,
        scale: 1.0 / (head_dim as f32).sqrt(),
    };
    ffi::launch(&device, &ffi::ATTENTION_DECODE, &args, &[q, k, v, &o])?;
    Ok(o)
}
