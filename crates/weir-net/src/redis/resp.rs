//! The wire format (RESP2, and RESP3's types where a server uses them): where a reply ends, and what a query asks for.
use bytes::{BufMut, Bytes, BytesMut};
use memchr::memchr;

/// Bounds on one reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    pub max_reply_bytes: usize,
    /// Arrays within arrays.
    pub max_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { max_reply_bytes: 64 << 20, max_depth: 64 }
    }
}

/// Why bytes are not a reply that we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// This byte begins no RESP value.
    UnknownType(u8),
    BadLength,
    /// A bulk string without CR LF behind it.
    Terminator,
    TooLarge,
    TooDeep,
    /// A reply that nobody asked for.
    Unasked,
}

impl std::fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ProtocolError::UnknownType(b) => write!(f, "not a Redis server: a reply begins with byte {b:#04x}"),
            ProtocolError::BadLength => f.write_str("a length in a reply is not a number"),
            ProtocolError::Terminator => f.write_str("a string in a reply has no end"),
            ProtocolError::TooLarge => f.write_str("a reply is larger than the limit"),
            ProtocolError::TooDeep => f.write_str("a reply is nested deeper than the limit"),
            ProtocolError::Unasked => f.write_str("a reply that no command asked for"),
        }
    }
}

/// Finds the end of one value in bytes that arrive bit by bit; every byte is looked at once.
#[derive(Debug, Default)]
pub struct Framer {
    /// Bytes of the value understood so far.
    at: usize,
    /// From here on the end of the current line is sought.
    scan: usize,
    /// Open aggregates, outermost first.
    open: Vec<Level>,
    push: bool,
}

#[derive(Debug)]
struct Level {
    left: u64,
    /// Attributes precede a value and do not count as one.
    attribute: bool,
}

/// A whole value at the front of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub len: usize,
    /// Out of band (RESP3 `>`): not a reply to a command.
    pub push: bool,
}

impl Framer {
    /// `bytes` is everything from the value's first byte on, growing from call to call. After a `Some` the framer is
    /// ready for the next value.
    pub fn next(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<Frame>, ProtocolError> {
        loop {
            let Some(end) = memchr(b'\n', &bytes[self.scan.min(bytes.len())..]).map(|i| self.scan + i) else {
                self.scan = bytes.len();
                return if bytes.len() > limits.max_reply_bytes { Err(ProtocolError::TooLarge) } else { Ok(None) };
            };
            let line = &bytes[self.at..end];
            let (&kind, rest) = line.split_first().ok_or(ProtocolError::UnknownType(b'\n'))?;
            let next = end + 1;
            let whole = match kind {
                b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {
                    self.step(next);
                    true
                }
                b'$' | b'!' | b'=' => match length(rest)? {
                    None => {
                        self.step(next);
                        true
                    }
                    Some(n) => {
                        let stop =
                            usize::try_from(n).ok().and_then(|n| next.checked_add(n)?.checked_add(2)).ok_or(ProtocolError::TooLarge)?;
                        if stop > limits.max_reply_bytes {
                            return Err(ProtocolError::TooLarge);
                        }
                        if bytes.len() < stop {
                            // The line is read again with more bytes; the string is not scanned.
                            self.scan = end;
                            return Ok(None);
                        }
                        if &bytes[stop - 2..stop] != b"\r\n" {
                            return Err(ProtocolError::Terminator);
                        }
                        self.step(stop);
                        true
                    }
                },
                b'*' | b'~' | b'>' | b'%' | b'|' => {
                    let n = length(rest)?.unwrap_or(0);
                    let left = if matches!(kind, b'%' | b'|') { n.checked_mul(2).ok_or(ProtocolError::BadLength)? } else { n };
                    self.push |= kind == b'>' && self.open.is_empty();
                    self.step(next);
                    if left > 0 {
                        if self.open.len() >= limits.max_depth {
                            return Err(ProtocolError::TooDeep);
                        }
                        self.open.push(Level { left, attribute: kind == b'|' });
                        false
                    } else {
                        kind != b'|'
                    }
                }
                other => return Err(ProtocolError::UnknownType(other)),
            };
            if self.at > limits.max_reply_bytes {
                return Err(ProtocolError::TooLarge);
            }
            if whole && self.close() {
                let frame = Frame { len: self.at, push: self.push };
                (self.at, self.scan, self.push) = (0, 0, false);
                return Ok(Some(frame));
            }
        }
    }

    fn step(&mut self, to: usize) {
        (self.at, self.scan) = (to, to);
    }

    /// One value is complete: closes the aggregates that it ends. Whether the outermost is.
    fn close(&mut self) -> bool {
        while let Some(level) = self.open.last_mut() {
            level.left -= 1;
            if level.left > 0 {
                return false;
            }
            let attribute = level.attribute;
            self.open.pop();
            if attribute {
                return false;
            }
        }
        true
    }
}

/// A length line without its CR; `None` for -1, the nil of RESP2.
fn length(line: &[u8]) -> Result<Option<u64>, ProtocolError> {
    let digits = line.strip_suffix(b"\r").ok_or(ProtocolError::BadLength)?;
    if digits == b"-1" {
        return Ok(None);
    }
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(ProtocolError::BadLength);
    }
    Ok(Some(digits.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0'))))
}

/// A command as RESP, `*n` and its arguments.
pub fn command(arguments: &[&[u8]]) -> Bytes {
    let mut out = BytesMut::with_capacity(16 + arguments.iter().map(|a| a.len() + 16).sum::<usize>());
    out.put_slice(format!("*{}\r\n", arguments.len()).as_bytes());
    for a in arguments {
        out.put_slice(format!("${}\r\n", a.len()).as_bytes());
        out.put_slice(a);
        out.put_slice(b"\r\n");
    }
    out.freeze()
}

/// Why a query is not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryError {
    /// It must be exactly one array of bulk strings.
    Malformed,
    /// It would change the connection for everybody who shares it, or has not exactly one reply.
    Refused { command: String, instead: &'static str },
}

impl std::fmt::Display for QueryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            QueryError::Malformed => f.write_str("a query must be one RESP array of bulk strings"),
            QueryError::Refused { command, instead } => write!(f, "{command} is not possible on a shared connection; {instead}"),
        }
    }
}

/// A checked query: one command with one reply.
#[derive(Clone, Debug)]
pub struct Query {
    pub bytes: Bytes,
    /// The Cluster slot of its first key, where it has one.
    pub slot: Option<u16>,
}

impl Query {
    /// Checks that `bytes` are one command, so that a plugin cannot bring a pipeline that others share out of step.
    pub fn new(bytes: Bytes) -> Result<Query, QueryError> {
        let mut arguments = [&b""[..]; 4];
        let mut seen = 0;
        let mut rest = line(&bytes, b'*').ok_or(QueryError::Malformed)?;
        let count = rest.0;
        for _ in 0..count {
            let (len, after) = line(rest.1, b'$').ok_or(QueryError::Malformed)?;
            let len = usize::try_from(len).map_err(|_| QueryError::Malformed)?;
            let (argument, after) = after.split_at_checked(len).ok_or(QueryError::Malformed)?;
            if let Some(place) = arguments.get_mut(seen) {
                *place = argument;
            }
            seen += 1;
            rest.1 = after.strip_prefix(b"\r\n").ok_or(QueryError::Malformed)?;
        }
        if seen == 0 || !rest.1.is_empty() {
            return Err(QueryError::Malformed);
        }
        refuse(arguments[0], arguments[1])?;
        let slot = key(&arguments[..seen.min(4)]).map(slot);
        Ok(Query { bytes, slot })
    }
}

/// The number on a line of this type, and what follows the line.
fn line(bytes: &[u8], kind: u8) -> Option<(u64, &[u8])> {
    let rest = bytes.strip_prefix(&[kind])?;
    let end = memchr(b'\n', rest)?;
    Some((length(&rest[..end]).ok()??, &rest[end + 1..]))
}

fn refuse(name: &[u8], first: &[u8]) -> Result<(), QueryError> {
    let instead = match &name.to_ascii_uppercase()[..] {
        b"AUTH" | b"HELLO" => "give user and password where the client is initialised",
        b"SELECT" => "give the database where the client is initialised",
        b"MULTI" | b"EXEC" | b"DISCARD" | b"WATCH" | b"UNWATCH" => "use EVAL for what must happen together",
        b"SUBSCRIBE" | b"PSUBSCRIBE" | b"SSUBSCRIBE" | b"UNSUBSCRIBE" | b"PUNSUBSCRIBE" | b"SUNSUBSCRIBE" | b"MONITOR" | b"SYNC"
        | b"PSYNC" => "it has not exactly one reply",
        b"RESET" | b"QUIT" => "the connection is kept for all",
        b"CLIENT" if first.eq_ignore_ascii_case(b"reply") || first.eq_ignore_ascii_case(b"tracking") => "each command needs its one reply",
        _ => return Ok(()),
    };
    Err(QueryError::Refused { command: String::from_utf8_lossy(name).to_uppercase(), instead })
}

/// The first key of a command, by the rule that holds for nearly all: the first argument, for scripts the first after
/// the count. A wrong guess costs a redirect, nothing more.
fn key<'a>(arguments: &[&'a [u8]]) -> Option<&'a [u8]> {
    const SCRIPTS: [&[u8]; 6] = [b"EVAL", b"EVALSHA", b"EVAL_RO", b"EVALSHA_RO", b"FCALL", b"FCALL_RO"];
    let name = arguments.first()?;
    let at = if SCRIPTS.iter().any(|s| name.eq_ignore_ascii_case(s)) { 3 } else { 1 };
    arguments.get(at).copied()
}

/// CRC16 (XMODEM) of the key, or of what stands in its first braces, in 16384 slots.
pub(super) fn slot(key: &[u8]) -> u16 {
    let tag = memchr(b'{', key).and_then(|open| {
        let rest = &key[open + 1..];
        memchr(b'}', rest).filter(|len| *len > 0).map(|len| &rest[..len])
    });
    let crc = tag.unwrap_or(key).iter().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 })
    });
    crc % 16384
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn frames(bytes: &[u8]) -> Result<Vec<usize>, ProtocolError> {
        let (mut framer, mut out, mut from) = (Framer::default(), Vec::new(), 0);
        // One byte more each time, as the slowest network would.
        for to in 1..=bytes.len() {
            while let Some(f) = framer.next(&bytes[from..to], &Limits { max_reply_bytes: 100, max_depth: 4 })? {
                out.push(f.len);
                from += f.len;
            }
        }
        assert_eq!(from, bytes.len(), "{:?}", String::from_utf8_lossy(bytes));
        Ok(out)
    }

    #[test]
    fn values_end_where_they_should() {
        for (text, lens) in [
            ("+OK\r\n", vec![5]),
            ("-ERR no\r\n:12\r\n", vec![9, 5]),
            ("$-1\r\n*-1\r\n", vec![5, 5]),
            ("$0\r\n\r\n", vec![6]),
            ("$5\r\na\r\nbc\r\n", vec![11]),
            ("*0\r\n", vec![4]),
            ("*2\r\n*2\r\n:1\r\n$-1\r\n*0\r\n+x\r\n", vec![21, 4]),
            ("%1\r\n+a\r\n:1\r\n~1\r\n_\r\n", vec![12, 7]),
            ("|1\r\n+ttl\r\n:3\r\n+OK\r\n", vec![19]),
            ("*1\r\n|1\r\n+a\r\n+b\r\n+c\r\n", vec![20]),
            ("*1\r\n|0\r\n+c\r\n", vec![12]),
            (",1.5\r\n#t\r\n(123\r\n=6\r\ntxt:ab\r\n!3\r\nERR\r\n", vec![6, 4, 6, 12, 9]),
        ] {
            assert_eq!(frames(text.as_bytes()).unwrap(), lens, "{text:?}");
        }
        let mut f = Framer::default();
        assert_eq!(f.next(b">1\r\n+x\r\n+OK\r\n", &Limits::default()).unwrap().unwrap(), Frame { len: 8, push: true });
        assert_eq!(f.next(b"+OK\r\n", &Limits::default()).unwrap().unwrap(), Frame { len: 5, push: false });
    }

    #[test]
    fn nonsense_and_too_much_are_errors() {
        let deep = "*1\r\n".repeat(5);
        for (text, error) in [
            ("HTTP/1.1 400 Bad Request\r\n", ProtocolError::UnknownType(b'H')),
            ("\r\n", ProtocolError::UnknownType(b'\r')),
            ("$x\r\n", ProtocolError::BadLength),
            ("$?\r\n", ProtocolError::BadLength),
            ("*99999999999999999999\r\n", ProtocolError::BadLength),
            ("$2\r\nabcd\r\n", ProtocolError::Terminator),
            ("$200\r\n", ProtocolError::TooLarge),
            (&format!("+{}", "x".repeat(100)), ProtocolError::TooLarge),
            (&"*9\r\n:1\r\n:1\r\n".repeat(12), ProtocolError::TooDeep),
            (&deep, ProtocolError::TooDeep),
        ] {
            assert_eq!(frames(text.as_bytes()), Err(error), "{text:?}");
        }
    }

    #[test]
    fn queries_are_one_command() {
        let ok = |args: &[&[u8]]| Query::new(command(args));
        assert_eq!(ok(&[b"GET", b"foo"]).unwrap().slot, Some(12182));
        assert_eq!(ok(&[b"EVAL", b"return 1", b"1", b"{foo}bar", b"x"]).unwrap().slot, Some(12182));
        assert_eq!(ok(&[b"PING"]).unwrap().slot, None);
        for bad in [
            "",
            "PING\r\n",
            "*0\r\n",
            "*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n",
            "*2\r\n$4\r\nPING\r\n",
            "*1\r\n:1\r\n",
            "*-1\r\n",
            "*1\r\n$-1\r\n",
        ] {
            assert_eq!(Query::new(Bytes::from_static(bad.as_bytes())).unwrap_err(), QueryError::Malformed, "{bad:?}");
        }
        for name in ["select", "MULTI", "Subscribe", "auth"] {
            assert!(matches!(ok(&[name.as_bytes(), b"1"]), Err(QueryError::Refused { .. })), "{name}");
        }
        assert!(ok(&[b"CLIENT", b"REPLY", b"OFF"]).is_err());
        assert!(ok(&[b"CLIENT", b"ID"]).is_ok());
    }
}
