//! Separable resampling in fixed point: the part that Pillow and torch share. Weights are computed
//! as doubles and rounded by the callers; here rows and columns are summed in 32-bit integers with
//! an 8-bit image between the passes. Nothing here depends on the processor's vector width.

use super::Image;
use std::borrow::Cow;
use std::f64::consts::PI;

/// Resampling filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Triangle, support 1.
    Bilinear,
    /// Keys' cubic with a = -0.5, support 2.
    Bicubic,
    /// Windowed sinc, support 3.
    Lanczos,
}

impl Filter {
    /// The filter of a `resample` number in a preprocessor config (`PIL.Image.Resampling`), if it is
    /// one of the three: 1 Lanczos, 2 bilinear, 3 bicubic.
    pub fn from_pil(resample: u64) -> Option<Filter> {
        match resample {
            1 => Some(Filter::Lanczos),
            2 => Some(Filter::Bilinear),
            3 => Some(Filter::Bicubic),
            _ => None,
        }
    }
    /// The number of `PIL.Image.Resampling`.
    pub fn pil(self) -> u64 {
        match self {
            Filter::Lanczos => 1,
            Filter::Bilinear => 2,
            Filter::Bicubic => 3,
        }
    }
    /// Half width of the filter in source pixels when the image is not made smaller.
    pub(super) fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }
    /// Value at `x`. The order of operations is that of libImaging/Resample.c: the last bit counts.
    pub(super) fn at(self, x: f64) -> f64 {
        match self {
            Filter::Bilinear => {
                let x = x.abs();
                if x < 1.0 { 1.0 - x } else { 0.0 }
            }
            Filter::Bicubic => {
                const A: f64 = -0.5;
                let x = x.abs();
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                } else {
                    0.0
                }
            }
            Filter::Lanczos => {
                if (-3.0..3.0).contains(&x) {
                    sinc(x) * sinc(x / 3.0)
                } else {
                    0.0
                }
            }
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * PI;
    x.sin() / x
}

/// For every output position the first source position and the weights from there on.
#[derive(Debug, PartialEq)]
pub(super) struct Weights<T> {
    pub first: Vec<usize>,
    /// Weights of all positions one after another; those of `i` are `start[i]..start[i + 1]`.
    pub weights: Vec<T>,
    pub start: Vec<usize>,
}

impl<T> Weights<T> {
    pub fn of(&self, i: usize) -> (usize, &[T]) {
        (self.first[i], &self.weights[self.start[i]..self.start[i + 1]])
    }
    pub fn map<U>(&self, f: impl Fn(&T) -> U) -> Weights<U> {
        Weights {
            first: self.first.clone(),
            weights: self.weights.iter().map(f).collect(),
            start: self.start.clone(),
        }
    }
}

/// Normalised weights of a resize from `from` to `to` positions: `precompute_coeffs` of
/// libImaging/Resample.c, which torch's `_compute_indices_min_size_weights_aa` repeats.
pub(super) fn weights_f64(filter: Filter, from: usize, to: usize) -> Weights<f64> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    let per_pixel = 1.0 / stretch;
    let mut w = Weights { first: Vec::with_capacity(to), weights: Vec::new(), start: vec![0] };
    for i in 0..to {
        let center = (i as f64 + 0.5) * scale;
        // A cast towards zero, then the borders, as in C.
        let first = ((center - support + 0.5) as i64).max(0) as usize;
        let end = ((center + support + 0.5) as i64).min(from as i64) as usize;
        let begin = w.weights.len();
        let position = |x: usize| (x as f64 + first as f64 - center + 0.5) * per_pixel;
        w.weights.extend((0..end - first).map(|x| filter.at(position(x))));
        let sum: f64 = w.weights[begin..].iter().sum();
        if sum != 0.0 {
            w.weights[begin..].iter_mut().for_each(|v| *v /= sum);
        }
        w.first.push(first);
        w.start.push(w.weights.len());
    }
    w
}

/// Rounds half away from zero, as `(int)(0.5 + x)` and `(int)(-0.5 + x)` do in C.
pub(super) fn round_half_away(x: f64) -> i32 {
    (if x < 0.0 { -0.5 + x } else { 0.5 + x }) as i32
}

/// Fixed-point weights: units of `2^-bits`.
pub(super) struct Pass {
    pub weights: Weights<i32>,
    pub bits: u32,
}

/// Which pass comes first; the 8 bits between them make a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    RowsFirst,
    ColumnsFirst,
}

/// The image after both passes; a pass that is `None` keeps the size of its direction.
pub(super) fn resize(
    image: &Image,
    (width, height): (usize, usize),
    horizontal: Option<&Pass>,
    vertical: Option<&Pass>,
    order: Order,
) -> Image {
    let rows = |rgb: Cow<[u8]>, h: usize| match horizontal {
        Some(pass) => convolve_rows(&rgb, image.width, h, pass, width),
        None => rgb.into_owned(),
    };
    let columns = |rgb: Cow<[u8]>, w: usize| match vertical {
        Some(pass) => convolve_columns(&rgb, w * 3, pass, height),
        None => rgb.into_owned(),
    };
    let source = Cow::Borrowed(&image.rgb[..]);
    let rgb = match order {
        Order::RowsFirst => columns(rows(source, image.height).into(), width),
        Order::ColumnsFirst => rows(columns(source, image.width).into(), height),
    };
    Image { width, height, rgb }
}

fn convolve_rows(src: &[u8], width: usize, height: usize, pass: &Pass, to: usize) -> Vec<u8> {
    let mut out = vec![0u8; to * height * 3];
    let half = 1i32 << (pass.bits - 1);
    for (row, out) in src.chunks_exact(width * 3).zip(out.chunks_exact_mut(to * 3)) {
        for (x, pixel) in out.chunks_exact_mut(3).enumerate() {
            let (first, weights) = pass.weights.of(x);
            let mut sum = [half; 3];
            for (p, &w) in row[first * 3..].chunks_exact(3).zip(weights) {
                sum[0] += i32::from(p[0]) * w;
                sum[1] += i32::from(p[1]) * w;
                sum[2] += i32::from(p[2]) * w;
            }
            for (o, s) in pixel.iter_mut().zip(sum) {
                *o = (s >> pass.bits).clamp(0, 255) as u8;
            }
        }
    }
    out
}

fn convolve_columns(src: &[u8], stride: usize, pass: &Pass, to: usize) -> Vec<u8> {
    let mut out = vec![0u8; stride * to];
    let mut sums = vec![0i32; stride];
    for (y, out) in out.chunks_exact_mut(stride).enumerate() {
        let (first, weights) = pass.weights.of(y);
        sums.fill(1 << (pass.bits - 1));
        for (row, &w) in src[first * stride..].chunks_exact(stride).zip(weights) {
            for (s, &v) in sums.iter_mut().zip(row) {
                *s += i32::from(v) * w;
            }
        }
        for (o, &s) in out.iter_mut().zip(&sums) {
            *o = (s >> pass.bits).clamp(0, 255) as u8;
        }
    }
    out
}
