//! Checks a password against a hash of htpasswd.
use base64::{Engine as _, prelude::BASE64_STANDARD};
use md5::Md5;
use sha1::{Digest, Sha1};
use weir_config::model::PasswordHash;

/// A hash that was read once.
#[derive(Debug)]
pub enum Hash {
    /// It is slow on purpose: some 50 ms and more.
    Bcrypt(Box<str>),
    /// A thousand rounds of MD5, of Apache and of crypt.
    Md5Crypt {
        magic: &'static str,
        salt: Box<str>,
        digest: Box<str>,
    },
    /// With a salt or an empty one.
    Sha1 {
        digest: [u8; 20],
        salt: Box<[u8]>,
    },
    Plain(Box<str>),
}

impl Hash {
    /// `None` for a hash that lets nobody in.
    pub fn parse(hash: &PasswordHash) -> Option<Hash> {
        let text = hash.as_str();
        for magic in ["$apr1$", "$1$"] {
            if let Some(rest) = text.strip_prefix(magic) {
                let (salt, digest) = rest.split_once('$')?;
                let salt = salt.get(..salt.len().min(8))?;
                return Some(Hash::Md5Crypt { magic, salt: salt.into(), digest: digest.into() });
            }
        }
        if let Some(plain) = text.strip_prefix("{PLAIN}") {
            return Some(Hash::Plain(plain.into()));
        }
        if let Some(encoded) = text.strip_prefix("{SHA}").or_else(|| text.strip_prefix("{SSHA}")) {
            let bytes = BASE64_STANDARD.decode(encoded).ok()?;
            let (digest, salt) = bytes.split_at_checked(20)?;
            return Some(Hash::Sha1 { digest: digest.try_into().ok()?, salt: salt.into() });
        }
        text.starts_with("$2").then(|| Hash::Bcrypt(text.into()))
    }

    /// Whether a check takes so long that other requests of the worker would notice.
    pub fn is_slow(&self) -> bool {
        matches!(self, Hash::Bcrypt(_) | Hash::Md5Crypt { .. })
    }

    pub fn accepts(&self, password: &[u8]) -> bool {
        match self {
            Hash::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Hash::Md5Crypt { magic, salt, digest } => same(md5_crypt(magic, salt.as_bytes(), password).as_bytes(), digest.as_bytes()),
            Hash::Sha1 { digest, salt } => same(&Sha1::new().chain_update(password).chain_update(salt).finalize(), digest),
            Hash::Plain(plain) => same(password, plain.as_bytes()),
        }
    }
}

/// In a time that does not depend on where they differ.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && std::hint::black_box(a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b))) == 0
}

/// MD5 of crypt(3) (Poul-Henning Kamp's), as Apache and FreeBSD have it.
fn md5_crypt(magic: &str, salt: &[u8], password: &[u8]) -> String {
    let start = Md5::new().chain_update(password).chain_update(salt).chain_update(password).finalize();
    let mut first = Md5::new().chain_update(password).chain_update(magic).chain_update(salt);
    let mut left = password.len();
    while left > 0 {
        first.update(&start[..left.min(16)]);
        left = left.saturating_sub(16);
    }
    let mut bits = password.len();
    while bits > 0 {
        first.update(if bits & 1 == 1 { &[0][..] } else { password.get(..1).unwrap_or_default() });
        bits >>= 1;
    }
    let mut last = first.finalize();
    for round in 0..1000 {
        let mut next = Md5::new();
        next.update(if round & 1 == 1 { password } else { &last[..] });
        if round % 3 != 0 {
            next.update(salt);
        }
        if round % 7 != 0 {
            next.update(password);
        }
        next.update(if round & 1 == 1 { &last[..] } else { password });
        last = next.finalize();
    }
    encode(&last)
}

/// Three bytes are four characters, the lowest bits first.
fn encode(digest: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    const ORDER: [(Option<usize>, Option<usize>, usize, usize); 6] = [
        (Some(0), Some(6), 12, 4),
        (Some(1), Some(7), 13, 4),
        (Some(2), Some(8), 14, 4),
        (Some(3), Some(9), 15, 4),
        (Some(4), Some(10), 5, 4),
        (None, None, 11, 2),
    ];
    let byte = |at: Option<usize>| at.map_or(0, |at| u32::from(digest[at]));
    let mut text = String::new();
    for (high, middle, low, count) in ORDER {
        let mut bits = byte(high) << 16 | byte(middle) << 8 | byte(Some(low));
        for _ in 0..count {
            text.push(char::from(ALPHABET[(bits & 63) as usize]));
            bits >>= 6;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes that openssl and crypt(3) have made.
    #[test]
    fn passwords_and_hashes() {
        let table = [
            ("$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"),
            ("$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"),
            ("$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW", "secret"),
            ("$apr1$abcdefgh$FBwExRW4dCc8aL.OvjpIE1", "password"),
            ("$apr1$abcdefgh$nEN0WvTBNadwJBdPMgDuz/", "a somewhat longer password of 40 characters"),
            ("$1$xyz$cEUv8aN9ehjhMXG/kSFnM1", "password"),
            ("$1$xyz$r1kxO/4Zd2MJ4y4698aHr0", "a somewhat longer password of 40 characters"),
            ("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "password"),
            ("{SSHA}gVK8WC9YyFT1gMsQHTGCgT3sSv5zYWx0", "secret"),
            ("{PLAIN}letmein", "letmein"),
        ];
        for (text, password) in table {
            let hash = Hash::parse(&PasswordHash::new(text).unwrap()).unwrap();
            assert!(hash.accepts(password.as_bytes()), "{text}");
            assert!(!hash.accepts(b"wrong") && !hash.accepts(format!("{password}x").as_bytes()), "{text}");
        }
        for text in ["$apr1$short", "{SHA}?", "{SHA}W6ph"] {
            assert!(Hash::parse(&PasswordHash::new(text).unwrap()).is_none(), "{text}");
        }
        assert!(
            ["$6$salt$x", "password", "$2y$20$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"]
                .iter()
                .all(|text| PasswordHash::new(text).is_none())
        );
    }
}
