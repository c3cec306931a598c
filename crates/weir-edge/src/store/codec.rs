//! Values are stored compressed where that makes them smaller: a device writes fewer bytes, and a list reads fewer. Objects of one list
//! resemble each other, so each segment has a dictionary of a few of them, and a pod takes a tenth of what it takes alone.
use super::record::Codec;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Smaller values gain nothing.
const MIN: usize = 128;
/// The fastest one that copes with an output of any length (level 1 of zlib-rs panics).
const LEVEL: u32 = 2;
/// Of the dictionary of a segment; with it a value is within the window of 32 KiB.
pub const MAX_DICTIONARY: usize = 12 << 10;

pub struct Encoder {
    deflate: Compress,
    out: Vec<u8>,
}

impl Encoder {
    pub fn new() -> Encoder {
        Encoder { deflate: Compress::new(Compression::new(LEVEL), false), out: Vec::new() }
    }

    /// The value as it will be stored.
    pub fn encode<'a>(&'a mut self, value: &'a [u8], dictionary: &[u8]) -> (Codec, &'a [u8]) {
        if value.len() < MIN {
            return (Codec::Plain, value);
        }
        self.deflate.reset();
        if self.out.capacity() > 1 << 20 {
            self.out = Vec::new();
        }
        self.out.clear();
        // More than a value that does not compress takes.
        self.out.reserve(value.len() + value.len() / 8 + 64);
        if !dictionary.is_empty() && self.deflate.set_dictionary(dictionary).is_err() {
            return (Codec::Plain, value);
        }
        match self.deflate.compress_vec(value, &mut self.out, FlushCompress::Finish) {
            Ok(Status::StreamEnd) if self.out.len() < value.len() => (Codec::Deflate, &self.out),
            _ => (Codec::Plain, value),
        }
    }
}

/// The value as it was given; `None` if it is not what was encoded.
pub fn decode(codec: Codec, stored: &[u8], raw_len: usize, dictionary: &[u8]) -> Option<Vec<u8>> {
    match codec {
        Codec::Plain => (stored.len() == raw_len).then(|| stored.to_vec()),
        Codec::Deflate => {
            let mut inflate = Decompress::new(false);
            if !dictionary.is_empty() {
                inflate.set_dictionary(dictionary).ok()?;
            }
            let mut out = Vec::with_capacity(raw_len + 1);
            let status = inflate.decompress_vec(stored, &mut out, FlushDecompress::Finish).ok()?;
            (status == Status::StreamEnd && out.len() == raw_len).then_some(out)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back() {
        let mut encoder = Encoder::new();
        let mut noise: u32 = 1;
        let random: Vec<u8> = std::iter::repeat_with(|| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (noise >> 24) as u8
        })
        .take(5000)
        .collect();
        let text = br#"{"kind":"Pod","metadata":{"name":"a"}}"#.repeat(1000);
        for (value, dictionary, codec, most) in [
            (&b""[..], &b""[..], Codec::Plain, 0),
            (b"short", &text, Codec::Plain, 5),
            (&random, b"", Codec::Plain, 5000),
            // What is in the dictionary takes next to nothing.
            (&random, &random, Codec::Deflate, 200),
            (&text, b"", Codec::Deflate, 2000),
            (&text, &random, Codec::Deflate, 2000),
        ] {
            let (found, stored) = encoder.encode(value, dictionary);
            assert_eq!(found, codec);
            let stored = stored.to_vec();
            assert_eq!(decode(found, &stored, value.len(), dictionary).unwrap(), value);
            assert!(stored.len() <= most, "{}", stored.len());
            if codec == Codec::Deflate {
                assert_eq!(decode(codec, &stored, value.len() - 1, dictionary), None);
                assert_eq!(decode(codec, &stored, value.len() + 1, dictionary), None);
                assert_eq!(decode(codec, &stored[..stored.len() - 1], value.len(), dictionary), None);
            }
        }
    }
}
