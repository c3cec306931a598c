//! A segment's dictionary as its header holds it: compressed, and encrypted where all else is.
use super::{
    codec::{self, Encoder},
    crypt::Cipher,
    record::{Codec, Reader},
};

/// What a segment's header holds of its dictionary.
pub fn pack(dictionary: &[u8], salt: &[u8; 8], encoder: &mut Encoder, cipher: &Cipher) -> Option<Vec<u8>> {
    let (codec, bytes) = encoder.encode(dictionary, &[]);
    let mut plain = vec![u8::from(codec == Codec::Deflate)];
    plain.extend_from_slice(&(dictionary.len() as u32).to_le_bytes());
    plain.extend_from_slice(bytes);
    cipher.seal(plain, salt)
}

/// `None`: it is not what was packed.
pub fn unpack(packed: &[u8], salt: &[u8; 8], cipher: &Cipher) -> Option<Vec<u8>> {
    let plain = cipher.open(packed, salt)?;
    let mut reader = Reader(&plain);
    let codec = if reader.u8()? == 0 { Codec::Plain } else { Codec::Deflate };
    let len = reader.u32()? as usize;
    (len <= codec::MAX_DICTIONARY).then(|| codec::decode(codec, reader.0, len, &[])).flatten()
}
