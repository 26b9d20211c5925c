//! Moments as text: RFC 3339 in UTC with seconds, as `date -u +%FT%TZ` prints them. Knows no time zones
//! and no leap seconds, and asks no clock.

/// `2026-01-31T23:59:00Z` for seconds since 1970.
pub fn text(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days as i64);
    let (h, m, s) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

/// Seconds since 1970 of such a text; `None` if it is none.
pub fn seconds(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    if bytes.len() != 20 || !text.ends_with('Z') {
        return None;
    }
    let field = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (field(0, 4)?, field(5, 7)?, field(8, 10)?);
    let (h, m, s) = (field(11, 13)?, field(14, 16)?, field(17, 19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || h > 23 || m > 59 || s > 60 {
        return None;
    }
    u64::try_from(days(year, month, day) * 86_400 + h * 3600 + m * 60 + s).ok()
}

/// Days from 1970-01-01 to a date of the Gregorian calendar. Years are counted from March, so that
/// the day that leap years add is their last (after Howard Hinnant's `days_from_civil`).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (century, of_century) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    century * 146_097 + of_century * 365 + of_century / 4 - of_century / 100 + of_year - 719_468
}

/// The inverse of [`days`].
fn civil(since: i64) -> (i64, i64, i64) {
    let shifted = since + 719_468;
    let (century, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (century * 400 + year + i64::from(month <= 2), month, date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_and_every_day_of_four_centuries() {
        assert_eq!(text(0), "1970-01-01T00:00:00Z");
        assert_eq!(text(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(text(1_709_164_799), "2024-02-28T23:59:59Z");
        for day in 0..146_097 {
            let at = day * 86_400 + 43_201;
            assert_eq!(seconds(&text(at)), Some(at));
        }
        for bad in [
            "",
            "2024-02-28",
            "2024-13-28T00:00:00Z",
            "2024-02-28T00:00:00+",
            "aé24-02-28T00:00:00",
        ] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }
}
