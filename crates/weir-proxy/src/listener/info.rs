//! What a finished TLS handshake says of the client.
use crate::conn::{PeerCertificate, TlsInfo};
use rustls::{CipherSuite, ProtocolVersion, ServerConnection};
use std::rc::Rc;
use weir_net::tls::Details;

pub(super) fn tls(c: &ServerConnection) -> TlsInfo {
    let leaf = c.peer_certificates().and_then(|chain| chain.first());
    TlsInfo {
        sni: c.server_name().map(str::to_string),
        alpn: c.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned()),
        version: match c.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "",
        },
        cipher: c.negotiated_cipher_suite().map_or("", |s| cipher(s.suite())),
        peer_certificate: leaf.and_then(|der| Some(Rc::new(PeerCertificate { details: Details::from_der(der).ok()?, der: der.to_vec() }))),
    }
}

/// Names as Envoy (BoringSSL) writes them.
fn cipher(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => "",
    }
}
