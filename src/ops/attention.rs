//! Causal attention over packed sequences with grouped kv heads (kernels/attention.h).

pub use super::sequences::{PAGE, Paged, SequenceLayout};

use super::sequences::Keys;

use crate::device::{DType, Tensor};
use crate::ffi::{self, lc_attention_bwd_args, lc_attention_fwd_args};
use crate::tape::{Grads, Node, Saved, Tape, Var, VarId};
use crate::{Error, Result};
use std::sync::Arc;

/// The heads of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Heads {
    n: usize,
    n_kv: usize,
    size: usize,
}

impl Heads {
    fn scale(self) -> f32 {
        1.0 / (self.size as f32).sqrt()
    }
}

/// `q` [T,H*D], `k`, `v` [T_k,KV*D], already turned by rotary. Returns `o` [T,H*D]. The layout says which rows are keys of
/// which queries; with pages ([`SequenceLayout::paged`]) `k` and `v` are the whole cache, and there is no backward.
#[allow(clippy::too_many_arguments)]
pub fn attention(
    tape: &mut Tape,
    q: &Var,
    k: &Var,
    v: &Var,
    layout: &Arc<SequenceLayout>,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
) -> Result<Var> {
    let device = tape.device().clone();
    let (act, t, heads) = (device.act(), layout.n_rows(), Heads { n: n_heads, n_kv: n_kv_heads, size: head_dim });
    let [t_k, _] = k.value().dims("attention k")?;
    q.value().expect("attention q", act, &[t, n_heads * head_dim])?;
    k.value().expect("attention k", act, &[t_k, n_kv_heads * head_dim])?;
    v.value().expect("attention v", act, &[t_k, n_kv_heads * head_dim])?;
    if t_k < layout.n_keys() || (layout.own_keys() && t_k != t) {
        return Err(Error::Shape(format!(
            "attention k: `{}` has {t_k} rows, the layout's {} sequences need {}",
            k.value().name(),
            layout.n_sequences(),
            layout.n_keys()
        )));
    }
    let needs_grad = q.needs_grad() || k.needs_grad() || v.needs_grad();
    if tape.recording() && needs_grad && !layout.own_keys() {
        return Err(Error::Shape("attention over a key-value cache has no backward: use an inference tape".into()));
    }
    let o = device.empty("attention", act, &[t, n_heads * head_dim])?;
    let lse = device.empty("attention lse", DType::F32, &[n_heads, t])?;
    let (ldq, ldk) = ((n_heads * head_dim) as i32, (n_kv_heads * head_dim) as i32);
    let args = lc_attention_fwd_args {
        q: q.value().ptr(),
        k: k.value().ptr(),
        v: v.value().ptr(),
        sequences: layout.sequences.ptr(),
        q_tiles: layout.q_tiles.ptr(),
        pages: match &layout.keys {
            Keys::Own { .. } => std::ptr::null(),
            Keys::Paged(pages) => pages.numbers.ptr(),
        },
        o: o.ptr(),
        lse: lse.ptr(),
        n_q_tiles: layout.q_tiles.shape()[0] as i32,
        T: t as i32,
        H: n_heads as i32,
        KV: n_kv_heads as i32,
        D: head_dim as i32,
        ldq,
        ldk,
        ldv: ldk,
        ldo: ldq,
        scale: heads.scale(),
        blocks: layout.blocks as i32,
        own_keys: i32::from(layout.own_keys()),
    };
    ffi::launch(&device, &ffi::ATTENTION_FWD, &args, &[q.value(), k.value(), v.value(), &o])?;
    let o = tape.var(o, needs_grad);
    if needs_grad && tape.recording() {
        let (q, k, v) = (q.save(), k.save(), v.save());
        tape.push(Attention { q, k, v, o: o.value().clone(), out: o.id(), lse, layout: layout.clone(), heads });
    }
    Ok(o)
}

struct Attention {
    q: Saved,
    k: Saved,
    v: Saved,
    o: Tensor,
    out: VarId,
    lse: Tensor,
    layout: Arc<SequenceLayout>,
    heads: Heads,
}

impl Node for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn backward(&self, grads: &mut Grads) -> Result<()> {
        let d_o = grads.expect("attention", self.out)?;
        let device = grads.device().clone();
        let (q, k, v, heads) = (&self.q.value()?, &self.k.value()?, &self.v.value()?, self.heads);
        let gradient = |of: &Tensor| device.empty("gradients", of.dtype(), of.shape());
        let (dq, dk, dv) = (gradient(q)?, gradient(k)?, gradient(v)?);
        let Keys::Own { tiles: k_tiles } = &self.layout.keys else { unreachable!("refused in the forward") };
        let delta = device.empty("attention delta", DType::F32, self.lse.shape())?;
        let (ldq, ldk) = ((heads.n * heads.size) as i32, (heads.n_kv * heads.size) as i32);
        let args = lc_attention_bwd_args {
            d_o: d_o.ptr(),
            q: q.ptr(),
            k: k.ptr(),
            v: v.ptr(),
            o: self.o.ptr(),
            lse: self.lse.ptr(),
            sequences: self.layout.sequences.ptr(),
            q_tiles: self.layout.q_tiles.ptr(),
            k_tiles: k_tiles.ptr(),
            delta: delta.ptr(),
            dq: dq.ptr(),
            dk: dk.ptr(),
            dv: dv.ptr(),
            n_q_tiles: self.layout.q_tiles.shape()[0] as i32,
            n_k_tiles: k_tiles.shape()[0] as i32,
            T: self.layout.n_rows() as i32,
            H: heads.n as i32,
            KV: heads.n_kv as i32,
            D: heads.size as i32,
            ldq,
            ldk,
            ldv: ldk,
            ldo: ldq,
            ldd_o: ldq,
            lddq: ldq,
            lddk: ldk,
            lddv: ldk,
            scale: heads.scale(),
            blocks: self.layout.blocks as i32,
        };
        ffi::launch(&device, &ffi::ATTENTION_BWD, &args, &[&d_o, q, k, v])?;
        // The kernels set and never add: q, k and v are read by nothing else (`put` holds us to that).
        for (x, dx) in [(self.q.slot(), dq), (self.k.slot(), dk), (self.v.slot(), dv)] {
            if x.needs_grad() {
                grads.put(x.id(), dx);
            }
        }
        Ok(())
    }
}
