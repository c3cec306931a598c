//! The protobuf wire format: the fields of a message without its schema, and messages written field by field.
use std::ops::Range;

use thiserror::Error;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    #[error("byte {at} of the protobuf message: it ends in the middle of a field")]
    Truncated { at: usize },
    #[error("byte {at} of the protobuf message: a number of more than 64 bits")]
    Varint { at: usize },
    #[error("byte {at} of the protobuf message: field number {number} is not allowed")]
    FieldNumber { at: usize, number: u64 },
    #[error("byte {at} of the protobuf message: unknown wire type {wire_type}")]
    WireType { at: usize, wire_type: u8 },
    #[error("byte {at} of the protobuf message: field {number} has another type than expected")]
    FieldType { at: usize, number: u32 },
    #[error("byte {at} of the protobuf message: not UTF-8")]
    Utf8 { at: usize },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    /// Where a string, bytes or message lies in the buffer.
    Bytes(Range<usize>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub number: u32,
    pub value: Value,
    /// Where the field begins in the buffer.
    pub at: usize,
}

/// The fields of a message that lies in a part of a buffer. Places are those in the buffer.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    buffer: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// `message` must be a part of the buffer, as the ranges of [`Value::Bytes`] are.
    pub fn of(buffer: &'a [u8], message: Range<usize>) -> Fields<'a> {
        Fields { buffer: buffer.get(..message.end).unwrap_or(buffer), at: message.start }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    /// The text of a string field.
    pub fn text(&self, field: &Field) -> Result<&'a str, WireError> {
        let range = field.bytes()?;
        let bytes = self.buffer.get(range.clone()).ok_or(WireError::Truncated { at: field.at })?;
        std::str::from_utf8(bytes).map_err(|e| WireError::Utf8 { at: range.start + e.valid_up_to() })
    }

    fn take(&mut self, length: u64) -> Result<Range<usize>, WireError> {
        let rest = self.buffer.len() - self.at;
        match usize::try_from(length) {
            Ok(length) if length <= rest => {
                self.at += length;
                Ok(self.at - length..self.at)
            }
            _ => Err(WireError::Truncated { at: self.buffer.len() }),
        }
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let start = self.at;
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.buffer.get(self.at).ok_or(WireError::Truncated { at: self.at })?;
            self.at += 1;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::Varint { at: start })
    }

    fn field(&mut self) -> Result<Field, WireError> {
        let at = self.at;
        let key = self.varint()?;
        let number = match u32::try_from(key >> 3) {
            Ok(number) if (1..1 << 29).contains(&number) => number,
            _ => return Err(WireError::FieldNumber { at, number: key >> 3 }),
        };
        let value = match (key & 7) as u8 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(self.take(8)?.rev().fold(0, |n, i| n << 8 | u64::from(self.buffer[i]))),
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Fixed32(self.take(4)?.rev().fold(0, |n, i| n << 8 | u32::from(self.buffer[i]))),
            wire_type => return Err(WireError::WireType { at, wire_type }),
        };
        Ok(Field { number, value, at })
    }
}

impl Iterator for Fields<'_> {
    type Item = Result<Field, WireError>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.buffer.len() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.at = self.buffer.len();
        }
        Some(field)
    }
}

impl Field {
    /// Where the content of a string, bytes or message lies.
    pub fn bytes(&self) -> Result<Range<usize>, WireError> {
        match &self.value {
            Value::Bytes(range) => Ok(range.clone()),
            _ => Err(WireError::FieldType { at: self.at, number: self.number }),
        }
    }

    pub fn integer(&self) -> Result<u64, WireError> {
        match self.value {
            Value::Varint(number) => Ok(number),
            _ => Err(WireError::FieldType { at: self.at, number: self.number }),
        }
    }
}

pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes that a varint takes.
pub fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// The key and length before the content of a string, bytes or message.
pub fn put_header(out: &mut Vec<u8>, number: u32, length: usize) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, length as u64);
}

pub fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_header(out, number, bytes.len());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_read_as_written() {
        for value in [0, 1, 127, 128, 300, 16383, 16384, u64::from(u32::MAX), 1 << 63, u64::MAX] {
            let mut out = vec![8];
            put_varint(&mut out, value);
            assert_eq!(out.len(), 1 + varint_len(value));
            let fields: Vec<_> = Fields::of(&out, 0..out.len()).collect();
            assert_eq!(fields, [Ok(Field { number: 1, value: Value::Varint(value), at: 0 })]);
        }
    }

    #[test]
    fn wrong_messages_are_errors() {
        let table: [(&[u8], WireError); 10] = [
            (&[0x08], WireError::Truncated { at: 1 }),
            (&[0x08, 0x80], WireError::Truncated { at: 2 }),
            (&[0x0a, 2, 0], WireError::Truncated { at: 3 }),
            (&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], WireError::Truncated { at: 11 }),
            (&[0x09, 0, 0], WireError::Truncated { at: 3 }),
            (&[0x0d, 0], WireError::Truncated { at: 2 }),
            (&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], WireError::Varint { at: 1 }),
            (&[0x02, 0], WireError::FieldNumber { at: 0, number: 0 }),
            (&[0x82, 0x80, 0x80, 0x80, 0x10, 0], WireError::FieldNumber { at: 0, number: 1 << 29 }),
            (&[0x0b], WireError::WireType { at: 0, wire_type: 3 }),
        ];
        for (bytes, wanted) in table {
            let fields: Vec<_> = Fields::of(bytes, 0..bytes.len()).collect();
            assert_eq!(fields, [Err(wanted)], "{bytes:?}");
        }
        let text = [0x0a, 2, b'a', 0xff];
        let fields = Fields::of(&text, 0..4);
        let field = fields.clone().next().unwrap().unwrap();
        assert_eq!(fields.text(&field), Err(WireError::Utf8 { at: 3 }));
        assert_eq!(field.integer(), Err(WireError::FieldType { at: 0, number: 1 }));
    }

    #[test]
    fn fields_of_all_types_are_read() {
        let mut out = vec![0x09, 1, 0, 0, 0, 0, 0, 0, 0, 0x15, 2, 0, 0, 0];
        put_bytes(&mut out, 1000, b"text");
        let fields = Fields::of(&out, 0..out.len());
        let read: Vec<_> = fields.clone().map(Result::unwrap).collect();
        assert_eq!(read[0].value, Value::Fixed64(1));
        assert_eq!(read[1].value, Value::Fixed32(2));
        assert_eq!((read[2].number, fields.text(&read[2])), (1000, Ok("text")));
    }
}
