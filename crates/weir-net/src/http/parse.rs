//! The tokenizer of message heads. It accepts exactly what RFC 9112 writes and nothing lenient: lines end in CR LF, no
//! folded lines, no white space before the colon, no control bytes.
use super::head::{Headers, Line, Method, RequestHead, ResponseHead, Span, Version};
use super::text::{is_authority, is_token, name_end, text_end, token_end};
use super::{names::Known, trailers};

/// Why bytes were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    Syntax,
    /// The first line is nothing like a request: an answer would not be understood.
    NotHttp,
    /// A byte that may not stand in a header.
    Character,
    Version,
    /// More bytes than a head may have.
    TooLarge,
    /// More fields than a head may have.
    TooMany,
    Target,
    MissingHost,
    /// Two Host headers, or one that is no authority.
    Host,
    /// Content-Length and Transfer-Encoding together.
    LengthAndCoding,
    /// A Content-Length that is no number, or several.
    Length,
    /// A Transfer-Encoding that tells no end of the body.
    Coding,
    /// A coding beside `chunked`.
    UnknownCoding,
    /// A chunk or a trailer that is none.
    Chunk,
}

impl Bad {
    /// What a client is answered.
    pub fn status(self) -> u16 {
        match self {
            Bad::TooLarge | Bad::TooMany => 431,
            Bad::Version => 505,
            Bad::UnknownCoding => 501,
            _ => 400,
        }
    }
}

/// What a head may grow to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a whole head.
    pub bytes: usize,
    pub fields: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { bytes: 60 * 1024, fields: 100 }
    }
}

/// `Ok(Some(n))`: the head is complete in the first `n` bytes; `Ok(None)`: more bytes are needed.
pub type Parsed = Result<Option<usize>, Bad>;

/// Whether a line ends at `at`; `None` if the bytes do not reach so far.
fn crlf(b: &[u8], at: usize) -> Result<Option<()>, Bad> {
    match (b.get(at), b.get(at + 1)) {
        (None, _) | (Some(b'\r'), None) => Ok(None),
        (Some(b'\r'), Some(b'\n')) => Ok(Some(())),
        (Some(b'\n' | b'\r'), _) => Err(Bad::Syntax),
        _ => Err(Bad::Character),
    }
}

macro_rules! or_partial {
    ($e:expr) => {
        match $e {
            Some(v) => v,
            None => return Ok(None),
        }
    };
}

/// Reads header lines from `at` on; `add` says how many there are with the one it gets. Returns the position behind the
/// last line, where the blank line stands. `at` stays at the first incomplete line.
fn lines(b: &[u8], at: &mut usize, max: usize, mut add: impl FnMut(Line) -> usize) -> Parsed {
    loop {
        let start = *at;
        if *or_partial!(b.get(start)) == b'\r' {
            or_partial!(crlf(b, start)?);
            return Ok(Some(start));
        }
        let mut to = name_end(b, start);
        let name_len = to - start;
        if *or_partial!(b.get(to)) != b':' || name_len == 0 {
            return Err(Bad::Syntax);
        }
        let name = &b[start..to];
        let id = Known::of(name);
        if id == Known::Other && !is_token(name) {
            return Err(Bad::Syntax);
        }
        to += 1;
        while matches!(b.get(to), Some(b' ' | b'\t')) {
            to += 1;
        }
        let value = to;
        to = text_end(b, to, false);
        or_partial!(crlf(b, to)?);
        let mut end = to;
        while end > value && matches!(b[end - 1], b' ' | b'\t') {
            end -= 1;
        }
        to += 2;
        if name_len > u16::MAX as usize / 2 || value - start > u16::MAX as usize {
            return Err(Bad::TooLarge);
        }
        if add(Line { start, id, name_len, value_at: value - start, value_len: end - value, len: to - start }) > max {
            return Err(Bad::TooMany);
        }
        *at = to;
    }
}

/// Reads the lines into `headers`, whose buffer gets a copy of all of `b` up to the blank line.
fn fields(b: &[u8], headers: &mut Headers, limits: Limits) -> Parsed {
    let mut at = headers.resume as usize;
    let mut count = headers.found_so_far();
    let end = lines(b, &mut at, limits.fields, |l| {
        headers.found(&l);
        count += 1;
        count
    });
    headers.resume = at as u32;
    let end = or_partial!(end?);
    if end > limits.bytes {
        return Err(Bad::TooLarge);
    }
    headers.buf.extend_from_slice(&b[..end]);
    Ok(Some(end + 2))
}

fn finish(b: &[u8], limits: Limits, r: Parsed) -> Parsed {
    if r == Ok(None) && b.len() >= limits.bytes { Err(Bad::TooLarge) } else { r }
}

/// Reads a request head. While it is not complete, call again with the same bytes and more: what was read is remembered
/// in `head`, which must be cleared before another head is read.
pub fn request(b: &[u8], head: &mut RequestHead, limits: Limits) -> Parsed {
    finish(b, limits, request_inner(b, head, limits))
}

fn request_inner(b: &[u8], head: &mut RequestHead, limits: Limits) -> Parsed {
    if head.headers.resume == 0 {
        or_partial!(request_line(b, head)?);
    }
    let n = or_partial!(fields(b, &mut head.headers, limits)?);
    if head.headers.at(head.target_at).first() != Some(&b'/') {
        other_target(head)?;
    }
    Ok(Some(n))
}

fn request_line(b: &[u8], head: &mut RequestHead) -> Parsed {
    // An empty line before a request is allowed once.
    let skip = if b.starts_with(b"\r\n") { 2 } else { 0 };
    let at = token_end(b, skip);
    if *or_partial!(b.get(at)) != b' ' || at == skip {
        // The first half of that empty line.
        return if b == b"\r" { Ok(None) } else { Err(Bad::Syntax) };
    }
    (head.method, head.method_at) = (Method::of(&b[skip..at]), Span::new(skip, at - skip));
    let target = at + 1;
    let at = text_end(b, target, true);
    if *or_partial!(b.get(at)) != b' ' {
        return Err(Bad::Syntax);
    }
    // Bytes beyond ASCII have no place in a target (RFC 3986); as text they are common enough to pass, as noise they are not.
    if !b[target..at].is_ascii() && std::str::from_utf8(&b[target..at]).is_err() {
        return Err(Bad::Syntax);
    }
    head.target_at = Span::new(target, at - target);
    head.path_len = memchr::memchr(b'?', &b[target..at]).unwrap_or(at - target) as u32;
    head.version = match b.get(at + 1..at + 9) {
        None => {
            let begun = b"HTTP/1.1".starts_with(&b[at + 1..]) || b"HTTP/1.0".starts_with(&b[at + 1..]);
            return if begun { Ok(None) } else { Err(not_a_version(head.method, &b[target..at])) };
        }
        Some(b"HTTP/1.1") => Version::Http11,
        Some(b"HTTP/1.0") => Version::Http10,
        Some(v) if v.starts_with(b"HTTP/") => return Err(Bad::Version),
        Some(_) => return Err(not_a_version(head.method, &b[target..at])),
    };
    let t = &b[target..at];
    let asterisk = head.method == Method::Options && t == b"*";
    let absolute = head.method != Method::Connect && (has_scheme(t, b"http://") || has_scheme(t, b"https://"));
    let authority = head.method == Method::Connect && !t.is_empty() && is_authority(t);
    if !(t.first() == Some(&b'/') && head.method != Method::Connect || asterisk || absolute || authority) {
        return Err(Bad::Target);
    }
    or_partial!(crlf(b, at + 9)?);
    head.headers.resume = (at + 11) as u32;
    Ok(Some(at + 11))
}

fn not_a_version(method: Method, target: &[u8]) -> Bad {
    if method == Method::Other && target.first() != Some(&b'/') { Bad::NotHttp } else { Bad::Syntax }
}

fn has_scheme(target: &[u8], scheme: &[u8]) -> bool {
    target.get(..scheme.len()).is_some_and(|s| s.eq_ignore_ascii_case(scheme))
}

/// An absolute target is taken apart (its authority overrides the Host header, RFC 9112 section 3.2.2); that of CONNECT
/// becomes the Host header.
fn other_target(head: &mut RequestHead) -> Result<(), Bad> {
    let target = head.target().to_vec();
    if head.method == Method::Connect {
        head.headers.set(Known::Host, &[&target]);
        head.set_target(b"");
        return Ok(());
    }
    if target == b"*" {
        return Ok(());
    }
    if !head.headers.has(Known::Host) && head.version == Version::Http11 {
        return Err(Bad::MissingHost);
    }
    if head.headers.all(Known::Host).count() > 1 {
        return Err(Bad::Host);
    }
    let rest = &target[if target[4] == b':' { 7 } else { 8 }..];
    let path = rest.iter().position(|c| matches!(c, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(path);
    if authority.is_empty() || !is_authority(authority) {
        return Err(Bad::Target);
    }
    head.headers.set(Known::Host, &[authority]);
    match path.first() {
        Some(b'/') => head.set_target(path),
        None if head.method == Method::Options => head.set_target(b"*"),
        _ => head.set_target(&[b"/", path].concat()),
    }
    Ok(())
}

/// Reads a response head; like [`request`].
pub fn response(b: &[u8], head: &mut ResponseHead, limits: Limits) -> Parsed {
    finish(b, limits, response_inner(b, head, limits))
}

fn response_inner(b: &[u8], head: &mut ResponseHead, limits: Limits) -> Parsed {
    if head.headers.resume == 0 {
        or_partial!(status_line(b, head)?);
    }
    fields(b, &mut head.headers, limits)
}

fn status_line(b: &[u8], head: &mut ResponseHead) -> Parsed {
    let Some(line) = b.get(..13) else {
        let known = b.len().min(7);
        return if b[..known] == b"HTTP/1."[..known] { Ok(None) } else { Err(Bad::Version) };
    };
    head.version = match &line[..9] {
        b"HTTP/1.1 " => Version::Http11,
        b"HTTP/1.0 " => Version::Http10,
        _ => return Err(Bad::Version),
    };
    let digits = &line[9..12];
    if !digits.iter().all(u8::is_ascii_digit) || digits[0] == b'0' || !matches!(line[12], b' ' | b'\r') {
        return Err(Bad::Syntax);
    }
    head.status = digits.iter().fold(0, |n, d| n * 10 + (d - b'0') as u16);
    let at = text_end(b, 12, false);
    head.reason_at = Span::new(13.min(at), at.saturating_sub(13));
    or_partial!(crlf(b, at)?);
    head.headers.resume = (at + 2) as u32;
    Ok(Some(at + 2))
}

/// Checks the trailer section of a chunked body; `Ok(Some(n))` gives its length with the blank line.
pub fn trailers(b: &[u8]) -> Parsed {
    let (limits, mut count) = (Limits::default(), 0);
    let end = lines(b, &mut 0, limits.fields, |_| {
        count += 1;
        count
    })?;
    finish(b, limits, Ok(end.map(|n| n + 2)))
}

/// Reads a trailer section that [`trailers`] has found complete, without fields that trailers may not have.
pub fn trailer_fields(b: &[u8], headers: &mut Headers) -> Parsed {
    headers.clear();
    let r = fields(b, headers, Limits::default());
    headers.resume = 0;
    trailers::filter(headers);
    r
}

#[cfg(test)]
mod tests;
