//! A checker for the chunked coding (RFC 9112 section 7.1) that never copies.
use super::parse::{self, Bad};

/// One step over received bytes: the first `used` of them belong to the body as it is on the wire, `data` is the part of
/// them that is content, `done` tells that the body ends there.
#[derive(Debug, Default, PartialEq)]
pub struct Step {
    pub used: usize,
    pub data: std::ops::Range<usize>,
    /// The trailer lines with their blank line, where the step ended with some.
    pub trailers: std::ops::Range<usize>,
    pub done: bool,
}

/// Where in a chunked body the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Chunked {
    Size { value: u64, digits: u8 },
    Extension { value: u64, len: u16 },
    SizeLf { value: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    Trailers,
    Done,
}

impl Chunked {
    pub const START: Chunked = Chunked::Size { value: 0, digits: 0 };

    /// Goes over `b` up to the end of one piece of content.
    pub(crate) fn step(&mut self, b: &[u8]) -> Result<Step, Bad> {
        use Chunked::*;
        let mut at = 0;
        while at < b.len() {
            let c = b[at];
            *self = match *self {
                Size { value, digits } => match (c as char).to_digit(16) {
                    Some(d) if digits < 15 => Size { value: value << 4 | u64::from(d), digits: digits + 1 },
                    None if digits > 0 && c == b'\r' => SizeLf { value },
                    None if digits > 0 && matches!(c, b';' | b' ' | b'\t') => Extension { value, len: 0 },
                    _ => return Err(Bad::Chunk),
                },
                Extension { value, .. } if c == b'\r' => SizeLf { value },
                Extension { value, len } if len < 1024 && (c == b'\t' || (c >= b' ' && c != 0x7f)) => Extension { value, len: len + 1 },
                SizeLf { value: 0 } if c == b'\n' => Trailers,
                SizeLf { value } if c == b'\n' => Data { left: value },
                Data { left } => {
                    let n = (b.len() - at).min(usize::try_from(left).unwrap_or(usize::MAX));
                    *self = if n as u64 == left { DataCr } else { Data { left: left - n as u64 } };
                    return Ok(Step { used: at + n, data: at..at + n, ..Step::default() });
                }
                DataCr if c == b'\r' => DataLf,
                DataLf if c == b'\n' => Size { value: 0, digits: 0 },
                Trailers => {
                    // Read as a whole: the checker of header lines wants all of them.
                    let n = parse::trailers(&b[at..])?;
                    if n.is_some() {
                        *self = Done;
                    }
                    let len = n.unwrap_or(0);
                    return Ok(Step { used: at + len, data: at..at, trailers: at..at + len, done: n.is_some() });
                }
                _ => return Err(Bad::Chunk),
            };
            at += 1;
        }
        Ok(Step { used: at, data: at..at, ..Step::default() })
    }
}

/// Appends the size line of a chunk of `len` bytes.
pub fn size_line(out: &mut Vec<u8>, len: usize) {
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4).max(1);
    for i in (0..digits).rev() {
        out.push(b"0123456789abcdef"[len >> (4 * i) & 15]);
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::body::Framing;

    #[test]
    fn sizes() {
        for n in [0usize, 1, 9, 15, 16, 255, 4096, 0xfedcba98] {
            let mut out = Vec::new();
            size_line(&mut out, n);
            assert_eq!(String::from_utf8_lossy(&out), format!("{n:x}\r\n"));
        }
    }

    #[test]
    fn whole_bodies_and_broken_ones() {
        let whole = b"3\r\nabc\r\n1;x=\"y\"\r\nd\r\n0\r\nX-T: v\r\n\r\n";
        let mut f = Framing::CHUNKED;
        assert_eq!(f.take(whole), Ok((whole.len(), true)));
        let mut f = Framing::CHUNKED;
        let (mut data, mut at) = (Vec::new(), 0);
        loop {
            let s = f.step(&whole[at..]).unwrap_or_default();
            data.extend_from_slice(&whole[at..][s.data]);
            if s.done {
                assert_eq!(&whole[at..][s.trailers], b"X-T: v\r\n\r\n");
                break;
            }
            at += s.used;
        }
        assert_eq!(data, b"abcd");
        for bad in [
            "zz\r\n",
            "-1\r\n",
            "0x3\r\n",
            "fffffffffffffffff\r\n",
            "3\nabc",
            "3\r\nabcd\r\n",
            " 3\r\nabc",
            "3;a\nb\r\n",
            "\r\n",
            "0\r\na b\r\n\r\n",
            "1\r\na\n",
            "0\r\n x: y\r\n\r\n",
        ] {
            let want = if bad.contains(": y") || bad.contains("a b") { Bad::Syntax } else { Bad::Chunk };
            let mut f = Framing::CHUNKED;
            assert_eq!(f.take(bad.as_bytes()), Err(want), "{bad:?}");
        }
    }
}
