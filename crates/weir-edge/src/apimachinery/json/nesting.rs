//! Finds where a JSON object or array ends, 64 bytes at a time and from any cut between two pieces of text.

/// Deepest nesting of values that is read; the limit of the JSON decoder of the API server.
pub const MAX_DEPTH: u32 = 10_000;

/// How far the text read so far is nested.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nesting {
    depth: u32,
    /// All ones within a string, else zero.
    string: u64,
    /// The next byte follows a backslash.
    escaped: bool,
}

/// Byte at which the nesting is deeper than [`MAX_DEPTH`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooDeep(pub usize);

const BLOCK: usize = 64;

impl Nesting {
    pub fn is_empty(&self) -> bool {
        self.depth == 0
    }

    /// Reads on through `text`, which begins with the value or goes on where the last piece ended. The result is the length of the
    /// text through the byte that ends the value, and `None` if the value goes on.
    pub fn scan(&mut self, text: &[u8]) -> Result<Option<usize>, TooDeep> {
        let mut blocks = text.chunks_exact(BLOCK);
        let mut at = 0;
        for block in &mut blocks {
            if let Some(end) = self.block(block).map_err(|e| TooDeep(at + e.0))? {
                *self = Nesting::default();
                return Ok(Some(at + end));
            }
            at += BLOCK;
        }
        for (i, &byte) in blocks.remainder().iter().enumerate() {
            if self.byte(byte).map_err(|_| TooDeep(at + i))? {
                *self = Nesting::default();
                return Ok(Some(at + i + 1));
            }
        }
        Ok(None)
    }

    /// Whether the value ends with this byte.
    fn byte(&mut self, byte: u8) -> Result<bool, TooDeep> {
        if std::mem::take(&mut self.escaped) {
            return Ok(false);
        }
        match byte {
            b'"' => self.string = !self.string,
            b'\\' => self.escaped = true,
            b'{' | b'[' if self.string == 0 => self.open(0)?,
            b'}' | b']' if self.string == 0 => return Ok(self.close()),
            _ => {}
        }
        Ok(false)
    }

    fn open(&mut self, at: usize) -> Result<(), TooDeep> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(TooDeep(at)) } else { Ok(()) }
    }

    fn close(&mut self) -> bool {
        self.depth = self.depth.saturating_sub(1);
        self.depth == 0
    }

    fn block(&mut self, block: &[u8]) -> Result<Option<usize>, TooDeep> {
        let mut masks = Masks::of(block);
        let escaped = self.escapes(masks.backslashes);
        // The bytes from an opening quote to the byte before the closing one.
        let strings = prefix_xor(masks.quotes & !escaped) ^ self.string;
        self.string = ((strings as i64) >> 63) as u64;
        masks.opens &= !(strings | escaped);
        masks.closes &= !(strings | escaped);
        let (opens, closes) = (masks.opens.count_ones(), masks.closes.count_ones());
        if self.depth > closes && self.depth + opens <= MAX_DEPTH {
            self.depth = self.depth + opens - closes;
            return Ok(None);
        }
        let mut either = masks.opens | masks.closes;
        while either != 0 {
            let at = either.trailing_zeros() as usize;
            either &= either - 1;
            if masks.opens >> at & 1 == 1 {
                self.open(at)?;
            } else if self.close() {
                return Ok(Some(at + 1));
            }
        }
        Ok(None)
    }

    /// The bytes that follow a backslash which is not itself escaped.
    fn escapes(&mut self, mut backslashes: u64) -> u64 {
        let mut escaped = u64::from(std::mem::take(&mut self.escaped));
        backslashes &= !escaped;
        while backslashes != 0 {
            let at = backslashes.trailing_zeros();
            backslashes &= backslashes - 1;
            if at == 63 {
                self.escaped = true;
            } else {
                escaped |= 2 << at;
                backslashes &= !(2 << at);
            }
        }
        escaped
    }
}

/// Where the bytes that matter are in a block: the bit of a mask is the byte's place.
struct Masks {
    quotes: u64,
    backslashes: u64,
    opens: u64,
    closes: u64,
}

impl Masks {
    fn of(block: &[u8]) -> Masks {
        let mut masks = Masks { quotes: 0, backslashes: 0, opens: 0, closes: 0 };
        for (i, word) in block.chunks_exact(8).enumerate() {
            let word = word.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
            let at = 8 * i;
            masks.quotes |= equal(word, b'"') << at;
            masks.backslashes |= equal(word, b'\\') << at;
            // The bit that tells '[' from '{' and ']' from '}' is set in both.
            let brackets = word | repeat(0x20);
            masks.opens |= equal(brackets, b'{') << at;
            masks.closes |= equal(brackets, b'}') << at;
        }
        masks
    }
}

const fn repeat(byte: u8) -> u64 {
    byte as u64 * 0x0101_0101_0101_0101
}

/// Eight bits: which bytes of a word are equal to `byte`.
fn equal(word: u64, byte: u8) -> u64 {
    let low = repeat(0x7f);
    let differing = word ^ repeat(byte);
    let equal = !((differing & low).wrapping_add(low) | differing | low);
    (equal >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// Each bit of the result is the parity of the bits of `bits` up to it.
fn prefix_xor(mut bits: u64) -> u64 {
    for shift in [1, 2, 4, 8, 16, 32] {
        bits ^= bits << shift;
    }
    bits
}
