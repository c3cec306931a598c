//! A short digest of values, which says whether a value is the one that is stored without reading that. Digests are never written down.
pub type Digest = u64;

/// No value has it.
pub const UNKNOWN: Digest = 0;

/// Its keys are those of this process, so that nobody can make two values with one digest.
#[derive(Clone, Copy, Debug)]
pub struct Digester {
    keys: [u64; 4],
}

/// Two numbers become one in which each bit depends on all of theirs.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

impl Digester {
    pub fn new() -> Digester {
        let mut keys = [0x5a; 32];
        // Without randomness they are the same in all processes, and as good for what nobody makes up.
        let _ = getrandom::fill(&mut keys);
        let mut words = keys.chunks_exact(8).map(word);
        Digester { keys: std::array::from_fn(|_| words.next().unwrap_or_default() | 1) }
    }

    pub fn digest(&self, value: &[u8]) -> Digest {
        let [a, b, c, d] = self.keys;
        let (mut left, mut right) = (a, b);
        let mut blocks = value.chunks_exact(32);
        for block in &mut blocks {
            let (one, two) = block.split_at(16);
            left = fold(word(&one[..8]) ^ left, word(&one[8..]) ^ c);
            right = fold(word(&two[..8]) ^ right, word(&two[8..]) ^ d);
        }
        for rest in blocks.remainder().chunks(8) {
            left = fold(word(rest) ^ left, d ^ right);
        }
        fold(left ^ right.rotate_left(32), value.len() as u64 ^ c).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn values_that_differ_in_a_byte_or_in_length_have_other_digests() {
        let digester = Digester::new();
        let value: Vec<u8> = (0..200u16).map(|i| (i * 7) as u8).collect();
        let mut seen = HashSet::new();
        for length in 0..value.len() {
            assert!(seen.insert(digester.digest(&value[..length])), "{length}");
        }
        for at in 0..value.len() {
            for bit in 0..8 {
                let mut other = value.clone();
                other[at] ^= 1 << bit;
                assert!(seen.insert(digester.digest(&other)), "{at} {bit}");
            }
        }
        // The same words in another order.
        let words: Vec<u8> = [[1u8; 16], [2; 16], [3; 16], [4; 16]].concat();
        for (a, b) in [(0, 16), (0, 32), (16, 48), (8, 16), (24, 40)] {
            let mut other = words.clone();
            (0..8).for_each(|i| other.swap(a + i, b + i));
            assert_eq!(other == words, digester.digest(&other) == digester.digest(&words), "{a} {b}");
        }
        assert_eq!(digester.digest(&value), digester.digest(&value.clone()));
        assert_ne!(digester.digest(&value), Digester::new().digest(&value));
        assert_ne!(digester.digest(b""), UNKNOWN);
    }
}
