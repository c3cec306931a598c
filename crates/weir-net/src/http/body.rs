//! Where a body ends: the rules of RFC 9112 section 6.
use super::chunk::{Chunked, Step};
use super::head::{Headers, Method, RequestHead, ResponseHead, Version};
use super::names::Known;
use super::{parse::Bad, text};

/// How a message body is delimited, and how much of it is still to come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Framing {
    Length(u64),
    Chunked(Chunked),
    UntilClose,
}

impl Framing {
    pub const NONE: Framing = Framing::Length(0);
    pub const CHUNKED: Framing = Framing::Chunked(Chunked::START);

    pub fn is_done(&self) -> bool {
        matches!(self, Framing::Length(0) | Framing::Chunked(Chunked::Done))
    }

    /// Goes over `b` up to the end of one piece of content. A step with `used == 0` that is not done needs more bytes.
    pub fn step(&mut self, b: &[u8]) -> Result<Step, Bad> {
        match self {
            Framing::Length(left) => {
                let n = b.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= n as u64;
                Ok(Step { used: n, data: 0..n, done: *left == 0, ..Step::default() })
            }
            Framing::UntilClose => Ok(Step { used: b.len(), data: 0..b.len(), ..Step::default() }),
            Framing::Chunked(c) => c.step(b),
        }
    }

    /// Goes over all of `b` that belongs to the body: (bytes, done).
    pub fn take(&mut self, b: &[u8]) -> Result<(usize, bool), Bad> {
        let mut at = 0;
        loop {
            let s = self.step(&b[at..])?;
            at += s.used;
            if s.done || s.used == 0 || at == b.len() {
                return Ok((at, s.done));
            }
        }
    }
}

/// What Content-Length and Transfer-Encoding say together; anything ambiguous is refused.
fn declared(h: &Headers, version: Version) -> Result<Option<Framing>, Bad> {
    if h.has(Known::TransferEncoding) {
        if h.has(Known::ContentLength) {
            return Err(Bad::LengthAndCoding);
        }
        let mut codings = h.all(Known::TransferEncoding);
        let (first, more) = (codings.next(), codings.next());
        let chunked = first.is_some_and(|v| v.eq_ignore_ascii_case(b"chunked"));
        if !chunked || more.is_some() || version != Version::Http11 {
            return Err(if version == Version::Http11 { bad_coding(h) } else { Bad::Coding });
        }
        return Ok(Some(Framing::CHUNKED));
    }
    content_length(h).map(|n| n.map(Framing::Length))
}

/// Why codings other than `chunked` alone are refused. If `chunked` is the last one, the end of the body is known, but not its
/// content (RFC 9112 sections 6.1 and 6.3).
fn bad_coding(h: &Headers) -> Bad {
    let all = h.all(Known::TransferEncoding).collect::<Vec<_>>().join(&b',');
    let mut names: Vec<&[u8]> = all.split(|c| *c == b',').map(|name| name.trim_ascii()).collect();
    let last = names.pop().is_some_and(|name| name.eq_ignore_ascii_case(b"chunked"));
    let known = |name: &&[u8]| name.is_empty() || name.eq_ignore_ascii_case(b"chunked");
    if last && !names.iter().any(known) { Bad::UnknownCoding } else { Bad::Coding }
}

/// The one Content-Length; several, or one that is not digits only, are refused.
pub fn content_length(h: &Headers) -> Result<Option<u64>, Bad> {
    if !h.has(Known::ContentLength) {
        return Ok(None);
    }
    let mut values = h.all(Known::ContentLength);
    let (first, more) = (values.next().unwrap_or_default(), values.next());
    if more.is_some() || first.is_empty() || first.len() > 18 || !first.iter().all(u8::is_ascii_digit) {
        return Err(Bad::Length);
    }
    Ok(Some(first.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0'))))
}

/// How the body of this HTTP/1 request is delimited; also checks what every request must have.
pub fn of_request(head: &RequestHead) -> Result<Framing, Bad> {
    check_host(head)?;
    Ok(declared(&head.headers, head.version)?.unwrap_or(Framing::NONE))
}

/// One Host header at most, and one at least but in HTTP/1.0, and an authority in it.
pub fn check_host(head: &RequestHead) -> Result<(), Bad> {
    let mut hosts = head.headers.all(Known::Host);
    match (hosts.next(), hosts.next()) {
        (None, _) if head.version == Version::Http10 => Ok(()),
        (None, _) => Err(Bad::MissingHost),
        (Some(h), None) if text::is_authority(h) => Ok(()),
        _ => Err(Bad::Host),
    }
}

/// How the body of this HTTP/1 response is delimited.
pub fn of_response(head: &ResponseHead, asked: Method) -> Result<Framing, Bad> {
    let declared = declared(&head.headers, head.version)?;
    if asked == Method::Head || matches!(head.status, 204 | 304) {
        return Ok(Framing::NONE);
    }
    Ok(declared.unwrap_or(Framing::UntilClose))
}

/// Whether a comma-separated header has this element.
pub fn lists(h: &Headers, id: Known, token: &[u8]) -> bool {
    h.all(id).any(|v| v.split(|c| *c == b',').any(|t| t.trim_ascii().eq_ignore_ascii_case(token)))
}

/// Whether the connection stays open behind an HTTP/1 message of this version with these headers.
pub fn persists(h: &Headers, version: Version) -> bool {
    match (h.has(Known::Connection), version) {
        (false, version) => version != Version::Http10,
        (true, Version::Http10) => lists(h, Known::Connection, b"keep-alive"),
        (true, _) => !lists(h, Known::Connection, b"close"),
    }
}

/// Whether a response to such a request has no body whatever its head says.
pub fn is_bodiless(method: Method, status: u16) -> bool {
    method == Method::Head || matches!(status, 100..=199 | 204 | 304)
}
