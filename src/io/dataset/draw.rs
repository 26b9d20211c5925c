//! Pictures of the generated data set: flat shapes with soft edges on a light, slightly noisy
//! ground. Only sums and products of f32 are used, so the bytes are the same on every machine.

use image::{Rgb, RgbImage};

use crate::base::rng::PhiloxStream;

/// Names of the shapes; the index is the shape's number everywhere.
pub(super) const KINDS: [&str; 4] = ["circle", "square", "triangle", "cross"];
/// Names and RGB values of the colours.
pub(super) const COLORS: [(&str, [u8; 3]); 6] = [
    ("red", [220, 40, 40]),
    ("green", [40, 160, 60]),
    ("blue", [40, 80, 220]),
    ("yellow", [235, 210, 40]),
    ("purple", [140, 60, 170]),
    ("orange", [245, 140, 25]),
];
/// Names of the places and their cell (column, row) in a 3 by 3 grid.
pub(super) const PLACES: [(&str, [f32; 2]); 5] = [
    ("left", [0.0, 1.0]),
    ("right", [2.0, 1.0]),
    ("top", [1.0, 0.0]),
    ("bottom", [1.0, 2.0]),
    ("center", [1.0, 1.0]),
];

/// One shape of a picture, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub kind: usize,
    pub color: usize,
    pub place: usize,
}

/// Draws shapes on a square picture of `size` pixels; `rng` moves and sizes them a little.
pub(super) fn draw(shapes: &[Shape], size: u32, rng: &mut PhiloxStream) -> RgbImage {
    let ground: [f32; 3] = std::array::from_fn(|_| 228.0 + 20.0 * rng.uniform());
    let placed: Vec<([f32; 2], f32, [f32; 3], usize)> =
        shapes.iter().map(|s| placed(s, size as f32, rng)).collect();
    let mut picture = RgbImage::new(size, size);
    for (x, y, pixel) in picture.enumerate_pixels_mut() {
        let mut color = ground;
        for (centre, radius, paint, kind) in &placed {
            let cover = coverage(*kind, *centre, *radius, x as f32, y as f32);
            for (c, p) in color.iter_mut().zip(paint) {
                *c += (p - *c) * cover;
            }
        }
        // One number for all channels: visible as grain, and PNG still packs it.
        let noise = rng.below(7) as f32 - 3.0;
        *pixel = Rgb(color.map(|c| (c + noise).round().clamp(0.0, 255.0) as u8));
    }
    picture
}

/// Centre, radius and colour of a shape; it stays inside its cell.
fn placed(s: &Shape, size: f32, rng: &mut PhiloxStream) -> ([f32; 2], f32, [f32; 3], usize) {
    let cell = size / 3.0;
    let radius = cell * (0.36 + 0.09 * rng.uniform());
    let slack = cell * 0.5 - radius;
    let place = PLACES[s.place].1;
    let centre = place.map(|c| (c + 0.5) * cell - 0.5 + slack * (2.0 * rng.uniform() - 1.0));
    let paint = COLORS[s.color].1.map(|c| f32::from(c) + 10.0 * (2.0 * rng.uniform() - 1.0));
    (centre, radius, paint, s.kind)
}

/// Share of a pixel that a shape covers, from 4 by 4 samples.
fn coverage(kind: usize, centre: [f32; 2], radius: f32, x: f32, y: f32) -> f32 {
    let (dx, dy) = (x - centre[0], y - centre[1]);
    if dx.abs() > radius + 1.0 || dy.abs() > radius + 1.0 {
        return 0.0;
    }
    let mut hits = 0;
    for i in 0..16 {
        let u = (dx + (i % 4) as f32 * 0.25 - 0.375) / radius;
        let v = (dy + (i / 4) as f32 * 0.25 - 0.375) / radius;
        hits += u32::from(inside(kind, u, v));
    }
    hits as f32 / 16.0
}

/// Is a point of the unit square [-1, 1]^2 inside of the shape?
fn inside(kind: usize, u: f32, v: f32) -> bool {
    match kind {
        0 => u * u + v * v <= 1.0,
        1 => u.abs() <= 0.86 && v.abs() <= 0.86,
        // Apex on top, base at v = 0.85.
        2 => (-1.0..=0.85).contains(&v) && u.abs() <= (v + 1.0) * 0.54,
        _ => u.abs().max(v.abs()) <= 1.0 && u.abs().min(v.abs()) <= 0.3,
    }
}
