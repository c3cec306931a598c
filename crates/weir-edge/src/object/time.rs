//! Times as JSON objects write them.

/// Seconds since 1970 of a time of RFC 3339. Fractions of seconds are dropped.
pub(super) fn seconds(text: &str) -> Option<i64> {
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
}
