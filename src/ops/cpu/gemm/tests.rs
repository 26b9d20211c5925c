//! Every form of matrix multiplication against its definition, to the bit: all instruction sets,
//! strides, packings, sums of products, batches and thread counts.

use super::*;
use crate::base::{Philox, RngDomain};
use half::bf16;

fn normals<S: Stored>(n: usize, stream: u32) -> Vec<S> {
    let mut s = Philox::new(11, RngDomain::Test).stream(0, stream);
    (0..n).map(|_| S::store(s.normal())).collect()
}

/// What an element type's chain does with the next products; nothing in common with the tiles.
trait Chain: Element {
    fn chain(a: &Mat<Self>, b: &Mat<Self>, i: usize, j: usize, start: f32) -> f32;
}

impl Chain for f32 {
    fn chain(a: &Mat<f32>, b: &Mat<f32>, i: usize, j: usize, start: f32) -> f32 {
        (0..a.cols).fold(start, |c, k| a.at(i, k).mul_add(b.at(k, j), c))
    }
}

impl Chain for bf16 {
    fn chain(a: &Mat<bf16>, b: &Mat<bf16>, i: usize, j: usize, start: f32) -> f32 {
        let product =
            |k: usize| if k < a.cols { a.at(i, k).load() * b.at(k, j).load() } else { 0.0 };
        (0..a.cols).step_by(2).fold(start, |c, k| (c + product(k + 1)) + product(k))
    }
}

fn one<'a, S: Element>(a: Mat<'a, S>, b: Mat<'a, S>) -> [Term<'a, S>; 1] {
    [Term { a, b: Factor::Matrix(b) }]
}

fn check<S: Chain>(isa: Isa, threads: usize, a: Mat<S>, b: Mat<S>, ldc: usize) {
    let start = normals::<f32>(a.rows * ldc, 3);
    for accumulate in [false, true] {
        let mut c = start.clone();
        gemm_on(isa, threads, &one(a, b), Finish::Plain, &mut c, ldc, accumulate);
        for i in 0..a.rows {
            for j in 0..ldc {
                let s = start[i * ldc + j];
                let want = match (j < b.cols, accumulate) {
                    (true, true) => S::chain(&a, &b, i, j, s),
                    (true, false) => S::chain(&a, &b, i, j, 0.0),
                    (false, _) => s, // not ours
                };
                let got = c[i * ldc + j];
                assert!(
                    got.to_bits() == want.to_bits() || (got == 0.0 && want == 0.0),
                    "{isa:?} {:?} {}x{}x{} at {i},{j}: {got} {want}",
                    S::DTYPE,
                    a.rows,
                    b.cols,
                    a.cols
                );
            }
        }
    }
}

fn every_form<S: Chain>() {
    let shapes = [
        (1, 1, 1),
        (1, 33, 7),
        (2, 31, 300),
        (5, 64, 64),
        (8, 17, 513),
        (9, 16, 40),
        (12, 32, 256),
        (13, 100, 257),
        (25, 8, 31),
        (16, 45, 66),
        (40, 47, 530),
        (301, 70, 9),
    ];
    for isa in Isa::available() {
        for (m, n, k) in shapes {
            let (x, w) = (normals::<S>(m * k, 1), normals::<S>(n * k, 2));
            let (a, at) = (Mat::row_major(&x, m, k), Mat::row_major(&x, k, m).t());
            let (b, bt) = (Mat::row_major(&w, k, n), Mat::row_major(&w, n, k).t());
            for (a, b) in [(a, b), (a, bt), (at, b), (at, bt)] {
                check(isa, 1, a, b, n);
            }
            check(isa, 2, a, bt, n + 3);
        }
    }
}

#[test]
fn every_form_of_f32_is_the_chain_to_the_bit() {
    every_form::<f32>();
}

#[test]
fn every_form_of_bf16_is_the_chain_to_the_bit() {
    every_form::<bf16>();
}

fn strided<S: Chain>() {
    let (m, n, k) = (21, 35, 77);
    let (x, w) = (normals::<S>(40 * 100, 1), normals::<S>(90 * 100, 2));
    let a = Mat::with_stride(&x, 40, 90, 100).block(3..3 + m, 5..5 + k);
    let b = Mat::with_stride(&w, 90, 60, 100).block(2..2 + k, 7..7 + n);
    // Every second row and third column of a larger matrix.
    let odd = Mat { data: &w[..], rows: k, cols: n, row_stride: 2, col_stride: 200 };
    for isa in Isa::available() {
        check(isa, 1, a, b, n + 1);
        check(isa, 2, a, odd, n);
    }
}

#[test]
fn strides_and_blocks() {
    strided::<f32>();
    strided::<bf16>();
}

/// Panels, two terms, bias and a rounded output are the same chain, and then one rounding.
fn sums_of_products<S: Chain, O: Stored>() {
    for (m, n, k, r) in [(3, 50, 40, 6), (16, 64, 64, 8), (30, 75, 33, 5), (200, 40, 20, 16)] {
        let (x, w) = (normals::<S>(m * k, 1), normals::<S>(n * k, 2));
        let (s, v) = (normals::<S>(m * r, 3), normals::<S>(n * r, 4));
        let bias = normals::<f32>(n, 5);
        let (a, b) = (Mat::row_major(&x, m, k), Mat::row_major(&w, n, k).t());
        let (a2, b2) = (Mat::row_major(&s, m, r), Mat::row_major(&v, n, r).t());
        let mut panels = vec![S::Word::zeroed(); panel_words::<S>(k, n)];
        pack_panels(b, &mut panels);
        let packed = Factor::Panels { words: &panels, k, n };
        for isa in Isa::available() {
            // Panels are of one form, whatever the instruction set.
            for factor in [Factor::Matrix(b), packed] {
                let terms = [Term { a, b: factor }, Term { a: a2, b: Factor::Matrix(b2) }];
                let mut c = vec![O::store(0.0); m * n];
                gemm_on(isa, 2, &terms, Finish::Bias(&bias), &mut c, n, false);
                for i in 0..m {
                    for j in 0..n {
                        let sum = S::chain(&a2, &b2, i, j, S::chain(&a, &b, i, j, 0.0));
                        assert_eq!(c[i * n + j], O::store(sum + bias[j]), "{isa:?} {i},{j}");
                    }
                }
                gemm_on(isa, 2, &terms[1..], Finish::Scale(1.7), &mut c, n, false);
                for i in 0..m {
                    let sum = S::chain(&a2, &b2, i, n - 1, 0.0);
                    assert_eq!(c[i * n + n - 1], O::store(sum * 1.7), "{isa:?} {i}");
                }
            }
        }
    }
}

#[test]
fn terms_bias_and_panels_are_one_chain() {
    sums_of_products::<f32, f32>();
    sums_of_products::<bf16, f32>();
    sums_of_products::<bf16, bf16>();
}

fn threads_and_batch<S: Chain>() {
    let (m, n, k) = (37, 1100, 320);
    let (x, w) = (normals::<S>(m * k, 1), normals::<S>(n * k, 2));
    let (a, b) = (Mat::row_major(&x, m, k), Mat::row_major(&w, n, k).t());
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut c = vec![0f32; m * n];
        pool.install(|| gemm(&one(a, b), Finish::Plain, &mut c, n, false));
        c
    };
    let whole = with(1);
    assert_eq!(whole, with(2));
    assert_eq!(whole, with(3));
    for i in [0, 17, 36] {
        let mut row = vec![0f32; n];
        gemm(&one(a.block(i..i + 1, 0..k), b), Finish::Plain, &mut row, n, false);
        assert_eq!(row, whole[i * n..][..n]);
    }
}

#[test]
fn threads_and_batch_do_not_change_a_row() {
    threads_and_batch::<f32>();
    threads_and_batch::<bf16>();
    let (m, n, k) = (9, 40, 31);
    let (x, w) = (normals::<f32>(m * k, 1), normals::<f32>(n * k, 2));
    let (a, b) = (Mat::row_major(&x, m, k), Mat::row_major(&w, n, k).t());
    let (mut fast, mut real) = (vec![0f32; m * n], vec![0f32; m * n]);
    gemm_f32(a, b, &mut fast, n, false);
    gemm_real(a, b, &mut real, n, false);
    assert_eq!(real, fast);
}

#[test]
fn rounds_and_slabs_are_invisible() {
    // More packed words than a slab of B and a round of A hold.
    let (m, n, k) = (ROUND_WORDS / 2048 + 5, SLAB_WORDS / 2048 + 40, 2048);
    let (x, w) = (normals::<f32>(m * k, 1), normals::<f32>(n * k, 2));
    let (a, b) = (Mat::row_major(&x, m, k), Mat::row_major(&w, n, k).t());
    let mut c = vec![0f32; m * n];
    gemm_f32(a, b, &mut c, n, false);
    for (i, j) in [(0, 0), (m - 1, n - 1), (ROUND_WORDS / 2048, 511), (2047, 512), (1000, n - 41)] {
        assert_eq!(c[i * n + j], f32::chain(&a, &b, i, j, 0.0), "{i},{j}");
    }
}

#[test]
fn empty_matrices() {
    let (x, w): (Vec<f32>, Vec<f32>) = (vec![], vec![]);
    let mut c = vec![7.0; 6];
    let (a, b) = (Mat::row_major(&x, 2, 0), Mat::row_major(&w, 0, 3));
    gemm_f32(a, b, &mut c, 3, true);
    assert_eq!(c, [7.0; 6]);
    gemm_f32(a, b, &mut c, 3, false);
    assert_eq!(c, [0.0; 6]);
    gemm_f32(Mat::row_major(&x, 0, 5), Mat::row_major(&[0.0; 15], 5, 3), &mut [], 3, false);
}
