//! The certificate of the node, and the certificate authority of the cluster: read from files, and read again when they change.
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use weir_net::tls::{Certificate, CertificateError, Client, ClientOptions, Roots, Trust};

/// Where the credentials of the node are.
#[derive(Clone, Debug)]
pub struct Files {
    /// PEM: the certificates that the API servers' chains end in. They also sign the clients' certificates.
    pub certificate_authority: PathBuf,
    /// PEM: the certificate of the node, and its chain. kubelet keeps one, with its key, in `pki/kubelet-client-current.pem`.
    pub client_certificate: PathBuf,
    /// PEM; `None` where it is in the same file.
    pub client_key: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("cannot read {}: {error}", file.display())]
    Unreadable { file: PathBuf, error: io::Error },
    #[error("{}: {error}", file.display())]
    Malformed { file: PathBuf, error: CertificateError },
    #[error("{}: {error}", file.display())]
    Refused { file: PathBuf, error: rustls::Error },
}

/// How to connect to an API server.
#[derive(Clone)]
pub struct Clients {
    /// Shows the certificate of the node.
    pub node: Arc<Client>,
    /// Shows none: for callers with a token of their own.
    pub bare: Arc<Client>,
    /// Until when the certificate of the node is valid.
    pub not_after: SystemTime,
}

/// The credentials as they are now.
pub struct Credentials {
    files: Files,
    read: Mutex<Option<(Stamp, Clients)>>,
}

/// Changes when a file does, or when a link to it leads elsewhere.
type Stamp = Vec<Option<(SystemTime, u64, PathBuf)>>;

impl Credentials {
    pub fn new(files: Files) -> Credentials {
        Credentials { files, read: Mutex::new(None) }
    }

    /// The certificates that clients' chains end in.
    pub fn roots(&self) -> Result<Roots, CredentialError> {
        let file = &self.files.certificate_authority;
        Roots::from_pem(&read(file)?, None).map_err(|error| CredentialError::Malformed { file: file.clone(), error })
    }

    /// For the next connection. Where new files are no good, the old ones go on.
    pub fn clients(&self) -> Result<Clients, CredentialError> {
        let stamp = self.stamp();
        let mut held = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, clients)) = &*held
            && *of == stamp
        {
            return Ok(clients.clone());
        }
        match (self.make(), &*held) {
            (Ok(clients), _) => {
                *held = Some((stamp, clients.clone()));
                Ok(clients)
            }
            (Err(_), Some((_, clients))) => Ok(clients.clone()),
            (Err(e), None) => Err(e),
        }
    }

    fn make(&self) -> Result<Clients, CredentialError> {
        let file = &self.files.client_certificate;
        let chain = read(file)?;
        let key = match &self.files.client_key {
            Some(key) => read(key)?,
            None => chain.clone(),
        };
        let certificate = Certificate::from_pem(&chain, &key).map_err(|error| CredentialError::Malformed { file: file.clone(), error })?;
        let client = |certificate: Option<Arc<Certificate>>| {
            let options = ClientOptions { trust: Trust::Roots(self.roots()?), certificate, ..ClientOptions::system() };
            Client::new(options).map(Arc::new).map_err(|error| CredentialError::Refused { file: file.clone(), error })
        };
        let not_after = UNIX_EPOCH + Duration::from_secs(u64::try_from(certificate.details.not_after).unwrap_or_default());
        Ok(Clients { node: client(Some(Arc::new(certificate)))?, bare: client(None)?, not_after })
    }

    fn stamp(&self) -> Stamp {
        let one = |path: &Path| {
            let about = fs::metadata(path).ok()?;
            Some((about.modified().ok()?, about.len(), fs::canonicalize(path).ok()?))
        };
        let files = [Some(&self.files.certificate_authority), Some(&self.files.client_certificate), self.files.client_key.as_ref()];
        files.into_iter().flatten().map(|path| one(path)).collect()
    }
}

fn read(file: &Path) -> Result<String, CredentialError> {
    fs::read_to_string(file).map_err(|error| CredentialError::Unreadable { file: file.to_path_buf(), error })
}
