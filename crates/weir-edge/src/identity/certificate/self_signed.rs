//! A certificate authority of the node's own, and the serving certificate that it signs.
use super::{pair::Pair, request::alternative, validity};
use crate::durable;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};
use weir_net::tls::{Details, digest};
use x509_parser::time::ASN1Time;

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;
/// Lifetimes are those of kubeadm.
const AUTHORITY: i64 = 10 * YEAR;
const LEAF: i64 = YEAR;

#[derive(Debug, thiserror::Error)]
pub enum SelfSignedError {
    #[error("cannot write {}: {error}", folder.display())]
    Io { folder: PathBuf, error: io::Error },
    #[error("cannot sign the serving certificate: {0}")]
    Sign(#[from] rcgen::Error),
}

/// What clients verify the serving certificate with.
pub fn authority(folder: &Path) -> PathBuf {
    folder.join("edge-ca.crt")
}

pub fn pair(folder: &Path) -> Pair {
    Pair::new(folder, "edge-self-signed")
}

/// Makes what is missing, and renews what is due. Returns whether something is new.
pub fn ensure(folder: &Path, names: &[String], now: SystemTime) -> Result<bool, SelfSignedError> {
    let failed = |error| SelfSignedError::Io { folder: folder.into(), error };
    let held = held_authority(folder, now);
    if let (Some(_), Some(leaf)) = (&held, pair(folder).read())
        && matches!(validity::next(Some(&leaf.details), now), validity::Next::Wait(_))
        && names.iter().all(|name| leaf.details.has_name(std::slice::from_ref(name)))
    {
        return Ok(false);
    }
    let key = match held {
        Some(key) => key,
        None => new_authority(folder, now)?,
    };
    let issuer = Issuer::new(authority_params(now)?, key);
    let own = KeyPair::generate()?;
    let mut params = named("weir-edge", now, LEAF)?;
    params.subject_alt_names = names.iter().map(|name| alternative(name)).collect::<Result<_, _>>()?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let leaf = params.signed_by(&own, &issuer)?;
    pair(folder).write(&leaf.pem(), &own.serialize_pem(), now).map_err(failed)?;
    Ok(true)
}

fn key_file(folder: &Path) -> PathBuf {
    folder.join("edge-ca.key")
}

/// The key of the authority on disk, while that is good for long enough.
fn held_authority(folder: &Path, now: SystemTime) -> Option<KeyPair> {
    let certificate = fs::read_to_string(authority(folder)).ok()?;
    let key = KeyPair::from_pem(&fs::read_to_string(key_file(folder)).ok()?).ok()?;
    let details = Details::from_der(&CertificateDer::from_pem_slice(certificate.as_bytes()).ok()?).ok()?;
    let until = validity::seconds(now).saturating_add(LEAF);
    // A crash between the two files leaves a key that belongs to no certificate.
    let own = details.key_digest == digest(&key.subject_public_key_info());
    // One of the future is kept: clients trust it, and the clock will be set.
    (own && until < details.not_after).then_some(key)
}

fn new_authority(folder: &Path, now: SystemTime) -> Result<KeyPair, SelfSignedError> {
    let failed = |error| SelfSignedError::Io { folder: folder.into(), error };
    let key = KeyPair::generate()?;
    let certificate = authority_params(now)?.self_signed(&key)?.pem();
    durable::write(&key_file(folder), 0o600, key.serialize_pem().as_bytes()).map_err(failed)?;
    durable::write(&authority(folder), 0o644, certificate.as_bytes()).map_err(failed)?;
    Ok(key)
}

fn authority_params(now: SystemTime) -> Result<CertificateParams, rcgen::Error> {
    let mut params = named("weir-edge-ca", now, AUTHORITY)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn named(common_name: &str, now: SystemTime, lifetime: i64) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let begin = validity::seconds(now) - HOUR;
    let at = |seconds| ASN1Time::from_timestamp(seconds).map(|time| time.to_datetime()).map_err(|_| rcgen::Error::Time);
    (params.not_before, params.not_after) = (at(begin)?, at(begin.saturating_add(lifetime))?);
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn certificates_are_made_and_renewed_when_they_are_due() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, day) = (folder.path(), |n: u64| SystemTime::now() + Duration::from_secs(n * 86_400));
        let names = ["127.0.0.1".to_string(), "::1".into(), "localhost".into()];
        let read = || (fs::read(authority(folder)).unwrap(), pair(folder).read().unwrap().details);
        assert!(ensure(folder, &names, day(0)).unwrap());
        let (first, leaf) = read();
        assert_eq!((leaf.dns_names.len(), leaf.addresses.len()), (1, 2));
        assert!(!ensure(folder, &names, day(1)).unwrap());
        // Another name, then time: the leaf is another one under the same authority.
        for (day, names) in [(day(2), &["10.0.0.1".to_string()][..]), (day(365), &names), (day(3000), &names)] {
            assert!(ensure(folder, names, day).unwrap());
            assert!(!ensure(folder, names, day).unwrap());
            assert_eq!(read().0, first);
        }
        // The authority comes to its end, and a key without its certificate is of no use.
        assert!(ensure(folder, &names, day(3500)).unwrap());
        let second = read().0;
        assert_ne!(second, first);
        fs::write(key_file(folder), KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert!(ensure(folder, &names, day(3500)).unwrap());
        assert_ne!(read().0, second);
        // The clock is slow, as on a node that starts without a battery for it. Nothing is made that would be expired once it is set.
        let before = read();
        let slow = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400);
        assert!(!ensure(folder, &names, slow).unwrap());
        assert_eq!(read(), before);
        // Another name is needed at once, under the same authority.
        assert!(ensure(folder, &["10.0.0.2".to_string()], slow).unwrap());
        assert_eq!(read().0, before.0);
    }
}
