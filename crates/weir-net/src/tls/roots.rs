//! Whom to believe: the certificates of authorities, and the lists of what they have revoked.
use super::{CertificateError, certificate::certificates, provider};
use rustls::{
    Error, RootCertStore,
    client::WebPkiServerVerifier,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateRevocationListDer, pem::PemObject};
use std::sync::{Arc, OnceLock};
use x509_parser::{prelude::FromDer, revocation_list::CertificateRevocationList};

/// Roots, and perhaps revocation lists. As in Envoy, lists are for whole chains: with any of them, a certificate whose issuer
/// has none is refused, and so is one whose issuer's list is out of date.
#[derive(Clone)]
pub struct Roots {
    store: Arc<RootCertStore>,
    revoked: Arc<[CertificateRevocationListDer<'static>]>,
    /// Seconds since 1970: when the first of the lists goes out of date.
    pub next_update: Option<i64>,
}

impl Roots {
    /// From PEM texts, each with one or more certificates or lists. All of them must be usable.
    pub fn from_pem(trusted_ca: &str, crl: Option<&str>) -> Result<Roots, CertificateError> {
        let mut store = RootCertStore::empty();
        for cert in certificates(trusted_ca, "the list of roots")? {
            store.add(cert).map_err(|e| CertificateError::Malformed(e.to_string()))?;
        }
        let (mut revoked, mut next_update) = (Vec::new(), None);
        for list in crl.into_iter().flat_map(|pem| CertificateRevocationListDer::pem_slice_iter(pem.as_bytes())) {
            let list = list.map_err(|e| CertificateError::Pem(format!("the revocation list is not PEM: {e}")))?;
            let (_, parsed) = CertificateRevocationList::from_der(&list).map_err(|e| CertificateError::Revocation(e.to_string()))?;
            let until = parsed.next_update().map(|time| time.timestamp());
            next_update = next_update.into_iter().chain(until).min();
            revoked.push(list);
        }
        if crl.is_some() && revoked.is_empty() {
            return Err(CertificateError::Pem("the revocation list holds no PEM section `X509 CRL`".into()));
        }
        let roots = Roots { store: Arc::new(store), revoked: revoked.into(), next_update };
        // What the verifier asks of lists is more than that they can be read.
        roots.server_verifier().map_err(|e| CertificateError::Revocation(e.to_string()))?;
        Ok(roots)
    }

    /// The roots that the system trusts, read once; those it cannot read are left out.
    pub fn system() -> Roots {
        static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
        let load = || {
            let mut store = RootCertStore::empty();
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            Arc::new(store)
        };
        Roots { store: ROOTS.get_or_init(load).clone(), revoked: [].into(), next_update: None }
    }

    /// With more certificates, from a PEM text.
    ///
    /// # Errors
    /// It has none, or one that cannot be used.
    pub fn and(&self, trusted_ca: &str) -> Result<Roots, CertificateError> {
        let mut store = RootCertStore::clone(&self.store);
        for cert in certificates(trusted_ca, "the list of roots")? {
            store.add(cert).map_err(|e| CertificateError::Malformed(e.to_string()))?;
        }
        Ok(Roots { store: Arc::new(store), ..self.clone() })
    }

    /// Of servers' certificates.
    pub(super) fn server_verifier(&self) -> Result<Arc<WebPkiServerVerifier>, Error> {
        let builder = WebPkiServerVerifier::builder_with_provider(self.store.clone(), provider().clone());
        let builder = builder.with_crls(self.revoked.iter().cloned()).enforce_revocation_expiration();
        builder.build().map_err(|e| Error::General(e.to_string()))
    }

    /// Of clients' certificates; `optional` lets those in that show none.
    pub(super) fn client_verifier(&self, optional: bool) -> Result<Arc<dyn ClientCertVerifier>, Error> {
        let builder = WebPkiClientVerifier::builder_with_provider(self.store.clone(), provider().clone());
        let builder = builder.with_crls(self.revoked.iter().cloned()).enforce_revocation_expiration();
        let builder = if optional { builder.allow_unauthenticated() } else { builder };
        builder.build().map_err(|e| Error::General(e.to_string()))
    }
}
