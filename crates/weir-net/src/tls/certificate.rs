//! Certificates, keys and roots out of PEM texts, with errors that say what is wrong with which part.
use data_encoding::HEXLOWER;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use sha2::{Digest, Sha256};
use std::{fmt, net::IpAddr, sync::Arc};
use x509_parser::{
    extensions::GeneralName,
    objects::{oid_registry, oid2abbrev},
    prelude::*,
};

/// A certificate chain with its private key, checked to belong together, and what is worth showing of it.
pub struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
    pub details: Details,
}

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// Distinguished name as RFC 2253 writes it, the last part first: `CN=shop.test,O=Shop`.
    pub subject: String,
    /// Lower-case hexadecimal digits.
    pub serial: String,
    /// Subject alternative names of type DNS, in lower case; a certificate without any lends its common name.
    pub dns_names: Vec<String>,
    pub uris: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970; from then on clients refuse it.
    pub not_after: i64,
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub key_digest: [u8; 32],
}

/// Why a PEM text cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateError {
    /// Not PEM, or without a section of the kind that is needed.
    Pem(String),
    /// The leaf certificate is not X.509 as it must be.
    Malformed(String),
    /// A key of a kind that is not supported.
    Key(String),
    /// The private key belongs to another certificate.
    KeyMismatch,
    /// A list of revoked certificates that cannot be used.
    Revocation(String),
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CertificateError::Pem(what) => f.write_str(what),
            CertificateError::Malformed(why) => write!(f, "the certificate cannot be read: {why}"),
            CertificateError::Key(why) => write!(f, "the private key cannot be used: {why}"),
            CertificateError::KeyMismatch => f.write_str("the private key does not match the certificate"),
            CertificateError::Revocation(why) => write!(f, "the revocation list cannot be used: {why}"),
        }
    }
}

impl std::error::Error for CertificateError {}

impl Certificate {
    /// Reads a chain (leaf first) and its key, both PEM.
    pub fn from_pem(chain: &str, key: &str) -> Result<Certificate, CertificateError> {
        let chain = certificates(chain, "the certificate chain")?;
        let details = Details::from_der(&chain[0])?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| {
            CertificateError::Pem(match e {
                rustls_pki_types::pem::Error::NoItemsFound => "the private key holds no PEM section `PRIVATE KEY`".into(),
                e => format!("the private key is not PEM: {e}"),
            })
        })?;
        let key = CertifiedKey::from_der(chain, key, super::provider()).map_err(|e| match e {
            rustls::Error::InconsistentKeys(_) => CertificateError::KeyMismatch,
            e => CertificateError::Key(e.to_string()),
        })?;
        Ok(Certificate { key: Arc::new(key), details })
    }

    /// Whether both are the same chain with the same key, so that nothing has changed.
    pub fn same(&self, other: &Certificate) -> bool {
        self.key.cert == other.key.cert
    }
}

impl Details {
    /// Reads the shown parts of one certificate in DER.
    pub fn from_der(der: &[u8]) -> Result<Details, CertificateError> {
        let (_, cert) = X509Certificate::from_der(der).map_err(|e| CertificateError::Malformed(e.to_string()))?;
        let mut out = Details {
            subject: rfc2253(cert.subject()),
            serial: format!("{:x}", cert.tbs_certificate.serial),
            dns_names: Vec::new(),
            uris: Vec::new(),
            addresses: Vec::new(),
            not_before: cert.validity().not_before.timestamp(),
            not_after: cert.validity().not_after.timestamp(),
            key_digest: digest(cert.public_key().raw),
        };
        if let Ok(Some(names)) = cert.subject_alternative_name() {
            for name in &names.value.general_names {
                match name {
                    GeneralName::DNSName(name) => out.dns_names.push(name.to_ascii_lowercase()),
                    GeneralName::URI(uri) => out.uris.push((*uri).to_string()),
                    GeneralName::IPAddress(bytes) => out.addresses.extend(address(bytes)),
                    _ => {}
                }
            }
        }
        if out.dns_names.is_empty() && out.uris.is_empty() && out.addresses.is_empty() {
            out.dns_names.extend(cert.subject().iter_common_name().filter_map(|n| n.as_str().ok()).map(str::to_ascii_lowercase));
        }
        Ok(out)
    }

    /// Whether one of `wanted` is among the subject alternative names. A DNS name in the certificate may be a wildcard.
    pub fn has_name(&self, wanted: &[String]) -> bool {
        wanted.iter().any(|w| {
            self.uris.iter().any(|u| u == w)
                || self.dns_names.iter().any(|d| fits(d, &w.to_ascii_lowercase()))
                || w.parse().is_ok_and(|ip: IpAddr| self.addresses.contains(&ip))
        })
    }
}

/// RFC 6125: a wildcard stands for exactly one label, the leftmost.
fn fits(pattern: &str, name: &str) -> bool {
    pattern == name
        || pattern
            .strip_prefix("*.")
            .is_some_and(|rest| name.split_once('.').is_some_and(|(first, tail)| !first.is_empty() && tail == rest))
}

/// SHA-256.
pub fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// SHA-256 in lower-case hexadecimal digits.
pub fn hex_digest(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

fn rfc2253(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter_rdn()
        .map(|rdn| {
            let attributes = rdn.iter().map(|a| {
                let kind = oid2abbrev(a.attr_type(), oid_registry()).map_or_else(|_| a.attr_type().to_id_string(), str::to_string);
                format!("{kind}={}", escaped(a.as_str().unwrap_or_default()))
            });
            attributes.collect::<Vec<_>>().join("+")
        })
        .collect();
    parts.reverse();
    parts.join(",")
}

fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (i, c) in value.chars().enumerate() {
        let edge = c == ' ' && (i == 0 || i == last) || c == '#' && i == 0;
        if c.is_control() || !c.is_ascii() {
            // As OpenSSL, and therefore Envoy, writes them.
            c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| out.push_str(&format!("\\{byte:02X}")));
            continue;
        }
        if edge || matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

pub(super) fn certificates(pem: &str, what: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(|e| CertificateError::Pem(format!("{what} is not PEM: {e}")))?;
    if found.is_empty() {
        return Err(CertificateError::Pem(format!("{what} holds no PEM section `CERTIFICATE`")));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn make(names: &[&str]) -> (String, String) {
        let made = weir_test::self_signed(names);
        (made.pem, made.key)
    }

    #[test]
    fn a_chain_is_read_with_its_names() {
        let (cert, key) = make(&["Shop.test", "*.a.test", "10.0.0.1"]);
        let c = Certificate::from_pem(&cert, &key).unwrap();
        assert_eq!(c.details.dns_names, ["shop.test", "*.a.test"]);
        assert_eq!(c.details.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        for (wanted, expect) in
            [("SHOP.test", true), ("x.a.test", true), ("a.test", false), ("y.x.a.test", false), ("10.0.0.1", true), ("other", false)]
        {
            assert_eq!(c.details.has_name(&[wanted.to_string()]), expect, "{wanted}");
        }
    }

    #[test]
    fn subjects_are_written_as_in_rfc_2253() {
        use rcgen::DnType::{CommonName, CountryName, OrganizationName};
        let made = weir_test::Ca::new().sign_with(&[], |params| {
            params.distinguished_name = Default::default();
            for (kind, value) in [(CountryName, "DE"), (OrganizationName, "A, \"B\" + C"), (CommonName, " x#\r\né")] {
                params.distinguished_name.push(kind, value);
            }
        });
        let details = Details::from_der(&made.der).unwrap();
        assert_eq!(details.subject, r#"CN=\ x#\0D\0A\C3\A9,O=A\, \"B\" \+ C,C=DE"#);
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let ((cert, key), (_, other)) = (make(&["a.test"]), make(&["a.test"]));
        let table = [
            (cert.as_str(), other.as_str(), "the private key does not match the certificate"),
            ("", &key, "the certificate chain holds no PEM section `CERTIFICATE`"),
            ("nonsense", &key, "the certificate chain holds no PEM section `CERTIFICATE`"),
            (&cert, "", "the private key holds no PEM section `PRIVATE KEY`"),
            (&cert, &cert, "the private key holds no PEM section `PRIVATE KEY`"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &key, "the certificate cannot be read"),
        ];
        for (cert, key, expect) in table {
            let e = Certificate::from_pem(cert, key).err().unwrap().to_string();
            assert!(e.starts_with(expect), "{e}");
        }
    }
}
