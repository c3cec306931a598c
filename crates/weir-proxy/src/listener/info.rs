//! What a finished TLS handshake says of the client.
use crate::conn::{PeerCertificate, TlsInfo, tls_version};
use rustls::ServerConnection;
use std::rc::Rc;
use weir_net::tls;

pub(super) fn tls(c: &ServerConnection, server: &tls::Server) -> TlsInfo {
    let leaf = c.peer_certificates().and_then(|chain| chain.first()).filter(|_| server.trusts(c));
    TlsInfo {
        sni: c.server_name().map(str::to_string),
        alpn: c.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned()),
        version: tls_version(c.protocol_version()),
        cipher: c.negotiated_cipher_suite().map_or("", |s| tls::cipher_name(s.suite())),
        peer_certificate: leaf.and_then(|der| PeerCertificate::new(der)).map(Rc::new),
    }
}
