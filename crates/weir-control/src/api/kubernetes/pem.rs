//! Whether PEM texts hold what they should.
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject};

pub fn is_certificates(pem: &str) -> bool {
    is_all::<CertificateDer<'_>>(pem, |der| x509_parser::parse_x509_certificate(der).is_ok())
}

pub fn is_revocation_lists(pem: &str) -> bool {
    is_all::<CertificateRevocationListDer<'_>>(pem, |der| x509_parser::parse_x509_crl(der).is_ok())
}

/// Whether a text has sections of a kind, and all of them are good.
fn is_all<T: PemObject + AsRef<[u8]>>(pem: &str, good: impl Fn(&[u8]) -> bool) -> bool {
    let mut all = T::pem_slice_iter(pem.as_bytes()).map(|section| section.is_ok_and(|der| good(der.as_ref()))).peekable();
    all.peek().is_some() && all.all(|good| good)
}

pub fn is_private_key(pem: &str) -> bool {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).is_ok()
}
