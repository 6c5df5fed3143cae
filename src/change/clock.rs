//! The date, as people write it.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::text::Printable;

/// Now, as `2026-11-24T10:00:00Z`.
#[must_use]
pub fn utc_now() -> Printable {
    utc(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// The time that many seconds after the beginning of 1970 (UTC), in the same form.
#[must_use]
pub fn utc(seconds: u64) -> Printable {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's civil_from_days: years that begin in March, in eras of 400.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    Printable::new(&format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"))
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn a_second_is_told_by_its_date() {
        let cases =
            [(0, "1970-01-01T00:00:00Z"), (951_782_399, "2000-02-28T23:59:59Z"), (951_782_400, "2000-02-29T00:00:00Z")];
        for (seconds, date) in cases {
            assert_eq!(utc(seconds).as_str(), date);
        }
        assert_eq!(utc(1_795_514_523).as_str(), "2026-11-24T10:02:03Z");
    }
}
