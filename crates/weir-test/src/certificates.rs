//! Certificate authorities and what they sign.
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod, KeyPair,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use std::sync::atomic::{AtomicU64, Ordering};

/// A certificate authority.
pub struct Ca(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key.
#[derive(Clone)]
pub struct Signed {
    pub pem: String,
    pub key: String,
    pub der: CertificateDer<'static>,
    serial: SerialNumber,
}

/// The serial number of the next certificate.
static SERIAL: AtomicU64 = AtomicU64::new(1);

impl Default for Ca {
    fn default() -> Ca {
        Ca::new()
    }
}

impl Ca {
    pub fn new() -> Ca {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ca(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }
    /// Its own certificate.
    pub fn pem(&self) -> String {
        self.0.pem()
    }
    /// Its key as PEM.
    pub fn key(&self) -> String {
        self.0.key().serialize_pem()
    }
    /// A certificate for DNS names and IP addresses.
    pub fn sign(&self, names: &[&str]) -> Signed {
        self.sign_with(names, |_| {})
    }
    /// The same with a URI, e.g. a SPIFFE ID.
    pub fn sign_uri(&self, names: &[&str], uri: &str) -> Signed {
        self.sign_with(names, |params| params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap())))
    }
    pub fn sign_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Signed {
        let (params, key, serial) = leaf(names, change);
        let made = params.signed_by(&key, &self.0).unwrap();
        Signed { pem: made.pem(), key: key.serialize_pem(), der: made.der().clone(), serial }
    }
    /// A revocation list as PEM, valid until the beginning of a year.
    pub fn revoke(&self, revoked: &[&Signed], until: i32) -> String {
        let one = |signed: &&Signed| RevokedCertParams {
            serial_number: signed.serial.clone(),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(one).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

/// A certificate that is its own authority.
pub fn self_signed(names: &[&str]) -> Signed {
    let (params, key, serial) = leaf(names, |_| {});
    let made = params.self_signed(&key).unwrap();
    Signed { pem: made.pem(), key: key.serialize_pem(), der: made.der().clone(), serial }
}

fn leaf(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (CertificateParams, KeyPair, SerialNumber) {
    let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    params.distinguished_name = Default::default();
    if let Some(name) = names.first() {
        params.distinguished_name.push(DnType::CommonName, *name);
    }
    params.distinguished_name.push(DnType::OrganizationName, "Weir");
    let serial = SerialNumber::from(SERIAL.fetch_add(1, Ordering::Relaxed));
    params.serial_number = Some(serial.clone());
    change(&mut params);
    (params, KeyPair::generate().unwrap(), serial)
}
