//! Certificates and roots (`extensions.transport_sockets.tls.v3.Secret`).
use super::{Name, Origin};
use serde::{Serialize, Serializer};

#[derive(Clone, PartialEq, Serialize)]
pub struct Secret {
    pub name: Name,
    pub content: SecretContent,
    pub origin: Option<Origin>,
}

#[derive(Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretContent {
    /// PEM texts.
    TlsCertificate {
        certificate_chain: String,
        #[serde(serialize_with = "redacted")]
        private_key: String,
    },
    /// PEM texts of the trusted roots, and of the lists of what they have revoked.
    ValidationContext {
        trusted_ca: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        crl: Option<String>,
    },
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({})", self.name)
    }
}

/// As Envoy's configuration dump writes private keys.
fn redacted<S: Serializer>(_: &str, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str("[redacted]")
}
