//! TLS on both sides, on rustls: certificates, what a server name selects, what a peer must prove. No configuration
//! words: callers hand over PEM texts and plain options.
mod certificate;
mod client;
mod hello;
mod roots;
mod server;
#[cfg(test)]
mod tests;
mod verify;

pub use certificate::{Certificate, CertificateError, Details, digest, hex_digest};
pub use client::{Alpn, Client, ClientOptions, Trust};
pub use hello::{ClientHello, Hello, inspect};
pub use roots::Roots;
pub use server::{CertificateTable, ClientAuth, Server, ServerOptions, cipher_name};
pub use verify::{Demands, Refusal, refusal};

use rustls::{SupportedProtocolVersion, crypto::CryptoProvider};
use std::sync::{Arc, OnceLock};

/// Protocol versions that are spoken at all, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    Tls12,
    Tls13,
}

/// The one set of cryptographic functions of the process.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

/// The versions between two bounds; an empty range (min above max) gives none, which rustls refuses with a message.
fn versions(min: Option<Version>, max: Option<Version>) -> Vec<&'static SupportedProtocolVersion> {
    let fits = |v: Version| min.is_none_or(|m| v >= m) && max.is_none_or(|m| v <= m);
    let mut out = Vec::new();
    if fits(Version::Tls12) {
        out.push(&rustls::version::TLS12);
    }
    if fits(Version::Tls13) {
        out.push(&rustls::version::TLS13);
    }
    out
}
