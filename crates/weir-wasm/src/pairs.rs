//! Header maps as bytes: a count, the lengths, then every key and value with a NUL behind it (little-endian, spec 1.5).
//!
//! Pure functions over untrusted bytes; fuzzed.

/// A map that a guest hands over may be this large and hold this many pairs.
pub const MAX_BYTES: usize = 1 << 20;
pub const MAX_PAIRS: usize = 1024;

/// Why bytes are not a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PairsError {
    #[error("more than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("more than {MAX_PAIRS} pairs")]
    TooMany,
    #[error("shorter than its lengths say")]
    Truncated,
    #[error("longer than its lengths say")]
    Trailing,
    #[error("no NUL behind a key or value")]
    Terminator,
}

/// A checked map; a view of the bytes it was decoded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pairs<'a> {
    lengths: &'a [u8],
    data: &'a [u8],
}

impl<'a> Pairs<'a> {
    pub const EMPTY: Pairs<'static> = Pairs { lengths: &[], data: &[] };

    /// Checks every length and NUL. No bytes at all are an empty map.
    pub fn decode(bytes: &'a [u8]) -> Result<Pairs<'a>, PairsError> {
        if bytes.is_empty() {
            return Ok(Pairs::EMPTY);
        }
        if bytes.len() > MAX_BYTES {
            return Err(PairsError::TooLarge);
        }
        let (count, rest) = take_u32(bytes).ok_or(PairsError::Truncated)?;
        if count > MAX_PAIRS {
            return Err(PairsError::TooMany);
        }
        let (lengths, data) = rest.split_at_checked(count * 8).ok_or(PairsError::Truncated)?;
        let mut left = data;
        for length in lengths.chunks_exact(4) {
            let (length, _) = take_u32(length).ok_or(PairsError::Truncated)?;
            let nul = *left.get(length).ok_or(PairsError::Truncated)?;
            if nul != 0 {
                return Err(PairsError::Terminator);
            }
            left = &left[length + 1..];
        }
        if !left.is_empty() {
            return Err(PairsError::Trailing);
        }
        Ok(Pairs { lengths, data })
    }

    pub fn len(&self) -> usize {
        self.lengths.len() / 8
    }

    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    pub fn iter(&self) -> Iter<'a> {
        Iter { lengths: self.lengths, data: self.data }
    }

    /// The first value of a key, compared without regard to ASCII case.
    pub fn get(&self, key: &[u8]) -> Option<&'a [u8]> {
        self.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v)
    }
}

impl<'a> IntoIterator for Pairs<'a> {
    type Item = (&'a [u8], &'a [u8]);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// Keys and values in order.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    lengths: &'a [u8],
    data: &'a [u8],
}

impl<'a> Iter<'a> {
    fn part(&mut self) -> Option<&'a [u8]> {
        let (length, lengths) = take_u32(self.lengths)?;
        let (part, rest) = self.data.split_at_checked(length)?;
        self.lengths = lengths;
        self.data = rest.get(1..)?;
        Some(part)
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        Some((self.part()?, self.part()?))
    }
}

fn take_u32(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    Some((usize::try_from(u32::from_le_bytes(*head)).ok()?, rest))
}

/// Builds the encoding in one pass. Kept and reused by its owner: [`Writer::clear`] keeps the space.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    lengths: Vec<u8>,
    data: Vec<u8>,
    count: u32,
}

impl Writer {
    pub fn clear(&mut self) {
        self.lengths.clear();
        self.data.clear();
        self.count = 0;
    }

    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        self.count += 1;
        for part in [key, value] {
            self.lengths.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
            self.data.extend_from_slice(part);
            self.data.push(0);
        }
    }

    /// Pairs pushed so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of the encoding; an empty map has none.
    pub fn encoded_len(&self) -> usize {
        if self.count == 0 { 0 } else { 4 + self.lengths.len() + self.data.len() }
    }

    /// Writes the encoding into a slice of exactly [`Writer::encoded_len`] bytes; false when the slice has another length.
    pub fn write_to(&self, out: &mut [u8]) -> bool {
        if out.len() != self.encoded_len() {
            return false;
        }
        if self.count > 0 {
            let (count, rest) = out.split_at_mut(4);
            let (lengths, data) = rest.split_at_mut(self.lengths.len());
            count.copy_from_slice(&self.count.to_le_bytes());
            lengths.copy_from_slice(&self.lengths);
            data.copy_from_slice(&self.data);
        }
        true
    }
}

/// The encoding of a list of pairs.
pub fn encode<'a>(pairs: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Vec<u8> {
    let mut writer = Writer::default();
    pairs.into_iter().for_each(|(k, v)| writer.push(k, v));
    let mut out = vec![0; writer.encoded_len()];
    writer.write_to(&mut out);
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let pairs: &[(&[u8], &[u8])] = &[(b":path", b"/a"), (b"set-cookie", b"a=1"), (b"set-cookie", b""), (b"", b"\0\xff")];
        let bytes = encode(pairs.iter().copied());
        // As the SDKs write it: count, lengths, then data with a NUL behind each part.
        assert_eq!(&bytes[..12], &[4, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0, 0]);
        let read = Pairs::decode(&bytes).unwrap();
        assert_eq!(read.iter().collect::<Vec<_>>(), pairs);
        assert_eq!(read.len(), 4);
        assert_eq!(read.get(b"SET-COOKIE"), Some(&b"a=1"[..]));
        assert_eq!(encode([]), b"");
    }

    #[test]
    fn bad_maps_are_refused() {
        let good = encode([(&b"key"[..], &b"value"[..])]);
        let mut bad_nul = good.clone();
        bad_nul[4 + 8 + 3] = b'x';
        let mut trailing = good.clone();
        trailing.push(0);
        let many = encode((0..MAX_PAIRS + 1).map(|_| (&b"k"[..], &b"v"[..])));
        let just = encode((0..MAX_PAIRS).map(|_| (&b"k"[..], &b"v"[..])));
        let large = vec![b'a'; MAX_BYTES];
        let mut huge_length = good.clone();
        huge_length[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        for (bytes, expected) in [
            (good.clone(), Ok(1)),
            (just, Ok(MAX_PAIRS)),
            (vec![0, 0, 0, 0], Ok(0)),
            (vec![1, 0], Err(PairsError::Truncated)),
            (good[..good.len() - 1].to_vec(), Err(PairsError::Truncated)),
            (huge_length, Err(PairsError::Truncated)),
            (u32::MAX.to_le_bytes().to_vec(), Err(PairsError::TooMany)),
            (bad_nul, Err(PairsError::Terminator)),
            (trailing, Err(PairsError::Trailing)),
            (many, Err(PairsError::TooMany)),
            (encode([(&b"k"[..], &large[..])]), Err(PairsError::TooLarge)),
        ] {
            assert_eq!(Pairs::decode(&bytes).map(|p| p.len()), expected, "{:?}", &bytes[..bytes.len().min(40)]);
        }
    }
}
