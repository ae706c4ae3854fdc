//! Token embedding: one row of a frozen table for each id (kernels/embedding.h).

use crate::device::Tensor;
use crate::ffi::{self, lc_embedding_fwd_args};
use crate::tape::{Tape, Var};
use crate::{Result, bail_input};

/// `table` [V,C], frozen. Returns `h` [T,C], for which no gradient is needed.
pub fn embedding(tape: &mut Tape, table: &Tensor, ids: &[i32]) -> Result<Var> {
    let device = tape.device().clone();
    let [v, c] = table.dims("embedding table")?;
    table.expect("embedding table", device.act(), &[v, c])?;
    if let Some(t) = ids.iter().position(|&id| id < 0 || id as usize >= v) {
        bail_input!(
            "token {t} has id {}, but the base's embedding has {v} rows: tokenizer and base do not belong together",
            ids[t]
        );
    }
    let t = ids.len();
    let ids = device.upload_i32("token ids", &[t], ids)?;
    let h = device.empty("residual", device.act(), &[t, c])?;
    let args = lc_embedding_fwd_args {
        table: table.ptr(),
        ids: ids.ptr(),
        h: h.ptr(),
        T: t as i32,
        C: c as i32,
        V: v as i32,
    };
    ffi::launch(&device, &ffi::EMBEDDING_FWD, &args, &[table, &ids])?;
    Ok(tape.var(h, false))
}
