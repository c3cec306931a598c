//! How a node without a certificate gets to trust the API server and to be let in: by a bootstrap token, or by a bootstrap kubeconfig.
pub mod pin;
pub mod token;

use crate::upstream::{
    api::{Api, ApiError, Shown},
    kubeconfig::{Kubeconfig, KubeconfigError},
};
use pin::{Pin, PinError, pinned};
use serde_json::Value;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};
use token::{Token, TokenError};
use weir_net::tls::{Certificate, CertificateError, Client, ClientOptions, Roots, Trust};

const CLUSTER_INFO: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";

/// What a node is let in with.
#[derive(Clone, Debug)]
pub enum Bootstrap {
    /// As `kubeadm join` does.
    Token { token: Token, discovery: Discovery },
    /// A kubeconfig, which is read again each time: a new one brings a new token.
    File(PathBuf),
}

/// How the certificate authority of the cluster is known.
#[derive(Clone, Debug)]
pub enum Discovery {
    /// From the ConfigMap `cluster-info`: signed by the token, and its public key is one of these.
    Pinned(Vec<Pin>),
    /// The same without pins: anyone who knows the token can pose as the API server.
    Unpinned,
    File(PathBuf),
}

/// What is known once the API server is trusted.
pub struct Admission {
    /// PEM.
    pub authority: String,
    pub shown: Shown,
}

#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("cannot read {}: {error}", file.display())]
    Unreadable { file: PathBuf, error: io::Error },
    #[error("{place}: {error}")]
    Certificate { place: String, error: CertificateError },
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("cluster-info has no signature for the token {id}: it has expired, or its usages do not include signing")]
    NotSigned { id: String },
    #[error("{place} names no certificate authority")]
    NoAuthority { place: String },
    #[error("the ConfigMap cluster-info has changed while it was read, or somebody stands between this node and the API server")]
    Changed,
    #[error("{} has neither a token nor a client certificate", .0.display())]
    Nothing(PathBuf),
}

impl Bootstrap {
    /// Finds out whom to trust, and with what to ask for a certificate.
    pub async fn admission(&self, api: &Api) -> Result<Admission, BootstrapError> {
        match self {
            Bootstrap::Token { token, discovery } => {
                let authority = match discovery {
                    Discovery::Pinned(pins) => discover(api, token, pins).await?,
                    Discovery::Unpinned => discover(api, token, &[]).await?,
                    Discovery::File(file) => {
                        fs::read_to_string(file).map_err(|error| BootstrapError::Unreadable { file: file.clone(), error })?
                    }
                };
                let client = trusting(&authority, "the certificate authority", None)?;
                Ok(Admission { authority, shown: Shown { client, token: Some(token.bearer()) } })
            }
            Bootstrap::File(file) => {
                let place = file.display().to_string();
                let config = Kubeconfig::read(file)?;
                let authority = config.certificate_authority.ok_or_else(|| BootstrapError::NoAuthority { place: place.clone() })?;
                if config.token.is_none() && config.certificate.is_none() {
                    return Err(BootstrapError::Nothing(file.clone()));
                }
                let certificate = config.certificate.map(|(chain, key)| Certificate::from_pem(&chain, &key)).transpose();
                let certificate = certificate.map_err(|error| BootstrapError::Certificate { place: place.clone(), error })?;
                let client = trusting(&authority, &place, certificate.map(Arc::new))?;
                Ok(Admission { authority, shown: Shown { client, token: config.token } })
            }
        }
    }
}

/// The certificate authority that `cluster-info` names. It is read twice: by a connection that trusts anyone, and again by one that
/// trusts what the first one brought.
async fn discover(api: &Api, token: &Token, pins: &[Pin]) -> Result<String, BootstrapError> {
    let anyone = Client::new(ClientOptions { trust: Trust::Anyone, ..ClientOptions::system() })?;
    let first = api.get(&Shown { client: Arc::new(anyone), token: None }, CLUSTER_INFO).await?;
    let text = verified(&first, token)?;
    let config = Kubeconfig::parse("cluster-info", text, Path::new("/"))?;
    let named = config.certificate_authority.ok_or_else(|| BootstrapError::NoAuthority { place: "cluster-info".into() })?;
    let authority = pinned(&named, pins)?;
    let client = trusting(&authority, "cluster-info", None)?;
    let second = api.get(&Shown { client, token: None }, CLUSTER_INFO).await?;
    if second["data"]["kubeconfig"] != text {
        return Err(BootstrapError::Changed);
    }
    Ok(authority)
}

/// The kubeconfig of `cluster-info`, once its signature is that of the token.
fn verified<'a>(cluster_info: &'a Value, token: &Token) -> Result<&'a str, BootstrapError> {
    let data = &cluster_info["data"];
    let text = data["kubeconfig"].as_str().unwrap_or_default();
    let signature = data[format!("jws-kubeconfig-{}", token.id)].as_str();
    token.verify(text, signature.ok_or_else(|| BootstrapError::NotSigned { id: token.id.clone() })?)?;
    Ok(text)
}

fn trusting(authority: &str, place: &str, certificate: Option<Arc<Certificate>>) -> Result<Arc<Client>, BootstrapError> {
    let roots = Roots::from_pem(authority, None).map_err(|error| BootstrapError::Certificate { place: place.into(), error })?;
    Ok(Arc::new(Client::new(ClientOptions { trust: Trust::Roots(roots), certificate, ..ClientOptions::system() })?))
}
