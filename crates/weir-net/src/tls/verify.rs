//! Verifiers beyond rustls' own: lists of what a peer's certificate must carry or be, on either side, and none at all.
use super::{Details, certificate::digest};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::WebPkiServerVerifier,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::{fmt, io, sync::Arc};

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
            return Err(unwanted(Refusal::Name, text));
        }
        let pinned = !self.digests.is_empty() || !self.key_digests.is_empty();
        if pinned && !self.digests.contains(&digest(der)) && !self.key_digests.contains(&details.key_digest) {
            return Err(unwanted(Refusal::Pin, "the peer's certificate is none of those that are pinned".into()));
        }
        Ok(())
    }
}

/// Why a peer was refused for what it showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    NoCertificate,
    /// Not signed by whom it should be, out of date, or revoked.
    Invalid,
    /// For none of the names that it should be for.
    Name,
    /// None of those that are pinned.
    Pin,
}

/// Why the handshake that ended with `e` did, if it was for the peer's certificate.
pub fn refusal(e: &io::Error) -> Option<Refusal> {
    match e.get_ref()?.downcast_ref::<Error>()? {
        Error::NoCertificatesPresented => Some(Refusal::NoCertificate),
        Error::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => {
            Some(Refusal::Name)
        }
        Error::InvalidCertificate(_) | Error::InvalidCertRevocationList(_) => Some(Refusal::Invalid),
        Error::Other(OtherError(other)) => other.downcast_ref::<Unwanted>().map(|u| u.why),
        _ => None,
    }
}

/// A certificate that is well signed, and not what is asked for.
#[derive(Debug)]
struct Unwanted {
    why: Refusal,
    text: String,
}

impl fmt::Display for Unwanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Unwanted {}

fn unwanted(why: Refusal, text: String) -> Error {
    Error::Other(OtherError(Arc::new(Unwanted { why, text })))
}

/// A server's certificate: a chain to a root, and `demands` instead of the server name.
#[derive(Debug)]
pub(super) struct ServerByNames {
    pub inner: Arc<WebPkiServerVerifier>,
    pub demands: Demands,
}

impl ServerCertVerifier for ServerByNames {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        match self.inner.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // The name is looked at last: everything else was right.
            Ok(_) | Err(Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {}
            Err(e) => return Err(e),
        }
        self.demands.check(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }
    signatures!();
}

/// A server that shows a certificate for clients.
#[derive(Debug)]
pub(super) struct ServerAsClient(pub Arc<dyn ClientCertVerifier>);

impl ServerCertVerifier for ServerAsClient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0.verify_client_cert(end_entity, intermediates, now).map(|_| ServerCertVerified::assertion())
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

/// Accepts any certificate, or none; the upstream decides by the headers that it gets (`AllowInsecureFallback`).
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
