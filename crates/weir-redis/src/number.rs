//! Numbers as Redis reads and writes them.

/// A signed integer in its one spelling: no sign `+`, no leading zeros, no blanks.
pub fn integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = match digits {
        [] => false,
        [b'0'] => digits.len() == text.len(),
        [first, ..] => *first != b'0',
    };
    if !canonical || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A floating-point number, infinities included; never NaN.
pub fn float(text: &[u8]) -> Option<f64> {
    let number: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (!number.is_nan()).then_some(number)
}

/// As C's `%.{digits}g` prints it.
pub fn general(number: f64, digits: usize) -> String {
    if number.is_nan() {
        return if number.is_sign_negative() { "-nan".into() } else { "nan".into() };
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf".into() } else { "-inf".into() };
    }
    if number == 0.0 {
        return if number.is_sign_negative() { "-0".into() } else { "0".into() };
    }
    let scientific = format!("{number:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if exponent < -4 || exponent >= i32::try_from(digits).unwrap_or(i32::MAX) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trimmed(mantissa), exponent.abs());
    }
    let decimals = usize::try_from(i32::try_from(digits).unwrap_or(i32::MAX) - 1 - exponent).unwrap_or(0);
    trimmed(&format!("{number:.decimals$}")).to_string()
}

/// As replies show doubles.
pub fn double(number: f64) -> String {
    general(number, 17)
}

/// Without zeros behind the last digit of a fraction.
fn trimmed(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// A decimal number with 17 digits behind the point: what Redis' long doubles come to where they add up amounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal(i128);

const SCALE: u32 = 17;

impl Decimal {
    /// `None` for what is no number, or one out of range.
    pub fn parse(text: &[u8]) -> Option<Decimal> {
        let text = std::str::from_utf8(text).ok()?;
        let (number, exponent) = match text.find(['e', 'E']) {
            Some(at) => (&text[..at], text[at + 1..].parse::<i32>().ok().filter(|e| e.abs() < 64)?),
            None => (text, 0),
        };
        let (negative, number) = match number.as_bytes().first()? {
            b'-' => (true, &number[1..]),
            b'+' => (false, &number[1..]),
            _ => (false, number),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = format!("{whole}{fraction}");
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let mut value: i128 =
            digits.trim_start_matches('0').parse().or_else(|e| if digits.bytes().all(|b| b == b'0') { Ok(0) } else { Err(e) }).ok()?;
        let shift = i32::try_from(SCALE).ok()? + exponent - i32::try_from(fraction.len()).ok()?;
        let power = 10i128.checked_pow(shift.unsigned_abs());
        value = match (shift >= 0, power) {
            (true, power) => value.checked_mul(power?)?,
            // Rounded to nearest.
            (false, Some(power)) => (value + power / 2) / power,
            (false, None) => 0,
        };
        Some(Decimal(if negative { -value } else { value }))
    }

    pub fn plus(self, other: Decimal) -> Option<Decimal> {
        self.0.checked_add(other.0).map(Decimal)
    }
}

impl std::fmt::Display for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scale = 10u128.pow(SCALE);
        let all = self.0.unsigned_abs();
        let text = format!("{}.{:017}", all / scale, all % scale);
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{}", trimmed(&text))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn integers_have_one_spelling() {
        for (text, want) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-0", None),
            ("01", None),
            ("+1", None),
            (" 1", None),
            ("1 ", None),
            ("1.0", None),
            ("", None),
            ("-", None),
        ] {
            assert_eq!(integer(text.as_bytes()), want, "{text:?}");
        }
    }

    #[test]
    fn doubles_look_as_c_prints_them() {
        for (number, want) in [
            (0.1, "0.10000000000000001"),
            (1.5, "1.5"),
            (3.0, "3"),
            (-2.25, "-2.25"),
            (1e21, "1e+21"),
            (1e16, "10000000000000000"),
            (1e17, "1e+17"),
            (1.0e-5, "1.0000000000000001e-05"),
            (0.0001, "0.0001"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (0.0, "0"),
        ] {
            assert_eq!(double(number), want);
        }
        assert_eq!(general(2.34159265358979, 14), "2.3415926535898");
    }

    #[test]
    fn decimals_add_without_rounding() {
        for (a, b, want) in
            [("0.1", "0.2", "0.3"), ("3.0", "1.1", "4.1"), ("5.0e3", "2.0e2", "5200"), ("1", "-1.5", "-0.5"), ("10", "0", "10")]
        {
            assert_eq!(Decimal::parse(a.as_bytes()).unwrap().plus(Decimal::parse(b.as_bytes()).unwrap()).unwrap().to_string(), want);
        }
        for bad in ["", "x", "1x", "1e", "--1", "."] {
            assert_eq!(Decimal::parse(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
