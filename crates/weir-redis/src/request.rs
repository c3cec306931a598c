//! Commands on the wire: arrays of bulk strings.
use bytes::{Buf, Bytes, BytesMut};

/// One command: its name and its arguments.
pub type Command = Vec<Bytes>;

/// Arguments of one command, as in Redis.
const MAX_ARGUMENTS: i64 = 1 << 20;

/// Why bytes are no command. The connection ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    #[error("ERR Protocol error: expected '*', got '{0}'")]
    NoArray(char),
    #[error("ERR Protocol error: invalid multibulk length")]
    Count,
    #[error("ERR Protocol error: expected '$', got '{0}'")]
    NoBulk(char),
    #[error("ERR Protocol error: invalid bulk length")]
    Length,
    #[error("ERR Protocol error: too big mbulk count string")]
    Line,
    #[error("ERR Protocol error: the command is larger than the memory limit")]
    TooLarge,
}

/// A line that holds a length is never longer.
const MAX_LINE: usize = 32;

/// Takes commands out of bytes as they arrive.
#[derive(Debug, Default)]
pub struct Parser {
    /// Arguments still to come; 0 between commands.
    missing: usize,
    arguments: Command,
    /// The length of the next argument, once its line was read.
    next: Option<usize>,
    bytes: usize,
}

impl Parser {
    /// The next whole command; arguments are copies that keep nothing of `input` alive.
    pub fn take(&mut self, input: &mut BytesMut, max_bytes: usize) -> Result<Option<Command>, BadRequest> {
        loop {
            if self.missing == 0 {
                let Some(count) = line(input, b'*', BadRequest::NoArray, BadRequest::Count)? else { return Ok(None) };
                if count > MAX_ARGUMENTS {
                    return Err(BadRequest::Count);
                }
                // Nothing, or less: Redis ignores it.
                self.missing = usize::try_from(count).unwrap_or(0);
                self.bytes = 0;
                continue;
            }
            let length = match self.next {
                Some(length) => length,
                None => {
                    let Some(length) = line(input, b'$', BadRequest::NoBulk, BadRequest::Length)? else { return Ok(None) };
                    let length = usize::try_from(length).map_err(|_| BadRequest::Length)?;
                    self.bytes = self.bytes.saturating_add(length).saturating_add(16);
                    if self.bytes > max_bytes {
                        return Err(BadRequest::TooLarge);
                    }
                    self.next = Some(length);
                    length
                }
            };
            if input.len() < length + 2 {
                input.reserve(length + 2 - input.len());
                return Ok(None);
            }
            self.arguments.push(Bytes::copy_from_slice(&input[..length]));
            input.advance(length + 2);
            self.next = None;
            self.missing -= 1;
            if self.missing == 0 {
                return Ok(Some(std::mem::take(&mut self.arguments)));
            }
        }
    }
}

/// The number on the next line.
fn line(input: &mut BytesMut, kind: u8, other: fn(char) -> BadRequest, bad: BadRequest) -> Result<Option<i64>, BadRequest> {
    let Some(&first) = input.first() else { return Ok(None) };
    if first != kind {
        return Err(other(char::from(first)));
    }
    let Some(end) = input.iter().take(MAX_LINE).position(|b| *b == b'\n') else {
        return if input.len() >= MAX_LINE { Err(BadRequest::Line) } else { Ok(None) };
    };
    let number = input[1..end].strip_suffix(b"\r").and_then(crate::number::integer).ok_or(bad)?;
    input.advance(end + 1);
    Ok(Some(number))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn all(text: &str, step: usize) -> Result<Vec<String>, BadRequest> {
        let (mut parser, mut input, mut out) = (Parser::default(), BytesMut::new(), Vec::new());
        for part in text.as_bytes().chunks(step) {
            input.extend_from_slice(part);
            while let Some(command) = parser.take(&mut input, 100)? {
                out.push(command.iter().map(|a| String::from_utf8_lossy(a)).collect::<Vec<_>>().join(" "));
            }
        }
        Ok(out)
    }

    #[test]
    fn commands_arrive_in_any_pieces() {
        let text = "*2\r\n$3\r\nGET\r\n$1\r\na\r\n*0\r\n*1\r\n$0\r\n\r\n*1\r\n$4\r\nPING\r\n";
        for step in [1, 2, 7, 1000] {
            assert_eq!(all(text, step).unwrap(), ["GET a", "", "PING"], "{step}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for (text, error) in [
            ("GET / HTTP/1.1\r\n", BadRequest::NoArray('G')),
            ("*x\r\n", BadRequest::Count),
            ("*9999999\r\n", BadRequest::Count),
            ("*1\r\n:1\r\n", BadRequest::NoBulk(':')),
            ("*1\r\n$-1\r\n", BadRequest::Length),
            ("*1\r\n$101\r\n", BadRequest::TooLarge),
            (&format!("*{}", "1".repeat(40)), BadRequest::Line),
        ] {
            assert_eq!(all(text, 1000), Err(error), "{text:?}");
        }
    }
}
