//! Numbers of answers, held exactly. Never a float, and no arithmetic: only the same number or not.

use crate::reward::math::rational::Rational;

/// A number held exactly: digits and a power of ten, or a reduced ratio that has no finite decimal
/// form. Floats would make 10000000000000001 equal to 10000000000000000.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Number {
    /// `(-1)^negative * digits * 10^exponent`; digits without leading or trailing zeros, empty for 0.
    Decimal { negative: bool, digits: String, exponent: i64 },
    /// `(-1)^negative * numerator / denominator`, reduced.
    Ratio { negative: bool, numerator: u64, denominator: u64 },
}

/// Whole answers that are numbers in words (the list of the VQA metric, continued to twenty).
const NUMBER_WORDS: [&str; 21] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];

impl Number {
    /// The number that a normalised answer is: decimal with optional sign, thousands separators
    /// and exponent, `a/b`, `\frac{a}{b}`, or a number word up to twenty. None for anything else.
    pub fn parse(s: &str) -> Option<Number> {
        if let Some(n) = NUMBER_WORDS.iter().position(|w| *w == s) {
            return Number::decimal(&n.to_string());
        }
        let ratio = s
            .strip_prefix("\\frac{")
            .and_then(|t| t.strip_suffix('}'))
            .and_then(|t| t.split_once("}{"))
            .or_else(|| s.split_once('/'));
        match ratio {
            Some((a, b)) => Number::ratio(a.trim(), b.trim()),
            None => Number::decimal(s),
        }
    }

    /// The number as a fraction of two integers; None if it does not fit.
    pub fn to_rational(&self) -> Option<Rational> {
        let (negative, value) = match self {
            Number::Decimal { negative, digits, exponent } => {
                (*negative, Rational::decimal(digits, i32::try_from(*exponent).ok()?)?)
            }
            Number::Ratio { negative, numerator, denominator } => {
                (*negative, Rational::new(i128::from(*numerator), i128::from(*denominator))?)
            }
        };
        Some(if negative { value.negative() } else { value })
    }

    fn ratio(a: &str, b: &str) -> Option<Number> {
        let (negative, a) = match a.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, a),
        };
        let plain = |t: &str| t.bytes().all(|c| c.is_ascii_digit()).then(|| t.parse::<u64>().ok());
        let (a, b) = (plain(a)??, plain(b)??);
        if b == 0 {
            return None;
        }
        let g = gcd(a, b);
        let (a, b) = (a / g, b / g);
        // 10^shift divides out a denominator of twos and fives: the ratio is then a decimal.
        let (mut rest, mut shift) = (b, 0u32);
        while rest % 10 == 0 {
            rest /= 10;
            shift += 1;
        }
        let prime = if rest % 2 == 0 { 2 } else { 5 };
        let mut scale = 1u128;
        while rest % prime == 0 {
            rest /= prime;
            shift += 1;
            scale *= u128::from(10 / prime);
        }
        if rest != 1 {
            return Some(Number::Ratio { negative, numerator: a, denominator: b });
        }
        let digits = u128::from(a).checked_mul(scale)?.to_string();
        Some(Number::canonical(negative, &digits, -i64::from(shift)))
    }

    fn decimal(s: &str) -> Option<Number> {
        let (negative, s) = match s.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, s.strip_prefix('+').unwrap_or(s)),
        };
        let (mantissa, exponent) = match s.split_once('e') {
            // Six digits of exponent are plenty; more must not overflow the sum below.
            Some((m, e)) if e.len() <= 6 => (m, e.parse::<i64>().ok()?),
            Some(_) => return None,
            None => (s, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let whole = ungroup(whole)?;
        let digits_only = |t: &str| t.bytes().all(|c| c.is_ascii_digit());
        if !digits_only(&whole) || !digits_only(fraction) || whole.len() + fraction.len() == 0 {
            return None;
        }
        let exponent = exponent - fraction.len() as i64;
        Some(Number::canonical(negative, &(whole + fraction), exponent))
    }

    fn canonical(negative: bool, digits: &str, exponent: i64) -> Number {
        let front = digits.trim_start_matches('0');
        let both = front.trim_end_matches('0');
        if both.is_empty() {
            return Number::Decimal { negative: false, digits: String::new(), exponent: 0 };
        }
        let exponent = exponent + (front.len() - both.len()) as i64;
        Number::Decimal { negative, digits: both.to_string(), exponent }
    }
}

/// `1,234,567` without its commas; None if commas stand anywhere but between groups of three.
fn ungroup(s: &str) -> Option<String> {
    let mut groups = s.split(',');
    let first = groups.next()?.to_string();
    if s.contains(',') && !(1..=3).contains(&first.len()) {
        return None;
    }
    groups.try_fold(first, |all, g| (g.len() == 3).then(|| all + g))
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a.max(1) } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_exact() {
        let same = |a, b| Number::parse(a).is_some() && Number::parse(a) == Number::parse(b);
        for (a, b) in [
            ("2", "2.0"),
            ("+2", "2"),
            ("-0", "0"),
            ("1e3", "1000"),
            ("1,234,567", "1234567"),
            ("1/2", "0.5"),
            ("-3/6", "-.5"),
            ("\\frac{1}{3}", "2/6"),
            ("7/40", "0.175"),
            ("12/4", "3"),
            ("0/7", "0"),
            ("seven", "07"),
            ("1.50e-2", "0.015"),
            ("3/1000", "0.003"),
        ] {
            assert!(same(a, b), "{a} {b} {:?} {:?}", Number::parse(a), Number::parse(b));
        }
        for (a, b) in [
            ("10000000000000001", "10000000000000000"),
            ("0.333", "1/3"),
            ("1", "-1"),
            ("1/3", "-1/3"),
        ] {
            assert!(!same(a, b), "{a} {b}");
        }
        for text in [
            "",
            "-",
            ".",
            "e",
            "1e",
            "1e9999999",
            "1/0",
            "1/",
            "12,34",
            ",123",
            "1,2345",
            "nan",
            "inf",
            "0x10",
            "1 2",
            "--1",
            "1/2/3",
            "50%",
            "99999999999999999999/3",
            "+/2",
            "1/+2",
        ] {
            assert_eq!(Number::parse(text), None, "{text}");
        }
    }
}
