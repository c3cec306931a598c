//! Replies in RESP 2, and what commands refuse.
use bytes::Bytes;
use std::borrow::Cow;

/// A reply to one command.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Status(Bytes),
    /// With its code, without `-`.
    Error(Bytes),
    Int(i64),
    Bulk(Bytes),
    Nil,
    /// The nil that stands in place of an array.
    NilArray,
    Array(Vec<Reply>),
}

impl Reply {
    pub const OK: Reply = Reply::Status(Bytes::from_static(b"OK"));

    pub fn text(text: impl Into<String>) -> Reply {
        Reply::Bulk(Bytes::from(text.into()))
    }

    pub fn count(n: usize) -> Reply {
        Reply::Int(i64::try_from(n).unwrap_or(i64::MAX))
    }

    pub fn flag(yes: bool) -> Reply {
        Reply::Int(i64::from(yes))
    }

    pub fn of(value: Option<Bytes>) -> Reply {
        value.map_or(Reply::Nil, Reply::Bulk)
    }

    pub fn list(values: impl IntoIterator<Item = Bytes>) -> Reply {
        Reply::Array(values.into_iter().map(Reply::Bulk).collect())
    }

    /// Appends the bytes of the wire.
    pub fn write(&self, out: &mut Vec<u8>) {
        let line = |out: &mut Vec<u8>, kind: u8, text: &[u8]| {
            out.push(kind);
            out.extend_from_slice(text);
            out.extend_from_slice(b"\r\n");
        };
        match self {
            Reply::Status(text) => line(out, b'+', text),
            Reply::Error(text) => line(out, b'-', text),
            Reply::Int(n) => line(out, b':', n.to_string().as_bytes()),
            Reply::Bulk(bytes) => {
                line(out, b'$', bytes.len().to_string().as_bytes());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Reply::Nil => line(out, b'$', b"-1"),
            Reply::NilArray => line(out, b'*', b"-1"),
            Reply::Array(items) => {
                line(out, b'*', items.len().to_string().as_bytes());
                items.iter().for_each(|item| item.write(out));
            }
        }
    }
}

/// Why a command is refused, in Redis' words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("WRONGTYPE Operation against a key holding the wrong kind of value")]
    WrongType,
    #[error("ERR value is not an integer or out of range")]
    NotInteger,
    #[error("ERR value is not a valid float")]
    NotFloat,
    #[error("ERR syntax error")]
    Syntax,
    #[error("ERR no such key")]
    NoSuchKey,
    #[error("ERR index out of range")]
    Index,
    #[error("ERR value is out of range, must be positive")]
    NotPositive,
    #[error("ERR increment or decrement would overflow")]
    Overflow,
    #[error("ERR wrong number of arguments for '{0}' command")]
    Arity(String),
    #[error("ERR invalid expire time in '{0}' command")]
    ExpireTime(String),
    #[error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")]
    TooLong,
    #[error("OOM command not allowed when used memory > 'maxmemory'.")]
    OutOfMemory,
    #[error("NOAUTH Authentication required.")]
    NoAuth,
    /// Any other text, with its code.
    #[error("{0}")]
    Other(Cow<'static, str>),
}

impl Refusal {
    pub fn say(text: &'static str) -> Refusal {
        Refusal::Other(Cow::Borrowed(text))
    }

    /// As a line of the protocol: what a client sent may stand in it, and must not end it.
    pub fn reply(&self) -> Reply {
        Reply::Error(Bytes::from(self.to_string().replace(['\r', '\n'], " ")))
    }
}

pub type Answer = Result<Reply, Refusal>;
