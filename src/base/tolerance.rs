//! How far a result may be from its reference, and the report when it is further.

/// Absolute plus relative bound; `|got - want| <= abs + rel * scale`, where `scale` is the largest
/// magnitude of the reference (so that cancelling elements are judged by their tensor).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Absolute part.
    pub abs: f64,
    /// Part relative to the largest magnitude of the reference tensor.
    pub rel: f64,
}

impl Tolerance {
    /// Purely relative bound.
    pub const fn rel(rel: f64) -> Self {
        Tolerance { abs: 0.0, rel }
    }

    /// Checks all elements.
    ///
    /// # Errors
    /// A description of the worst element, for a test's panic message.
    pub fn check(&self, name: &str, got: &[f64], want: &[f64]) -> Result<f64, String> {
        if got.len() != want.len() {
            return Err(format!("{name}: {} elements, expected {}", got.len(), want.len()));
        }
        let scale = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        let bound = self.abs + self.rel * scale;
        let mut worst = (0usize, 0.0f64);
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            let d = if g == w { 0.0 } else { (g - w).abs() };
            if d.is_nan() || d > worst.1 {
                worst = (i, d);
                if d.is_nan() {
                    break;
                }
            }
        }
        if worst.1 <= bound {
            Ok(if scale > 0.0 { worst.1 / scale } else { worst.1 })
        } else {
            Err(format!(
                "{name}: element {} is {} instead of {} (difference {:.3e}, allowed {bound:.3e}, scale {scale:.3e})",
                worst.0, got[worst.0], want[worst.0], worst.1
            ))
        }
    }
}
