//! TLS towards clients: one [`Server`] per set of options, whose certificates can be exchanged at any time.
use super::{Certificate, Demands, Roots, Version, provider, verify, versions};
use arc_swap::ArcSwap;
use rustls::{
    CipherSuite, Error, ServerConfig, ServerConnection,
    crypto::CryptoProvider,
    server::{ClientHello, ResolvesServerCert, ServerSessionMemoryCache, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::UnixTime;
use std::{collections::HashMap, fmt, io, sync::Arc, time::Duration};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// Sessions remembered for TLS 1.2 clients that know no tickets.
const SESSIONS: usize = 1024;

/// What is asked of clients.
#[derive(Clone, Default)]
pub enum ClientAuth {
    #[default]
    None,
    /// A certificate is verified where there is one.
    Optional(Roots),
    Required(Roots),
    /// Asked for, and let in whatever it is: [`Server::trusts`] says whether it can be believed.
    Any(Roots),
}

/// Cipher suites of TLS 1.2 by OpenSSL's names, which Envoy and Istio use. Those of TLS 1.3 cannot be chosen.
const CIPHER_SUITES: &[(&str, CipherSuite)] = &[
    ("ECDHE-ECDSA-AES128-GCM-SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES128-GCM-SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-AES256-GCM-SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-CHACHA20-POLY1305", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// OpenSSL's name of a cipher suite; those of TLS 1.3 have IANA's. Empty for one that is never spoken.
pub fn cipher_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => CIPHER_SUITES.iter().find(|(_, s)| *s == other).map_or("", |(name, _)| name),
    }
}

/// The process' functions with only these suites of TLS 1.2; names that are not known are left out.
fn with_suites(names: &[String]) -> Arc<CryptoProvider> {
    if names.is_empty() {
        return provider().clone();
    }
    let mut own = CryptoProvider::clone(provider());
    let chosen = |name: &str| names.iter().any(|n| n == name);
    own.cipher_suites.retain(|s| s.tls13().is_some() || chosen(cipher_name(s.suite())));
    Arc::new(own)
}

/// What a [`Server`] is made from.
#[derive(Default)]
pub struct ServerOptions {
    /// In order of preference; empty agrees on nothing.
    pub alpn: Vec<String>,
    pub min_version: Option<Version>,
    pub max_version: Option<Version>,
    pub client_auth: ClientAuth,
    /// Of TLS 1.2, by OpenSSL's names; empty for all that are safe.
    pub cipher_suites: Vec<String>,
    /// Of a client's certificate, where one is shown.
    pub demands: Demands,
}

/// Accepts TLS connections. Each handshake reads the current certificates, so replacing them affects no connection.
pub struct Server {
    config: Arc<ServerConfig>,
    certificates: Arc<Resolver>,
    /// Where certificates were let in without having been verified.
    unverified: Option<Arc<dyn ClientCertVerifier>>,
}

impl Server {
    pub fn new(options: ServerOptions, certificates: CertificateTable) -> Result<Server, Error> {
        let certificates = Arc::new(Resolver(ArcSwap::from_pointee(certificates)));
        let builder = ServerConfig::builder_with_provider(with_suites(&options.cipher_suites))
            .with_protocol_versions(&versions(options.min_version, options.max_version))?;
        let (roots, optional, any) = match options.client_auth {
            ClientAuth::None => (None, true, false),
            ClientAuth::Optional(roots) => (Some(roots), true, false),
            ClientAuth::Required(roots) => (Some(roots), false, false),
            ClientAuth::Any(roots) => (Some(roots), true, true),
        };
        let verifier = roots.map(|roots| verifier(&roots, optional, options.demands)).transpose()?;
        let unverified = verifier.clone().filter(|_| any);
        let builder = match verifier {
            None => builder.with_no_client_auth(),
            Some(_) if any => builder.with_client_cert_verifier(Arc::new(verify::AnyClient)),
            Some(verifier) => builder.with_client_cert_verifier(verifier),
        };
        let mut config = builder.with_cert_resolver(certificates.clone());
        config.alpn_protocols = options.alpn.into_iter().map(String::into_bytes).collect();
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        Ok(Server { config: Arc::new(config), certificates, unverified })
    }

    /// Whether the certificate that a client has shown was verified, or can be.
    pub fn trusts(&self, session: &ServerConnection) -> bool {
        self.trusts_at(session, UnixTime::now().as_secs())
    }

    /// The same as of another time, in seconds since 1970.
    pub fn trusts_at(&self, session: &ServerConnection, seconds: u64) -> bool {
        let Some(verifier) = &self.unverified else { return true };
        match session.peer_certificates() {
            Some([leaf, rest @ ..]) => {
                verifier.verify_client_cert(leaf, rest, UnixTime::since_unix_epoch(Duration::from_secs(seconds))).is_ok()
            }
            _ => false,
        }
    }

    /// From the next handshake on, these are served.
    pub fn set_certificates(&self, table: CertificateTable) {
        self.certificates.0.store(Arc::new(table));
    }

    /// The server's side of the handshake.
    pub async fn accept(&self, io: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.config.clone()).accept(io).await
    }
}

fn verifier(roots: &Roots, optional: bool, demands: Demands) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let inner = roots.client_verifier(optional)?;
    Ok(if demands.is_empty() { inner } else { Arc::new(verify::ClientByNames { inner, demands }) })
}

/// Certificates by the names they are for.
#[derive(Clone, Default)]
pub struct CertificateTable {
    exact: HashMap<String, Vec<Arc<Certificate>>>,
    /// By what follows the `*.`.
    wildcard: HashMap<String, Vec<Arc<Certificate>>>,
    default: Vec<Arc<Certificate>>,
}

impl CertificateTable {
    /// Earlier certificates win where several carry a name; the first is served where none does, or where the client
    /// names nothing.
    pub fn new(certificates: &[Arc<Certificate>]) -> CertificateTable {
        let mut table = CertificateTable::default();
        for c in certificates {
            for name in &c.details.dns_names {
                match name.strip_prefix("*.") {
                    Some(rest) => table.wildcard.entry(rest.to_string()).or_default().push(c.clone()),
                    None => table.exact.entry(name.clone()).or_default().push(c.clone()),
                }
            }
        }
        // Certificates with the first one's names but another kind of key (ECDSA beside RSA) are defaults too.
        table.default = certificates.iter().filter(|c| c.details.dns_names == certificates[0].details.dns_names).cloned().collect();
        table
    }

    /// The certificates that may be served for `name`, the preferred one first.
    fn find(&self, name: Option<&str>) -> &[Arc<Certificate>] {
        let Some(name) = name else { return &self.default };
        // Comparison is in lower case; most clients send that.
        let lower;
        let name = match name.bytes().any(|b| b.is_ascii_uppercase()) {
            true => {
                lower = name.to_ascii_lowercase();
                &lower
            }
            false => name,
        };
        let wild = || name.split_once('.').and_then(|(_, rest)| self.wildcard.get(rest));
        self.exact.get(name).or_else(wild).unwrap_or(&self.default)
    }
}

struct Resolver(ArcSwap<CertificateTable>);

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.0.load();
        let found = table.find(hello.server_name());
        let fits = found.iter().find(|c| c.key.key.choose_scheme(hello.signature_schemes()).is_some());
        fits.or(found.first()).map(|c| c.key.clone())
    }
}
