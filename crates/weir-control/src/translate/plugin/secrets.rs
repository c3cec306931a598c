//! `${secret.NAME.KEY}` and `${secret.NAMESPACE/NAME.KEY}` in a plugin's configuration, as in Higress.
use crate::{
    object::{Kind, Spec},
    translate::Cx,
};
use serde_json::Value;
use weir_config::model::PluginConfiguration;

const START: &str = "${secret.";

/// Why a reference leads to no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error("`{START}` has no closing `}}`")]
    Open,
    #[error("`{START}{reference}}}` does not name a Secret and a key")]
    Syntax { reference: String },
    #[error("`{START}{reference}}}`: there is no Secret {namespace}/{name}")]
    NoSecret { reference: String, namespace: String, name: String },
    #[error("`{START}{reference}}}`: the Secret {namespace}/{name} has no text under the key {key}")]
    NoKey { reference: String, namespace: String, name: String, key: String },
}

/// Replaces the references in a configuration's strings by the values of Secrets. `namespace` is the plugin's.
///
/// # Errors
/// Every reference that cannot be resolved.
pub fn resolve(cx: &Cx<'_>, namespace: &str, text: &str) -> Result<PluginConfiguration, Vec<SecretError>> {
    if !text.contains(START) {
        return Ok(text.into());
    }
    let Ok(mut value) = serde_json::from_str(text) else { return Ok(text.into()) };
    let mut walk = Walk { cx, namespace, values: Vec::new(), problems: Vec::new() };
    walk.value(&mut value);
    match walk.problems.is_empty() {
        true => Ok(PluginConfiguration::with_secrets(value.to_string(), text.into(), walk.values)),
        false => Err(walk.problems),
    }
}

struct Walk<'a> {
    cx: &'a Cx<'a>,
    namespace: &'a str,
    values: Vec<String>,
    problems: Vec<SecretError>,
}

impl Walk<'_> {
    fn value(&mut self, value: &mut Value) {
        match value {
            Value::String(text) if text.contains(START) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|v| self.value(v)),
            Value::Object(fields) => fields.values_mut().for_each(|v| self.value(v)),
            _ => {}
        }
    }

    fn text(&mut self, text: &str) -> String {
        let (mut out, mut rest) = (String::new(), text);
        while let Some((before, after)) = rest.split_once(START) {
            out += before;
            let Some((reference, after)) = after.split_once('}') else {
                self.problems.push(SecretError::Open);
                return out;
            };
            match self.secret(reference) {
                Ok(value) => {
                    out += &value;
                    self.values.push(value);
                }
                Err(problem) => self.problems.push(problem),
            }
            rest = after;
        }
        out + rest
    }

    fn secret(&self, reference: &str) -> Result<String, SecretError> {
        let (namespace, rest) = reference.split_once('/').unwrap_or((self.namespace, reference));
        let (reference, owner) = (reference.to_string(), namespace.to_string());
        // Names of Secrets and keys may have dots: the first split that names an existing Secret counts.
        let splits =
            || rest.match_indices('.').map(|(at, _)| (&rest[..at], &rest[at + 1..])).filter(|(n, k)| !n.is_empty() && !k.is_empty());
        let found = splits().find_map(|(name, key)| match &self.cx.get(Kind::Secret, namespace, name)?.spec {
            Spec::Secret(secret) => Some((name, key, secret)),
            _ => None,
        });
        match (found, splits().next()) {
            (Some((name, key, secret)), _) => secret.data.get(key).cloned().ok_or_else(|| SecretError::NoKey {
                reference,
                namespace: owner,
                name: name.into(),
                key: key.into(),
            }),
            (None, Some((name, _))) => Err(SecretError::NoSecret { reference, namespace: owner, name: name.into() }),
            (None, None) => Err(SecretError::Syntax { reference }),
        }
    }
}
