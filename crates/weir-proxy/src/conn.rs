//! What is known of one downstream connection before its first byte of payload, which does not change afterwards, and of the TLS of
//! connections in both directions.
use crate::drain::Drain;
use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::{ClientConnection, ProtocolVersion, pki_types::CertificateDer};
use std::{cell::OnceCell, fmt::Write, net::SocketAddr, rc::Rc};
use weir_config::model::Name;
use weir_net::tls::{Details, hex_digest};

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

/// The outcome of a TLS handshake with an upstream. Its certificate is parsed when it is asked for.
#[derive(Debug)]
pub struct UpstreamTls {
    pub version: &'static str,
    leaf: Option<CertificateDer<'static>>,
    details: OnceCell<Option<Details>>,
}

impl UpstreamTls {
    pub fn of(c: &ClientConnection) -> UpstreamTls {
        let leaf = c.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.clone().into_owned());
        UpstreamTls { version: tls_version(c.protocol_version()), leaf, details: OnceCell::new() }
    }
    pub fn details(&self) -> Option<&Details> {
        self.details.get_or_init(|| Details::from_der(self.leaf.as_ref()?).ok()).as_ref()
    }
    /// Of the whole certificate, in hexadecimal.
    pub fn digest(&self) -> Option<String> {
        self.leaf.as_ref().map(|leaf| hex_digest(leaf))
    }
}

/// As Envoy writes it; empty for what is neither.
pub fn tls_version(of: Option<ProtocolVersion>) -> &'static str {
    match of {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "",
    }
}

/// A client's certificate.
#[derive(Debug)]
pub struct PeerCertificate {
    pub details: Details,
    pub der: Vec<u8>,
    /// Its element of `x-forwarded-client-cert`.
    pub forwarded: Box<[u8]>,
}

impl PeerCertificate {
    pub fn new(der: &[u8]) -> Option<PeerCertificate> {
        let details = Details::from_der(der).ok()?;
        Some(PeerCertificate { forwarded: forwarded(der, &details).into_bytes().into(), details, der: der.to_vec() })
    }
    /// Whom the certificate is for, as Envoy's RBAC sees it: its URIs, else its DNS names, else its subject.
    pub fn principals(&self) -> &[String] {
        let Details { uris, dns_names, subject, .. } = &self.details;
        match (uris.is_empty(), dns_names.is_empty()) {
            (false, _) => uris,
            (true, false) => dns_names,
            (true, true) => std::slice::from_ref(subject),
        }
    }
}

/// Hash, certificate, subject and names, as Istio's gateways have Envoy write them.
fn forwarded(der: &[u8], details: &Details) -> String {
    let mut out = format!("Hash={}", hex_digest(der));
    // RFC 2253 escapes quotes and control characters.
    let _ = write!(out, ";Cert=\"{}\";Subject=\"{}\"", url_encoded_pem(der), details.subject);
    for (key, values) in [("URI", &details.uris), ("DNS", &details.dns_names)] {
        for value in values {
            let _ = write!(out, ";{key}=");
            forwarded_value(&mut out, value);
        }
    }
    out
}

/// Writes a value from the certificate: percent-encoded except for visible ASCII, and quoted where it contains separators of
/// elements, keys or values. The owner of the certificate chose it and must not be able to forge another element.
fn forwarded_value(out: &mut String, value: &str) {
    let quoted = value.contains([',', ';', '=', '"', '\\']);
    out.extend(quoted.then_some('"'));
    for byte in value.bytes() {
        match byte {
            b'"' | b'\\' => out.extend(['\\', byte as char]),
            0x21..=0x7e => out.push(byte as char),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out.extend(quoted.then_some('"'));
}

/// PEM with what a header or URL does not take as `%XX`.
fn url_encoded_pem(der: &[u8]) -> String {
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in BASE64_STANDARD.encode(der).as_bytes().chunks(64) {
        pem.push_str(std::str::from_utf8(line).unwrap_or_default());
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    let mut out = String::with_capacity(pem.len() * 2);
    for byte in pem.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_of_a_certificate_writes_another_element() {
        for (value, written) in [
            ("spiffe://cluster.local/ns/a/sa/b", "spiffe://cluster.local/ns/a/sa/b"),
            ("spiffe://a/b\r\nX-Evil: 1", "spiffe://a/b%0D%0AX-Evil:%201"),
            ("a\";URI=evil", r#""a\";URI=evil""#),
            ("a,By=b", r#""a,By=b""#),
            (r"a\", r#""a\\""#),
            ("a\0é\x7f", "a%00%C3%A9%7F"),
        ] {
            let mut out = String::new();
            forwarded_value(&mut out, value);
            assert_eq!(out, written);
        }
    }
}
