//! Which bytes may stand where in a head: tokens, values, targets, authorities (RFC 9110 and 3986).

const fn class(wanted: &[u8], alnum: bool) -> [bool; 256] {
    let (mut table, mut i) = ([false; 256], 0);
    while i < 256 {
        table[i] = alnum && (i as u8).is_ascii_alphanumeric();
        i += 1;
    }
    let mut i = 0;
    while i < wanted.len() {
        table[wanted[i] as usize] = true;
        i += 1;
    }
    table
}
static TOKEN: [bool; 256] = class(b"!#$%&'*+-.^_`|~", true);
/// The bytes of a host name (RFC 3986 reg-name), and those of an address in brackets.
static HOST: [bool; 256] = class(b"-._~%!$&'()*+,;=", true);
static LITERAL: [bool; 256] = class(b":.%-_~", true);

pub fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|c| TOKEN[*c as usize])
}

/// Whether a value may be sent in a header.
pub fn is_value(value: &[u8]) -> bool {
    text_end(value, 0, false) == value.len()
}

/// Whether a request target may be sent.
pub fn is_target(target: &[u8]) -> bool {
    !target.is_empty() && text_end(target, 0, true) == target.len()
}

/// The first byte at or after `at` that no value may hold.
pub(super) fn value_end(b: &[u8], at: usize) -> usize {
    text_end(b, at, false)
}

/// Whether `text` can be an authority: a name or address, perhaps with a port.
pub fn is_authority(text: &[u8]) -> bool {
    let mut at = 0;
    if text.first() == Some(&b'[') {
        let Some(end) = memchr::memchr(b']', text) else { return false };
        if end == 1 || !text[1..end].iter().all(|c| LITERAL[*c as usize]) {
            return false;
        }
        at = end + 1;
    } else {
        while at < text.len() && HOST[text[at] as usize] {
            at += 1;
        }
    }
    match &text[at..] {
        [] => true,
        // RFC 3986 allows an empty port.
        [b':', port @ ..] => {
            port.iter().all(u8::is_ascii_digit) && port.iter().fold(0u32, |n, d| n.min(65_536) * 10 + u32::from(d - b'0')) <= 65_535
        }
        _ => false,
    }
}

/// Whether `name` is valid in `upgrade` and `:protocol` (RFC 9110 section 7.8): a token, optionally with a version.
pub fn is_protocol(name: &[u8]) -> bool {
    const LONGEST: usize = 255;
    name.len() <= LONGEST
        && match memchr::memchr(b'/', name) {
            Some(at) => is_token(&name[..at]) && is_token(&name[at + 1..]),
            None => is_token(name),
        }
}

pub(super) fn token_end(b: &[u8], mut at: usize) -> usize {
    while at < b.len() && TOKEN[b[at] as usize] {
        at += 1;
    }
    at
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// The first byte at or after `at` that cannot stand in a name, but for some that only [`is_token`] finds; eight bytes at
/// a time. None of a well-known name's look-alikes gets past it.
pub(super) fn name_end(b: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = b.get(at..at + 8) {
        let x = u64::from_le_bytes(chunk.try_into().unwrap_or_default());
        let colon = x ^ (ONES * u64::from(b':'));
        let hit = ((x.wrapping_sub(ONES * 0x21) & !x) | (colon.wrapping_sub(ONES) & !colon) | x) & HIGH;
        if hit != 0 {
            return at + hit.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    token_end(b, at)
}

/// The first byte at or after `at` that is a control byte other than tab, or DEL, or (with `space`) a space; eight bytes
/// at a time.
pub(super) fn text_end(b: &[u8], mut at: usize, space: bool) -> usize {
    let below = ONES * if space { 0x21 } else { 0x20 };
    loop {
        while let Some(chunk) = b.get(at..at + 8) {
            let x = u64::from_le_bytes(chunk.try_into().unwrap_or_default());
            let del = x ^ (ONES * 0x7f);
            let hit = ((x.wrapping_sub(below) & !x) | (del.wrapping_sub(ONES) & !del)) & HIGH;
            if hit != 0 {
                at += hit.trailing_zeros() as usize / 8;
                break;
            }
            at += 8;
        }
        match b.get(at) {
            None => return b.len(),
            Some(&c) if c == 0x7f || c < 0x20 && (c != b'\t' || space) || space && c == b' ' => return at,
            Some(_) => at += 1,
        }
    }
}
