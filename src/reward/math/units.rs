//! Names of units and which of them are one. Nothing is converted: 1 m is not 100 cm here.

/// Units that an answer may carry although the reference has none, each with its other spellings.
/// Lower and upper case differ: mW is not MW.
const UNITS: [&[&str]; 52] = [
    &["m", "meter", "meters", "metre", "metres"],
    &["cm", "centimeter", "centimeters", "centimetre", "centimetres"],
    &["mm", "millimeter", "millimeters", "millimetre", "millimetres"],
    &["km", "kilometer", "kilometers", "kilometre", "kilometres"],
    &["in", "inch", "inches"],
    &["ft", "foot", "feet"],
    &["yd", "yard", "yards"],
    &["mi", "mile", "miles"],
    &["g", "gram", "grams"],
    &["kg", "kilogram", "kilograms"],
    &["mg", "milligram", "milligrams"],
    &["t", "tonne", "tonnes"],
    &["lb", "lbs", "pound", "pounds"],
    &["oz", "ounce", "ounces"],
    &["L", "l", "liter", "liters", "litre", "litres"],
    &["mL", "ml", "milliliter", "milliliters", "millilitre", "millilitres"],
    &["gal", "gallon", "gallons"],
    &["s", "sec", "second", "seconds"],
    &["ms", "millisecond", "milliseconds"],
    &["min", "minute", "minutes"],
    &["h", "hr", "hrs", "hour", "hours"],
    &["day", "days"],
    &["week", "weeks"],
    &["month", "months"],
    &["yr", "year", "years"],
    &["degree", "degrees", "deg", "circ", "\u{b0}"],
    &["rad", "radian", "radians"],
    &["dollar", "dollars", "$", "USD", "usd"],
    &["cent", "cents"],
    &["euro", "euros", "EUR", "eur", "\u{20ac}"],
    &["GBP", "\u{a3}"],
    &["yen", "JPY", "\u{a5}"],
    &["km/h", "kmh", "kph", "kmph"],
    &["mph"],
    &["m/s"],
    &["Hz", "hz", "hertz"],
    &["kHz", "khz"],
    &["MHz"],
    &["N", "newton", "newtons"],
    &["J", "joule", "joules"],
    &["kJ"],
    &["W", "watt", "watts"],
    &["kW"],
    &["MW"],
    &["mW"],
    &["V", "volt", "volts"],
    &["A", "amp", "amps", "ampere", "amperes"],
    &["ohm", "ohms", "\u{3a9}"],
    &["K", "kelvin"],
    &["mol", "moles", "mole"],
    &["unit", "units"],
    &["Pa", "pascal", "pascals"],
];

/// Words for per cent.
const PERCENT: [&str; 6] = ["%", "percent", "percentage", "pct", "per cent", "percents"];

/// Whether the word means per cent.
pub fn is_percent(word: &str) -> bool {
    PERCENT.contains(&word.trim().to_lowercase().as_str())
}

/// Whether the unit is in the table, with a power or not: `cm`, `cm^2`, `square cm`.
pub fn is_known(unit: &str) -> bool {
    let (name, _) = split_power(unit);
    spellings(name).is_some()
}

/// Whether two names are of one unit.
pub fn same(a: &str, b: &str) -> bool {
    if is_percent(a) && is_percent(b) {
        return true;
    }
    let ((a, power_a), (b, power_b)) = (split_power(a), split_power(b));
    let alike = match (spellings(a), spellings(b)) {
        (Some(x), Some(y)) => std::ptr::eq(x, y),
        (None, None) => a.to_lowercase() == b.to_lowercase(),
        _ => false,
    };
    alike && power_a == power_b
}

/// The line of the table; a word of several letters may be written in upper case (`CM`, `Meters`),
/// if only one line has it then.
fn spellings(unit: &str) -> Option<&'static [&'static str]> {
    let exact = UNITS.iter().find(|line| line.contains(&unit));
    if exact.is_some() || unit.chars().count() < 2 {
        return exact.copied();
    }
    let lower = unit.to_lowercase();
    let mut like = UNITS.iter().filter(|line| line.iter().any(|s| s.to_lowercase() == lower));
    let first = like.next()?;
    like.next().is_none().then_some(*first)
}

/// A unit and its power: `cm^2`, `cm2`, `square cm`, `sq cm`, `cubic cm`.
fn split_power(unit: &str) -> (&str, u32) {
    let unit = unit.trim().trim_end_matches('.');
    for (word, power) in [("square ", 2), ("sq ", 2), ("cubic ", 3), ("cu ", 3)] {
        if let Some(rest) = unit.strip_prefix(word) {
            return (rest.trim(), power);
        }
    }
    for (mark, power) in [("^2", 2), ("^3", 3), ("2", 2), ("3", 3)] {
        if let Some(rest) = unit.strip_suffix(mark)
            && rest.chars().next_back().is_some_and(char::is_alphabetic)
        {
            return (rest, power);
        }
    }
    (unit, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_are_one_and_prefixes_are_not() {
        for (a, b) in [
            ("cm", "centimeters"),
            ("CM", "cm"),
            ("cm^2", "square centimeters"),
            ("%", "percent"),
            ("degree", "\u{b0}"),
            ("apples", "Apples"),
            ("mW", "mW"),
        ] {
            assert!(same(a, b), "{a} {b}");
        }
        for (a, b) in [
            ("cm", "m"),
            ("cm", "cm^2"),
            ("mW", "MW"),
            ("apples", "pears"),
            ("cm", "%"),
            ("mw", "MW"),
            ("M", "m"),
        ] {
            assert!(!same(a, b), "{a} {b}");
        }
        assert!(is_known("ft") && is_known("sq ft") && !is_known("apples") && !is_known("x"));
    }
}
