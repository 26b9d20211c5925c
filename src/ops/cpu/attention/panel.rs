//! Packing of the operands of [`super::product`]: rows of the inputs as units of 32 bits, along
//! the head (one unit: a single, or two neighbours of bf16) or along the rows. Copies numbers
//! only; nothing is computed or rounded.

use crate::ops::Stored;
use crate::ops::attention::KEY_BLOCK as B;
use crate::ops::cpu::simd::Isa;
use std::mem::size_of;

/// Stands for a row that does not exist; it is packed as zeros.
pub(super) const NO_ROW: usize = usize::MAX;

/// Numbers of type `T` in a unit of 32 bits.
pub(super) const fn per_unit<T>() -> usize {
    4 / size_of::<T>()
}

/// Units that `n` numbers take.
pub(super) const fn units<T>(n: usize) -> usize {
    n.div_ceil(per_unit::<T>())
}

/// Columns `column..column + d` of a row-major matrix whose rows lie `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Source<'a, T> {
    pub x: &'a [T],
    pub stride: usize,
    pub column: usize,
    pub d: usize,
}

impl<'a, T: Stored> Source<'a, T> {
    /// One row. Panics if it does not exist.
    #[inline(always)]
    pub fn row(&self, r: usize) -> &'a [T] {
        &self.x[r * self.stride + self.column..][..self.d]
    }
}

/// Copies rows as they are: `dst[row][units(d)]`.
pub(super) fn pack_rows<T: Stored>(
    dst: &mut [u32],
    src: Source<T>,
    rows: impl Iterator<Item = usize>,
) {
    for (to, r) in dst.chunks_exact_mut(units::<T>(src.d)).zip(rows) {
        let to: &mut [T] = bytemuck::cast_slice_mut(to);
        to[..src.d].copy_from_slice(src.row(r));
        to[src.d..].fill(T::store(0.0));
    }
}

/// Transposes up to 64 rows: `panel[unit][j]` is unit `unit` of row `rows[j]`. Columns are written
/// in groups of sixteen, up to the last row; the first `done` hold their rows already.
pub(super) fn pack_across<T: Stored>(
    panel: &mut [u32],
    src: Source<T>,
    rows: &[usize],
    done: usize,
) {
    pack_across_on(Isa::best(), panel, src, rows, done);
}

fn pack_across_on<T: Stored>(
    isa: Isa,
    panel: &mut [u32],
    src: Source<T>,
    rows: &[usize],
    done: usize,
) {
    let n = units::<T>(src.d);
    let panel = &mut panel[..n * B];
    assert!(rows.len() <= B, "more rows than columns of a panel");
    for (group, rows) in rows.chunks(16).enumerate().skip(done / 16) {
        #[cfg(target_arch = "x86_64")]
        if isa == Isa::Avx512 {
            let mut pointers = [std::ptr::null::<u16>(); 16];
            for (p, &r) in pointers.iter_mut().zip(rows) {
                if r != NO_ROW {
                    *p = src.row(r).as_ptr().cast();
                }
            }
            let halves = src.d * size_of::<T>() / 2;
            // SAFETY: the machine has AVX-512; every pointer is null or has `halves` numbers of
            // 16 bits; the panel has `n` rows of 64 units, and the group ends inside them.
            unsafe {
                transpose_rows(&pointers, halves, panel.as_mut_ptr().add(group * 16), n);
            }
            continue;
        }
        let _ = isa;
        for j in 0..16 {
            let mut unit = [T::store(0.0); 2];
            let unit = &mut unit[..per_unit::<T>()];
            for u in 0..n {
                unit.fill(T::store(0.0));
                if let Some(&r) = rows.get(j).filter(|r| **r != NO_ROW) {
                    let from = &src.row(r)[u * unit.len()..];
                    let len = from.len().min(unit.len());
                    unit[..len].copy_from_slice(&from[..len]);
                }
                panel[u * B + group * 16 + j] =
                    bytemuck::pod_read_unaligned(bytemuck::cast_slice(unit));
            }
        }
    }
}

/// Transposes sixteen rows of `halves` numbers of 16 bits into `units` rows of a panel.
///
/// # Safety
/// The machine has AVX-512 F and BW; pointers are null or good for `halves` numbers; `dst` is good
/// for sixteen units in each of `units` rows that lie 64 apart, `2 * units >= halves`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn transpose_rows(rows: &[*const u16; 16], halves: usize, dst: *mut u32, units: usize) {
    use std::arch::x86_64::*;
    for u in (0..units).step_by(16) {
        let left = (halves - 2 * u).min(32);
        let mask = ((1u64 << left) - 1) as __mmask32;
        let mut r = [_mm512_setzero_si512(); 16];
        for (r, p) in r.iter_mut().zip(rows) {
            if !p.is_null() {
                // SAFETY: the mask ends with the row.
                *r = unsafe { _mm512_maskz_loadu_epi16(mask, p.add(2 * u).cast()) };
            }
        }
        let r = transpose16(r);
        for (i, r) in r.iter().enumerate().take(units - u) {
            // SAFETY: row `u + i` of the panel exists.
            unsafe { _mm512_storeu_si512(dst.add((u + i) * B).cast(), *r) };
        }
    }
}

/// Transposes a 16 x 16 matrix of units: inside quarters, then the quarters.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
fn transpose16(r: [std::arch::x86_64::__m512i; 16]) -> [std::arch::x86_64::__m512i; 16] {
    use std::arch::x86_64::*;
    let mut t = r;
    for i in (0..16).step_by(2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    let mut q = t;
    for i in (0..16).step_by(4) {
        // Quarter k of q[i + c] is column 4k + c of rows i..i+4.
        q[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        q[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        q[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        q[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    let mut out = q;
    for c in 0..4 {
        let low = _mm512_shuffle_i32x4::<0x44>(q[c], q[c + 4]);
        let high = _mm512_shuffle_i32x4::<0xee>(q[c], q[c + 4]);
        let low2 = _mm512_shuffle_i32x4::<0x44>(q[c + 8], q[c + 12]);
        let high2 = _mm512_shuffle_i32x4::<0xee>(q[c + 8], q[c + 12]);
        out[c] = _mm512_shuffle_i32x4::<0x88>(low, low2);
        out[c + 4] = _mm512_shuffle_i32x4::<0xdd>(low, low2);
        out[c + 8] = _mm512_shuffle_i32x4::<0x88>(high, high2);
        out[c + 12] = _mm512_shuffle_i32x4::<0xdd>(high, high2);
    }
    out
}

/// Copies rows so that a unit goes along them: `panel[u][c]` holds column `c` of row `u`, for bf16
/// of rows `2u` and `2u + 1`. Rows of the panel are `width` units long, a multiple of sixteen, and
/// zero beyond `d`. The first `done` rows are there already.
pub(super) fn pack_along<T: Stored>(
    panel: &mut [u32],
    width: usize,
    src: Source<T>,
    rows: &[usize],
    done: usize,
) {
    let whole = done / per_unit::<T>();
    let (panel, rows) = (&mut panel[whole * width..], &rows[whole * per_unit::<T>()..]);
    pack_along_on(Isa::best(), panel, width, src, rows);
}

fn pack_along_on<T: Stored>(
    isa: Isa,
    panel: &mut [u32],
    width: usize,
    src: Source<T>,
    rows: &[usize],
) {
    assert!(width.is_multiple_of(16) && src.d <= width);
    for (to, rows) in panel.chunks_exact_mut(width).zip(rows.chunks(per_unit::<T>())) {
        let row = |i: usize| rows.get(i).filter(|r| **r != NO_ROW).map(|r| src.row(*r));
        if size_of::<T>() == 4 {
            to[src.d..].fill(0);
            match row(0) {
                Some(row) => to[..src.d].copy_from_slice(bytemuck::cast_slice(row)),
                None => to.fill(0),
            }
            continue;
        }
        let pair = [row(0), row(1)].map(|r| r.map(bytemuck::cast_slice::<T, u16>));
        #[cfg(target_arch = "x86_64")]
        if isa == Isa::Avx512 {
            let pair = pair.map(|r| r.map_or(std::ptr::null(), <[u16]>::as_ptr));
            // SAFETY: the machine has AVX-512; both rows have `d` numbers if they exist, and the
            // row of the panel is `width` long.
            unsafe { interleave(pair, src.d, to.as_mut_ptr(), width) };
            continue;
        }
        let _ = isa;
        to.fill(0);
        for (half, row) in pair.into_iter().enumerate() {
            for (to, &x) in to.iter_mut().zip(row.unwrap_or_default()) {
                *to |= u32::from(x) << (16 * half);
            }
        }
    }
}

/// Interleaves two rows of `d` numbers of 16 bits, and zeros up to `width` units.
///
/// # Safety
/// The machine has AVX-512 F and BW; pointers are null or good for `d` numbers, `dst` for `width`
/// units, a multiple of sixteen.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn interleave(rows: [*const u16; 2], d: usize, dst: *mut u32, width: usize) {
    use std::arch::x86_64::*;
    // Unit i of the lower half takes numbers i of both rows; those of the second count from 32.
    let lanes: [u32; 16] = std::array::from_fn(|i| i as u32 | (i as u32 + 32) << 16);
    // SAFETY: the mask ends with the rows; stores end with the panel's row.
    unsafe {
        let low = _mm512_loadu_si512(lanes.as_ptr().cast());
        let high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
        for c in (0..width).step_by(32) {
            let mask = ((1u64 << d.saturating_sub(c).min(32)) - 1) as __mmask32;
            let [a, b] = rows.map(|r| match r.is_null() {
                true => _mm512_setzero_si512(),
                false => _mm512_maskz_loadu_epi16(mask, r.wrapping_add(c).cast()),
            });
            _mm512_storeu_si512(dst.add(c).cast(), _mm512_permutex2var_epi16(a, low, b));
            if c + 16 < width {
                let high = _mm512_permutex2var_epi16(a, high, b);
                _mm512_storeu_si512(dst.add(c + 16).cast(), high);
            }
        }
    }
}

/// Asks for rows that are about to be packed: they lie far apart, so that the machine does not
/// foresee them, and one row alone does not keep its memory busy.
pub(super) fn prefetch<T: Stored>(src: Source<T>, rows: &[usize]) {
    #[cfg(target_arch = "x86_64")]
    for &r in rows.iter().filter(|r| **r != NO_ROW) {
        use std::arch::x86_64::*;
        let row = src.row(r);
        for at in (0..src.d).step_by(64 / size_of::<T>()) {
            // SAFETY: SSE is part of x86-64; a prefetch touches nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().wrapping_add(at).cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (src, rows);
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    fn packs_what_it_should<T: Stored>() {
        for (d, rows) in [(64, 64), (20, 17), (5, 3), (33, 40), (1, 1), (80, 50)] {
            let stride = d + 7;
            let x: Vec<T> = (0..(rows + 2) * stride).map(|i| T::store((i % 251) as f32)).collect();
            let src = Source { x: &x, stride, column: 3, d };
            let mut list: Vec<usize> = (0..rows).map(|j| (j * 5 + 1) % (rows + 1)).collect();
            list[rows / 2] = NO_ROW;
            let at = |j: usize, c: usize| match list.get(j) {
                Some(&r) if r != NO_ROW && c < d => src.row(r)[c].load(),
                _ => 0.0,
            };
            let per = per_unit::<T>();
            for isa in Isa::available() {
                let mut panel = vec![u32::MAX; units::<T>(d) * B];
                pack_across_on(isa, &mut panel, src, &list, 0);
                pack_across_on(isa, &mut panel, src, &list, rows / 2);
                for (u, row) in panel.chunks(B).enumerate() {
                    for (j, x) in row[..rows.next_multiple_of(16)].iter().enumerate() {
                        for (k, x) in bytemuck::cast_slice::<u32, T>(&[*x]).iter().enumerate() {
                            assert_eq!(x.load(), at(j, u * per + k), "{isa:?} {d} {rows}");
                        }
                    }
                }
            }
            let width = d.next_multiple_of(16);
            for isa in Isa::available() {
                let mut panel = vec![u32::MAX; units::<T>(rows) * width];
                pack_along_on(isa, &mut panel, width, src, &list);
                for (u, row) in panel.chunks(width).enumerate() {
                    for (c, x) in row.iter().enumerate() {
                        for (k, x) in bytemuck::cast_slice::<u32, T>(&[*x]).iter().enumerate() {
                            assert_eq!(x.load(), at(u * per + k, c), "{isa:?} {d} {rows}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn panels_hold_every_number_in_its_place() {
        packs_what_it_should::<f32>();
        packs_what_it_should::<bf16>();
    }
}
