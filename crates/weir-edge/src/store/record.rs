//! The records of the log: a head with a checksum of its own, what the record says, and a value. Reading a record needs its head only,
//! so opening a store reads no values.
use super::crypt::Cipher;
use bytes::Bytes;
use std::ops::Range;
use thiserror::Error;

pub const HEAD: usize = 56;
const MAGIC: [u8; 2] = [0xED, 0x57];
/// What a record says besides its value: names up to 1 KiB each and a set's head.
pub const MAX_META: usize = 64 << 10;
pub const MAX_NAME: usize = 1 << 10;
pub const MAX_HEAD: usize = 16 << 10;
pub const MAX_VALUE: usize = 16 << 20;

/// How a value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    Plain,
    Deflate,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    kind: u8,
    pub codec: Codec,
    pub meta_len: u32,
    /// Of the value as it is stored.
    pub value_len: u32,
    /// Of the value as it was given.
    pub raw_len: u32,
    pub value_crc: u32,
    /// Counts all records of the log without a gap.
    pub seq: u64,
    /// The record before this one of the same set; a set that lost a record does not fit together here.
    pub prev: u64,
    /// All records up to this one were synced when this one was written. What is broken behind it was never acknowledged as synced.
    pub durable: u64,
    pub set: u32,
    /// The set of the record with the sequence number before this one: says which set lost a single unreadable record.
    pub before: u32,
}

impl Header {
    pub fn len(&self) -> usize {
        HEAD + self.meta_len as usize + self.value_len as usize
    }

    fn write(&self, out: &mut [u8]) {
        let codec = matches!(self.codec, Codec::Deflate) as u8;
        out[4..8].copy_from_slice(&[MAGIC[0], MAGIC[1], self.kind, codec]);
        for (at, field) in [(8, self.meta_len), (12, self.value_len), (16, self.raw_len), (20, self.value_crc)] {
            out[at..at + 4].copy_from_slice(&field.to_le_bytes());
        }
        for (at, field) in [(24, self.seq), (32, self.prev), (40, self.durable)] {
            out[at..at + 8].copy_from_slice(&field.to_le_bytes());
        }
        out[48..52].copy_from_slice(&self.set.to_le_bytes());
        out[52..56].copy_from_slice(&self.before.to_le_bytes());
    }

    /// Reads the head at the start of `bytes`, which may go on behind the record. `None`: there is none, or it is damaged.
    pub fn read<'a>(bytes: &'a [u8], salt: &[u8; 8]) -> Option<(Header, &'a [u8])> {
        let head = bytes.get(..HEAD)?;
        let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let codec = match head[7] {
            0 => Codec::Plain,
            1 => Codec::Deflate,
            _ => return None,
        };
        let header = Header {
            kind: head[6],
            codec,
            meta_len: u32_at(8),
            value_len: u32_at(12),
            raw_len: u32_at(16),
            value_crc: u32_at(20),
            seq: u64_at(24),
            prev: u64_at(32),
            durable: u64_at(40),
            set: u32_at(48),
            before: u32_at(52),
        };
        // Checked before the checksum, so that looking for the next record in garbage is cheap.
        if head[4..6] != MAGIC
            || header.meta_len as usize > MAX_META
            || header.value_len.max(header.raw_len) as usize > MAX_VALUE + 64
            || header.seq == 0
        {
            return None;
        }
        let meta = bytes.get(HEAD..HEAD + header.meta_len as usize)?;
        (checksum(&[salt, &head[4..], meta]) == u32_at(0)).then_some((header, meta))
    }

    /// What the record says. The checksum was right, so an error is a record of a later version or of another key.
    pub fn meta(&self, stored: &[u8], cipher: &Cipher) -> Result<Meta, RecordError> {
        let plain = cipher.open(stored, &self.aad()).ok_or(RecordError::Sealed)?;
        Meta::read(self.kind, &plain).ok_or(RecordError::Unknown(self.kind))
    }

    fn aad(&self) -> Vec<u8> {
        [&[self.kind][..], &self.seq.to_le_bytes(), &self.set.to_le_bytes()].concat()
    }
}

/// A value as it lies in a record: cleaning copies it without looking inside.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    pub codec: Codec,
    pub raw_len: u32,
    pub crc: u32,
    pub bytes: &'a [u8],
}

impl Stored<'_> {
    pub const NONE: Stored<'static> = Stored { codec: Codec::Plain, raw_len: 0, crc: 0, bytes: &[] };
}

/// Where a record stands in the log and in its set.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub seq: u64,
    pub prev: u64,
    pub durable: u64,
    pub set: u32,
    pub before: u32,
}

/// Appends one record to `out`. `None`: it cannot be encrypted.
pub fn write(out: &mut Vec<u8>, salt: &[u8; 8], place: Place, meta: &Meta, value: Stored<'_>, cipher: &Cipher) -> Option<()> {
    let mut plain = Vec::with_capacity(128);
    meta.write(&mut plain);
    let mut header = Header {
        kind: meta.kind(),
        codec: value.codec,
        meta_len: 0,
        value_len: value.bytes.len() as u32,
        raw_len: value.raw_len,
        value_crc: value.crc,
        seq: place.seq,
        prev: place.prev,
        durable: place.durable,
        set: place.set,
        before: place.before,
    };
    let stored = cipher.seal(plain, &header.aad())?;
    header.meta_len = stored.len() as u32;
    let start = out.len();
    out.resize(start + HEAD, 0);
    header.write(&mut out[start..]);
    let crc = checksum(&[salt, &out[start + 4..], &stored]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&stored);
    out.extend_from_slice(value.bytes);
    Some(())
}

pub fn checksum(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// Where the next record with a whole head begins behind a damaged one.
pub fn resync(bytes: &[u8], from: usize, salt: &[u8; 8], after: u64) -> Option<usize> {
    let mut at = from + 1;
    while let Some(found) = bytes.get(at + 4..).and_then(|rest| memchr::memmem::find(rest, &MAGIC)) {
        let start = at + found;
        if Header::read(&bytes[start..], salt).is_some_and(|(header, _)| header.seq > after) {
            return Some(start);
        }
        at = start + 1;
    }
    None
}

/// The bytes of a value within its record.
pub fn value_range(header: &Header) -> Range<usize> {
    let start = HEAD + header.meta_len as usize;
    start..start + header.value_len as usize
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    #[error("a record cannot be decrypted")]
    Sealed,
    #[error("a record of kind {0}, which this version does not know")]
    Unknown(u8),
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meta {
    /// A set, with its state up to here: written when it begins and when cleaning moves it.
    Set {
        name: Box<str>,
        head: Bytes,
        whole: bool,
        lost: bool,
    },
    Put {
        key: Box<str>,
        head: Bytes,
    },
    /// A put that cleaning moved.
    Moved {
        key: Box<str>,
    },
    Remove {
        key: Box<str>,
        head: Bytes,
    },
    Head {
        head: Bytes,
    },
    /// Begins a replacement, which its sequence number names.
    Begin,
    Item {
        begin: u64,
        key: Box<str>,
    },
    Commit {
        begin: u64,
        count: u64,
        head: Bytes,
    },
    Drop,
    /// The value of an object (without: any of the set) was found to be unreadable, and cleaning dropped the place that showed it.
    Damaged {
        key: Option<Box<str>>,
        begin: Option<u64>,
    },
    /// Of no set: says in its header how far the log is synced, and here which segment is its oldest.
    Mark {
        oldest: u32,
    },
    /// A record of a later version, which this version need not know.
    Unknown,
}

impl Meta {
    fn kind(&self) -> u8 {
        match self {
            Meta::Set { .. } => 1,
            Meta::Put { .. } => 2,
            Meta::Moved { .. } => 3,
            Meta::Remove { .. } => 4,
            Meta::Head { .. } => 5,
            Meta::Begin => 6,
            Meta::Item { .. } => 7,
            Meta::Commit { .. } => 8,
            Meta::Drop => 9,
            Meta::Damaged { .. } => 10,
            Meta::Mark { .. } => 11,
            Meta::Unknown => 0,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let blob = |out: &mut Vec<u8>, bytes: &[u8]| {
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(bytes);
        };
        match self {
            Meta::Set { name, head, whole, lost } => {
                out.push(u8::from(*whole) | u8::from(*lost) << 1);
                blob(out, name.as_bytes());
                blob(out, head);
            }
            Meta::Put { key, head } | Meta::Remove { key, head } => {
                blob(out, key.as_bytes());
                blob(out, head);
            }
            Meta::Moved { key } => blob(out, key.as_bytes()),
            Meta::Head { head } => blob(out, head),
            Meta::Item { begin, key } => {
                out.extend_from_slice(&begin.to_le_bytes());
                blob(out, key.as_bytes());
            }
            Meta::Commit { begin, count, head } => {
                out.extend_from_slice(&begin.to_le_bytes());
                out.extend_from_slice(&count.to_le_bytes());
                blob(out, head);
            }
            Meta::Damaged { key, begin } => {
                out.push(u8::from(key.is_some()));
                out.extend_from_slice(&begin.unwrap_or(0).to_le_bytes());
                blob(out, key.as_deref().unwrap_or_default().as_bytes());
            }
            Meta::Mark { oldest } => out.extend_from_slice(&oldest.to_le_bytes()),
            Meta::Begin | Meta::Drop | Meta::Unknown => {}
        }
    }

    fn read(kind: u8, bytes: &[u8]) -> Option<Meta> {
        let mut reader = Reader(bytes);
        let meta = match kind {
            1 => {
                let flags = reader.u8()?;
                Meta::Set { name: reader.text()?, head: reader.blob()?, whole: flags & 1 != 0, lost: flags & 2 != 0 }
            }
            2 => Meta::Put { key: reader.text()?, head: reader.blob()? },
            3 => Meta::Moved { key: reader.text()? },
            4 => Meta::Remove { key: reader.text()?, head: reader.blob()? },
            5 => Meta::Head { head: reader.blob()? },
            6 => Meta::Begin,
            7 => Meta::Item { begin: reader.u64()?, key: reader.text()? },
            8 => Meta::Commit { begin: reader.u64()?, count: reader.u64()?, head: reader.blob()? },
            9 => Meta::Drop,
            10 => {
                let keyed = reader.u8()? != 0;
                let begin = Some(reader.u64()?).filter(|begin| *begin != 0);
                let key = reader.text()?;
                Meta::Damaged { key: keyed.then_some(key), begin }
            }
            11 => Meta::Mark { oldest: reader.u32()? },
            _ => return None,
        };
        reader.0.is_empty().then_some(meta)
    }
}

/// Takes fields from the front of what is left.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
    fn slice(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.take(len as usize)
    }
    fn blob(&mut self) -> Option<Bytes> {
        self.slice().map(Bytes::copy_from_slice)
    }
    fn text(&mut self) -> Option<Box<str>> {
        self.slice().and_then(|bytes| std::str::from_utf8(bytes).ok()).map(Box::from)
    }
}
