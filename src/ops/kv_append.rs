//! New tokens into a cache: queries and keys turned, keys and values stored, in one launch (kernels/kv_append.h). No tape
//! node: decoding has no backward.

use super::rotary::RotaryTable;
use super::sequences::SequenceLayout;
use crate::device::Tensor;
use crate::ffi::{self, lc_kv_append_args};
use crate::{Error, Result};

/// `q` [T,H*D] is turned in place; `k` turned and `v` as it is [T,KV*D] go to the layout's rows of `k_cache`, `v_cache` [rows,KV*D].
pub fn kv_append(
    [q, k, v]: [&Tensor; 3],
    table: &RotaryTable,
    layout: &SequenceLayout,
    [k_cache, v_cache]: [&Tensor; 2],
) -> Result<()> {
    let device = q.device().clone();
    let (act, t, d, pages) = (device.act(), layout.n_rows(), table.head_dim(), layout.pages("kv_append")?);
    let ([_, wide], [_, narrow], [n_rows, _]) =
        (q.dims("kv_append q")?, k.dims("kv_append k")?, k_cache.dims("kv_append cache")?);
    q.expect("kv_append q", act, &[t, wide])?;
    for x in [k, v] {
        x.expect("kv_append k, v", act, &[t, narrow])?;
    }
    for cache in [k_cache, v_cache] {
        cache.expect("kv_append cache", act, &[n_rows, narrow])?;
    }
    if wide % d != 0 || narrow % d != 0 || n_rows < layout.n_keys() {
        return Err(Error::Shape(format!(
            "kv_append: heads of {d} in rows of {wide} and {narrow}; `{}` has {n_rows} rows, the layout's pages need {}",
            k_cache.name(),
            layout.n_keys()
        )));
    }
    table.expect_position(layout.max_position())?;
    let (cos, sin) = table.tensors();
    let args = lc_kv_append_args {
        q: q.ptr(),
        k: k.ptr(),
        v: v.ptr(),
        positions: layout.positions().ptr(),
        rows: pages.rows.ptr(),
        cos: cos.ptr(),
        sin: sin.ptr(),
        k_pool: k_cache.ptr(),
        v_pool: v_cache.ptr(),
        T: t as i32,
        H: (wide / d) as i32,
        KV: (narrow / d) as i32,
        D: d as i32,
        ldq: wide as i32,
        ldk: narrow as i32,
    };
    ffi::launch(&device, &ffi::KV_APPEND, &args, &[q, k, v, k_cache, v_cache])
}
