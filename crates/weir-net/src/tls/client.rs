//! TLS towards an upstream.
use super::{Certificate, Roots, Version, provider, verify, versions};
use rustls::{
    ClientConfig, Error,
    client::{Resumption, danger::ServerCertVerifier},
    sign::SingleCertAndKey,
};
use rustls_pki_types::ServerName;
use std::{io, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Sessions remembered per client for resumption.
const SESSIONS: usize = 256;

/// Whom to trust.
#[derive(Clone)]
pub enum Trust {
    /// A chain to one of these roots.
    Roots(Roots),
    /// The same of a certificate that is made for clients, as those of nodes are. Its names are not looked at: the caller has to.
    ClientsOf(Roots),
    /// Anyone.
    Anyone,
}

/// What a [`Client`] is made from.
pub struct ClientOptions {
    pub trust: Trust,
    /// The peer's certificate must carry one of these names; empty asks for the server name.
    pub subject_alt_names: Vec<String>,
    /// What to show when the peer asks for a certificate.
    pub certificate: Option<Arc<Certificate>>,
    /// Server name to send and to verify; `None` leaves it to each connection.
    pub server_name: Option<String>,
    pub min_version: Option<Version>,
}

impl ClientOptions {
    /// Trusts what the system trusts, and shows nothing.
    pub fn system() -> ClientOptions {
        let trust = Trust::Roots(Roots::system());
        ClientOptions { trust, subject_alt_names: Vec::new(), certificate: None, server_name: None, min_version: None }
    }
}

/// Protocols to offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// No extension at all.
    None,
    Http1,
    Http2,
    /// Both, HTTP/2 first.
    Auto,
}

/// Makes TLS connections to one upstream; sessions are resumed where the upstream allows it.
pub struct Client {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl Client {
    pub fn new(options: ClientOptions) -> Result<Client, Error> {
        let verifier: Arc<dyn ServerCertVerifier> = match options.trust {
            Trust::Anyone => Arc::new(verify::AnyServer),
            Trust::Roots(roots) if !options.subject_alt_names.is_empty() => {
                let demands = verify::Demands { names: options.subject_alt_names, ..Default::default() };
                Arc::new(verify::ServerByNames { inner: roots.server_verifier()?, demands })
            }
            Trust::Roots(roots) => roots.server_verifier()?,
            Trust::ClientsOf(roots) => Arc::new(verify::ServerAsClient(roots.client_verifier(false)?)),
        };
        let builder = ClientConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(&versions(options.min_version, None))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &options.certificate {
            Some(c) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(c.key.clone()))),
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let server_name = options.server_name.map(name_of).transpose()?;
        Ok(Client { config: Arc::new(config), server_name })
    }

    /// The server name that every connection sends, where it is fixed. Otherwise connections for different hosts must
    /// not be shared.
    pub fn server_name(&self) -> Option<&ServerName<'static>> {
        self.server_name.as_ref()
    }

    /// The client's side of the handshake. `host` (a name or an address, without a port) is used where the server name
    /// is not fixed.
    ///
    /// # Errors
    /// `InvalidInput` for a host that is no name; `InvalidData` with rustls' reason when the peer is not to be trusted.
    pub async fn connect(&self, io: TcpStream, host: &str, alpn: Alpn) -> io::Result<TlsStream<TcpStream>> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => name_of(host.to_string()).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?,
        };
        let protocols: &[&[u8]] = match alpn {
            Alpn::None => &[],
            Alpn::Http1 => &[b"http/1.1"],
            Alpn::Http2 => &[b"h2"],
            Alpn::Auto => &[b"h2", b"http/1.1"],
        };
        let connector = TlsConnector::from(self.config.clone());
        connector.with_alpn(protocols.iter().map(|p| p.to_vec()).collect()).connect(name, io).await
    }
}

fn name_of(host: String) -> Result<ServerName<'static>, Error> {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(&host).to_string();
    ServerName::try_from(bare).map_err(|_| Error::General(format!("`{host}` is not a server name")))
}
