//! TLS towards clients: one [`Server`] per set of options, whose certificates can be exchanged at any time.
use super::{Certificate, Version, provider, verify, versions};
use arc_swap::ArcSwap;
use rustls::{
    Error, RootCertStore, ServerConfig,
    server::{ClientHello, ResolvesServerCert, ServerSessionMemoryCache, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use std::{collections::HashMap, fmt, io, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// Sessions remembered for TLS 1.2 clients that know no tickets.
const SESSIONS: usize = 1024;

/// What is asked of clients.
#[derive(Clone)]
pub enum ClientAuth {
    None,
    /// A certificate is verified where there is one.
    Optional(Arc<RootCertStore>),
    Required(Arc<RootCertStore>),
}

/// What a [`Server`] is made from.
pub struct ServerOptions {
    /// In order of preference; empty agrees on nothing.
    pub alpn: Vec<String>,
    pub min_version: Option<Version>,
    pub max_version: Option<Version>,
    pub client_auth: ClientAuth,
    /// A client's certificate must carry one of these names; empty accepts any.
    pub subject_alt_names: Vec<String>,
}

/// Accepts TLS connections. Its certificates are read anew for each handshake, so exchanging them touches no connection.
pub struct Server {
    config: Arc<ServerConfig>,
    certificates: Arc<Resolver>,
}

impl Server {
    pub fn new(options: ServerOptions, certificates: CertificateTable) -> Result<Server, Error> {
        let certificates = Arc::new(Resolver(ArcSwap::from_pointee(certificates)));
        let builder = ServerConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(&versions(options.min_version, options.max_version))?;
        let (roots, optional) = match options.client_auth {
            ClientAuth::None => (None, true),
            ClientAuth::Optional(roots) => (Some(roots), true),
            ClientAuth::Required(roots) => (Some(roots), false),
        };
        let builder = match roots {
            None => builder.with_no_client_auth(),
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider().clone());
                let verifier = if optional { verifier.allow_unauthenticated() } else { verifier };
                let verifier = verifier.build().map_err(|e| Error::General(e.to_string()))?;
                builder.with_client_cert_verifier(match options.subject_alt_names {
                    names if names.is_empty() => verifier,
                    names => Arc::new(verify::ClientByNames { inner: verifier, names }),
                })
            }
        };
        let mut config = builder.with_cert_resolver(certificates.clone());
        config.alpn_protocols = options.alpn.into_iter().map(String::into_bytes).collect();
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        Ok(Server { config: Arc::new(config), certificates })
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
