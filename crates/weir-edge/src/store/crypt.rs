//! Encryption of what the log holds: AES-256-GCM-SIV with a random nonce for each part of each record. Names of sets and objects,
//! heads and values are encrypted; lengths, the kind of a record and how many sets there are stay visible.
use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf, rand,
};

/// With a key, or none.
pub struct Cipher(Option<LessSafeKey>);

impl Cipher {
    pub const NONE: Cipher = Cipher(None);

    /// The key of one store, made from the caller's key and the store's salt. `None`: the library refuses.
    pub fn new(key: &[u8; 32], salt: &[u8]) -> Option<Cipher> {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(key);
        let mut derived = [0; 32];
        prk.expand(&[b"weir edge store"], hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut derived)).ok()?;
        let key = UnboundKey::new(&AES_256_GCM_SIV, &derived).ok()?;
        Some(Cipher(Some(LessSafeKey::new(key))))
    }

    pub fn encrypts(&self) -> bool {
        self.0.is_some()
    }

    /// Nonce, ciphertext and tag; or what was given, without a key. `None`: no randomness, or the library refuses.
    pub fn seal(&self, mut plain: Vec<u8>, aad: &[u8]) -> Option<Vec<u8>> {
        let Some(key) = &self.0 else { return Some(plain) };
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut plain).ok()?;
        Some([&nonce[..], &plain].concat())
    }

    /// `None`: another key, or not what was sealed.
    pub fn open(&self, sealed: &[u8], aad: &[u8]) -> Option<Vec<u8>> {
        let Some(key) = &self.0 else { return Some(sealed.to_vec()) };
        let (nonce, rest) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut rest = rest.to_vec();
        let plain = key.open_in_place(nonce, Aad::from(aad), &mut rest).ok()?.len();
        rest.truncate(plain);
        Some(rest)
    }
}
