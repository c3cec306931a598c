//! The certificate of the node, and the certificate authority of the cluster: read from files, and read again when they change.
use crate::identity::stamp::Stamp;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
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

#[derive(Clone, Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("cannot read {}: {error}", file.display())]
    Unreadable { file: PathBuf, error: Arc<io::Error> },
    #[error("{}: {error}", file.display())]
    Malformed { file: PathBuf, error: CertificateError },
    #[error("{}: {error}", file.display())]
    Refused { file: PathBuf, error: rustls::Error },
}

/// How to connect to an API server.
#[derive(Clone)]
pub struct Clients {
    node: Result<Node, CredentialError>,
    /// Shows no certificate: for callers with a token of their own.
    pub bare: Arc<Client>,
}

#[derive(Clone)]
struct Node {
    client: Arc<Client>,
    /// The same for hubs of other nodes: they show the certificates of those.
    peers: Arc<Client>,
    not_after: SystemTime,
}

impl Clients {
    /// Shows the certificate of the node.
    pub fn node(&self) -> Result<Arc<Client>, CredentialError> {
        self.node.as_ref().map(|node| node.client.clone()).map_err(Clone::clone)
    }

    /// Shows the certificate of the node, and expects another one of the cluster for clients. Whose it is has to be looked at.
    pub fn peers(&self) -> Result<Arc<Client>, CredentialError> {
        self.node.as_ref().map(|node| node.peers.clone()).map_err(Clone::clone)
    }

    /// Until when the certificate of the node is valid.
    pub fn not_after(&self) -> Result<SystemTime, CredentialError> {
        self.node.as_ref().map(|node| node.not_after).map_err(Clone::clone)
    }
}

/// Time between two looks at the files for connections that there are: a look costs a dozen system calls, and each request needs one.
const LOOK: Duration = Duration::from_millis(200);

/// The credentials as they are now.
pub struct Credentials {
    files: Files,
    read: Mutex<Option<Read>>,
}

struct Read {
    stamp: Stamp,
    /// When the files were last looked at.
    looked: Instant,
    clients: Clients,
}

impl Credentials {
    pub fn new(files: Files) -> Credentials {
        Credentials { files, read: Mutex::new(None) }
    }

    /// The certificates that clients' chains end in.
    pub fn roots(&self) -> Result<Roots, CredentialError> {
        let file = &self.files.certificate_authority;
        Roots::from_pem(&read(file)?, None).map_err(|error| CredentialError::Malformed { file: file.clone(), error })
    }

    /// For a connection that there is: as the files were a moment ago.
    pub fn recent(&self) -> Result<Clients, CredentialError> {
        let recent = match &*self.read.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(read) if read.looked.elapsed() < LOOK => Some(read.clients.clone()),
            _ => None,
        };
        recent.map_or_else(|| self.clients(), Ok)
    }

    /// For the next connection. Where new files are no good, the old ones go on.
    pub fn clients(&self) -> Result<Clients, CredentialError> {
        let stamp = self.stamp();
        let mut held = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let looked = Instant::now();
        if let Some(read) = &mut *held {
            read.looked = looked;
            if read.stamp == stamp {
                return Ok(read.clients.clone());
            }
        }
        match (self.make(held.as_ref().map(|read| &read.clients)), &*held) {
            (Ok(clients), _) => {
                *held = Some(Read { stamp, looked, clients: clients.clone() });
                Ok(clients)
            }
            (Err(_), Some(read)) => Ok(read.clients.clone()),
            (Err(e), None) => Err(e),
        }
    }

    /// A certificate of the node that is of no use leaves requests with tokens alone. Once there was a good one, it goes on.
    fn make(&self, before: Option<&Clients>) -> Result<Clients, CredentialError> {
        let node = match (self.node(), before) {
            (Err(_), Some(Clients { node: Ok(node), .. })) => Ok(node.clone()),
            (node, _) => node,
        };
        Ok(Clients { node, bare: self.client(Trust::Roots(self.roots()?), None)? })
    }

    fn node(&self) -> Result<Node, CredentialError> {
        let file = &self.files.client_certificate;
        let chain = read(file)?;
        let key = match &self.files.client_key {
            Some(key) => read(key)?,
            None => chain.clone(),
        };
        let certificate = Certificate::from_pem(&chain, &key).map_err(|error| CredentialError::Malformed { file: file.clone(), error })?;
        let not_after = UNIX_EPOCH + Duration::from_secs(u64::try_from(certificate.details.not_after).unwrap_or_default());
        let (certificate, roots) = (Arc::new(certificate), self.roots()?);
        Ok(Node {
            client: self.client(Trust::Roots(roots.clone()), Some(certificate.clone()))?,
            peers: self.client(Trust::ClientsOf(roots), Some(certificate))?,
            not_after,
        })
    }

    fn client(&self, trust: Trust, certificate: Option<Arc<Certificate>>) -> Result<Arc<Client>, CredentialError> {
        let options = ClientOptions { trust, certificate, ..ClientOptions::system() };
        let refused = |error| CredentialError::Refused { file: self.files.client_certificate.clone(), error };
        Client::new(options).map(Arc::new).map_err(refused)
    }

    fn stamp(&self) -> Stamp {
        let files = [Some(&self.files.certificate_authority), Some(&self.files.client_certificate), self.files.client_key.as_ref()];
        Stamp::of(files.into_iter().flatten().map(PathBuf::as_path))
    }
}

fn read(file: &Path) -> Result<String, CredentialError> {
    fs::read_to_string(file).map_err(|error| CredentialError::Unreadable { file: file.to_path_buf(), error: Arc::new(error) })
}
