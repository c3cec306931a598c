//! Well-known header names: a small id for each, found without hashing the whole name.

macro_rules! known {
    ($($id:ident = $name:literal,)*) => {
        /// Id of a well-known header name; `Other` for the rest. At most 64, so that a set of them is one `u64`.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Known { Other, $($id,)* }
        const IDS: &[Known] = &[Known::Other, $(Known::$id,)*];
        const NAMES: &[&str] = &["", $($name,)*];
        /// As they begin a line.
        const PREFIXES: &[&str] = &["", $(concat!($name, ": "),)*];
    };
}

known! {
    Host = "host", Connection = "connection", ContentLength = "content-length", TransferEncoding = "transfer-encoding",
    KeepAlive = "keep-alive", ProxyConnection = "proxy-connection", Te = "te", Trailer = "trailer", Upgrade = "upgrade",
    Expect = "expect", RequestId = "x-request-id", ForwardedFor = "x-forwarded-for", ForwardedProto = "x-forwarded-proto",
    ForwardedHost = "x-forwarded-host", Forwarded = "forwarded", Origin = "origin", UserAgent = "user-agent",
    RequestMethod = "access-control-request-method", AllowOrigin = "access-control-allow-origin", Accept = "accept",
    AcceptEncoding = "accept-encoding", AcceptLanguage = "accept-language", AcceptRanges = "accept-ranges",
    ContentType = "content-type", ContentEncoding = "content-encoding", Cookie = "cookie", SetCookie = "set-cookie",
    Authorization = "authorization", ProxyAuthorization = "proxy-authorization", ProxyAuthenticate = "proxy-authenticate",
    Server = "server", Date = "date", Etag = "etag", LastModified = "last-modified", Location = "location", Via = "via",
    Vary = "vary", CacheControl = "cache-control", Referer = "referer", IfNoneMatch = "if-none-match",
    IfModifiedSince = "if-modified-since", Range = "range", RealIp = "x-real-ip", Traceparent = "traceparent",
    RetryAfter = "retry-after", Http2Settings = "http2-settings", GrpcStatus = "grpc-status", GrpcMessage = "grpc-message",
    GrpcTimeout = "grpc-timeout", OriginalPath = "x-envoy-original-path", AttemptCount = "x-envoy-attempt-count",
    UpstreamServiceTime = "x-envoy-upstream-service-time", ForwardedClientCert = "x-forwarded-client-cert",
}

/// Four cheap facts about a name; distinct for all well-known names, whatever their case.
const fn facts(name: &[u8]) -> u32 {
    let n = name.len();
    (n as u32 & 0xff) << 24 | ((name[0] | 32) as u32) << 16 | ((name[n / 2] | 32) as u32) << 8 | (name[n - 1] | 32) as u32
}

const fn slot(facts: u32, seed: u32) -> usize {
    (facts.wrapping_mul(seed) >> 24) as usize
}

/// A multiplier that sends every well-known name to a slot of its own, and the table, both found by the compiler.
const TABLE: (u32, [u8; 256]) = {
    let mut seed = 0x9e37_79b1u32;
    'search: loop {
        let (mut table, mut i) = ([0u8; 256], 1);
        while i < NAMES.len() {
            let s = slot(facts(NAMES[i].as_bytes()), seed);
            if table[s] != 0 {
                seed = seed.wrapping_mul(0x0100_0193).wrapping_add(2);
                continue 'search;
            }
            table[s] = i as u8;
            i += 1;
        }
        break (seed, table);
    }
};
static SLOTS: [u8; 256] = TABLE.1;

/// Whether the token `name` is `known` but for case. In tokens, setting bit 5 makes a letter small and turns nothing else
/// into a letter, a digit or a hyphen, so eight bytes can be compared at once.
fn same(known: &[u8], name: &[u8]) -> bool {
    if known.len() != name.len() {
        return false;
    }
    let word = |b: &[u8; 8]| u64::from_le_bytes(*b) | 0x2020_2020_2020_2020;
    match (known.last_chunk(), name.last_chunk()) {
        (Some(k), Some(n)) if word(k) == word(n) => known.as_chunks().0.iter().zip(name.as_chunks().0).all(|(k, n)| word(k) == word(n)),
        (None, None) => known.iter().zip(name).all(|(k, n)| *k == n | 0x20),
        _ => false,
    }
}

impl Known {
    /// The id of `name`, which must have at least one byte. What is no token is `Other`, as long as it holds no control
    /// bytes: no other byte turns into one of a well-known name when its bit 5 is set.
    pub fn of(name: &[u8]) -> Known {
        let i = SLOTS[slot(facts(name), TABLE.0)] as usize;
        if same(NAMES[i].as_bytes(), name) { IDS[i] } else { Known::Other }
    }
    /// In the order of their numbers, `Other` first.
    pub fn all() -> impl Iterator<Item = Known> {
        IDS.iter().copied()
    }
    pub fn name(self) -> &'static str {
        NAMES[self as usize]
    }
    /// The name with what stands before the value.
    pub(super) fn prefix(self) -> &'static str {
        PREFIXES[self as usize]
    }
    pub const fn bit(self) -> u64 {
        1 << self as u8
    }
}

/// Headers that belong to one connection and are never forwarded.
pub const HOP_BY_HOP: u64 = Known::Connection.bit()
    | Known::KeepAlive.bit()
    | Known::ProxyConnection.bit()
    | Known::Te.bit()
    | Known::Upgrade.bit()
    | Known::TransferEncoding.bit()
    | Known::Http2Settings.bit()
    | Known::ProxyAuthorization.bit()
    | Known::ProxyAuthenticate.bit();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case_and_nothing_else_is() {
        for (id, name) in IDS.iter().zip(NAMES).skip(1) {
            assert_eq!(Known::of(name.as_bytes()), *id);
            assert_eq!(Known::of(name.to_uppercase().as_bytes()), *id);
            assert_eq!(Known::of(format!("{name}x").as_bytes()), Known::Other);
            assert_eq!(Known::of(&name.as_bytes()[1..]), Known::Other, "{name}");
        }
        assert_eq!(Known::of(b"x"), Known::Other);
        // The tokenizer relies on it.
        for name in &NAMES[1..] {
            for at in 0..name.len() {
                for byte in 0x21..=0xff {
                    let mut other = name.as_bytes().to_vec();
                    other[at] = byte;
                    let same = other.eq_ignore_ascii_case(name.as_bytes());
                    assert!(same || !NAMES[Known::of(&other) as usize].eq(*name), "{name} {byte}");
                }
            }
        }
    }
}
