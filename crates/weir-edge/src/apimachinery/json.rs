//! Reads JSON text where it lies: a cursor that goes over a body once, decodes what it is asked for and skips the rest.
mod nesting;

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr2;
use thiserror::Error;

pub use nesting::{MAX_DEPTH, Nesting, TooDeep};

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum JsonError {
    #[error("byte {at} of the JSON text: expected {expected}")]
    Expected { at: usize, expected: &'static str },
    #[error("byte {at} of the JSON text: it ends in the middle of a value")]
    Truncated { at: usize },
    #[error("byte {at} of the JSON text: not UTF-8")]
    Utf8 { at: usize },
    #[error("byte {at} of the JSON text: a string with a wrong escape sequence")]
    Escape { at: usize },
    #[error("byte {at} of the JSON text: nested deeper than {MAX_DEPTH}")]
    TooDeep { at: usize },
    #[error("byte {at} of the JSON text: the field is there twice")]
    Duplicate { at: usize },
}

/// A place in a JSON text.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Result<Cursor<'a>, JsonError> {
        let text = std::str::from_utf8(bytes).map_err(|e| JsonError::Utf8 { at: e.valid_up_to() })?;
        Ok(Cursor { text, at: 0 })
    }

    pub fn at(&self) -> usize {
        self.at
    }

    /// The next byte that is not whitespace.
    pub fn peek(&mut self) -> Result<u8, JsonError> {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            match byte {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                _ => return Ok(*byte),
            }
        }
        Err(JsonError::Truncated { at: self.at })
    }

    fn take(&mut self, byte: u8, expected: &'static str) -> Result<(), JsonError> {
        if self.peek()? != byte {
            return Err(JsonError::Expected { at: self.at, expected });
        }
        self.at += 1;
        Ok(())
    }

    /// Nothing but whitespace follows.
    pub fn end(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            Err(_) => Ok(()),
            Ok(_) => Err(JsonError::Expected { at: self.at, expected: "the end of the text" }),
        }
    }

    /// Goes through the fields of an object. `each` gets a field's name and must read or skip its value.
    pub fn object<E: From<JsonError>>(&mut self, mut each: impl FnMut(&str, &mut Cursor<'a>) -> Result<(), E>) -> Result<(), E> {
        self.take(b'{', "an object")?;
        if self.peek()? == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            let name = self.string()?;
            self.take(b':', "a colon")?;
            each(&name, self)?;
            if self.more(b'}', "a comma or the end of the object")? {
                return Ok(());
            }
        }
    }

    /// Goes through the values of an array. `each` must read or skip the value.
    pub fn array<E: From<JsonError>>(&mut self, mut each: impl FnMut(&mut Cursor<'a>) -> Result<(), E>) -> Result<(), E> {
        self.take(b'[', "an array")?;
        if self.peek()? == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            each(self)?;
            if self.more(b']', "a comma or the end of the array")? {
                return Ok(());
            }
        }
    }

    /// Reads a comma, or the end: then the result is true.
    fn more(&mut self, close: u8, expected: &'static str) -> Result<bool, JsonError> {
        let byte = self.peek()?;
        if byte != b',' && byte != close {
            return Err(JsonError::Expected { at: self.at, expected });
        }
        self.at += 1;
        Ok(byte == close)
    }

    /// Reads `null` if it is there.
    pub fn null(&mut self) -> Result<bool, JsonError> {
        self.peek()?;
        let null = self.text.as_bytes()[self.at..].starts_with(b"null");
        self.at += if null { 4 } else { 0 };
        Ok(null)
    }

    pub fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        let (raw, escaped) = self.raw_string()?;
        match escaped {
            false => Ok(Cow::Borrowed(&self.text[raw.start + 1..raw.end - 1])),
            true => match serde_json::from_str(&self.text[raw.clone()]) {
                Ok(text) => Ok(Cow::Owned(text)),
                Err(_) => Err(JsonError::Escape { at: raw.start }),
            },
        }
    }

    /// A string, or the empty string for `null`.
    pub fn text(&mut self) -> Result<String, JsonError> {
        if self.null()? { Ok(String::new()) } else { Ok(self.string()?.into_owned()) }
    }

    /// Where a string with its quotes lies, and whether it has escape sequences.
    fn raw_string(&mut self) -> Result<(Range<usize>, bool), JsonError> {
        self.take(b'"', "a string")?;
        let start = self.at - 1;
        let bytes = self.text.as_bytes();
        let mut escaped = false;
        while let Some(found) = memchr2(b'"', b'\\', bytes.get(self.at..).unwrap_or_default()) {
            self.at += found + 1;
            if bytes[self.at - 1] == b'"' {
                return Ok((start..self.at, escaped));
            }
            escaped = true;
            self.at += 1;
        }
        Err(JsonError::Truncated { at: bytes.len() })
    }

    /// A whole number; `null` is none.
    pub fn integer(&mut self) -> Result<Option<i64>, JsonError> {
        if self.null()? {
            return Ok(None);
        }
        let value = self.skip()?;
        match self.text[value.clone()].parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(JsonError::Expected { at: value.start, expected: "a whole number" }),
        }
    }

    pub fn boolean(&mut self) -> Result<bool, JsonError> {
        let value = self.skip()?;
        match &self.text[value.clone()] {
            "true" => Ok(true),
            "false" | "null" => Ok(false),
            _ => Err(JsonError::Expected { at: value.start, expected: "true or false" }),
        }
    }

    /// Skips a value and says where it lies. Of objects and arrays only strings and the number of brackets are checked.
    pub fn skip(&mut self) -> Result<Range<usize>, JsonError> {
        let bytes = self.text.as_bytes();
        let first = self.peek()?;
        let start = self.at;
        match first {
            b'"' => {
                self.raw_string()?;
            }
            b'{' | b'[' => match Nesting::default().scan(&bytes[start..]) {
                Ok(Some(length)) => self.at += length,
                Ok(None) => return Err(JsonError::Truncated { at: bytes.len() }),
                Err(TooDeep(at)) => return Err(JsonError::TooDeep { at: start + at }),
            },
            _ => {
                let length = bytes[start..].iter().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.')).count();
                self.at += length;
                let word = &self.text[start..self.at];
                if !matches!(word, "true" | "false" | "null") && !is_number(word.as_bytes()) {
                    return Err(match self.at == bytes.len() {
                        true => JsonError::Truncated { at: self.at },
                        false => JsonError::Expected { at: start, expected: "a value" },
                    });
                }
            }
        }
        Ok(start..self.at)
    }
}

/// Whether a word begins and ends as numbers do and has none but their characters.
fn is_number(word: &[u8]) -> bool {
    let digits = word.strip_prefix(b"-").unwrap_or(word);
    digits.first().is_some_and(u8::is_ascii_digit)
        && digits.last().is_some_and(u8::is_ascii_digit)
        && digits.iter().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
}

#[cfg(test)]
mod tests;
