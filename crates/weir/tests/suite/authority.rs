//! Authorities, what they sign, and clients of TLS that show it.
use crate::client::{Answer, Connection};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod, KeyPair,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use std::{
    io::{self, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// Of the next certificate that any of them signs.
static SERIAL: AtomicU64 = AtomicU64::new(1);

/// A certificate with its key.
pub struct Signed {
    pub pem: String,
    pub key: String,
    pub der: CertificateDer<'static>,
    serial: SerialNumber,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }
    pub fn pem(&self) -> String {
        self.0.pem()
    }
    pub fn sign(&self, names: &[&str], uri: Option<&str>) -> Signed {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = Default::default();
        params.distinguished_name.push(DnType::CommonName, names[0]);
        params.distinguished_name.push(DnType::OrganizationName, "Weir");
        params.subject_alt_names.extend(uri.map(|u| SanType::URI(u.try_into().unwrap())));
        let serial = SerialNumber::from(SERIAL.fetch_add(1, Ordering::Relaxed));
        params.serial_number = Some(serial.clone());
        let made = params.signed_by(&key, &self.0).unwrap();
        Signed { pem: made.pem(), key: key.serialize_pem(), der: made.der().clone(), serial }
    }
    /// The list of what it has revoked, good until the beginning of a year, as PEM.
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

/// A Secret or ConfigMap with these texts, and the start of the next document.
pub fn holder(kind: &str, name: &str, texts: &[(&str, &str)]) -> String {
    let field = if kind == "Secret" { "stringData" } else { "data" };
    let texts: String = texts.iter().map(|(key, text)| format!("  {key}: |\n{}", indented(text))).collect();
    format!("apiVersion: v1\nkind: {kind}\nmetadata: {{ name: {name} }}\n{field}:\n{texts}---\n")
}

pub fn indented(text: &str) -> String {
    text.lines().map(|l| format!("    {l}\n")).collect()
}

pub type Tls = Connection<StreamOwned<ClientConnection, TcpStream>>;

/// What a client is and wants.
#[derive(Default)]
pub struct Client<'a> {
    /// The authority's certificate.
    pub trust: Option<&'a str>,
    pub identity: Option<&'a Signed>,
    pub versions: Option<&'static [&'static SupportedProtocolVersion]>,
    /// Sent before the handshake.
    pub first: &'a [u8],
}

impl Client<'_> {
    /// One request over a connection of its own: a refusal of the client's certificate may show only then.
    pub fn ask(&self, to: SocketAddr, name: &str, headers: &[(&str, &str)]) -> io::Result<Answer> {
        self.connect(to, name)?.0.request("GET", name, "/", headers, b"")
    }
    /// A connection after its handshake, and the leaf that was served.
    pub fn connect(&self, to: SocketAddr, name: &str) -> io::Result<(Tls, CertificateDer<'static>)> {
        let mut roots = RootCertStore::empty();
        if let Some(pem) = self.trust {
            roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        }
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(self.versions.unwrap_or(rustls::ALL_VERSIONS))
            .unwrap()
            .with_root_certificates(roots);
        let config = match self.identity {
            None => config.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
                config.with_client_auth_cert(vec![own.der.clone()], key).unwrap()
            }
        };
        let name = ServerName::try_from(name.to_string()).unwrap();
        let mut tls = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        let mut io = TcpStream::connect(to)?;
        io.set_read_timeout(Some(Duration::from_secs(20)))?;
        io.write_all(self.first)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut io)?;
        }
        let leaf = tls.peer_certificates().unwrap()[0].clone().into_owned();
        Ok((Connection::over(StreamOwned::new(tls, io)), leaf))
    }
}
