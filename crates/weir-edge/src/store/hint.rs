//! Beside a segment that is full lies a file with the heads of its records, so that opening the store need not read their values.
//! It is optional: without it, or if it is damaged, the segment itself is read. Its heads are copies, encrypted where those are.
use super::{
    record::{HEAD, Header, Reader, checksum},
    segment::Segment,
};
use std::{fs, io, os::unix::fs::OpenOptionsExt, path::PathBuf};

const MAGIC: &[u8; 8] = b"WEIRIDX\x01";

pub struct Hint {
    bytes: Vec<u8>,
    salt: [u8; 8],
}

pub fn path(segment: &Segment) -> PathBuf {
    segment.path.with_extension("idx")
}

/// The hint of a segment that ends at `end`.
pub fn read(segment: &Segment, end: u32) -> Option<Hint> {
    let mut bytes = fs::read(path(segment)).ok()?;
    let crc = bytes.split_off(bytes.len().checked_sub(4)?);
    let mut reader = Reader(&bytes);
    let fits = reader.take(8)? == MAGIC && reader.array()? == segment.salt && reader.u32()? == end;
    (fits && checksum(&[&bytes]).to_le_bytes()[..] == crc).then_some(Hint { bytes, salt: segment.salt })
}

impl Hint {
    pub fn records(&self) -> impl Iterator<Item = (u32, Header, &[u8])> {
        let mut reader = Reader(&self.bytes[20..]);
        std::iter::from_fn(move || {
            let offset = reader.u32()?;
            let (header, stored) = Header::read(reader.0, &self.salt)?;
            reader.take(HEAD + stored.len())?;
            Some((offset, header, stored))
        })
    }
}

/// Writes the hint of a full segment. `heads`: the offset of each record and its bytes without the value.
pub fn write<'a>(segment: &Segment, end: u32, heads: impl Iterator<Item = (u32, &'a [u8])>) -> io::Result<()> {
    let mut bytes = [&MAGIC[..], &segment.salt, &end.to_le_bytes()].concat();
    for (offset, head) in heads {
        bytes.extend_from_slice(&offset.to_le_bytes());
        bytes.extend_from_slice(head);
    }
    bytes.extend_from_slice(&checksum(&[&bytes]).to_le_bytes());
    let temporary = segment.path.with_extension("tmp");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    io::Write::write_all(&mut file, &bytes)?;
    fs::rename(temporary, path(segment))
}
