//! NVIDIA's own matrix product, as a measure of ours: benches load cuBLASLt when it is there, and nothing else ever does.
//!
//! cuBLASLt's matrices are column-major, ours row-major: our [rows, columns] is its [columns, rows] with the same leading
//! dimension. So it is asked for yᵀ = bᵀ aᵀ, our b first, and no matrix moves.

use super::lc_stream;
use crate::device::{DType, Device, Kind, Tensor};
use crate::{Error, Result};
use libloading::Library;
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::rc::Rc;

// Numbers of cublasLt.h and library_types.h.
const R_32F: c_int = 0;
const R_16BF: c_int = 14;
const COMPUTE_32F: c_int = 68;
const DESC_TRANSA: c_int = 3;
const DESC_TRANSB: c_int = 4;
const PREF_MAX_WORKSPACE_BYTES: c_int = 1;

/// What it may use beside the matrices: as much as PyTorch gives it on a Hopper.
const WORKSPACE: usize = 32 << 20;

/// The names it has, newest first.
const NAMES: [&str; 4] = ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so", "cublasLt64_13.dll"];

type Status = c_int;
type Pointer = *mut c_void;

/// cublasLtMatmulHeuristicResult_t.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Heuristic {
    algorithm: [u64; 8],
    workspace: usize,
    state: Status,
    waves: f32,
    reserved: [c_int; 4],
}
const _: () = assert!(size_of::<Heuristic>() == 96);

/// The functions that one product takes.
struct Functions {
    create: unsafe extern "C" fn(*mut Pointer) -> Status,
    version: unsafe extern "C" fn() -> usize,
    describe: unsafe extern "C" fn(*mut Pointer, c_int, c_int) -> Status,
    set: unsafe extern "C" fn(Pointer, c_int, *const c_void, usize) -> Status,
    lay_out: unsafe extern "C" fn(*mut Pointer, c_int, u64, u64, i64) -> Status,
    prefer: unsafe extern "C" fn(*mut Pointer) -> Status,
    set_preference: unsafe extern "C" fn(Pointer, c_int, *const c_void, usize) -> Status,
    #[allow(clippy::type_complexity, reason = "the library's own signature")]
    choose: unsafe extern "C" fn(
        Pointer,
        Pointer,
        Pointer,
        Pointer,
        Pointer,
        Pointer,
        Pointer,
        c_int,
        *mut Heuristic,
        *mut c_int,
    ) -> Status,
    #[allow(clippy::type_complexity, reason = "the library's own signature")]
    multiply: unsafe extern "C" fn(
        Pointer,
        Pointer,
        *const c_void,
        *const c_void,
        Pointer,
        *const c_void,
        Pointer,
        *const c_void,
        *const c_void,
        Pointer,
        *mut c_void,
        Pointer,
        *const u64,
        *mut c_void,
        usize,
        lc_stream,
    ) -> Status,
    _library: Library,
}

/// The library, open on one GPU. What it makes lives until the process ends: a bench makes a few dozen small descriptions.
pub struct CublasLt {
    functions: Rc<Functions>,
    handle: Pointer,
    workspace: Tensor,
}

/// One product, ready to run: the same bytes in and out every time.
pub struct LibraryProduct {
    functions: Rc<Functions>,
    handle: Pointer,
    description: Pointer,
    /// Of b, a and y, in the order of the library.
    layouts: [Pointer; 3],
    found: Vec<Heuristic>,
    operands: [Tensor; 3],
    workspace: Tensor,
}

/// How the library reads a row-major matrix: rows, columns, leading dimension, and whether it is to turn it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Operand {
    rows: u64,
    columns: u64,
    leading: i64,
    turned: bool,
}

/// Of our [shape], which stands turned in our product where `turned`. Its place in yᵀ = bᵀ aᵀ and its other storage order
/// both turn it once, which leaves only ours.
fn operand(shape: [usize; 2], turned: bool) -> Operand {
    Operand { rows: shape[1] as u64, columns: shape[0] as u64, leading: shape[1] as i64, turned }
}

fn ok(what: &str, status: Status) -> Result<()> {
    if status == 0 { Ok(()) } else { Err(Error::Device(format!("cuBLASLt: {what}: status {status}"))) }
}

impl CublasLt {
    /// The library where the system's loader finds it (LD_LIBRARY_PATH, ldconfig); none without it, or without a GPU.
    pub fn open(device: &Device) -> Option<CublasLt> {
        if !matches!(device.kind(), Kind::Cuda(_)) {
            return None;
        }
        // SAFETY: loading runs the library's initialisers, NVIDIA's own, which only register it.
        let library = NAMES.iter().find_map(|name| unsafe { Library::new(*name) }.ok())?;
        // SAFETY: names and signatures are those of cublasLt.h of CUDA 12 and 13; the pointers live as long as the library,
        // which the same struct holds.
        let functions = unsafe {
            Functions {
                create: *library.get(b"cublasLtCreate").ok()?,
                version: *library.get(b"cublasLtGetVersion").ok()?,
                describe: *library.get(b"cublasLtMatmulDescCreate").ok()?,
                set: *library.get(b"cublasLtMatmulDescSetAttribute").ok()?,
                lay_out: *library.get(b"cublasLtMatrixLayoutCreate").ok()?,
                prefer: *library.get(b"cublasLtMatmulPreferenceCreate").ok()?,
                set_preference: *library.get(b"cublasLtMatmulPreferenceSetAttribute").ok()?,
                choose: *library.get(b"cublasLtMatmulAlgoGetHeuristic").ok()?,
                multiply: *library.get(b"cublasLtMatmul").ok()?,
                _library: library,
            }
        };
        let workspace = device.empty("cuBLASLt", DType::U8, &[WORKSPACE]).ok()?;
        device.stream().ok()?;
        let mut handle = null_mut();
        // SAFETY: the device's context was just made current on this thread; the call writes one pointer.
        ok("create", unsafe { (functions.create)(&mut handle) }).ok()?;
        Some(CublasLt { functions: Rc::new(functions), handle, workspace })
    }

    /// As cuBLASLt counts it: 130200 is 13.2.0.
    pub fn version(&self) -> usize {
        // SAFETY: the function takes nothing and returns a number.
        unsafe { (self.functions.version)() }
    }

    /// `y = a b` of row-major bf16 matrices, a or b standing turned; y [M,N] in bf16 or fp32, summed in fp32. `n_ways`: the
    /// most algorithms to offer, best guess first.
    pub fn product(&self, a: (&Tensor, bool), b: (&Tensor, bool), y: &Tensor, n_ways: usize) -> Result<LibraryProduct> {
        let f = &self.functions;
        let [m, n] = y.dims("cuBLASLt y")?;
        let [a_rows, a_columns] = a.0.dims("cuBLASLt a")?;
        let k = if a.1 { a_rows } else { a_columns };
        a.0.expect("cuBLASLt a", DType::Bf16, &if a.1 { [k, m] } else { [m, k] })?;
        b.0.expect("cuBLASLt b", DType::Bf16, &if b.1 { [n, k] } else { [k, n] })?;
        let mut description = null_mut();
        // SAFETY: the call writes one pointer, through a live reference, and takes numbers besides.
        ok("describe", unsafe { (f.describe)(&mut description, COMPUTE_32F, R_32F) })?;
        let operands = [operand(b.0.dims("b")?, b.1), operand(a.0.dims("a")?, a.1), operand([m, n], false)];
        for (attribute, operand) in [(DESC_TRANSA, operands[0]), (DESC_TRANSB, operands[1])] {
            let turned = c_int::from(operand.turned);
            // SAFETY: the attribute is an int, read from a live one of that size.
            ok("turn", unsafe { (f.set)(description, attribute, (&raw const turned).cast(), size_of::<c_int>()) })?;
        }
        let mut layouts = [null_mut(); 3];
        let types = [R_16BF, R_16BF, if y.dtype() == DType::F32 { R_32F } else { R_16BF }];
        for ((layout, o), dtype) in layouts.iter_mut().zip(operands).zip(types) {
            // SAFETY: the call writes one pointer, through a live reference, and takes numbers besides.
            ok("layout", unsafe { (f.lay_out)(layout, dtype, o.rows, o.columns, o.leading) })?;
        }
        let mut preference = null_mut();
        let most = WORKSPACE;
        // SAFETY: the first call writes one pointer; the second reads a size_t from a live one of that size.
        unsafe {
            ok("prefer", (f.prefer)(&mut preference))?;
            let value = (&raw const most).cast();
            ok("prefer", (f.set_preference)(preference, PREF_MAX_WORKSPACE_BYTES, value, size_of::<usize>()))?;
        }
        let mut found = vec![Heuristic::default(); n_ways];
        let mut n_found = 0;
        let [lb, la, ly] = layouts;
        let wanted = n_ways as c_int;
        // SAFETY: every description was just made; it writes at most `wanted` results, which is the vector's length.
        ok("choose", unsafe {
            (f.choose)(self.handle, description, lb, la, ly, ly, preference, wanted, found.as_mut_ptr(), &mut n_found)
        })?;
        found.truncate(n_found as usize);
        if found.is_empty() {
            return Err(Error::Device("cuBLASLt: it knows no way for this product".into()));
        }
        Ok(LibraryProduct {
            functions: f.clone(),
            handle: self.handle,
            description,
            layouts,
            found,
            operands: [b.0, a.0, y].map(Clone::clone),
            workspace: self.workspace.clone(),
        })
    }
}

impl LibraryProduct {
    /// How many algorithms it offers.
    pub fn n_ways(&self) -> usize {
        self.found.len()
    }

    /// Launches the product in the current lane by way number `way`.
    pub fn run(&self, way: usize) -> Result<()> {
        let [b, a, y] = &self.operands;
        let [lb, la, ly] = self.layouts;
        let (one, zero) = (1f32, 0f32);
        let device = y.device();
        device.check_order("cublasLtMatmul", &[(y.ptr::<u8>() as usize, true)])?;
        let stream = device.stream()?;
        let how = &self.found[way];
        // SAFETY: operands and workspace are held by `self` and have the sizes of their descriptions; alpha and beta are read
        // before the call returns; the algorithm was chosen for these descriptions.
        let status = unsafe {
            (self.functions.multiply)(
                self.handle,
                self.description,
                (&raw const one).cast(),
                b.ptr::<c_void>(),
                lb,
                a.ptr::<c_void>(),
                la,
                (&raw const zero).cast(),
                y.ptr::<c_void>(),
                ly,
                y.ptr(),
                ly,
                how.algorithm.as_ptr(),
                self.workspace.ptr(),
                WORKSPACE,
                stream,
            )
        };
        ok("multiply", status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What BLAS does with these descriptions: column-major, D = op(A) op(B).
    fn column_major(a: (&[f32], Operand), b: (&[f32], Operand), d: &mut [f32], to: Operand, k: usize) {
        let at = |(x, o): (&[f32], Operand), i: usize, j: usize| {
            let (row, column) = if o.turned { (j, i) } else { (i, j) };
            assert!(row < o.rows as usize && column < o.columns as usize, "{o:?} has no ({row}, {column})");
            x[column * o.leading as usize + row]
        };
        for i in 0..to.rows as usize {
            for j in 0..to.columns as usize {
                d[j * to.leading as usize + i] = (0..k).map(|l| at(a, i, l) * at(b, l, j)).sum();
            }
        }
    }

    #[test]
    fn its_column_major_product_is_our_row_major_one_for_every_layout() {
        let (m, n, k) = (2, 3, 5);
        let numbers = |count: usize, step: usize| (0..count).map(|i| (i * step % 7) as f32 - 3.0).collect::<Vec<_>>();
        let (a, b) = (numbers(m * k, 3), numbers(k * n, 5));
        for (a_turned, b_turned) in [(false, true), (false, false), (true, false)] {
            let a_shape = if a_turned { [k, m] } else { [m, k] };
            let b_shape = if b_turned { [n, k] } else { [k, n] };
            let ours = |i: usize, j: usize| -> f32 {
                let a = |l: usize| if a_turned { a[l * m + i] } else { a[i * k + l] };
                let b = |l: usize| if b_turned { b[j * k + l] } else { b[l * n + j] };
                (0..k).map(|l| a(l) * b(l)).sum()
            };
            let mut y = vec![f32::NAN; m * n];
            let to = operand([m, n], false);
            column_major((&b, operand(b_shape, b_turned)), (&a, operand(a_shape, a_turned)), &mut y, to, k);
            for i in 0..m {
                for j in 0..n {
                    assert_eq!(y[i * n + j], ours(i, j), "a turned {a_turned}, b turned {b_turned}: ({i}, {j})");
                }
            }
        }
    }
}
