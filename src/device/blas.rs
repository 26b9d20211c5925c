//! The vendors' own matrix products, cuBLASLt and hipBLASLt, as a choice and a yardstick: opened at
//! run time, by one table of functions with two columns of names, as the drivers are. Their rows may
//! depend on what else is in a batch, so law 4 (rollout and training agree to the bit) does not hold
//! with them. Numbers are those of `cublasLt.h` (CUDA 12 and 13) and of `hipblaslt.h` and
//! `hipblas-common.h` (ROCm 6 and 7).

use super::driver::{Code, Driver, Handle, why};
use super::{DevicePtr, Vendor};
use crate::base::{DType, Error, Result};
use libloading::Library;
use std::collections::HashMap;
use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Whose kernels compute the products of linear layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MatmulImpl {
    /// Those of this repository: one ascending chain per element.
    #[default]
    Own,
    /// The vendor's library. Rows may then depend on their batch, so rollout and training need not
    /// agree to the bit.
    Vendor,
}

impl MatmulImpl {
    /// The choice by its name in options: `own`, which is also the default, or `vendor`.
    pub fn named(name: Option<&str>) -> Self {
        if name == Some("vendor") { MatmulImpl::Vendor } else { MatmulImpl::Own }
    }
}

/// `y[rows, cols] = scale · A B (+ y)`, all row-major and without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gemm {
    /// `A[rows, depth]`, or `A[depth, rows]` if transposed.
    pub a: DevicePtr,
    /// `B[depth, cols]`, or `B[cols, depth]` if transposed.
    pub b: DevicePtr,
    /// The result.
    pub y: DevicePtr,
    /// Whether `A` lies transposed.
    pub a_transposed: bool,
    /// Whether `B` lies transposed.
    pub b_transposed: bool,
    /// Rows of the result.
    pub rows: usize,
    /// Columns of the result.
    pub cols: usize,
    /// Inner elements.
    pub depth: usize,
    /// Type of the factors: F32 or BF16.
    pub factors: DType,
    /// Type of the result: F32 or BF16.
    pub result: DType,
    /// Bits of the single-precision factor of the sums: a command must be comparable.
    pub scale_bits: u32,
    /// Whether the result is added to what is there.
    pub add: bool,
}

/// A matrix as the libraries see it: column-major.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Rows in memory.
    pub rows: usize,
    /// Columns in memory.
    pub cols: usize,
    /// Elements from one column to the next.
    pub leading: usize,
    /// Whether the product takes it transposed.
    pub transposed: bool,
}

impl Gemm {
    /// The product in the libraries' order: they compute `yᵀ = Bᵀ Aᵀ`, since a row-major matrix is its
    /// transpose, column-major. First factor (our `B`), second (our `A`), result.
    pub fn column_major(&self) -> [Layout; 3] {
        let plain = |rows, cols| Layout { rows, cols, leading: rows, transposed: false };
        let turned = |rows, cols| Layout { transposed: true, ..plain(rows, cols) };
        let first = match self.b_transposed {
            true => turned(self.depth, self.cols),
            false => plain(self.cols, self.depth),
        };
        let second = match self.a_transposed {
            true => turned(self.rows, self.depth),
            false => plain(self.depth, self.rows),
        };
        [first, second, plain(self.cols, self.rows)]
    }

    /// The largest power of two up to 256 that divides all addresses.
    fn alignment(&self) -> u32 {
        let bits = self.a.0 | self.b.0 | self.y.0 | 256;
        1 << bits.trailing_zeros()
    }

    /// What one algorithm serves: the same product at other addresses that are as well aligned.
    fn kind(&self) -> (Gemm, u32) {
        let nowhere = DevicePtr::NULL;
        (Gemm { a: nowhere, b: nowhere, y: nowhere, ..*self }, self.alignment())
    }
}

/// What the two libraries number differently.
#[derive(Debug, Clone, Copy)]
pub struct Numbers {
    /// Products of singles and bf16 with sums in single precision.
    pub compute_f32: i32,
    /// A transposed factor.
    pub transpose: i32,
    /// Attribute of a product: the first factor's operation.
    pub first_operation: i32,
    /// Attribute of a product: the second factor's operation.
    pub second_operation: i32,
    /// Attribute of a preference: most bytes of workspace.
    pub workspace: i32,
    /// Attributes of a preference: alignment of the two factors, the addend and the result; AMD's
    /// library has none.
    pub alignments: Option<[i32; 4]>,
    /// Where the status lies in the result of the search.
    pub status_at: usize,
}

impl Numbers {
    /// Those of a vendor.
    pub const fn of(vendor: Vendor) -> Self {
        match vendor {
            Vendor::Cuda => Numbers {
                compute_f32: 68,
                transpose: 1,
                first_operation: 3,
                second_operation: 4,
                workspace: 1,
                alignments: Some([5, 6, 7, 8]),
                // An algorithm of 64 bytes and the size of its workspace come first.
                status_at: 72,
            },
            Vendor::Hip => Numbers {
                compute_f32: 2,
                transpose: 112,
                first_operation: 0,
                second_operation: 1,
                workspace: 1,
                alignments: None,
                // An algorithm of 24 bytes and the size of its workspace.
                status_at: 32,
            },
        }
    }
}

/// `CUDA_R_32F`, `CUDA_R_16BF` and their twins.
pub const fn type_number(dtype: DType) -> i32 {
    match dtype {
        DType::BF16 => 14,
        _ => 0,
    }
}

/// Bytes of the workspace: what NVIDIA recommends for Hopper (cuBLAS manual, `cublasSetWorkspace`).
const WORKSPACE: usize = 32 << 20;
/// Kinds of products that are kept prepared; micro-batches have ever new sizes.
const KEPT: usize = 4096;

type Create = unsafe extern "C" fn(*mut Handle) -> Code;
type Destroy = unsafe extern "C" fn(Handle) -> Code;
type SetAttribute = unsafe extern "C" fn(Handle, i32, *const c_void, usize) -> Code;
type Search = unsafe extern "C" fn(
    Handle,
    Handle,
    Handle,
    Handle,
    Handle,
    Handle,
    Handle,
    i32,
    *mut Found,
    *mut i32,
) -> Code;
type Multiply = unsafe extern "C" fn(
    Handle,
    Handle,
    *const f32,
    u64,
    Handle,
    u64,
    Handle,
    *const f32,
    u64,
    Handle,
    u64,
    Handle,
    *const Found,
    u64,
    usize,
    Handle,
) -> Code;

/// The result of a search, of 96 bytes at NVIDIA's and 56 at AMD's; it begins with the algorithm.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
struct Found([u8; 128]);

/// A product that is ready to run.
#[derive(Debug)]
struct Prepared {
    product: usize,
    layouts: [usize; 3],
    algorithm: Found,
}

/// An open library with its handle and its workspace.
#[derive(Debug)]
pub struct Blas {
    numbers: Numbers,
    spec: String,
    handle: usize,
    workspace: u64,
    prepared: Mutex<HashMap<(Gemm, u32), Prepared>>,
    destroy: Destroy,
    product_create: unsafe extern "C" fn(*mut Handle, i32, i32) -> Code,
    product_destroy: Destroy,
    product_set: SetAttribute,
    layout_create: unsafe extern "C" fn(*mut Handle, i32, u64, u64, i64) -> Code,
    layout_destroy: Destroy,
    preference_create: Create,
    preference_destroy: Destroy,
    preference_set: SetAttribute,
    search: Search,
    multiply: Multiply,
    /// Keeps the functions above valid.
    _library: ManuallyDrop<Library>,
}

/// Names under which a vendor's library is installed, newest first.
pub fn library_names(vendor: Vendor) -> &'static [&'static str] {
    match vendor {
        Vendor::Cuda => &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"],
        Vendor::Hip => &["libhipblaslt.so.1", "libhipblaslt.so.0", "libhipblaslt.so"],
    }
}

fn library(vendor: Vendor) -> Result<Library> {
    let mut reason = String::new();
    for name in library_names(vendor) {
        // SAFETY: loading a vendor's library runs its initialisers, which is what it is for.
        match unsafe { Library::new(*name) } {
            Ok(library) => return Ok(library),
            Err(e) if reason.is_empty() => reason = why(&e),
            Err(_) => {}
        }
    }
    Err(missing().expected(library_names(vendor).join(" or ")).found(reason))
}

fn missing() -> Error {
    Error::device("the vendor's library of matrix products cannot be used")
        .key("matmul")
        .hint("install it and let the loader find it (LD_LIBRARY_PATH), or use --matmul own")
}

impl Blas {
    /// Opens a vendor's library, or the one at `path` (tests), for the device that is the thread's; takes
    /// the workspace, once.
    ///
    /// # Errors
    /// Kind device: it is not there, lacks a function, refuses, or the memory is not free.
    pub fn open(driver: &Driver, spec: &str, path: Option<&Path>) -> Result<Self> {
        let library = match path {
            // SAFETY: as in `library`.
            Some(path) => {
                unsafe { Library::new(path) }.map_err(|e| missing().file(path).found(why(&e)))?
            }
            None => library(driver.vendor)?,
        };
        let prefix = if driver.vendor == Vendor::Cuda { "cublasLt" } else { "hipblasLt" };
        let symbol = |name: &str| format!("{prefix}{name}");
        let create: Create = get(&library, symbol("Create"))?;
        let mut blas = Blas {
            numbers: Numbers::of(driver.vendor),
            spec: spec.to_string(),
            handle: 0,
            workspace: 0,
            prepared: Mutex::default(),
            destroy: get(&library, symbol("Destroy"))?,
            product_create: get(&library, symbol("MatmulDescCreate"))?,
            product_destroy: get(&library, symbol("MatmulDescDestroy"))?,
            product_set: get(&library, symbol("MatmulDescSetAttribute"))?,
            layout_create: get(&library, symbol("MatrixLayoutCreate"))?,
            layout_destroy: get(&library, symbol("MatrixLayoutDestroy"))?,
            preference_create: get(&library, symbol("MatmulPreferenceCreate"))?,
            preference_destroy: get(&library, symbol("MatmulPreferenceDestroy"))?,
            preference_set: get(&library, symbol("MatmulPreferenceSetAttribute"))?,
            search: get(&library, symbol("MatmulAlgoGetHeuristic"))?,
            multiply: get(&library, symbol("Matmul"))?,
            _library: ManuallyDrop::new(library),
        };
        let mut handle: Handle = std::ptr::null_mut();
        // SAFETY: writes one handle; the device is the thread's.
        blas.done("create", unsafe { create(&raw mut handle) })?;
        blas.handle = handle as usize;
        // SAFETY: writes one address.
        let code = unsafe { (driver.malloc)(&raw mut blas.workspace, WORKSPACE) };
        if code != 0 {
            let call = format!("allocate {WORKSPACE} bytes for the vendor's products");
            let name = driver.name_of(code);
            return Err(super::fault::error(spec, &call, code, name.as_deref()));
        }
        Ok(blas)
    }

    fn done(&self, call: &str, code: Code) -> Result<()> {
        match code {
            0 => Ok(()),
            _ => Err(Error::device("the vendor's library of matrix products failed")
                .at(self.spec.clone())
                .found(format!("{call} returned {code}"))
                .hint("use --matmul own; a run goes on from its last checkpoint with --resume_from_checkpoint true")),
        }
    }

    /// Enqueues a product on a stream of the device, which is the thread's.
    ///
    /// # Errors
    /// Kind device if the library has no algorithm for it, or fails.
    pub(super) fn run(&self, g: &Gemm, stream: Handle) -> Result<()> {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = g.kind();
        if !prepared.contains_key(&kind) {
            if prepared.len() == KEPT {
                prepared.drain().for_each(|(_, p)| self.forget(&p));
            }
            prepared.insert(kind, self.prepare(g)?);
        }
        let Prepared { product, layouts, algorithm } = &prepared[&kind];
        let [first, second, result] = layouts.map(|l| l as Handle);
        let (scale, keep) = (f32::from_bits(g.scale_bits), f32::from(u8::from(g.add)));
        // SAFETY: descriptors that `prepare` made for this kind; ranges of the arena, bounded by the
        // plan; a workspace that only products on this one stream use.
        let code = unsafe {
            (self.multiply)(
                self.handle as Handle,
                *product as Handle,
                &raw const scale,
                g.b.0,
                first,
                g.a.0,
                second,
                &raw const keep,
                g.y.0,
                result,
                g.y.0,
                result,
                &raw const *algorithm,
                self.workspace,
                WORKSPACE,
                stream,
            )
        };
        self.done("multiply", code)
    }

    /// Describes a product to the library and has it choose an algorithm.
    fn prepare(&self, g: &Gemm) -> Result<Prepared> {
        let n = &self.numbers;
        let mut product: Handle = std::ptr::null_mut();
        let singles = type_number(DType::F32);
        // SAFETY: writes one handle.
        let code = unsafe { (self.product_create)(&raw mut product, n.compute_f32, singles) };
        self.done("describe a product", code)?;
        let [first, second, result] = g.column_major();
        for (attribute, layout) in [(n.first_operation, first), (n.second_operation, second)] {
            if layout.transposed {
                let value = (&raw const n.transpose).cast();
                // SAFETY: reads four bytes, the type of these attributes.
                let code = unsafe { (self.product_set)(product, attribute, value, 4) };
                self.done("transpose a factor", code)?;
            }
        }
        let types = [g.factors, g.factors, g.result].map(type_number);
        let mut layouts = [0usize; 3];
        for ((to, l), dtype) in layouts.iter_mut().zip([first, second, result]).zip(types) {
            let mut layout: Handle = std::ptr::null_mut();
            let (rows, cols) = (l.rows as u64, l.cols as u64);
            let (create, at) = (self.layout_create, &raw mut layout);
            // SAFETY: writes one handle.
            self.done("describe a matrix", unsafe {
                create(at, dtype, rows, cols, l.leading as i64)
            })?;
            *to = layout as usize;
        }
        let algorithm = self.choose(product, layouts, g.alignment())?;
        Ok(Prepared { product: product as usize, layouts, algorithm })
    }

    fn choose(&self, product: Handle, layouts: [usize; 3], alignment: u32) -> Result<Found> {
        let n = &self.numbers;
        let mut preference: Handle = std::ptr::null_mut();
        // SAFETY: writes one handle.
        let code = unsafe { (self.preference_create)(&raw mut preference) };
        self.done("make a preference", code)?;
        let bytes = WORKSPACE;
        let value = (&raw const bytes).cast();
        // SAFETY: reads eight bytes, the type of this attribute.
        let code = unsafe { (self.preference_set)(preference, n.workspace, value, 8) };
        self.done("bound the workspace", code)?;
        for attribute in n.alignments.into_iter().flatten() {
            let value = (&raw const alignment).cast();
            // SAFETY: reads four bytes, the type of these attributes.
            let code = unsafe { (self.preference_set)(preference, attribute, value, 4) };
            self.done("bound the alignment", code)?;
        }
        let [first, second, result] = layouts.map(|l| l as Handle);
        let (mut found, mut count) = (Found([0; 128]), 0);
        // SAFETY: descriptors made above; room for one result of either library.
        let code = unsafe {
            (self.search)(
                self.handle as Handle,
                product,
                first,
                second,
                result,
                result,
                preference,
                1,
                &raw mut found,
                &raw mut count,
            )
        };
        // SAFETY: used no more.
        unsafe { (self.preference_destroy)(preference) };
        self.done("look for an algorithm", code)?;
        let status: [u8; 4] = std::array::from_fn(|i| found.0[n.status_at + i]);
        if count < 1 {
            return self.done("look for an algorithm: none; the status", -1).map(|()| found);
        }
        self.done("the algorithm's status", i32::from_ne_bytes(status))?;
        Ok(found)
    }

    fn forget(&self, p: &Prepared) {
        // SAFETY: what runs on the device needs no descriptors; nobody else has these.
        unsafe {
            (self.product_destroy)(p.product as Handle);
            p.layouts.iter().for_each(|&l| {
                (self.layout_destroy)(l as Handle);
            });
        }
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        let prepared =
            std::mem::take(self.prepared.get_mut().unwrap_or_else(PoisonError::into_inner));
        prepared.values().for_each(|p| self.forget(p));
        if self.handle != 0 {
            // SAFETY: the handle of `open`, used no more. The workspace goes with the process.
            unsafe { (self.destroy)(self.handle as Handle) };
        }
    }
}

/// A function of the library.
fn get<T: Copy>(library: &Library, name: String) -> Result<T> {
    // SAFETY: the types in `Blas` are those of both vendors' headers; addresses are 64-bit numbers.
    let found = unsafe { library.get::<T>(name.as_str()) };
    found.map(|s| *s).map_err(|_| missing().expected(name).found("a library without it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Element (i, j) of a factor as the product takes it.
    fn at(l: &Layout, m: &[f64], i: usize, j: usize) -> f64 {
        let (row, col) = if l.transposed { (j, i) } else { (i, j) };
        assert!(row < l.rows && col < l.cols);
        m[row + col * l.leading]
    }

    #[test]
    fn the_column_major_product_is_the_row_major_one() {
        let (rows, cols, depth) = (3, 5, 4);
        let a: Vec<f64> = (0..rows * depth).map(|i| (i * i % 7) as f64 - 3.0).collect();
        let b: Vec<f64> = (0..cols * depth).map(|i| (i * i % 11) as f64 - 5.0).collect();
        for (a_transposed, b_transposed) in
            [(false, true), (false, false), (true, false), (true, true)]
        {
            let g = Gemm {
                a: DevicePtr(64),
                b: DevicePtr(512),
                y: DevicePtr(1024),
                a_transposed,
                b_transposed,
                rows,
                cols,
                depth,
                factors: DType::F32,
                result: DType::F32,
                scale_bits: 1f32.to_bits(),
                add: false,
            };
            assert_eq!(g.alignment(), 64);
            let [first, second, result] = g.column_major();
            assert_eq!((result.rows, result.cols, result.leading), (cols, rows, cols));
            for r in 0..rows {
                for c in 0..cols {
                    let ours = |k: usize| {
                        let x = if a_transposed { a[k * rows + r] } else { a[r * depth + k] };
                        let w = if b_transposed { b[c * depth + k] } else { b[k * cols + c] };
                        x * w
                    };
                    let want: f64 = (0..depth).map(ours).sum();
                    let theirs = |k| at(&first, &b, c, k) * at(&second, &a, k, r);
                    let got: f64 = (0..depth).map(theirs).sum();
                    assert_eq!(got, want, "{a_transposed} {b_transposed} {r} {c}");
                }
            }
        }
    }
}
