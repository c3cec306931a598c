//! `Payload`, the one message of Nacos' gRPC services: the kind of a JSON text, headers and the text itself.
//!
//! ```text
//! message Payload { Metadata metadata = 2; google.protobuf.Any body = 3; }
//! message Metadata { string type = 3; string clientIp = 8; map<string, string> headers = 7; }
//! ```
use serde_json::Value;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Payload {
    /// As `SubscribeServiceRequest`.
    pub kind: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of Nacos is not valid protobuf")]
pub struct Malformed;

impl Payload {
    pub fn new(kind: &str, headers: &[(String, String)], body: &Value) -> Payload {
        Payload { kind: kind.into(), headers: headers.to_vec(), body: body.to_string().into_bytes() }
    }

    pub fn json(&self) -> serde_json::Result<Value> {
        serde_json::from_slice(&self.body)
    }

    pub fn encode(&self) -> Vec<u8> {
        let (mut metadata, mut any, mut out) = (Vec::new(), Vec::new(), Vec::new());
        bytes(3, self.kind.as_bytes(), &mut metadata);
        for (name, value) in &self.headers {
            let mut entry = Vec::new();
            bytes(1, name.as_bytes(), &mut entry);
            bytes(2, value.as_bytes(), &mut entry);
            bytes(7, &entry, &mut metadata);
        }
        bytes(2, &self.body, &mut any);
        bytes(2, &metadata, &mut out);
        bytes(3, &any, &mut out);
        out
    }

    pub fn decode(message: &[u8]) -> Result<Payload, Malformed> {
        let mut made = Payload::default();
        for field in Fields(message) {
            match field? {
                (2, metadata) => {
                    for field in Fields(metadata) {
                        match field? {
                            (3, kind) => made.kind = String::from_utf8_lossy(kind).into_owned(),
                            (7, entry) => {
                                let (mut name, mut value) = (String::new(), String::new());
                                for field in Fields(entry) {
                                    match field? {
                                        (1, text) => name = String::from_utf8_lossy(text).into_owned(),
                                        (2, text) => value = String::from_utf8_lossy(text).into_owned(),
                                        _ => {}
                                    }
                                }
                                made.headers.push((name, value));
                            }
                            _ => {}
                        }
                    }
                }
                (3, any) => {
                    for field in Fields(any) {
                        if let (2, value) = field? {
                            made.body = value.to_vec();
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(made)
    }
}

fn varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn bytes(field: u64, value: &[u8], out: &mut Vec<u8>) {
    varint(field << 3 | 2, out);
    varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

/// The fields of a message: numbers with their bytes, empty for those of another type.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            n |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Some(n);
            }
        }
        None
    }

    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(count).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, &'a [u8])> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => self.varint().map(|_| &[][..])?,
            1 => self.take(8).map(|_| &[][..])?,
            2 => {
                let length = self.varint()?;
                self.take(length)?
            }
            5 => self.take(4).map(|_| &[][..])?,
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field().ok_or(Malformed);
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn payloads_come_back_and_broken_ones_are_refused() {
        let headers = [("accessToken".to_string(), "t".repeat(300))];
        let made = Payload::new("SubscribeServiceRequest", &headers, &json!({ "serviceName": "ü" }));
        let encoded = made.encode();
        assert_eq!(Payload::decode(&encoded), Ok(made));
        // Numbers and unknown fields are passed over.
        let more = [&encoded[..], &[0x08, 0x96, 0x01, 0x45, 1, 2, 3, 4, 0x49, 1, 2, 3, 4, 5, 6, 7, 8]].concat();
        assert_eq!(Payload::decode(&more).unwrap().kind, "SubscribeServiceRequest");
        assert!((1..encoded.len()).any(|end| Payload::decode(&encoded[..end]).is_err()));
        for broken in [&[0x12][..], &[0x12, 0xff], &[0x12, 5, 1], &[0x13], &[0xff; 12]] {
            assert_eq!(Payload::decode(broken), Err(Malformed), "{broken:?}");
        }
        assert_eq!(&Payload { kind: "A".into(), ..Payload::default() }.encode()[..5], [0x12, 3, 0x1a, 1, b'A']);
    }
}
