//! Verifiers beyond rustls' own: lists of what a peer's certificate must carry or be, on either side, and none at all.
use super::{Details, certificate::digest};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    server::ParsedCertificate,
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;

fn algorithms() -> WebPkiSupportedAlgorithms {
    super::provider().signature_verification_algorithms
}

/// The signatures of a handshake are checked alike by all of them, with the process' one set of functions.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            m: &[u8],
            c: &CertificateDer<'_>,
            d: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(m, c, d, &algorithms())
        }
        fn verify_tls13_signature(
            &self,
            m: &[u8],
            c: &CertificateDer<'_>,
            d: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(m, c, d, &algorithms())
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            algorithms().supported_schemes()
        }
    };
}

/// What a peer's certificate must be beyond well signed. Empty lists ask for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demands {
    /// One of these subject alternative names.
    pub names: Vec<String>,
    /// Its SHA-256 is one of these, or its key's is one of `key_digests`.
    pub digests: Vec<[u8; 32]>,
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub key_digests: Vec<[u8; 32]>,
}

impl Demands {
    pub(super) fn is_empty(&self) -> bool {
        *self == Demands::default()
    }

    fn check(&self, der: &CertificateDer<'_>) -> Result<(), Error> {
        let details = Details::from_der(der).map_err(|e| Error::General(e.to_string()))?;
        if !self.names.is_empty() && !details.has_name(&self.names) {
            let found: Vec<_> = details.uris.iter().chain(&details.dns_names).map(String::as_str).collect();
            let text = format!("the peer's certificate is for {}, not for {}", found.join(", "), self.names.join(" or "));
            return Err(Error::General(text));
        }
        let pinned = !self.digests.is_empty() || !self.key_digests.is_empty();
        if pinned && !self.digests.contains(&digest(der)) && !self.key_digests.contains(&details.key_digest) {
            return Err(Error::General("the peer's certificate is none of those that are pinned".into()));
        }
        Ok(())
    }
}

/// A server's certificate: a chain to one of `roots`, and `demands` instead of the server name.
#[derive(Debug)]
pub(super) struct ServerByNames {
    pub roots: Arc<RootCertStore>,
    pub demands: Demands,
}

impl ServerCertVerifier for ServerByNames {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms().all)?;
        self.demands.check(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }
    signatures!();
}

/// Any certificate will do; only the handshake itself is checked.
#[derive(Debug)]
pub(super) struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
    signatures!();
}

/// A client's certificate: what `inner` asks for, and `demands`.
#[derive(Debug)]
pub(super) struct ClientByNames {
    pub inner: Arc<dyn ClientCertVerifier>,
    pub demands: Demands,
}

impl ClientCertVerifier for ClientByNames {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }
    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        self.demands.check(end_entity)?;
        Ok(verified)
    }
    signatures!();
}

/// Any certificate, or none, is let in: whoever stands behind decides by what it is told (`AllowInsecureFallback`).
#[derive(Debug)]
pub(super) struct AnyClient;

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(&self, _: &CertificateDer<'_>, _: &[CertificateDer<'_>], _: UnixTime) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }
    signatures!();
}
