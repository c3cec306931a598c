//! A kubeconfig: the server of its current context, how to verify it, and what to show it.
use data_encoding::BASE64;
use serde_json::Value;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};
use url::Url;
use weir_config::{node, source::Source};

/// The current context of a kubeconfig.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubeconfig {
    pub server: Url,
    /// PEM.
    pub certificate_authority: Option<String>,
    pub token: Option<String>,
    /// PEM: a certificate and its key.
    pub certificate: Option<(String, String)>,
}

#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    #[error("cannot read {}: {error}", file.display())]
    Unreadable { file: PathBuf, error: io::Error },
    #[error("{name}: {message}")]
    Malformed { name: String, message: String },
}

impl Kubeconfig {
    /// Reads a kubeconfig and the files that it names.
    pub fn read(file: &Path) -> Result<Kubeconfig, KubeconfigError> {
        let text = text_of(file)?;
        Kubeconfig::parse(&file.display().to_string(), &text, file.parent().unwrap_or(Path::new(".")))
    }

    /// `name` is for messages. Paths are relative to `folder`.
    pub fn parse(name: &str, text: &str, folder: &Path) -> Result<Kubeconfig, KubeconfigError> {
        let malformed = |message: String| KubeconfigError::Malformed { name: name.to_string(), message };
        let (cluster, user) = current(name, text)?;
        let server = cluster["server"].as_str().unwrap_or_default();
        let server = Url::parse(server).map_err(|e| malformed(format!("server {server:?}: {e}")))?;
        let part = |of: &Value, field: &str| pem(name, of, field, |file| text_of(&folder.join(file)));
        let token = match (user["token"].as_str(), user["tokenFile"].as_str()) {
            (Some(token), _) => Some(token.to_string()),
            (None, Some(file)) => Some(text_of(&folder.join(file))?.trim().to_string()),
            (None, None) => None,
        };
        let certificate = part(&user, "client-certificate")?.zip(part(&user, "client-key")?);
        Ok(Kubeconfig { server, certificate_authority: part(&cluster, "certificate-authority")?, token, certificate })
    }
}

/// The cluster and the user of the current context.
pub fn current(name: &str, text: &str) -> Result<(Value, Value), KubeconfigError> {
    let malformed = |message: String| KubeconfigError::Malformed { name: name.to_string(), message };
    let documents = node::parse(&Arc::new(Source::new(name, text, 1))).map_err(|e| malformed(e.message))?;
    let [document] = &documents[..] else { return Err(malformed("expected one YAML document".into())) };
    let config = document.to_json();
    let current = config["current-context"].as_str().unwrap_or_default();
    // The kubeconfig of `cluster-info` has a cluster and no context.
    let (cluster, user) = match named(&config["contexts"], current) {
        Some(context) => {
            let context = &context["context"];
            let cluster = context["cluster"].as_str().unwrap_or_default();
            let cluster = named(&config["clusters"], cluster).ok_or_else(|| malformed(format!("there is no cluster {cluster:?}")))?;
            (cluster, named(&config["users"], context["user"].as_str().unwrap_or_default()))
        }
        None if current.is_empty() => (config["clusters"].get(0).ok_or_else(|| malformed("it has no clusters".into()))?, None),
        None => return Err(malformed(format!("there is no context {current:?}"))),
    };
    Ok((cluster["cluster"].clone(), user.map_or(Value::Null, |user| user["user"].clone())))
}

/// A PEM text that stands in the kubeconfig, or in a file that it names.
pub fn pem<E: From<KubeconfigError>>(
    name: &str,
    of: &Value,
    field: &str,
    read: impl Fn(&str) -> Result<String, E>,
) -> Result<Option<String>, E> {
    if let Some(data) = of[format!("{field}-data")].as_str() {
        let decoded = BASE64.decode(data.trim().as_bytes()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let message = format!("{field}-data is not base64 of a PEM text");
        return decoded.map(Some).ok_or_else(|| KubeconfigError::Malformed { name: name.to_string(), message }.into());
    }
    of[field].as_str().map(read).transpose()
}

fn named<'a>(list: &'a Value, name: &str) -> Option<&'a Value> {
    list.as_array()?.iter().find(|entry| entry["name"].as_str() == Some(name))
}

fn text_of(file: &Path) -> Result<String, KubeconfigError> {
    fs::read_to_string(file).map_err(|error| KubeconfigError::Unreadable { file: file.into(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_context_is_read() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.crt"), "authority").unwrap();
        fs::write(folder.path().join("token"), "abc\n").unwrap();
        let read = |text: &str| Kubeconfig::parse("file", text, folder.path()).map_err(|e| e.to_string());
        let whole = "apiVersion: v1
kind: Config
current-context: b
contexts:
- {name: a, context: {cluster: a, user: a}}
- {name: b, context: {cluster: b, user: b}}
clusters:
- {name: a, cluster: {server: 'https://a:1'}}
- {name: b, cluster: {server: 'https://b:6443', certificate-authority: ca.crt}}
users:
- {name: b, user: {tokenFile: token, client-certificate-data: Y2VydA==, client-key-data: a2V5}}
";
        let config = read(whole).unwrap();
        assert_eq!(config.server.as_str(), "https://b:6443/");
        assert_eq!(config.certificate_authority.as_deref(), Some("authority"));
        assert_eq!((config.token.as_deref(), config.certificate), (Some("abc"), Some(("cert".into(), "key".into()))));
        let cluster_info = read("{apiVersion: v1, clusters: [{name: '', cluster: {server: 'https://c'}}], contexts: null}").unwrap();
        assert_eq!((cluster_info.server.as_str(), cluster_info.token), ("https://c/", None));
        for (text, says) in [
            ("{current-context: x}", "there is no context \"x\""),
            ("{}", "it has no clusters"),
            ("clusters: [{name: a, cluster: {}}]", "server \"\""),
            ("clusters: [{name: a, cluster: {server: 'https://a', certificate-authority: none.crt}}]", "cannot read"),
            ("clusters: [{name: a, cluster: {server: 'https://a', certificate-authority-data: '*'}}]", "is not base64"),
            ("a: [", "file: "),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
