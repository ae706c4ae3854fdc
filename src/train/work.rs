//! What a run computes at once, for the memory plan: its own largest micro-batches, or the largest there can be.

use crate::Result;
use crate::cli::RunConfig;
use crate::data::{MicroBatch, MicroShape, Room, Tokenized, pack, shapes};
use crate::model::Batch;
use crate::train::prepare::{Data, room};

/// Everything that can decide the peak of a run.
#[derive(Debug, Clone, Default)]
pub struct Work {
    /// Micro-batches of training; one whose every size another has too is left out.
    pub train: Vec<Batch>,
    /// Micro-batches of validation, whose losses alone are asked for.
    pub validation: Vec<Batch>,
    /// Micro-batches of the test, where the head reads every row, labelled or not.
    pub test: Vec<Batch>,
    /// Prompts that are answered with text.
    pub prompts: Vec<Vec<u32>>,
}

impl Work {
    /// Of a run whose rows are known: the micro-batches of all its steps, whatever epoch they lie in.
    pub fn of(config: &RunConfig, data: &Data) -> Result<Work> {
        let (c, room) = (&config.train, room(config));
        let per_epoch = pack(&data.train, room, c.seed, 0)?.len().div_ceil(c.accumulate).max(1);
        let steps = c.total_steps(per_epoch);
        let mut train = Vec::new();
        for epoch in 0..steps.div_ceil(per_epoch) {
            let mut micro = pack(&data.train, room, c.seed, epoch as u64)?;
            micro.truncate(per_epoch.min(steps - epoch * per_epoch) * c.accumulate);
            train.extend(largest(micro));
            train = largest(train);
        }
        let batches = |micro: Vec<MicroBatch>| micro.iter().map(Batch::new).collect();
        let packed = |rows: &[Tokenized]| pack(rows, room, 0, 0).map(|micro| batches(largest(micro)));
        let labelled = data.test.iter().filter(|row| row.label.is_some() && !data.classes.is_empty());
        Ok(Work {
            train: batches(train),
            validation: packed(&data.validation)?,
            test: packed(&data.test)?,
            prompts: labelled.map(|row| row.ids[..row.n_prompt].to_vec()).collect(),
        })
    }

    /// The largest micro-batch in this room: long rows (none beyond `longest`) and short ones, a target at every token.
    /// `positions`: the most tokens of a prompt that the head takes.
    pub fn worst(room: Room, longest: usize, positions: usize) -> Work {
        let shape = Room { tokens: room.tokens.min(room.rows * longest), ..room }.largest();
        let mut left = shape.tokens - shape.sequences;
        let mut lengths = vec![1i32; shape.sequences];
        for length in &mut lengths {
            let more = left.min(longest - 1);
            *length += more as i32;
            left -= more;
        }
        let mut cu_seqlens = vec![0];
        lengths.iter().for_each(|n| cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + n));
        let batch = Batch {
            ids: vec![0; shape.tokens],
            cu_seqlens,
            n_prompt: lengths.iter().map(|&n| n.min(positions.max(1) as i32)).collect(),
            target_rows: (0..shape.targets as i32).collect(),
            targets: vec![0; shape.targets],
            labels: vec![0; shape.sequences],
            ..Batch::default()
        };
        Work { train: vec![batch], ..Work::default() }
    }
}

/// One micro-batch of every shape that no other covers.
fn largest(batches: Vec<MicroBatch>) -> Vec<MicroBatch> {
    let shapes = shapes(&batches);
    let of_shape = |shape: &MicroShape| batches.iter().find(|b| MicroShape::of(b) == *shape).cloned();
    shapes.iter().filter_map(of_shape).collect()
}
