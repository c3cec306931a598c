//! Who asks: the node, by its certificate, or somebody with a token.
use crate::upstream::remote::Show;
use http::{HeaderMap, header};
use sha2::{Digest, Sha256};

/// How a connection came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// On the port without TLS: whoever may open connections on it acts as the node.
    Plain,
    /// Without a certificate.
    Tls,
    /// With a certificate that the authority of the cluster signed. It may have expired: see [`Moment`].
    Certificate {
        common_name: String,
        /// The node whose certificate it is, with its group.
        node: Option<String>,
        not_before: i64,
        not_after: i64,
    },
}

/// Whose request it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    Node,
    /// The bearer of a token, by its digest.
    Token([u8; 32]),
}

/// When a request comes.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Seconds since 1970.
    pub now: i64,
    /// Whether an API server can be reached. Without one, a node cannot renew its certificate: then the one that it has is accepted
    /// after its end, too.
    pub link: bool,
}

/// Why a request is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unauthorized {
    #[error("show the certificate of the node or a token")]
    Nothing,
    #[error("the certificate of {0} is not valid at this time")]
    Expired(String),
    /// Its key stays with the client, so that the API server cannot be shown it.
    #[error("requests with the certificate of {0} cannot be passed on: use a token, or connect to the API server itself")]
    Certificate(String),
}

impl Caller {
    /// `node` is the user name of the node: `system:node:NAME`.
    pub fn of(peer: &Peer, headers: &HeaderMap, node: &str, at: Moment) -> Result<Caller, Unauthorized> {
        if let Some(token) = bearer(headers) {
            return Ok(Caller::Token(Sha256::digest(token.as_bytes()).into()));
        }
        match peer {
            Peer::Plain => Ok(Caller::Node),
            Peer::Certificate { common_name, .. } if common_name != node => Err(Unauthorized::Certificate(common_name.clone())),
            Peer::Certificate { not_before, not_after, .. } if !at.link || (*not_before..*not_after).contains(&at.now) => Ok(Caller::Node),
            Peer::Certificate { common_name, .. } => Err(Unauthorized::Expired(common_name.clone())),
            Peer::Tls => Err(Unauthorized::Nothing),
        }
    }

    /// What to show the API server.
    pub fn shows(&self) -> Show {
        match self {
            Caller::Node => Show::Node,
            Caller::Token(_) => Show::Own,
        }
    }
}

/// The token of a request (RFC 6750).
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_the_node_or_have_a_token() {
        let certificate = |name: &str| Peer::Certificate { common_name: name.into(), node: None, not_before: 100, not_after: 200 };
        let token = || Ok(Caller::Token(Sha256::digest(b"abc").into()));
        let other = || Err(Unauthorized::Certificate("system:node:b".into()));
        let up = |now| Moment { now, link: true };
        let table = [
            (Peer::Plain, "", Ok(Caller::Node)),
            (Peer::Plain, "Bearer abc", token()),
            (Peer::Tls, "", Err(Unauthorized::Nothing)),
            (Peer::Tls, "bearer  abc ", token()),
            (Peer::Tls, "Basic abc", Err(Unauthorized::Nothing)),
            (Peer::Tls, "Bearer ", Err(Unauthorized::Nothing)),
            (certificate("system:node:a"), "", Ok(Caller::Node)),
            (certificate("system:node:a"), "Bearer abc", token()),
            (certificate("system:node:b"), "", other()),
        ];
        for (peer, authorization, wanted) in table {
            let mut headers = HeaderMap::new();
            if !authorization.is_empty() {
                headers.insert(header::AUTHORIZATION, authorization.parse().unwrap());
            }
            assert_eq!(Caller::of(&peer, &headers, "system:node:a", up(150)), wanted, "{peer:?} {authorization}");
        }
        let expired = || Err(Unauthorized::Expired("system:node:a".into()));
        let down = |now| Moment { now, link: false };
        let table = [
            ("system:node:a", up(99), expired()),
            ("system:node:a", up(200), expired()),
            ("system:node:a", down(200), Ok(Caller::Node)),
            ("system:node:b", down(200), other()),
        ];
        for (name, at, wanted) in table {
            assert_eq!(Caller::of(&certificate(name), &HeaderMap::new(), "system:node:a", at), wanted, "{name} {at:?}");
        }
    }
}
