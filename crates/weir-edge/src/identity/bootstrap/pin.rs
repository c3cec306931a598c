//! Pins of the certificate authority, as kubeadm has them.
use data_encoding::HEXLOWER_PERMISSIVE;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use std::str::FromStr;
use weir_net::tls::Details;

/// `sha256:` and the digest of a public key (SubjectPublicKeyInfo) in hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin([u8; 32]);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    #[error("expected sha256: and 64 hexadecimal digits, as `kubeadm token create --print-join-command` prints it")]
    Malformed,
    #[error("the certificate authority of the cluster cannot be read: {0}")]
    Authority(String),
    #[error("none of the certificate authorities that the API server names has one of the pinned public keys; it has {found}")]
    NotPinned { found: String },
}

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Pin, PinError> {
        let digits = text.strip_prefix("sha256:").ok_or(PinError::Malformed)?;
        let digest = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map_err(|_| PinError::Malformed)?;
        digest.try_into().map(Pin).map_err(|_| PinError::Malformed)
    }
}

/// The certificates of a PEM text that are pinned; all of them where nothing is pinned. An authority that nobody pinned is not
/// trusted because it stands beside one that is.
pub fn pinned(authority: &str, pins: &[Pin]) -> Result<String, PinError> {
    let (mut kept, mut found) = (String::new(), Vec::new());
    for der in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        let der = der.map_err(|e| PinError::Authority(e.to_string()))?;
        let digest = Details::from_der(&der).map_err(|e| PinError::Authority(e.to_string()))?.key_digest;
        found.push(format!("sha256:{}", HEXLOWER_PERMISSIVE.encode(&digest)));
        if pins.is_empty() || pins.contains(&Pin(digest)) {
            let body = data_encoding::BASE64.encode(&der);
            let lines = body.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned() + "\n");
            kept += &format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", lines.collect::<String>());
        }
    }
    match (kept.is_empty(), found.is_empty()) {
        (false, _) => Ok(kept),
        (true, true) => Err(PinError::Authority("it has no PEM section `CERTIFICATE`".into())),
        (true, false) => Err(PinError::NotPinned { found: found.join(", ") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_test::certificates::Ca;

    #[test]
    fn only_pinned_authorities_are_kept() {
        let (one, two) = (Ca::new().pem(), Ca::new().pem());
        let both = [one.as_str(), &two].concat();
        let digest = |pem: &str| {
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            format!("sha256:{}", HEXLOWER_PERMISSIVE.encode(&Details::from_der(&der).unwrap().key_digest))
        };
        let pin = |text: String| text.parse::<Pin>().unwrap();
        let count = |pem: &str| pem.matches("BEGIN").count();
        assert_eq!(count(&pinned(&both, &[]).unwrap()), 2);
        let kept = pinned(&both, &[pin(digest(&two).to_uppercase().replace("SHA256", "sha256"))]).unwrap();
        assert_eq!((count(&kept), digest(&kept)), (1, digest(&two)));
        assert_eq!(pinned(&one, &[pin(digest(&two))]), Err(PinError::NotPinned { found: digest(&one) }));
        assert!(matches!(pinned("", &[]), Err(PinError::Authority(_))));
        for bad in ["", "sha256:", "sha256:ab", "sha512:ab", &digest(&one)[7..]] {
            assert_eq!(bad.parse::<Pin>(), Err(PinError::Malformed), "{bad}");
        }
    }
}
