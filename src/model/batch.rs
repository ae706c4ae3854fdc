//! A micro-batch, as the model reads it.

use crate::Result;
use crate::data::MicroBatch;
use crate::device::Device;
use crate::ops::sequences::SequenceLayout;
use std::sync::Arc;

/// What the model reads of a micro-batch: T tokens of S sequences laid end to end.
pub struct Batch {
    /// [T] token ids.
    pub ids: Vec<i32>,
    /// Where sequences begin, which keys they see, positions.
    pub layout: Arc<SequenceLayout>,
    /// [S+1] where sequences begin.
    pub cu_seqlens: Vec<i32>,
    /// [S] tokens of each prompt: what the head may see.
    pub n_prompt: Vec<i32>,
    /// Rows that have a target, ascending, and the target of each.
    pub target_rows: Vec<i32>,
    /// The token to predict at each of `target_rows`.
    pub targets: Vec<i32>,
    /// [S] class of each sequence, -1 for none.
    pub labels: Vec<i32>,
}

impl Batch {
    /// From a packed micro-batch.
    pub fn new(device: &Device, micro: &MicroBatch) -> Result<Batch> {
        let (target_rows, targets): (Vec<i32>, Vec<i32>) =
            micro.targets.iter().enumerate().filter(|(_, t)| **t >= 0).map(|(row, t)| (row as i32, *t)).unzip();
        Ok(Batch {
            ids: micro.ids.clone(),
            layout: Arc::new(SequenceLayout::packed(device, &micro.cu_seqlens)?),
            cu_seqlens: micro.cu_seqlens.clone(),
            n_prompt: micro.n_prompt.clone(),
            target_rows,
            targets,
            labels: micro.labels.clone(),
        })
    }
}
