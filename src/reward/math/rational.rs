//! Fractions of two 128-bit integers, always reduced. Arithmetic that would not fit is None, never a
//! wrapped or rounded number: what is too large is compared as text, not approximately.

use std::cmp::Ordering;

/// `numerator / denominator`, reduced, denominator positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rational {
    numerator: i128,
    denominator: i128,
}

#[expect(
    clippy::should_implement_trait,
    reason = "operators cannot say that a result does not fit"
)]
impl Rational {
    /// 0.
    pub const ZERO: Rational = Rational { numerator: 0, denominator: 1 };
    /// 1.
    pub const ONE: Rational = Rational { numerator: 1, denominator: 1 };
    /// 1/2.
    pub const HALF: Rational = Rational { numerator: 1, denominator: 2 };

    /// `n / d`; None for `d = 0` and for what does not fit.
    pub fn new(n: i128, d: i128) -> Option<Rational> {
        if d == 0 || n == i128::MIN || d == i128::MIN {
            return None;
        }
        let g = gcd(n.abs(), d.abs());
        let sign = d.signum();
        Some(Rational { numerator: sign * n / g, denominator: sign * d / g })
    }

    /// `n`, which must not be `i128::MIN`.
    pub fn integer(n: i64) -> Rational {
        Rational { numerator: i128::from(n), denominator: 1 }
    }

    /// A decimal: digits with at most one point and no sign, times `10^exponent`.
    pub fn decimal(digits: &str, exponent: i32) -> Option<Rational> {
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        // Zeros at the end of a fraction cost room and say nothing.
        let fraction = fraction.trim_end_matches('0');
        let all = format!("{whole}{fraction}");
        let all = all.trim_start_matches('0');
        let n: i128 = if all.is_empty() { 0 } else { all.parse().ok()? };
        let shift = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
        if n == 0 {
            return Some(Rational::ZERO);
        }
        let scale = 10i128.checked_pow(shift.unsigned_abs())?;
        if shift >= 0 { Rational::new(n.checked_mul(scale)?, 1) } else { Rational::new(n, scale) }
    }

    /// Reduced numerator, with the sign.
    pub fn numerator(self) -> i128 {
        self.numerator
    }

    /// Reduced denominator, positive.
    pub fn denominator(self) -> i128 {
        self.denominator
    }

    /// Whether the number is 0.
    pub fn is_zero(self) -> bool {
        self.numerator == 0
    }

    /// The number, if it is whole.
    pub fn whole(self) -> Option<i128> {
        (self.denominator == 1).then_some(self.numerator)
    }

    /// The largest whole number that is not above this one.
    pub fn floor(self) -> i128 {
        self.numerator.div_euclid(self.denominator)
    }

    /// Distance from 0.
    pub fn abs(self) -> Rational {
        Rational { numerator: self.numerator.abs(), ..self }
    }

    /// With the other sign.
    pub fn negative(self) -> Rational {
        Rational { numerator: -self.numerator, ..self }
    }

    /// Sum, if it fits.
    pub fn add(self, other: Rational) -> Option<Rational> {
        let g = gcd(self.denominator, other.denominator);
        let (left, right) = (other.denominator / g, self.denominator / g);
        let n = self.numerator.checked_mul(left)?;
        let n = n.checked_add(other.numerator.checked_mul(right)?)?;
        Rational::new(n, self.denominator.checked_mul(left)?)
    }

    /// Difference, if it fits.
    pub fn sub(self, other: Rational) -> Option<Rational> {
        self.add(other.negative())
    }

    /// Product, if it fits.
    pub fn mul(self, other: Rational) -> Option<Rational> {
        let a = Rational::new(self.numerator, other.denominator)?;
        let b = Rational::new(other.numerator, self.denominator)?;
        let n = a.numerator.checked_mul(b.numerator)?;
        Rational::new(n, a.denominator.checked_mul(b.denominator)?)
    }

    /// `1 / self`; None for 0.
    pub fn inverse(self) -> Option<Rational> {
        Rational::new(self.denominator, self.numerator)
    }

    /// Quotient, if there is one and it fits.
    pub fn div(self, other: Rational) -> Option<Rational> {
        self.mul(other.inverse()?)
    }

    /// `self ^ exponent`; None for `0 ^ 0`, `1 / 0` and what does not fit.
    pub fn pow(self, exponent: i128) -> Option<Rational> {
        if self == Rational::ONE || (self.is_zero() && exponent > 0) {
            return Some(self);
        }
        if self == Rational::ONE.negative() {
            return Some(if exponent % 2 == 0 { Rational::ONE } else { self });
        }
        if self.is_zero() {
            return None;
        }
        let base = if exponent < 0 { self.inverse()? } else { self };
        let power = u32::try_from(exponent.unsigned_abs()).ok()?;
        let n = base.numerator.checked_pow(power)?;
        Rational::new(n, base.denominator.checked_pow(power)?)
    }

    /// The nearest double.
    pub fn to_f64(self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }

    /// Order by size; None if it cannot be told without larger numbers.
    pub fn compare(self, other: Rational) -> Option<Ordering> {
        Some(self.sub(other)?.numerator.cmp(&0))
    }
}

/// Greatest common divisor of two numbers that are not negative; 1 for two zeros.
fn gcd(mut a: i128, mut b: i128) -> i128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn r(n: i128, d: i128) -> Rational {
        Rational::new(n, d).unwrap()
    }

    #[test]
    fn arithmetic_is_exact_and_reduced() {
        assert_eq!(r(1, 2).add(r(1, 3)), Some(r(5, 6)));
        assert_eq!(r(1, 2).sub(r(1, 2)), Some(Rational::ZERO));
        assert_eq!(r(-4, 6), r(2, -3));
        assert_eq!(r(2, 3).mul(r(3, 4)), Some(Rational::HALF));
        assert_eq!(r(2, 3).div(r(4, 3)), Some(Rational::HALF));
        assert_eq!(r(2, 3).pow(-3), Some(r(27, 8)));
        assert_eq!(r(-7, 2).floor(), -4);
        assert_eq!(r(1, 3).compare(r(1, 2)), Some(Ordering::Less));
    }

    #[test]
    fn decimals_keep_every_digit() {
        assert_eq!(Rational::decimal("0.1250", 0), Some(r(1, 8)));
        assert_eq!(Rational::decimal("1.5", -3), Some(r(3, 2000)));
        assert_eq!(Rational::decimal("6.02", 23), Some(r(602 * 10i128.pow(21), 1)));
        assert_eq!(Rational::decimal("000", -99), Some(Rational::ZERO));
        assert_eq!(Rational::decimal("", 0), Some(Rational::ZERO));
    }

    #[test]
    fn what_does_not_fit_is_none() {
        assert_eq!(Rational::new(1, 0), None);
        assert_eq!(Rational::new(i128::MIN, 1), None);
        assert_eq!(Rational::integer(10).pow(39), None);
        assert_eq!(Rational::integer(2).pow(i128::MAX), None);
        assert_eq!(Rational::integer(-1).pow(i128::MAX), Some(Rational::integer(-1)));
        assert_eq!(Rational::decimal("1", 400), None);
        assert_eq!(Rational::decimal("1", i32::MIN), None);
        assert_eq!(Rational::ZERO.pow(0), None);
        let large = r(i128::MAX, 1);
        assert_eq!(large.add(large), None);
        assert_eq!(large.mul(large), None);
    }
}
