//! Micro-batches without padding: rows laid end to end, their borders in `cu_seqlens`.
//!
//! A micro-batch has room for a fixed number of tokens, which the memory plan counts with. Rows are shuffled by seed and
//! epoch and then placed by best fit, each where the least room stays free; the micro-batches are then shuffled as
//! well, because best fit gathers the short rows in the first ones.

use std::collections::BTreeSet;

use super::random::SplitMix64;
use super::tokenize::Tokenized;
use crate::{Result, bail_input};

/// What a kernel is not to learn from: a token without a target, a row without a label.
const NONE: i32 = -1;

/// `S` rows as `T` tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MicroBatch {
    /// The rows, as indices into the data. `[S]`
    pub rows: Vec<usize>,
    /// `[T]`
    pub ids: Vec<i32>,
    /// Places within a row, from 0. `[T]`
    pub positions: Vec<i32>,
    /// Where each row begins, and the end of the last. `[S+1]`
    pub cu_seqlens: Vec<i32>,
    /// The next id, where that belongs to the completion of the same row (EOS included), else -1. `[T]`
    pub targets: Vec<i32>,
    /// Tokens of each row that belong to its prompt, BOS included. `[S]`
    pub n_prompt: Vec<i32>,
    /// The label of each row, or -1. `[S]`
    pub labels: Vec<i32>,
}

impl MicroBatch {
    /// Lays these rows end to end, in this order.
    pub fn from_rows(rows: &[usize], data: &[Tokenized]) -> MicroBatch {
        let mut batch = MicroBatch { rows: rows.to_vec(), cu_seqlens: vec![0], ..MicroBatch::default() };
        for &row in rows {
            let row = &data[row];
            let ids = row.ids.iter().map(|&id| id as i32);
            batch.ids.extend(ids.clone());
            batch.positions.extend(0..row.ids.len() as i32);
            let next = ids.skip(1).chain([NONE]).enumerate();
            batch.targets.extend(next.map(|(t, next)| if t + 1 >= row.n_prompt { next } else { NONE }));
            batch.cu_seqlens.push(batch.ids.len() as i32);
            batch.n_prompt.push(row.n_prompt as i32);
            batch.labels.push(row.label.map_or(NONE, |label| label as i32));
        }
        batch
    }

    /// Tokens that have a target: the denominator of the LM loss.
    pub fn n_targets(&self) -> usize {
        self.targets.iter().filter(|&&target| target != NONE).count()
    }

    /// Rows that have a label: the denominator of the classification loss.
    pub fn n_labelled(&self) -> usize {
        self.labels.iter().filter(|&&label| label != NONE).count()
    }
}

/// Packs every row once into micro-batches of at most `max_tokens`. The same arguments give the same micro-batches.
pub fn pack(data: &[Tokenized], max_tokens: usize, seed: u64, epoch: u64) -> Result<Vec<MicroBatch>> {
    let mut random = SplitMix64::new(seed, epoch);
    let mut order: Vec<usize> = (0..data.len()).collect();
    random.shuffle(&mut order);
    if let Some(row) = data.iter().find(|row| row.ids.len() > max_tokens) {
        let (id, n_tokens) = (&row.id, row.ids.len());
        bail_input!(
            "row {id:?} has {n_tokens} tokens, a micro-batch holds {max_tokens}; raise that or shorten the row"
        );
    }
    let mut bins = best_fit(&order, |row| data[row].ids.len(), max_tokens);
    random.shuffle(&mut bins);
    Ok(bins.iter().map(|rows| MicroBatch::from_rows(rows, data)).collect())
}

/// Places the rows in this order, each where it leaves the least room (of equal ones in the earliest), or in a new bin.
fn best_fit(order: &[usize], n_tokens: impl Fn(usize) -> usize, max_tokens: usize) -> Vec<Vec<usize>> {
    let mut bins: Vec<Vec<usize>> = Vec::new();
    let mut room = BTreeSet::new();
    for &row in order {
        let n_tokens = n_tokens(row);
        let (free, bin) = room.range((n_tokens, 0)..).next().copied().unwrap_or((max_tokens, bins.len()));
        if bin == bins.len() {
            bins.push(Vec::new());
        }
        room.remove(&(free, bin));
        room.insert((free - n_tokens, bin));
        bins[bin].push(row);
    }
    bins
}

/// The share of the room that holds tokens; the rest is not padding, it is not computed at all.
pub fn efficiency(batches: &[MicroBatch], max_tokens: usize) -> f64 {
    let n_tokens: usize = batches.iter().map(|batch| batch.ids.len()).sum();
    n_tokens as f64 / (batches.len() * max_tokens).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: usize, n_prompt: usize, n_completion: usize, label: Option<usize>) -> Tokenized {
        let ids = (0..n_prompt + n_completion).map(|t| (100 * id + t) as u32).collect();
        Tokenized { id: id.to_string(), ids, n_prompt, label }
    }

    fn many(n: usize) -> Vec<Tokenized> {
        (0..n).map(|i| row(i, 20 + 7 * i % 61, 1 + 5 * i % 23, (i % 4 != 0).then_some(i % 3))).collect()
    }

    #[test]
    fn rows_lie_end_to_end_and_targets_are_completions_only() {
        let data = [row(1, 3, 2, Some(2)), row(2, 1, 3, None)];
        let batch = MicroBatch::from_rows(&[1, 0], &data);
        assert_eq!(batch.rows, [1, 0]);
        assert_eq!(batch.ids, [200, 201, 202, 203, 100, 101, 102, 103, 104]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 0, 1, 2, 3, 4]);
        assert_eq!(batch.cu_seqlens, [0, 4, 9]);
        assert_eq!(batch.targets, [201, 202, 203, -1, -1, -1, 103, 104, -1]);
        assert_eq!((batch.n_prompt.as_slice(), batch.labels.as_slice()), ([1, 3].as_slice(), [-1, 2].as_slice()));
        assert_eq!((batch.n_targets(), batch.n_labelled()), (5, 1));
    }

    #[test]
    fn every_row_is_packed_once_within_the_room() {
        let data = many(500);
        let batches = pack(&data, 256, 1, 0).unwrap();
        let mut rows: Vec<usize> = batches.iter().flat_map(|batch| batch.rows.clone()).collect();
        rows.sort_unstable();
        assert_eq!(rows, (0..500).collect::<Vec<_>>());
        assert!(batches.iter().all(|batch| batch.ids.len() <= 256));
        let n_targets: usize = batches.iter().map(MicroBatch::n_targets).sum();
        assert_eq!(n_targets, data.iter().map(|row| row.ids.len() - row.n_prompt).sum::<usize>());
        assert_eq!(batches.iter().map(MicroBatch::n_labelled).sum::<usize>(), 375);
        let share = efficiency(&batches, 256);
        let n_tokens: usize = data.iter().map(|row| row.ids.len()).sum();
        assert!((share - n_tokens as f64 / (256 * batches.len()) as f64).abs() < 1e-12);
        assert!(share > 0.95, "{share}");
    }

    #[test]
    fn seed_and_epoch_decide_the_order() {
        let data = many(200);
        let rows = |seed, epoch| pack(&data, 256, seed, epoch).unwrap().into_iter().map(|b| b.rows).collect::<Vec<_>>();
        assert_eq!(rows(1, 0), rows(1, 0));
        assert_ne!(rows(1, 0), rows(1, 1));
        assert_ne!(rows(1, 0), rows(2, 0));
    }

    #[test]
    fn a_row_goes_where_the_least_room_stays() {
        let place = |lengths: &[usize]| {
            let order: Vec<usize> = (0..lengths.len()).collect();
            best_fit(&order, |row| lengths[row], 10)
        };
        assert_eq!(place(&[5, 7, 3, 5]), [vec![0, 3], vec![1, 2]]);
        assert_eq!(place(&[6, 6, 4, 4]), [vec![0, 2], vec![1, 3]]);
        assert_eq!(place(&[9, 2, 1, 10]), [vec![0, 2], vec![1], vec![3]]);
    }

    #[test]
    fn a_row_that_fits_no_micro_batch_is_found() {
        let said = pack(&[row(7, 5, 6, None)], 10, 1, 0).unwrap_err().to_string();
        assert_eq!(said, "row \"7\" has 11 tokens, a micro-batch holds 10; raise that or shorten the row");
        assert!(pack(&[], 10, 1, 0).unwrap().is_empty());
    }
}
