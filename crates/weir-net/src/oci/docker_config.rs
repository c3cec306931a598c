//! `config.json` of Docker, which is also what a Secret of the type `kubernetes.io/dockerconfigjson` holds.
use super::{Credentials, Reference, reference::canonical};
use data_encoding::BASE64;
use serde_json::Value;

/// Its credentials by registry.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DockerConfig {
    auths: Vec<(Pattern, Entry)>,
    /// Registries whose credentials a program has, and its name.
    helpers: Vec<(String, String)>,
    /// The program that has all others.
    store: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Entry {
    Known(Credentials),
    /// In the credential store.
    Elsewhere,
    Malformed,
}

/// Why there are no credentials for a registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DockerConfigError {
    #[error("it is not a docker configuration: {0}")]
    Malformed(String),
    #[error("its entry for {0} has neither a user name and a password nor \"auth\" (base64 of USER:PASSWORD)")]
    Entry(String),
    #[error(
        "the credentials of {registry} are with the credential helper docker-credential-{helper}, which is not supported; write them to \"auths\""
    )]
    Helper { registry: String, helper: String },
}

/// The key of an entry: a host, perhaps with `*` for one label, and the beginning of a path.
#[derive(Clone, Debug, PartialEq)]
struct Pattern {
    host: String,
    path: String,
    text: String,
}

impl Pattern {
    fn new(key: &str) -> Pattern {
        let bare = key.trim_start_matches("https://").trim_start_matches("http://");
        let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
        // Docker writes the versions of the API into its keys.
        let path = match path.trim_end_matches('/') {
            "v1" | "v2" => "",
            path => path,
        };
        Pattern { host: canonical(host).to_ascii_lowercase(), path: path.into(), text: key.into() }
    }

    fn matches(&self, reference: &Reference) -> bool {
        let (own, asked): (Vec<_>, Vec<_>) = (self.host.split('.').collect(), reference.registry.split('.').collect());
        let host = own.len() == asked.len() && own.iter().zip(asked).all(|(own, asked)| glob(own, asked));
        let path = reference
            .repository
            .strip_prefix(&self.path)
            .is_some_and(|rest| self.path.is_empty() || rest.is_empty() || rest.starts_with('/'));
        host && path
    }
}

/// `*` stands for any text within a label.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == text };
    text.strip_prefix(before)
        .is_some_and(|rest| (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| glob(after, &rest[at..])))
}

impl DockerConfig {
    /// # Errors
    /// It is not JSON, or its parts have other types.
    pub fn parse(text: &str) -> Result<DockerConfig, DockerConfigError> {
        let root: Value = serde_json::from_str(text).map_err(|e| DockerConfigError::Malformed(e.to_string()))?;
        let Some(root) = root.as_object() else { return Err(DockerConfigError::Malformed("not an object".into())) };
        // The older form, of `.dockercfg`, is the inner object alone.
        let old = !root.contains_key("auths") && root.values().any(|v| v.get("auth").is_some());
        let auths = if old { Some(root) } else { root.get("auths").and_then(Value::as_object) };
        let mut all: Vec<_> = auths.into_iter().flatten().map(|(key, value)| (Pattern::new(key), entry(value))).collect();
        // The longest path first.
        all.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.path.len()));
        let text = |value: &Value| value.as_str().filter(|t| !t.is_empty()).map(str::to_string);
        let helpers = root.get("credHelpers").and_then(Value::as_object).into_iter().flatten();
        let helpers = helpers.filter_map(|(host, helper)| Some((Pattern::new(host).host, text(helper)?))).collect();
        Ok(DockerConfig { auths: all, helpers, store: root.get("credsStore").and_then(text) })
    }

    /// What to show to the registry of an image; `None` where the file says nothing of it.
    ///
    /// # Errors
    /// The entry cannot be used.
    pub fn credentials(&self, reference: &Reference) -> Result<Option<Credentials>, DockerConfigError> {
        let registry = &reference.registry;
        if let Some((_, helper)) = self.helpers.iter().find(|(host, _)| host == registry) {
            return Err(DockerConfigError::Helper { registry: registry.clone(), helper: helper.clone() });
        }
        match self.auths.iter().find(|(pattern, _)| pattern.matches(reference)) {
            None => Ok(None),
            Some((_, Entry::Known(credentials))) => Ok(Some(credentials.clone())),
            Some((pattern, Entry::Malformed)) => Err(DockerConfigError::Entry(pattern.text.clone())),
            Some((pattern, Entry::Elsewhere)) => match &self.store {
                Some(helper) => Err(DockerConfigError::Helper { registry: registry.clone(), helper: helper.clone() }),
                None => Err(DockerConfigError::Entry(pattern.text.clone())),
            },
        }
    }
}

fn entry(value: &Value) -> Entry {
    let text = |name: &str| value.get(name).and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_string);
    if value.as_object().is_some_and(serde_json::Map::is_empty) {
        return Entry::Elsewhere;
    }
    let decoded = text("auth").map(|auth| {
        let bytes = BASE64.decode(auth.as_bytes()).ok()?;
        let both = String::from_utf8(bytes).ok()?;
        // Docker pads it with zero bytes.
        both.split_once(':').map(|(user, password)| (user.to_string(), password.trim_end_matches('\0').to_string()))
    });
    if let Some(token) = text("identitytoken") {
        return Entry::Known(Credentials::Identity { token });
    }
    let both = match decoded {
        Some(decoded) => decoded,
        None => text("username").zip(text("password")),
    };
    both.map_or(Entry::Malformed, |(username, password)| Entry::Known(Credentials::Basic { username, password }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn credentials_by_registry() {
        let config = DockerConfig::parse(
            r#"{"auths": {
                "https://index.docker.io/v1/": {"auth": "aHViOnB3"},
                "r.test:5000": {"username": "u", "password": "p:w"},
                "r.test:5000/team/a": {"auth": "dGVhbTpwdw=="},
                "*.wild.test": {"auth": "d2lsZDpwdw=="},
                "token.test": {"auth": "MDA6", "identitytoken": "it"},
                "bad.test": {"auth": "%%"},
                "stored.test": {}
            }, "credsStore": "pass", "credHelpers": {"gcr.io": "gcloud"}}"#,
        )
        .unwrap();
        let of = |text: &str| match config.credentials(&text.parse().unwrap()) {
            Ok(Some(Credentials::Basic { username, password })) => format!("{username} {password}"),
            Ok(Some(Credentials::Identity { token })) => format!("token {token}"),
            Ok(None) => "none".into(),
            Err(e) => e.to_string(),
        };
        for (image, wanted) in [
            ("plugin", "hub pw"),
            ("r.test:5000/b", "u p:w"),
            ("r.test:5000/team/a/b", "team pw"),
            ("r.test:5000/team/ab", "u p:w"),
            ("r.test/b", "none"),
            ("a.wild.test/b", "wild pw"),
            ("a.b.wild.test/b", "none"),
            ("token.test/b", "token it"),
        ] {
            assert_eq!(of(image), wanted, "{image}");
        }
        assert!(of("bad.test/a").contains("entry for bad.test"));
        assert!(of("stored.test/a").contains("docker-credential-pass"));
        assert!(of("gcr.io/a").contains("docker-credential-gcloud"));
        let old = DockerConfig::parse(r#"{"r.test": {"auth": "dTpw"}}"#).unwrap();
        assert!(old.credentials(&"r.test/a".parse().unwrap()).unwrap().is_some());
        assert!(DockerConfig::parse("[]").is_err() && DockerConfig::parse("{").is_err());
        assert_eq!(DockerConfig::parse("{}").unwrap().credentials(&"a".parse().unwrap()), Ok(None));
    }
}
