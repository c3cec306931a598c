//! `%START_TIME(format)%`: strftime in UTC, with Envoy's fractions of a second.
use super::decimal;
use std::{cell::RefCell, sync::Arc};
use weir_config::diagnostic::Diagnostic;

#[derive(Debug, PartialEq)]
pub(super) struct TimeFormat(Arc<[Part]>);

#[derive(Debug, PartialEq)]
enum Part {
    Text(Box<[u8]>),
    Field(char),
    /// Digits of the fraction, 1 to 9.
    Fraction(u8),
}

const FIELDS: &str = "YymdeHIMSpjaAbBsZz";
const MONTHS: [&str; 12] =
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A second in the calendar.
struct Civil {
    second: u64,
    year: u64,
    /// 0 to 11.
    month: u64,
    day: u64,
    day_of_year: u64,
    weekday: u64,
    hour: u64,
    minute: u64,
    sec: u64,
}

/// The text of a whole second. A log asks for the same one again and again.
#[derive(Default)]
struct Rendered {
    /// Held, so that it is told from every other format by its address.
    format: Option<Arc<[Part]>>,
    second: u64,
    text: Vec<u8>,
    /// Where digits of the fraction stand in the text, and how many.
    fractions: Vec<(usize, u8)>,
}

thread_local! {
    static LAST: RefCell<Rendered> = RefCell::default();
}

impl TimeFormat {
    /// Empty for the default, ISO 8601 with milliseconds.
    pub fn parse(text: &str) -> Result<TimeFormat, Diagnostic> {
        let text = if text.is_empty() { "%Y-%m-%dT%H:%M:%S.%3fZ" } else { text };
        let text = text.replace("%T", "%H:%M:%S").replace("%F", "%Y-%m-%d").replace("%R", "%H:%M").replace("%D", "%m/%d/%y");
        let (mut parts, mut literal, mut chars) = (Vec::new(), Vec::new(), text.chars().peekable());
        while let Some(c) = chars.next() {
            if c != '%' {
                literal.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            let digits = chars.next_if(|c| ('1'..='9').contains(c)).map(|d| d as u8 - b'0');
            let part = match (digits, chars.next()) {
                (None, Some('%')) => {
                    literal.push(b'%');
                    continue;
                }
                (None, Some('f')) => Part::Fraction(9),
                (Some(n), Some('f')) => Part::Fraction(n),
                (None, Some(c)) if FIELDS.contains(c) => Part::Field(c),
                (_, c) => {
                    let wrong = c.map_or("%".to_string(), |c| format!("%{c}"));
                    let help = "accepted are %Y %y %m %d %e %H %I %M %S %p %j %a %A %b %B %s %Z %z %T %F %R %D, %f and %1f to %9f";
                    return Err(
                        Diagnostic::error("InvalidFormat", format!("unknown conversion `{wrong}` in `%START_TIME({text})%`")).help(help)
                    );
                }
            };
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal).into()));
            }
            parts.push(part);
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal.into()));
        }
        Ok(TimeFormat(parts.into()))
    }

    /// Appends the time `wall` nanoseconds after 1970.
    pub fn write(&self, wall: u64, out: &mut Vec<u8>) {
        let (second, fraction) = (wall / 1_000_000_000, wall % 1_000_000_000);
        LAST.with_borrow_mut(|last| {
            if last.second != second || !last.format.as_ref().is_some_and(|f| Arc::ptr_eq(f, &self.0)) {
                last.render(&self.0, second);
            }
            let start = out.len();
            out.extend_from_slice(&last.text);
            for (at, digits) in &last.fractions {
                let mut rest = fraction / 10u64.pow(9 - u32::from(*digits));
                for digit in out[start + at..][..usize::from(*digits)].iter_mut().rev() {
                    *digit = b'0' + (rest % 10) as u8;
                    rest /= 10;
                }
            }
        });
    }
}

impl Rendered {
    fn render(&mut self, format: &Arc<[Part]>, second: u64) {
        self.format = Some(format.clone());
        self.second = second;
        self.text.clear();
        self.fractions.clear();
        let t = civil(second);
        for part in &**format {
            match part {
                Part::Text(text) => self.text.extend_from_slice(text),
                Part::Fraction(digits) => {
                    self.fractions.push((self.text.len(), *digits));
                    padded(&mut self.text, 0, usize::from(*digits));
                }
                Part::Field(c) => t.write(*c, &mut self.text),
            }
        }
    }
}

impl Civil {
    /// A conversion of strftime.
    fn write(&self, conversion: char, out: &mut Vec<u8>) {
        match conversion {
            'Y' => padded(out, self.year, 4),
            'y' => padded(out, self.year % 100, 2),
            'm' => padded(out, self.month + 1, 2),
            'd' => padded(out, self.day, 2),
            'e' => {
                if self.day < 10 {
                    out.push(b' ');
                }
                decimal(out, self.day);
            }
            'H' => padded(out, self.hour, 2),
            'I' => padded(out, (self.hour + 11) % 12 + 1, 2),
            'M' => padded(out, self.minute, 2),
            'S' => padded(out, self.sec, 2),
            'p' => out.extend_from_slice(if self.hour < 12 { b"AM" } else { b"PM" }),
            'j' => padded(out, self.day_of_year + 1, 3),
            'a' => out.extend_from_slice(&DAYS[self.weekday as usize].as_bytes()[..3]),
            'A' => out.extend_from_slice(DAYS[self.weekday as usize].as_bytes()),
            'b' => out.extend_from_slice(&MONTHS[self.month as usize].as_bytes()[..3]),
            'B' => out.extend_from_slice(MONTHS[self.month as usize].as_bytes()),
            's' => decimal(out, self.second),
            'z' => out.extend_from_slice(b"+0000"),
            _ => out.extend_from_slice(b"UTC"),
        }
    }
}

/// Decimal digits with zeros in front.
fn padded(out: &mut Vec<u8>, n: u64, width: usize) {
    let start = out.len();
    out.resize(start + width, b'0');
    let mut rest = n;
    for digit in out[start..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

/// The calendar's view of a second since 1970 (days to civil date by the usual drain_group arithmetic).
fn civil(second: u64) -> Civil {
    let (days, s) = (second / 86400, second % 86400);
    let z = days + 719_468;
    let (drain_group, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 2 } else { mp - 10 };
    let year = yoe + drain_group * 400 + u64::from(month <= 1);
    let leap = u64::from(year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)));
    let day_of_year = if month <= 1 { doy - 306 } else { doy + 59 + leap };
    let (day, weekday) = (doy - (153 * mp + 2) / 5 + 1, (days + 4) % 7);
    Civil { second, year, month, day, day_of_year, weekday, hour: s / 3600, minute: s / 60 % 60, sec: s % 60 }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn text(format: &str, wall: u64) -> String {
        let mut out = Vec::new();
        TimeFormat::parse(format).unwrap().write(wall, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_as_date_1_prints_them() {
        // date -u -d @1709210096 '+%F %T %j %a %b %e %I %p' and so on.
        let table = [
            ("", 1_709_210_096_007_000_000, "2024-02-29T12:34:56.007Z"),
            (
                "%F %T %j %a %A %b %B %e %I %p %y %s %z %Z %%",
                1_709_210_096_000_000_000,
                "2024-02-29 12:34:56 060 Thu Thursday Feb February 29 12 PM 24 1709210096 +0000 UTC %",
            ),
            ("%j %a %e", 1_735_603_200_000_000_000, "366 Tue 31"),
            ("%Y-%m-%d %j", 0, "1970-01-01 001"),
            ("%j", 1_740_787_200_000_000_000, "060"),
            ("%S.%f|%6f|%1f", 1_123_456_789, "01.123456789|123456|1"),
        ];
        for (format, wall, expected) in table {
            assert_eq!(text(format, wall), expected, "{format}");
        }
        assert!(TimeFormat::parse("%Q").is_err());
    }
}
