//! Why an image cannot be pulled or pushed.
use super::Digest;
use crate::http::fetch::FetchError;

#[derive(Debug, thiserror::Error)]
pub enum OciError {
    #[error("{0}")]
    Fetch(#[from] FetchError),
    #[error("the registry asks for credentials{0}; docker login, imagePullSecret or --registry-config give them")]
    NoCredentials(Said),
    #[error("the registry refuses the credentials{0}")]
    Unauthorized(Said),
    #[error("the credentials may not {action} {repository}{said}")]
    Forbidden { action: &'static str, repository: String, said: Said },
    #[error("{registry} has no {repository} with {target}{said}; check the repository and the tag")]
    NoManifest { registry: String, repository: String, target: String, said: Said },
    #[error("{what}: the registry answered {status}{said}")]
    Status { what: String, status: u16, said: Said },
    #[error("{what} is not what its digest says: {found} in place of {wanted}")]
    Mismatch { what: &'static str, wanted: Digest, found: Digest },
    #[error("{what} has {size} bytes; at most {max} are accepted")]
    TooLarge { what: &'static str, size: u64, max: usize },
    #[error("the manifest cannot be used: {0}")]
    Manifest(String),
    #[error("more than {0} redirects")]
    Redirects(usize),
    #[error("redirected to `{0}`, which is not a URL that can be followed")]
    Redirect(String),
    #[error("the registry sends {0} to a token service without TLS: credentials are not sent there")]
    PlainRealm(String),
    #[error("the registry asks for a way to authenticate that is not supported: {0}")]
    Challenge(String),
    #[error("the token service {host}: {problem}")]
    Token { host: String, problem: String },
}

/// What a registry said in an error, in brackets; empty where it said nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said(pub String);

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.is_empty() {
            true => Ok(()),
            false => write!(f, " ({})", self.0),
        }
    }
}

impl Said {
    /// From the body of an answer: `{"errors": [{"code", "message"}]}`.
    pub(super) fn of(body: &[u8]) -> Said {
        let errors: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let first = errors["errors"].get(0).unwrap_or(&serde_json::Value::Null);
        let parts = [first["code"].as_str(), first["message"].as_str()];
        let said: String = parts.into_iter().flatten().filter(|t| !t.is_empty()).collect::<Vec<_>>().join(": ");
        Said(said.chars().filter(|c| !c.is_control()).take(200).collect())
    }
}

impl OciError {
    /// Whether the same may go well later without a change of the configuration.
    pub fn is_transient(&self) -> bool {
        match self {
            OciError::Fetch(e) => e.is_transient(),
            OciError::PlainRealm(_) | OciError::Challenge(_) => false,
            _ => true,
        }
    }
}
