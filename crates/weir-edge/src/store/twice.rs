//! A block that is written twice in a row, so that one damaged place does not cost it.
use super::record::{Reader, checksum};

pub type Magic = [u8; 8];

pub fn encode(magic: &Magic, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u32).to_le_bytes();
    let mut copy = [&magic[..], &checksum(&[body]).to_le_bytes(), &len, body].concat();
    copy.extend_from_within(..);
    copy
}

/// The body and the length of both copies. The first copy is enough.
pub fn decode<'a>(magic: &Magic, bytes: &'a [u8]) -> Option<(&'a [u8], usize)> {
    let second = || {
        // A damaged length in the first copy hides where the second one begins.
        memchr::memmem::find_iter(bytes, magic).find_map(|at| copy(magic, &bytes[at..]).filter(|(_, len)| *len == at))
    };
    copy(magic, bytes).or_else(second).map(|(body, len)| (body, 2 * len))
}

fn copy<'a>(magic: &Magic, bytes: &'a [u8]) -> Option<(&'a [u8], usize)> {
    let mut reader = Reader(bytes);
    if reader.take(8)? != magic {
        return None;
    }
    let (crc, len) = (reader.u32()?, reader.u32()?);
    let body = reader.take(len as usize)?;
    (checksum(&[body]) == crc).then_some((body, 16 + len as usize))
}
