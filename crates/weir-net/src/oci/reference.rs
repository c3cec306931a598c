//! The name of an image: `REGISTRY/REPOSITORY:TAG@DIGEST`, as Docker and Istio read it.
use crate::tls::hex_digest;
use std::{fmt, str::FromStr};
use url::Url;

/// The registry of a name without one.
const DOCKER_HUB: &str = "docker.io";
/// Where its API is.
const DOCKER_HUB_API: &str = "registry-1.docker.io";
/// The name in keys of a docker config.
const DOCKER_HUB_INDEX: &str = "index.docker.io";
const LATEST: &str = "latest";
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

/// A registry by its one name: the Docker Hub has three.
pub(super) fn canonical(registry: &str) -> &str {
    match registry {
        DOCKER_HUB_INDEX | DOCKER_HUB_API => DOCKER_HUB,
        other => other,
    }
}

/// A SHA-256 digest.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

impl Digest {
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(hex_digest(bytes))
    }
    /// From 64 hexadecimal digits, with or without `sha256:`.
    pub fn parse(text: &str) -> Option<Digest> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        (hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit())).then(|| Digest(hex.to_ascii_lowercase()))
    }
    /// The 64 digits.
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no reference of an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("the name of the image is empty")]
    Empty,
    #[error("\"{0}\" is not a host with an optional port")]
    Registry(String),
    #[error("\"{0}\" is not a repository: lower case letters, digits and single separators (. _ - /)")]
    Repository(String),
    #[error("\"{0}\" is not a tag: at most 128 letters, digits, '_', '.' and '-'")]
    Tag(String),
    #[error("\"{0}\" is not a digest: sha256: and 64 hexadecimal digits")]
    Digest(String),
}

/// Which image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// The host with its port, as it is named in configurations.
    pub registry: String,
    pub repository: String,
    /// `None`: `latest`, or the digest alone.
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

impl Reference {
    /// The host that serves the API.
    pub fn api_host(&self) -> &str {
        if self.registry == DOCKER_HUB { DOCKER_HUB_API } else { &self.registry }
    }
    /// What a manifest is asked for by: the digest, where there is one.
    pub fn target(&self) -> String {
        self.digest.as_ref().map_or_else(|| self.tag().to_string(), ToString::to_string)
    }
    pub fn tag(&self) -> &str {
        self.tag.as_deref().unwrap_or(LATEST)
    }
    /// Without a digest, and with the tag `latest` or none: such an image is pulled again by default.
    pub fn is_latest(&self) -> bool {
        self.digest.is_none() && self.tag() == LATEST
    }
    /// `REGISTRY/REPOSITORY`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
    /// The registry is on this machine.
    pub fn is_local(&self) -> bool {
        let host = self.registry.rsplit_once(':').map_or(&*self.registry, |(host, _)| host);
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        host == "localhost" || self.registry == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        let text = text.strip_prefix("oci://").unwrap_or(text);
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let parsed = digest.strip_prefix("sha256:").and_then(Digest::parse);
                (name, Some(parsed.ok_or_else(|| ReferenceError::Digest(digest.into()))?))
            }
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            // A colon before the last slash is that of a port.
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if name.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if let Some(tag) = tag.filter(|t| !is_tag(t)) {
            return Err(ReferenceError::Tag(tag.into()));
        }
        let (registry, repository) = match name.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" || host.starts_with('[') => (host, rest.to_string()),
            Some(_) => (DOCKER_HUB, name.to_string()),
            None => (DOCKER_HUB, format!("library/{name}")),
        };
        let registry = canonical(registry);
        if !is_host(registry) {
            return Err(ReferenceError::Registry(registry.into()));
        }
        if !is_repository(&repository) {
            return Err(ReferenceError::Repository(repository));
        }
        Ok(Reference { registry: registry.to_ascii_lowercase(), repository, tag: tag.map(str::to_string), digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match (&self.tag, &self.digest) {
            (Some(tag), _) => write!(f, ":{tag}")?,
            (None, None) => write!(f, ":{LATEST}")?,
            (None, Some(_)) => {}
        }
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= MAX_TAG && text.bytes().next().is_some_and(word) && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_host(text: &str) -> bool {
    let Ok(url) = Url::parse(&format!("https://{text}/")) else { return false };
    url.path() == "/" && url.username().is_empty() && url.password().is_none() && !text.contains(['/', '?', '#', '@', '\\'])
}

fn is_repository(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let component = |part: &str| {
        let ends = part.bytes().next().is_some_and(alphanumeric) && part.bytes().last().is_some_and(alphanumeric);
        ends && part
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
    };
    text.len() <= MAX_REPOSITORY && text.split('/').all(component)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn references() {
        let hex = "a".repeat(64);
        for (text, shown, target) in [
            ("oci://ghcr.io/o/p:v1", "ghcr.io/o/p:v1", "v1"),
            ("plugin", "docker.io/library/plugin:latest", "latest"),
            ("me/plugin:1", "docker.io/me/plugin:1", "1"),
            ("index.docker.io/me/plugin", "docker.io/me/plugin:latest", "latest"),
            ("localhost/p", "localhost/p:latest", "latest"),
            ("Registry.Test:5000/a/b-c__d.e/f:A_1.2-x", "registry.test:5000/a/b-c__d.e/f:A_1.2-x", "A_1.2-x"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "latest"),
            (&format!("r.test/a@sha256:{hex}"), &format!("r.test/a@sha256:{hex}"), &format!("sha256:{hex}")),
            (&format!("r.test/a:1@sha256:{hex}"), &format!("r.test/a:1@sha256:{hex}"), &format!("sha256:{hex}")),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!((reference.to_string().as_str(), reference.target().as_str()), (shown, target), "{text}");
            assert_eq!(
                shown.parse::<Reference>().unwrap(),
                Reference {
                    tag: reference.tag.clone().or_else(|| reference.digest.is_none().then(|| "latest".into())),
                    ..reference.clone()
                }
            );
        }
        use ReferenceError::*;
        for (text, wrong) in [
            ("oci://", Empty),
            ("r.test/A", Repository("A".into())),
            ("r.test/a//b", Repository("a//b".into())),
            ("r.test/../a", Repository("../a".into())),
            ("r.test/a..b", Repository("a..b".into())),
            ("r.test/a:", Tag("".into())),
            ("r.test/a:-x", Tag("-x".into())),
            ("u:p@r.test/a", Digest("r.test/a".into())),
            ("r.test:x/a", Registry("r.test:x".into())),
            ("r.test/a@sha256:12", Digest("sha256:12".into())),
            ("r.test/a@sha512:12", Digest("sha512:12".into())),
        ] {
            assert_eq!(text.parse::<Reference>(), Err(wrong), "{text}");
        }
    }

    #[test]
    fn what_is_pulled_anew_and_what_is_on_this_machine() {
        let of = |text: &str| text.parse::<Reference>().unwrap();
        assert!(of("a").is_latest() && of("a:latest").is_latest());
        assert!(!of("a:1").is_latest() && !of(&format!("r.test/a@sha256:{}", "0".repeat(64))).is_latest());
        assert!(["localhost/a", "localhost:5000/a", "127.0.0.1:5000/a", "[::1]:5000/a", "127.1.2.3:1/a"].iter().all(|t| of(t).is_local()));
        assert!(["localhost.test/a", "10.0.0.1:5000/a", "a/b"].iter().all(|t| !of(t).is_local()));
        assert_eq!(of("a").api_host(), "registry-1.docker.io");
    }
}
