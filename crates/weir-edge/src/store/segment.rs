//! A file of the log: a header, which says where the log came from and how far each set had come, and then records.
use super::{record::Reader, twice};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

pub const FORMAT: u16 = 1;
const MAGIC: &[u8; 8] = b"WEIRLOG\0";

/// How far a set had come when a segment began. A set that recovery finds elsewhere lost something in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollCall {
    pub set: u32,
    pub last: u64,
    pub lost: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub id: u32,
    /// Mixed into the checksums of the segment's heads, so that no value can pass for a record.
    pub salt: [u8; 8],
    /// The segment before this one, and where it ended; 0: none.
    pub previous: u32,
    pub previous_end: u32,
    pub first_seq: u64,
    pub durable: u64,
    /// The oldest segment of the log.
    pub oldest: u32,
    pub next_set: u32,
    pub before: u32,
    pub sets: Vec<RollCall>,
    /// Helps to compress the segment's values; compressed and encrypted itself.
    pub dictionary: Vec<u8>,
}

impl SegmentHeader {
    /// Written twice, so that one damaged byte does not cost the segment.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(64 + 13 * self.sets.len());
        body.extend_from_slice(&FORMAT.to_le_bytes());
        body.extend_from_slice(&self.salt);
        for field in [self.id, self.previous, self.previous_end, self.oldest, self.next_set, self.before, self.sets.len() as u32] {
            body.extend_from_slice(&field.to_le_bytes());
        }
        body.extend_from_slice(&self.first_seq.to_le_bytes());
        body.extend_from_slice(&self.durable.to_le_bytes());
        for set in &self.sets {
            body.extend_from_slice(&set.set.to_le_bytes());
            body.extend_from_slice(&set.last.to_le_bytes());
            body.push(u8::from(set.lost));
        }
        body.extend_from_slice(&self.dictionary);
        twice::encode(MAGIC, &body)
    }

    /// The header and where the records begin.
    pub fn decode(bytes: &[u8]) -> Option<(SegmentHeader, usize)> {
        let (body, len) = twice::decode(MAGIC, bytes)?;
        let mut body = Reader(body);
        let _format = body.array::<2>()?;
        let salt = body.array()?;
        let (id, previous, previous_end, oldest) = (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
        let (next_set, before, count) = (body.u32()?, body.u32()?, body.u32()?);
        let (first_seq, durable) = (body.u64()?, body.u64()?);
        let sets = (0..count).map(|_| Some(RollCall { set: body.u32()?, last: body.u64()?, lost: body.u8()? != 0 }));
        let sets = sets.collect::<Option<Vec<_>>>()?;
        let dictionary = body.0.to_vec();
        let header = SegmentHeader { id, salt, previous, previous_end, first_seq, durable, oldest, next_set, before, sets, dictionary };
        Some((header, len))
    }
}

/// An open segment. Its file stays readable for those that hold it, also when it was removed from the log.
#[derive(Debug)]
pub struct Segment {
    pub id: u32,
    pub salt: [u8; 8],
    pub dictionary: Vec<u8>,
    pub file: File,
    pub path: PathBuf,
}

impl Segment {
    pub fn path(folder: &Path, id: u32) -> PathBuf {
        folder.join(format!("{id:010}.log"))
    }

    /// The id in a segment's name.
    pub fn id_of(name: &str) -> Option<u32> {
        name.strip_suffix(".log").filter(|digits| digits.len() == 10).and_then(|digits| digits.parse().ok()).filter(|id| *id != 0)
    }

    pub fn create(folder: &Path, header: &SegmentHeader, dictionary: Vec<u8>) -> io::Result<(Segment, u32)> {
        let path = Segment::path(folder, header.id);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        let bytes = header.encode();
        if let Err(e) = file.write_all_at(&bytes, 0) {
            let _ = std::fs::remove_file(&path);
            return Err(e);
        }
        Ok((Segment { id: header.id, salt: header.salt, dictionary, file, path }, bytes.len() as u32))
    }

    pub fn read(&self, offset: u32, len: u32) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len as usize];
        self.file.read_exact_at(&mut bytes, u64::from(offset))?;
        Ok(bytes)
    }
}

pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_damaged_byte_leaves_the_header_readable() {
        let sets = vec![RollCall { set: 7, last: 90, lost: false }, RollCall { set: 8, last: 91, lost: true }];
        let header = SegmentHeader {
            id: 3,
            salt: *b"saltsalt",
            previous: 2,
            previous_end: 4000,
            first_seq: 92,
            durable: 80,
            oldest: 1,
            next_set: 9,
            before: 8,
            sets,
            dictionary: b"a pod".to_vec(),
        };
        let bytes = header.encode();
        let want = Some((header.clone(), bytes.len()));
        assert_eq!(SegmentHeader::decode(&[&bytes[..], b"records"].concat()), want);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert_eq!(SegmentHeader::decode(&flipped), want, "byte {at}");
            }
        }
        // The first copy is enough.
        for len in 0..bytes.len() / 2 {
            assert_eq!(SegmentHeader::decode(&bytes[..len]), None, "{len} bytes");
        }
        assert_eq!(Segment::id_of("0000000012.log"), Some(12));
        assert!(["0000000000.log", "12.log", "x.log", "0000000012.idx"].iter().all(|name| Segment::id_of(name).is_none()));
    }
}
