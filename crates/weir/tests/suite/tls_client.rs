//! TLS clients, with a certificate of their own or without.
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use std::{
    io::{self, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};
use weir_test::{
    Signed,
    client::{Answer, Connection},
};

pub type Tls = Connection<StreamOwned<ClientConnection, TcpStream>>;

/// What a client is and wants.
#[derive(Default)]
pub struct Client<'a> {
    /// The authority's certificate.
    pub trust: Option<&'a str>,
    pub identity: Option<&'a Signed>,
    pub versions: Option<&'static [&'static SupportedProtocolVersion]>,
    /// The cipher suites that it offers; without them, all.
    pub suites: Option<&'static [SupportedCipherSuite]>,
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
        let known = rustls::crypto::aws_lc_rs::default_provider();
        let cipher_suites = self.suites.map_or(known.cipher_suites, <[_]>::to_vec);
        let config = ClientConfig::builder_with_provider(Arc::new(CryptoProvider { cipher_suites, ..known }))
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
