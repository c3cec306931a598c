//! Reading a TLS ClientHello without taking part in the handshake (Envoy's `tls_inspector`): what decides the filter
//! chain is looked at while the bytes stay in the socket, so that a passed-through connection loses nothing.
use std::net::Ipv4Addr;

/// A record may be this long (RFC 8446 §5.1); a ClientHello that needs more in sum is refused.
pub const MAX_HELLO_BYTES: usize = 16 * 1024;

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// Not enough bytes to tell.
    Incomplete,
    /// Not TLS.
    Plain,
    /// TLS by its first bytes, but broken or too long.
    Malformed(&'static str),
    Tls(ClientHello),
}

/// What a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// In lower case; absent where none was sent or it is not a DNS name.
    pub server_name: Option<String>,
    /// In the client's order; names that are no text are left out.
    pub alpn: Vec<String>,
}

/// Judges the first bytes of a connection.
pub fn inspect(bytes: &[u8]) -> Hello {
    match bytes {
        [] | [0x16] => return Hello::Incomplete,
        [0x16, 0x03, ..] => {}
        _ => return Hello::Plain,
    }
    let mut message = Vec::new();
    let mut rest = bytes;
    // The message may be spread over records; each begins with type, version, length.
    loop {
        let [kind, major, _, high, low, tail @ ..] = rest else { return Hello::Incomplete };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if *kind != 0x16 || *major != 3 || length == 0 || length > MAX_HELLO_BYTES {
            return Hello::Malformed("not a handshake record");
        }
        message.extend_from_slice(&tail[..length.min(tail.len())]);
        if let [kind, a, b, c, body @ ..] = message.as_slice() {
            let expect = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if *kind != 1 {
                return Hello::Malformed("not a ClientHello");
            }
            if expect > MAX_HELLO_BYTES {
                return Hello::Malformed("a ClientHello beyond 16 KiB");
            }
            if body.len() >= expect {
                return parse(&body[..expect]).map_or(Hello::Malformed("a broken ClientHello"), Hello::Tls);
            }
        }
        if tail.len() < length {
            return Hello::Incomplete;
        }
        rest = &tail[length..];
    }
}

/// Takes `n` bytes off the front.
fn take<'a>(from: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, tail) = from.split_at_checked(n)?;
    *from = tail;
    Some(head)
}

/// Takes a vector with a length of `bytes` bytes before it.
fn vector<'a>(from: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let length = take(from, bytes)?.iter().fold(0, |n, b| n << 8 | usize::from(*b));
    take(from, length)
}

/// The body of a ClientHello (RFC 8446 §4.1.2).
fn parse(mut body: &[u8]) -> Option<ClientHello> {
    let mut out = ClientHello::default();
    take(&mut body, 2 + 32)?;
    vector(&mut body, 1)?; // session
    vector(&mut body, 2)?; // cipher suites
    vector(&mut body, 1)?; // compression
    if body.is_empty() {
        return Some(out);
    }
    let mut extensions = vector(&mut body, 2)?;
    while !extensions.is_empty() {
        let kind = take(&mut extensions, 2)?;
        let mut data = vector(&mut extensions, 2)?;
        match kind {
            [0, 0] => {
                let mut names = vector(&mut data, 2)?;
                while !names.is_empty() {
                    let kind = take(&mut names, 1)?;
                    let name = vector(&mut names, 2)?;
                    if kind == [0] && out.server_name.is_none() {
                        out.server_name = server_name(name);
                    }
                }
            }
            [0, 16] => {
                let mut protocols = vector(&mut data, 2)?;
                while !protocols.is_empty() {
                    let name = vector(&mut protocols, 1)?;
                    out.alpn.extend(std::str::from_utf8(name).ok().map(str::to_string));
                }
            }
            _ => {}
        }
    }
    Some(out)
}

/// A DNS name (RFC 6066 §3 forbids addresses here) without a final dot.
fn server_name(name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    let name = name.strip_suffix('.').unwrap_or(name);
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let usable = !name.is_empty() && name.len() <= 253 && name.bytes().all(good) && name.parse::<Ipv4Addr>().is_err();
    usable.then(|| name.to_ascii_lowercase())
}
