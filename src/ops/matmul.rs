//! Matrix products on tensor cores, K laid together from segments (kernels/matmul.h). A building block: no tape node.

use crate::device::{DType, Tensor};
use crate::ffi::{self, LC_MATMUL_WIDE, LC_MAX_OUTPUTS, LC_MAX_SEGMENTS, LC_MAX_SLICES, LC_NN, LC_NT, LC_TN};
use crate::ffi::{lc_matmul_args, lc_matmul_output, lc_matmul_segment};
use crate::tape::Write;
use crate::{Error, Result};
use std::ptr::{null, null_mut};

/// How the two matrices of every segment lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// a [M,K], b [N,K]: y = a bᵀ, a layer's forward.
    NT,
    /// a [M,K], b [K,N]: y = a b, the gradient of a layer's input.
    NN,
    /// a [K,M], b [K,N]: y = aᵀ b, the gradient of a layer's weight.
    TN,
}

/// `y (=|+=) alpha · Σ_s a_s b_s` over `segments` of (a, b), each with its own K. `y` [M,N] is of the storage type or fp32.
#[derive(Debug, Clone)]
pub struct Product<'a> {
    /// The pairs (a, b).
    pub segments: Vec<(&'a Tensor, &'a Tensor)>,
    /// The output.
    pub y: &'a Tensor,
    /// On the sum, before it is written.
    pub alpha: f32,
    /// Set or add.
    pub write: Write,
}

/// How a launch is cut. What is not said is chosen: slices of K here, the tile by the launcher.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cut {
    /// The n-th, from 1, of the table of tiles in `kernels/matmul.cu`.
    pub tile: Option<usize>,
    /// Parts that K is cut into.
    pub slices: Option<usize>,
}

/// One product, `y (=|+=) alpha · Σ_s a_s b_s`.
pub fn matmul(layout: Layout, segments: &[(&Tensor, &Tensor)], y: &Tensor, alpha: f32, write: Write) -> Result<()> {
    matmul_each(layout, &[Product { segments: segments.to_vec(), y, alpha, write }])
}

/// Every product, in as few launches as hold them: neighbours of the same M, `alpha`, `write` and number of slices. What
/// shares a launch changes no bit.
pub fn matmul_each(layout: Layout, products: &[Product]) -> Result<()> {
    matmul_cut(layout, products, Cut::default())
}

/// As [`matmul_each`], cut as told: for tests, which must see every tile and more than one slice on any device.
pub fn matmul_cut(layout: Layout, products: &[Product], cut: Cut) -> Result<()> {
    let slices: Vec<usize> =
        products.iter().map(|p| Ok(cut.slices.unwrap_or(slices(layout, p)?))).collect::<Result<_>>()?;
    // On a Hopper GPU wide outputs go another way, alone or in company.
    let wide = |p: &Product| p.y.shape().last().is_some_and(|&n| n >= LC_MATMUL_WIDE as usize);
    let mut begin = 0;
    while begin < products.len() {
        let (first, mut n_segments) = (&products[begin], 0);
        let together = |&i: &usize| {
            let p = &products[i];
            n_segments += p.segments.len();
            n_segments <= LC_MAX_SEGMENTS as usize
                && (p.alpha, p.write) == (first.alpha, first.write)
                && p.y.shape()[0] == first.y.shape()[0]
                && slices[i] == slices[begin]
                && wide(p) == wide(first)
        };
        let most = products.len().min(begin + LC_MAX_OUTPUTS as usize);
        let end = begin + (begin..most).take_while(together).count().max(1);
        launch(layout, &products[begin..end], slices[begin], cut.tile)?;
        begin = end;
    }
    Ok(())
}

fn launch(layout: Layout, products: &[Product], n_slices: usize, tile: Option<usize>) -> Result<()> {
    let (first, most) = (&products[0], LC_MAX_SEGMENTS as usize);
    let device = first.y.device();
    let [m, _] = first.y.dims("matmul y")?;
    let none = lc_matmul_segment { a: null(), b: null(), lda: 0, ldb: 0, K: 0 };
    let mut segment = [none; LC_MAX_SEGMENTS as usize];
    let none = lc_matmul_output { y: null_mut(), y32: null_mut(), N: 0, ldy: 0, first_segment: 0, n_segments: 0 };
    let mut output = [none; LC_MAX_OUTPUTS as usize];
    let (mut n_segments, mut all_n, mut tensors) = (0, 0, Vec::new());
    for (product, slot) in products.iter().zip(&mut output) {
        let Product { segments, y, .. } = product;
        if segments.is_empty() || segments.len() > most {
            return Err(Error::Shape(format!("matmul: {} segments; it takes 1 to {most}", segments.len())));
        }
        let [_, n] = y.dims("matmul y")?;
        let in_fp32 = y.dtype() != device.act();
        y.expect("matmul y", if in_fp32 { DType::F32 } else { device.act() }, &[m, n])?;
        for (slot, &(a, b)) in segment[n_segments..].iter_mut().zip(segments) {
            let [rows, columns] = a.dims("matmul a")?;
            let k = if layout == Layout::TN { rows } else { columns };
            let (a_shape, b_shape) = match layout {
                Layout::NT => ([m, k], [n, k]),
                Layout::NN => ([m, k], [k, n]),
                Layout::TN => ([k, m], [k, n]),
            };
            a.expect("matmul a", device.act(), &a_shape)?;
            b.expect("matmul b", device.act(), &b_shape)?;
            let (lda, ldb) = (a_shape[1] as i32, b_shape[1] as i32);
            *slot = lc_matmul_segment { a: a.ptr(), b: b.ptr(), lda, ldb, K: k as i32 };
            tensors.extend([a, b]);
        }
        *slot = lc_matmul_output {
            y: if in_fp32 { null_mut() } else { y.ptr() },
            y32: if in_fp32 { y.ptr() } else { null_mut() },
            N: n as i32,
            ldy: n as i32,
            first_segment: n_segments as i32,
            n_segments: segments.len() as i32,
        };
        n_segments += segments.len();
        all_n += n;
        tensors.push(y);
    }
    let partial = match n_slices {
        1 => None,
        _ => Some(device.empty("slices of K", DType::F32, &[n_slices, m, all_n])?),
    };
    let args = lc_matmul_args {
        segment,
        output,
        partial: partial.as_ref().map_or(null_mut(), Tensor::ptr),
        n_outputs: products.len() as i32,
        n_slices: n_slices as i32,
        M: m as i32,
        layout: match layout {
            Layout::NT => LC_NT,
            Layout::NN => LC_NN,
            Layout::TN => LC_TN,
        } as i32,
        write: first.write.code(),
        tile: tile.unwrap_or(0) as i32,
        alpha: first.alpha,
    };
    ffi::launch(device, &ffi::MATMUL, &args, &tensors)
}

/// Blocks that an output should have: a few on each of a GPU's 82 to 170 multiprocessors, two or more on a core of a CPU. One
/// number for all GPUs, so that a plan made without one knows the scratch, and a sum is the same on all of them.
const BLOCKS_CUDA: usize = 256;
const BLOCKS_CPU: usize = 4;

/// K of a slice at least: a shorter one does not pay for its partial sums.
const LEAST_K: usize = 512;

/// How many slices K is cut into, from the shape of the one output alone: as many as fill the machine where its tiles do not.
fn slices(layout: Layout, product: &Product) -> Result<usize> {
    let [m, n] = product.y.dims("matmul y")?;
    let along_k = if layout == Layout::TN { 0 } else { 1 };
    let k: usize = product.segments.iter().filter_map(|(a, _)| a.shape().get(along_k)).sum();
    // The tiles that matmul.cu takes for small outputs.
    let tiles = match (m, n) {
        (_, ..=16) => m.div_ceil(64),
        (..=16, _) => n.div_ceil(128),
        _ => m.div_ceil(64) * n.div_ceil(64),
    };
    let blocks = if product.y.device().is_cuda() { BLOCKS_CUDA } else { BLOCKS_CPU };
    Ok((blocks / tiles.max(1)).min(k / LEAST_K).clamp(1, LC_MAX_SLICES as usize))
}
