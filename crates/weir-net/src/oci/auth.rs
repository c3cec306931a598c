//! What is shown to a registry.
use data_encoding::BASE64;
use std::fmt;

/// Credentials of one registry.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    Basic {
        username: String,
        password: String,
    },
    /// A token that a token service exchanges (`identitytoken`).
    Identity {
        token: String,
    },
}

impl Credentials {
    /// The value of `Authorization`, where they are a user name and a password.
    pub(super) fn basic(&self) -> Option<String> {
        match self {
            Credentials::Basic { username, password } => {
                Some(format!("Basic {}", BASE64.encode(format!("{username}:{password}").as_bytes())))
            }
            Credentials::Identity { .. } => None,
        }
    }

    /// All of it, to tell credentials apart.
    pub fn parts(&self) -> (&str, &str) {
        match self {
            Credentials::Basic { username, password } => (username, password),
            Credentials::Identity { token } => ("", token),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credentials::Basic { username, .. } => write!(f, "{username}:[redacted]"),
            Credentials::Identity { .. } => f.write_str("[redacted]"),
        }
    }
}
