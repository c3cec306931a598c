//! What is known of one downstream connection before its first byte of payload; it does not change afterwards.
use crate::drain::Drain;
use std::{net::SocketAddr, rc::Rc};
use weir_config::model::Name;
use weir_net::tls::Details;

/// One accepted connection.
pub struct ConnInfo {
    /// Unique in this process.
    pub id: u64,
    /// The client: the PROXY protocol's word for it where one is read, else the socket's.
    pub peer: SocketAddr,
    /// The address that the client connected to (by the PROXY protocol's word likewise).
    pub local: SocketAddr,
    /// The socket's own peer: the load balancer in front, where there is one.
    pub direct_peer: SocketAddr,
    pub listener: Name,
    /// Name of the filter chain that was chosen.
    pub chain: Name,
    /// `None` for plain text, and for TLS that is passed through.
    pub tls: Option<TlsInfo>,
    /// Asked for by the client in its ClientHello, where the connection begins with one.
    pub requested_server_name: Option<String>,
    /// Set when the connection should finish politely.
    pub drain: Rc<Drain>,
}

/// The outcome of a TLS handshake with a client.
#[derive(Clone, Debug)]
pub struct TlsInfo {
    pub sni: Option<String>,
    /// The protocol agreed on, as `h2`.
    pub alpn: Option<String>,
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// In OpenSSL's words for TLS 1.2 and IANA's for 1.3, as Envoy writes them.
    pub cipher: &'static str,
    /// The verified leaf, where the client showed one.
    pub peer_certificate: Option<Rc<PeerCertificate>>,
}

/// A client's certificate.
#[derive(Debug)]
pub struct PeerCertificate {
    pub details: Details,
    pub der: Vec<u8>,
}
