//! Signatures of cosign that are made with a key: a manifest under the tag `sha256-DIGEST.sig`, whose layers are texts that name the image,
//! each with its signature as an annotation.
use super::{Descriptor, Digest, Manifest, OciError, Received, Session};
use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use data_encoding::BASE64;
use rustls_pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};
use x509_parser::{prelude::FromDer, x509::SubjectPublicKeyInfo};

/// Of one text that is signed.
const MAX_PAYLOAD: usize = 1 << 20;
/// Signatures that are looked at.
const MAX_SIGNATURES: usize = 64;
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const EC: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";
const RSA: &str = "1.2.840.113549.1.1.1";
const ED25519: &str = "1.3.101.112";

/// Why a text is no key, or an image is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum CosignError {
    #[error("it is not a public key in PEM (-----BEGIN PUBLIC KEY-----)")]
    Pem,
    #[error("keys of the algorithm {0} are not supported; use ECDSA P-256, as cosign generate-key-pair does, P-384, RSA or Ed25519")]
    Algorithm(String),
    #[error("the image is not signed: the registry has no {0}")]
    NotSigned(String),
    #[error("the image is signed, but not with verificationKey")]
    Untrusted,
    #[error("the signature with verificationKey is that of another image")]
    Other,
    #[error("the signatures of the image: {0}")]
    Oci(#[from] OciError),
}

impl CosignError {
    /// The registry does not work, which says nothing about the image.
    pub fn oci(&self) -> Option<&OciError> {
        match self {
            CosignError::Oci(e) => Some(e),
            _ => None,
        }
    }
}

/// A key that signs images.
pub struct PublicKey {
    algorithm: &'static dyn VerificationAlgorithm,
    key: Vec<u8>,
}

impl PublicKey {
    /// # Errors
    /// It is no key, or one of another algorithm.
    pub fn from_pem(pem: &str) -> Result<PublicKey, CosignError> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).map_err(|_| CosignError::Pem)?;
        let (_, info) = SubjectPublicKeyInfo::from_der(&der).map_err(|_| CosignError::Pem)?;
        let name = info.algorithm.algorithm.to_id_string();
        let curve = info.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok()).map(|oid| oid.to_id_string());
        let algorithm: &dyn VerificationAlgorithm = match (&*name, curve.as_deref()) {
            (EC, Some(P256)) => &signature::ECDSA_P256_SHA256_ASN1,
            (EC, Some(P384)) => &signature::ECDSA_P384_SHA256_ASN1,
            (RSA, _) => &signature::RSA_PKCS1_2048_8192_SHA256,
            (ED25519, _) => &signature::ED25519,
            _ => return Err(CosignError::Algorithm(curve.unwrap_or(name))),
        };
        Ok(PublicKey { algorithm, key: info.subject_public_key.data.to_vec() })
    }

    fn has_signed(&self, text: &[u8], signature: &str) -> bool {
        let Ok(signature) = BASE64.decode(signature.as_bytes()) else { return false };
        UnparsedPublicKey::new(self.algorithm, &self.key).verify(text, &signature).is_ok()
    }
}

/// Where cosign keeps the signatures of an image.
pub fn signature_tag(image: &Digest) -> String {
    format!("sha256-{}.sig", image.hex())
}

/// Whether the repository has a signature of this key for the image.
///
/// # Errors
/// It has none.
pub async fn verify(session: &mut Session, image: &Digest, key: &PublicKey) -> Result<(), CosignError> {
    let tag = signature_tag(image);
    let manifest = match session.manifest(&tag).await {
        Ok((_, Received::Manifest(manifest), _)) => manifest,
        Ok(_) => return Err(OciError::Manifest("an index in place of signatures".into()).into()),
        Err(OciError::NoManifest { .. }) => return Err(CosignError::NotSigned(tag)),
        Err(e) => return Err(e.into()),
    };
    let mut wrong = CosignError::Untrusted;
    for (layer, signature) in signatures(&manifest) {
        let text = session.blob(layer, MAX_PAYLOAD).await?;
        if !key.has_signed(&text, signature) {
            continue;
        }
        if names(&text, image) {
            return Ok(());
        }
        wrong = CosignError::Other;
    }
    Err(wrong)
}

fn signatures(manifest: &Manifest) -> impl Iterator<Item = (&Descriptor, &str)> {
    manifest.layers.iter().filter_map(|layer| Some((layer, layer.annotation(SIGNATURE)?))).take(MAX_SIGNATURES)
}

/// Whether a text that was signed is about this image.
fn names(text: &[u8], image: &Digest) -> bool {
    let text: serde_json::Value = serde_json::from_slice(text).unwrap_or_default();
    let critical = &text["critical"];
    let kind = critical["type"].as_str().is_some_and(|kind| kind == "cosign container image signature");
    kind && critical["image"]["docker-manifest-digest"].as_str() == Some(&image.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys_and_what_they_have_signed() {
        // openssl genpkey, openssl dgst -sha256 -sign (-rawin for Ed25519), of the text "signed".
        for (pem, signed) in [
            (include_str!("cosign/p256.pub"), include_str!("cosign/p256.sig")),
            (include_str!("cosign/rsa.pub"), include_str!("cosign/rsa.sig")),
            (include_str!("cosign/ed25519.pub"), include_str!("cosign/ed25519.sig")),
        ] {
            let key = PublicKey::from_pem(pem).unwrap();
            assert!(key.has_signed(b"signed", signed.trim()), "{pem}");
            assert!(!key.has_signed(b"signet", signed.trim()) && !key.has_signed(b"signed", "AAAA") && !key.has_signed(b"signed", "%"));
        }
        for text in [
            "",
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            assert!(matches!(PublicKey::from_pem(text), Err(CosignError::Pem)), "{text}");
        }
        assert!(matches!(PublicKey::from_pem(include_str!("cosign/secp256k1.pub")), Err(CosignError::Algorithm(_))));
    }

    #[test]
    fn what_a_signed_text_is_about() {
        let (image, other) = (Digest::of(b"a"), Digest::of(b"b"));
        let text = |kind: &str, digest: &Digest| {
            format!(
                r#"{{"critical":{{"identity":{{"docker-reference":""}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"{kind}"}}}}"#
            )
        };
        let cosign = "cosign container image signature";
        assert!(names(text(cosign, &image).as_bytes(), &image));
        assert!(!names(text(cosign, &other).as_bytes(), &image));
        assert!(!names(text("atomic container signature", &image).as_bytes(), &image));
        assert!(!names(b"{}", &image) && !names(b"", &image));
    }
}
