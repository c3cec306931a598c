//! Times as JSON objects write them.

/// Seconds since 1970 of a time of RFC 3339. Fractions of seconds are dropped.
pub(crate) fn seconds(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let digits = |range: std::ops::Range<usize>| -> Option<i64> {
        let part = bytes.get(range)?;
        part.iter().all(u8::is_ascii_digit).then(|| part.iter().fold(0, |n, b| n * 10 + i64::from(b - b'0')))
    };
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, byte)| bytes.get(*at) != Some(byte)) {
        return None;
    }
    let (year, month, day) = (digits(0..4)?, digits(5..7)?, digits(8..10)?);
    let (hour, minute, second) = (digits(11..13)?, digits(14..16)?, digits(17..19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut zone = 19;
    if bytes.get(zone) == Some(&b'.') {
        let fraction = bytes[zone + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
        zone += 1 + fraction;
        if fraction == 0 {
            return None;
        }
    }
    let offset = match *bytes.get(zone)? {
        b'Z' if bytes.len() == zone + 1 => 0,
        sign @ (b'+' | b'-') if bytes.len() == zone + 6 && bytes[zone + 3] == b':' => {
            let minutes = digits(zone + 1..zone + 3)? * 60 + digits(zone + 4..zone + 6)?;
            if sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    Some(days(year, month, day) * 86_400 + hour * 3600 + (minute - offset) * 60 + second)
}

/// Microseconds of a time of RFC 3339 beyond its whole seconds.
pub(crate) fn micros(text: &str) -> u32 {
    let digits = text.split_once('.').map_or("", |(_, fraction)| fraction).bytes().take_while(u8::is_ascii_digit);
    digits.chain(std::iter::repeat(b'0')).take(6).fold(0, |n, b| n * 10 + u32::from(b - b'0'))
}

/// A time as the API server writes it, with microseconds or without.
pub(crate) fn text(seconds: i64, micros: Option<u32>) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let fraction = micros.map(|micros| format!(".{micros:06}")).unwrap_or_default();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// The day of the Gregorian calendar that is so many days after 1970-01-01.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// Days from 1970-01-01 to a day of the Gregorian calendar. Years begin in March here, so that a leap day is the last of its year.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let month = (month + 9) % 12;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_read() {
        let table = [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2009-01-01T01:01:01Z", Some(1_230_771_661)),
            ("2000-02-29T12:00:00Z", Some(951_825_600)),
            ("2026-11-28T02:04:38.123456Z", Some(1_795_831_478)),
            ("2026-11-28T03:34:38+01:30", Some(1_795_831_478)),
            ("2026-11-27T21:04:38-05:00", Some(1_795_831_478)),
            ("0001-01-01T00:00:00Z", Some(-62_135_596_800)),
            ("2026-11-28T02:04:38", None),
            ("2026-11-28 02:04:38Z", None),
            ("2026-13-28T02:04:38Z", None),
            ("2026-11-28T02:04:38.Z", None),
            ("2026-11-28T02:04:38+1:30", None),
            ("2026-11-28T02:04:38Zx", None),
            ("2026-11-2é", None),
            ("", None),
        ];
        for (text, wanted) in table {
            assert_eq!(super::seconds(text), wanted, "{text}");
        }
    }

    #[test]
    fn times_are_written_as_they_are_read() {
        for text in ["1970-01-01T00:00:00Z", "2000-02-29T12:00:00Z", "2026-11-28T02:04:38Z", "1999-12-31T23:59:59Z", "2100-03-01T00:00:00Z"]
        {
            assert_eq!(super::text(super::seconds(text).unwrap(), None), text);
        }
        for day in (-40_000..80_000).step_by(17) {
            let text = super::text(day * 86_400 + 5, None);
            assert_eq!(super::seconds(&text), Some(day * 86_400 + 5), "{text}");
        }
        assert_eq!(super::text(1, Some(42)), "1970-01-01T00:00:01.000042Z");
        for (text, micros) in [("1970-01-01T00:00:01.000042Z", 42), ("1970-01-01T00:00:01.5Z", 500_000), ("1970-01-01T00:00:01Z", 0)] {
            assert_eq!(super::micros(text), micros, "{text}");
        }
    }
}
