//! How the rows of a micro-batch divide into sequences: what attention may see, and the positions rotary turns by.
//!
//! One layout serves every attention and rotary call of a pass. It is made on the host (the tiles too: a kernel that had
//! to search for its sequence would do so in every block) and lies on the device as a few small integer arrays.

use crate::device::{Device, Tensor};
use crate::ffi::{LC_ATTENTION_AUTO, LC_ATTENTION_TILE, LC_PAGE, lc_attention_blocks, lc_sequence, lc_tile};
use crate::{Error, Result};
use std::cmp::Reverse;

/// Tokens of a page of the key-value cache.
pub const PAGE: usize = LC_PAGE as usize;

/// The sequences of one micro-batch, with their tiles and positions, on the device.
#[derive(Debug)]
pub struct SequenceLayout {
    pub(super) sequences: Tensor,
    pub(super) q_tiles: Tensor,
    pub(super) keys: Keys,
    positions: Tensor,
    n_rows: usize,
    n_keys: usize,
    max_position: usize,
    pub(super) blocks: lc_attention_blocks,
}

/// Where the keys of a layout's queries are.
#[derive(Debug)]
pub(super) enum Keys {
    /// In the rows of the same micro-batch, so that every key row gets its gradient.
    Own {
        /// Tiles of the backward, by key.
        tiles: Tensor,
    },
    /// In a cache.
    Paged(Pages),
}

/// The pages of a layout's sequences.
#[derive(Debug)]
pub(super) struct Pages {
    /// Page numbers, sequence after sequence, on the device.
    pub numbers: Tensor,
    /// [T] the cache row of each new token, on the device.
    pub rows: Tensor,
    /// Of the longest sequence.
    pub longest: usize,
    /// Whether every sequence has one new token.
    pub single: bool,
}

/// New tokens of one sequence, whose keys lie in pages of a cache.
#[derive(Debug, Clone, Copy)]
pub struct Paged<'a> {
    /// The pages, in their order: for `past + new` tokens at least.
    pub pages: &'a [i32],
    /// Tokens whose keys are there already.
    pub past: usize,
    /// Tokens of this pass.
    pub new: usize,
}

impl SequenceLayout {
    /// Sequences laid end to end: sequence `s` is rows `cu_seqlens[s]..cu_seqlens[s + 1]`, each attends to itself.
    pub fn packed(device: &Device, cu_seqlens: &[i32]) -> Result<SequenceLayout> {
        let lengths = lengths(cu_seqlens)?;
        SequenceLayout::with_key_counts(device, cu_seqlens, &lengths)
    }

    /// As [`SequenceLayout::packed`], but only the first `key_counts[s]` rows of sequence `s` are seen as keys: the rest
    /// is padding on the right, whose own rows are computed all the same.
    pub fn with_key_counts(device: &Device, cu_seqlens: &[i32], key_counts: &[i32]) -> Result<SequenceLayout> {
        let lengths = lengths(cu_seqlens)?;
        if key_counts.len() != lengths.len() {
            return Err(Error::Shape(format!("{} key counts for {} sequences", key_counts.len(), lengths.len())));
        }
        let mut sequences = Vec::with_capacity(lengths.len());
        for ((&q_begin, &q_len), &k_len) in cu_seqlens.iter().zip(&lengths).zip(key_counts) {
            if !(1..=q_len).contains(&k_len) {
                return Err(Error::Shape(format!(
                    "{k_len} keys seen in a sequence of {q_len} rows: expected 1 to all"
                )));
            }
            sequences.push(lc_sequence { q_begin, q_len, k_begin: q_begin, k_len, q_pos: 0 });
        }
        // Work of a tile, in rows of the other side.
        let tiles = tiles(&sequences, |s| s.q_len.max(s.k_len), |s, first| s.q_len - (first - s.q_pos).max(0));
        let n_keys = cu_seqlens.last().map_or(0, |&end| end as usize);
        SequenceLayout::new(device, &sequences, n_keys, || {
            Ok(Keys::Own { tiles: device.upload_i32("key tiles", &[tiles.len(), 2], &flat(&tiles))? })
        })
    }

    /// New tokens against a cache in pages, sequence after sequence.
    pub fn paged(device: &Device, entries: &[Paged]) -> Result<SequenceLayout> {
        let (mut sequences, mut numbers, mut rows, mut q_begin) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for &Paged { pages, past, new } in entries {
            let n = past + new;
            if new < 1 || pages.len() * PAGE < n || pages.iter().any(|&page| page < 0) {
                return Err(Error::Shape(format!("{past} past and {new} new tokens on the pages {pages:?} of {PAGE}")));
            }
            let [q_len, k_begin, k_len, q_pos] = [new, numbers.len(), n, past].map(|n| n as i32);
            sequences.push(lc_sequence { q_begin, q_len, k_begin, k_len, q_pos });
            numbers.extend_from_slice(&pages[..n.div_ceil(PAGE)]);
            rows.extend((past..n).map(|i| pages[i / PAGE] * PAGE as i32 + (i % PAGE) as i32));
            q_begin += q_len;
        }
        let longest = sequences.iter().map(|s| (s.k_len as usize).div_ceil(PAGE)).max().unwrap_or(0);
        let n_keys = numbers.iter().max().map_or(0, |&last| (last as usize + 1) * PAGE);
        SequenceLayout::new(device, &sequences, n_keys, || {
            Ok(Keys::Paged(Pages {
                numbers: device.upload_i32("pages", &[numbers.len()], &numbers)?,
                rows: device.upload_i32("cache rows", &[rows.len()], &rows)?,
                longest,
                single: entries.iter().all(|entry| entry.new == 1),
            }))
        })
    }

    /// Other positions for rotary, one per row, e.g. of a document that was cut. What attention sees does not change.
    pub fn with_positions(self, positions: &[i32]) -> Result<SequenceLayout> {
        if positions.len() != self.n_rows || positions.iter().any(|&p| p < 0) {
            let n = positions.len();
            return Err(Error::Shape(format!(
                "{n} positions for {} rows: expected one per row, none negative",
                self.n_rows
            )));
        }
        let max_position = positions.iter().copied().max().unwrap_or(0) as usize;
        let positions = self.positions.device().upload_i32("positions", &[positions.len()], positions)?;
        Ok(SequenceLayout { positions, max_position, ..self })
    }

    /// With one of the shapes of attention's blocks (`LC_ATTENTION_100K`, ..), whatever the device: for tests.
    pub fn with_blocks(self, blocks: lc_attention_blocks) -> SequenceLayout {
        SequenceLayout { blocks, ..self }
    }

    fn new(
        device: &Device,
        sequences: &[lc_sequence],
        n_keys: usize,
        keys: impl FnOnce() -> Result<Keys>,
    ) -> Result<SequenceLayout> {
        if sequences.is_empty() {
            return Err(Error::Shape("a micro-batch of no sequences: expected at least one".into()));
        }
        let positions: Vec<i32> = sequences.iter().flat_map(|s| s.q_pos..s.q_pos + s.q_len).collect();
        let tile = LC_ATTENTION_TILE as i32;
        let q_tiles = tiles(sequences, |s| s.q_len, |s, first| s.k_len.min(s.q_pos + first + tile));
        let fields: Vec<i32> =
            sequences.iter().flat_map(|s| [s.q_begin, s.q_len, s.k_begin, s.k_len, s.q_pos]).collect();
        Ok(SequenceLayout {
            sequences: device.upload_i32("sequences", &[sequences.len(), 5], &fields)?,
            q_tiles: device.upload_i32("query tiles", &[q_tiles.len(), 2], &flat(&q_tiles))?,
            keys: keys()?,
            n_rows: positions.len(),
            n_keys,
            max_position: positions.iter().copied().max().unwrap_or(0) as usize,
            positions: device.upload_i32("positions", &[positions.len()], &positions)?,
            blocks: LC_ATTENTION_AUTO,
        })
    }

    /// Query rows: `T`.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Sequences: `S`.
    pub fn n_sequences(&self) -> usize {
        self.sequences.shape()[0]
    }

    /// Rows that k and v must have at least, a cache as many as its highest page; exactly `T` where every sequence attends to
    /// itself.
    pub fn n_keys(&self) -> usize {
        self.n_keys
    }

    /// Position of every row inside its sequence, [T] on the device.
    pub fn positions(&self) -> &Tensor {
        &self.positions
    }

    /// The largest of them.
    pub fn max_position(&self) -> usize {
        self.max_position
    }

    /// Whether keys are the rows of the same micro-batch, so that every key row gets its gradient. False with a cache.
    pub fn own_keys(&self) -> bool {
        matches!(self.keys, Keys::Own { .. })
    }

    /// The pages; an error where keys are the rows of the same micro-batch.
    pub(super) fn pages(&self, op: &str) -> Result<&Pages> {
        match &self.keys {
            Keys::Paged(pages) => Ok(pages),
            Keys::Own { .. } => Err(Error::Shape(format!("{op}: the layout's keys do not lie in pages"))),
        }
    }

    /// Whether every sequence has one new token, and its keys in pages: [`attention_decode`](super::attention_decode) is made
    /// for that.
    pub fn is_single(&self) -> bool {
        matches!(&self.keys, Keys::Paged(pages) if pages.single)
    }
}

fn lengths(cu_seqlens: &[i32]) -> Result<Vec<i32>> {
    let lengths: Vec<i32> = cu_seqlens.windows(2).map(|w| w[1] - w[0]).collect();
    if cu_seqlens.first() != Some(&0) || lengths.is_empty() || lengths.iter().any(|&n| n < 1) {
        return Err(Error::Shape(format!("cu_seqlens {cu_seqlens:?}: expected 0 and then ends that grow")));
    }
    Ok(lengths)
}

fn flat(tiles: &[lc_tile]) -> Vec<i32> {
    tiles.iter().flat_map(|t| [t.sequence, t.first]).collect()
}

/// The longest start first, so that none is left running alone.
fn tiles(
    sequences: &[lc_sequence],
    rows: impl Fn(&lc_sequence) -> i32,
    work: impl Fn(&lc_sequence, i32) -> i32,
) -> Vec<lc_tile> {
    let mut tiles: Vec<lc_tile> = Vec::new();
    for (i, s) in sequences.iter().enumerate() {
        let firsts = (0..rows(s)).step_by(LC_ATTENTION_TILE as usize);
        tiles.extend(firsts.map(|first| lc_tile { sequence: i as i32, first }));
    }
    tiles.sort_by_key(|t| Reverse(work(&sequences[t.sequence as usize], t.first)));
    tiles
}
