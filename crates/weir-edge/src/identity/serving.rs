//! TLS towards the clients of the node: the certificate that they see and the authority that signs theirs, read again when they change.
use crate::identity::stamp::Stamp;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use weir_net::tls::{Certificate, CertificateError, CertificateTable, ClientAuth, Roots, Server, ServerOptions};

/// A certificate and its key; both may be in one file.
#[derive(Clone, Debug)]
pub struct KeyPairFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    #[error("cannot read {}: {error}", file.display())]
    Unreadable { file: PathBuf, error: io::Error },
    #[error("the serving certificate {}: {error}", file.display())]
    Malformed { file: PathBuf, error: CertificateError },
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("there is no serving certificate yet")]
    Missing,
}

pub struct Serving {
    /// The first one that can be used is served.
    pairs: Vec<KeyPairFiles>,
    /// PEM: what signs clients' certificates. Until it can be read, clients need tokens.
    authority: PathBuf,
    held: Mutex<Option<(Stamp, Arc<Server>)>>,
}

impl Serving {
    pub fn new(pairs: Vec<KeyPairFiles>, authority: PathBuf) -> Serving {
        Serving { pairs, authority, held: Mutex::new(None) }
    }

    /// For the next connection. Where new files are no good, the old ones go on.
    pub fn server(&self) -> Result<Arc<Server>, ServingError> {
        let pairs = self.pairs.iter().flat_map(|pair| [pair.certificate.as_path(), &pair.key]);
        let stamp = Stamp::of(pairs.chain([self.authority.as_path()]));
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match &*held {
            Some((of, server)) if *of == stamp => return Ok(server.clone()),
            _ => {}
        }
        match (self.make(), &*held) {
            (Ok(server), _) => {
                *held = Some((stamp, server.clone()));
                Ok(server)
            }
            (Err(_), Some((_, server))) => Ok(server.clone()),
            (Err(e), None) => Err(e),
        }
    }

    fn make(&self) -> Result<Arc<Server>, ServingError> {
        let mut last = ServingError::Missing;
        let certificate = self.pairs.iter().find_map(|pair| read_pair(pair).map_err(|e| last = e).ok()).ok_or(last)?;
        // Certificates that do not fit are let in as none: their bearers may have a token, and otherwise get a clear answer.
        let roots = fs::read_to_string(&self.authority).ok().and_then(|pem| Roots::from_pem(&pem, None).ok());
        let options = ServerOptions {
            alpn: vec!["h2".into(), "http/1.1".into()],
            client_auth: roots.map_or(ClientAuth::None, ClientAuth::Any),
            ..ServerOptions::default()
        };
        Ok(Arc::new(Server::new(options, CertificateTable::new(&[Arc::new(certificate)]))?))
    }
}

fn read_pair(pair: &KeyPairFiles) -> Result<Certificate, ServingError> {
    let read = |file: &Path| fs::read_to_string(file).map_err(|error| ServingError::Unreadable { file: file.into(), error });
    let (certificate, key) = (read(&pair.certificate)?, read(&pair.key)?);
    Certificate::from_pem(&certificate, &key).map_err(|error| ServingError::Malformed { file: pair.certificate.clone(), error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_test::certificates::Ca;

    #[test]
    fn files_are_read_again_when_they_change() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let (ca, one) = (Ca::new(), |name: &str| KeyPairFiles { certificate: file(name), key: file(name) });
        let serving = Serving::new(vec![one("first.pem"), one("second.pem")], file("ca.crt"));
        assert!(matches!(serving.server(), Err(ServingError::Unreadable { .. })));
        let write = |name: &str| {
            let signed = ca.sign(&["localhost"]);
            fs::write(file(name), [signed.pem, signed.key].concat()).unwrap();
        };
        write("second.pem");
        let second = serving.server().unwrap();
        assert!(Arc::ptr_eq(&second, &serving.server().unwrap()));
        fs::write(file("first.pem"), "not PEM").unwrap();
        let again = serving.server().unwrap();
        assert!(!Arc::ptr_eq(&second, &again));
        write("first.pem");
        assert!(!Arc::ptr_eq(&again, &serving.server().unwrap()));
        let last = serving.server().unwrap();
        fs::write(file("ca.crt"), ca.pem()).unwrap();
        assert!(!Arc::ptr_eq(&last, &serving.server().unwrap()));
        let last = serving.server().unwrap();
        for name in ["first.pem", "second.pem"] {
            fs::remove_file(file(name)).unwrap();
        }
        assert!(Arc::ptr_eq(&last, &serving.server().unwrap()));
    }
}
