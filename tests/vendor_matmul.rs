//! `--matmul vendor` by fakes: libraries with the functions of cuBLASLt and hipBLASLt, compiled here,
//! which multiply in the emulator's memory and check every number that they are given. What is proven is
//! our side of the interface, never the vendors' libraries.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use grpo_rt::base::{DType, ErrorKind};
use grpo_rt::device::probe::open_with_library;
use grpo_rt::device::{Device, DeviceSpec, MatmulImpl, Vendor, open_with};
use grpo_rt::ops::matmul::Matmul;
use grpo_rt::ops::{Case, Fill, OPS};
use grpo_rt::tape::conformance::agrees;

mod devices; // emulated and present devices

/// The library, with the numbers of cublasLt.h, or with -DAMD those of hipblaslt.h.
const LIBRARY: &str = r#"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef AMD
#define NAME(x) hipblasLt##x
enum { COMPUTE = 2, PLAIN = 111, TURNED = 112, FIRST = 0, ALGORITHM = 24, ALIGNED = 0 };
#else
#define NAME(x) cublasLt##x
enum { COMPUTE = 68, PLAIN = 0, TURNED = 1, FIRST = 3, ALGORITHM = 64, ALIGNED = 4 };
#endif
enum { F32 = 0, BF16 = 14, INVALID = 7, UNSUPPORTED = 15, PREFERENCE_WORKSPACE = 1 };
typedef struct { int operation[2]; } Product;
typedef struct { int type; uint64_t rows, cols; int64_t leading; } Layout;
typedef struct { uint64_t workspace; int aligned; } Preference;
typedef struct {
    unsigned char algorithm[ALGORITHM];
    size_t workspace;
    int status;
    float waves;
    int reserved[4];
} Found;
static int handle, calls, next_status;
int fake_calls(void) { return calls; }
void fake_fail(int status) { next_status = status; }

int NAME(Create)(void** h) { *h = &handle; return 0; }
int NAME(Destroy)(void* h) { return h == &handle ? 0 : INVALID; }
int NAME(MatmulDescCreate)(Product** p, int compute, int scale) {
    if (compute != COMPUTE || scale != F32) return INVALID;
    *p = malloc(sizeof **p);
    (*p)->operation[0] = (*p)->operation[1] = PLAIN;
    return 0;
}
int NAME(MatmulDescDestroy)(Product* p) { free(p); return 0; }
int NAME(MatmulDescSetAttribute)(Product* p, int which, const void* value, size_t bytes) {
    if (bytes != 4 || (which != FIRST && which != FIRST + 1)) return INVALID;
    memcpy(&p->operation[which - FIRST], value, 4);
    return p->operation[which - FIRST] == TURNED ? 0 : INVALID;
}
int NAME(MatrixLayoutCreate)(Layout** l, int type, uint64_t rows, uint64_t cols, int64_t leading) {
    if ((type != F32 && type != BF16) || leading < (int64_t)rows) return INVALID;
    *l = malloc(sizeof **l);
    **l = (Layout){type, rows, cols, leading};
    return 0;
}
int NAME(MatrixLayoutDestroy)(Layout* l) { free(l); return 0; }
int NAME(MatmulPreferenceCreate)(Preference** p) { *p = calloc(1, sizeof **p); return 0; }
int NAME(MatmulPreferenceDestroy)(Preference* p) { free(p); return 0; }
int NAME(MatmulPreferenceSetAttribute)(Preference* p, int which, const void* value, size_t bytes) {
    if (which == PREFERENCE_WORKSPACE && bytes == 8) { memcpy(&p->workspace, value, 8); return 0; }
    if (ALIGNED && which >= 5 && which <= 8 && bytes == 4) { p->aligned++; return 0; }
    return INVALID;
}
int NAME(MatmulAlgoGetHeuristic)(void* h, Product* p, Layout* a, Layout* b, Layout* c, Layout* d,
                                 Preference* wish, int asked, Found* found, int* count) {
    if (h != &handle || asked != 1 || !wish->workspace || wish->aligned != ALIGNED) return INVALID;
    memset(found, 0, sizeof *found);
    memcpy(found->algorithm, "chosen", 6);
    found->workspace = wish->workspace;
    *count = 1;
    return 0;
}
static double get(const Layout* l, const void* m, uint64_t i, uint64_t j) {
    uint64_t at = i + j * l->leading;
    if (i >= l->rows || j >= l->cols) abort();
    if (l->type == F32) return ((const float*)m)[at];
    uint32_t bits = (uint32_t)((const uint16_t*)m)[at] << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
static void put(const Layout* l, void* m, uint64_t i, uint64_t j, float x) {
    uint64_t at = i + j * l->leading;
    if (l->type == F32) { ((float*)m)[at] = x; return; }
    uint32_t bits;
    memcpy(&bits, &x, 4);
    ((uint16_t*)m)[at] = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
#ifndef WITHOUT_MATMUL
int NAME(Matmul)(void* h, Product* p, const float* alpha, const void* a, Layout* la, const void* b, Layout* lb,
                 const float* beta, const void* c, Layout* lc, void* d, Layout* ld, const Found* algorithm,
                 void* workspace, size_t bytes, void* stream) {
    calls++;
    if (next_status) { int s = next_status; next_status = 0; return s; }
    if (h != &handle || memcmp(algorithm, "chosen", 6) || !workspace || bytes != algorithm->workspace)
        return INVALID;
    int ta = p->operation[0] == TURNED, tb = p->operation[1] == TURNED;
    uint64_t depth = ta ? la->rows : la->cols;
    if (c != d || lc != ld || depth != (tb ? lb->cols : lb->rows)) return INVALID;
    if ((ta ? la->cols : la->rows) != ld->rows || (tb ? lb->rows : lb->cols) != ld->cols) return INVALID;
    for (uint64_t i = 0; i < ld->rows; i++)
        for (uint64_t j = 0; j < ld->cols; j++) {
            double sum = 0;
            for (uint64_t k = 0; k < depth; k++)
                sum += (ta ? get(la, a, k, i) : get(la, a, i, k)) * (tb ? get(lb, b, j, k) : get(lb, b, k, j));
            sum *= *alpha;
            if (*beta != 0) sum += *beta * get(ld, d, i, j);
            put(ld, d, i, j, (float)sum);
        }
    return 0;
}
#endif
"#;

/// Compiles the library of a vendor into a folder.
fn compile(dir: &Path, vendor: Vendor, define: Option<&str>) -> PathBuf {
    let (source, library) = (dir.join("blas.c"), dir.join(format!("lib{}.so", vendor.name())));
    std::fs::write(&source, LIBRARY).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(&source);
    cc.args((vendor == Vendor::Hip).then_some("-DAMD"));
    cc.args(define.map(|d| format!("-D{d}")));
    let out = cc.output().expect("there is a C compiler: cc");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    library
}

/// `x[24, 16] w[40, 16]ᵀ`, as the op can be asked for it.
fn cases() -> Vec<Case> {
    let normal = |rows: usize, cols: usize| (vec![rows, cols], Fill::Normal(1.0), true);
    let case = |label, op: Matmul, inputs| Case { label, op: Arc::new(op), inputs };
    let factors = vec![normal(24, 16), normal(40, 16)];
    let wide = factors.iter().map(|(s, f, _)| (s.clone(), f.clone(), false)).collect();
    vec![
        case("plain", Matmul::default(), factors),
        case("wide", Matmul { wide: true, ..Matmul::default() }, wide),
        // Not of whole 16 bytes: these stay with our own kernels.
        case("odd", Matmul::default(), vec![normal(5, 7), normal(3, 7)]),
    ]
}

#[test]
fn products_go_through_the_vendors_library() {
    devices::build_emulator();
    let spec = OPS.iter().find(|s| s.name == "matmul").unwrap();
    for vendor in Vendor::ALL {
        let dir = tempfile::tempdir().unwrap();
        let path = compile(dir.path(), vendor, None);
        let opened = open_with_library(DeviceSpec::Emulated(vendor), Some(&path)).unwrap();
        let device: Arc<dyn Device> = opened.unwrap();
        assert_eq!(device.properties().matmul, MatmulImpl::Vendor);
        // SAFETY: the library compiled above, which is open already.
        let library = unsafe { libloading::Library::new(&path) }.unwrap();
        // SAFETY: a function of it that takes nothing.
        let calls = || unsafe { library.get::<extern "C" fn() -> i32>("fake_calls").unwrap()() };
        for float in [DType::F32, DType::BF16] {
            // Forward, and in the reverse walk the gradients of both factors.
            for (case, products) in cases().iter().zip([3, 1, 0]) {
                let before = calls();
                agrees(spec, case, float, 5, None).unwrap();
                assert_eq!(calls(), before, "the CPU has products of its own");
                agrees(spec, case, float, 5, Some(&device)).unwrap();
                let made = calls() - before;
                let whole = products > 0 && made >= products && made % products == 0;
                assert!(whole || made == products, "{vendor:?} {float:?} {}: {made}", case.label);
            }
        }
        // A library that fails is an error of the device.
        // SAFETY: a function of it that takes a number.
        unsafe { library.get::<extern "C" fn(i32)>("fake_fail").unwrap()(14) };
        let e = agrees(spec, &cases()[0], DType::F32, 5, Some(&device)).unwrap_err();
        assert!(e.contains("multiply returned 14"), "{e}");
    }
}

#[test]
fn without_a_library_the_choice_is_an_error() {
    devices::build_emulator();
    for vendor in Vendor::ALL {
        let dir = tempfile::tempdir().unwrap();
        let emulated = DeviceSpec::Emulated(vendor);
        let path = compile(dir.path(), vendor, Some("WITHOUT_MATMUL"));
        let lacking = open_with_library(emulated, Some(&path)).unwrap_err();
        let name = if vendor == Vendor::Cuda { "cublasLtMatmul" } else { "hipblasLtMatmul" };
        assert!(lacking.to_string().contains(&format!("expected: {name}\n")), "{lacking}");
        let none = open_with_library(emulated, Some(&dir.path().join("none.so"))).unwrap_err();
        assert!(none.to_string().contains("none.so"), "{none}");
        let refused = open_with(emulated, MatmulImpl::Vendor).unwrap_err();
        for e in [lacking, none, refused] {
            assert_eq!(e.kind(), ErrorKind::Device);
            assert!(e.hint_text().unwrap().contains("--matmul own"), "{e}");
        }
    }
    let e = open_with(DeviceSpec::Cpu, MatmulImpl::Vendor).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Usage);
}
