//! Basic authentication: who is let in, by a Secret with users and hashes of their passwords.
use super::{connection::secret, given::Given};
use weir_config::{model::Name, node::Chars};

/// What `auth-type: basic` asks of clients.
#[derive(Clone, Debug, PartialEq)]
pub struct BasicAuth {
    /// Of the Secret; `None` is that of the Ingress.
    pub namespace: Option<Name>,
    pub secret: Name,
    pub form: SecretForm,
    pub realm: Box<str>,
    pub place: Chars,
}

/// How the Secret lists users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecretForm {
    /// `auth-file`: the entry `auth` is a file of htpasswd.
    #[default]
    File,
    /// `auth-map`: each key is a user, and its value the hash.
    Map,
}

/// The default of Higress and ingress-nginx.
const REALM: &str = "Authentication Required";

/// Half of it is an error: it must not let everybody in.
pub fn basic_auth(given: &Given<'_>) -> Option<Box<BasicAuth>> {
    let wanted = given.get("auth-type").is_some();
    let kind = given.choice("auth-type", &[("basic", ())]);
    let form = given.choice("auth-secret-type", &[("auth-file", SecretForm::File), ("auth-map", SecretForm::Map)]);
    let realm = given.text("auth-realm").map_or(REALM, |(_, text)| text);
    let named = given.get("auth-secret");
    match (wanted, named) {
        (false, Some(field)) => field.error("MissingField", "auth-secret has no effect without auth-type", "add auth-type: basic"),
        (true, None) => {
            if let Some(field) = given.get("auth-type") {
                field.error("MissingField", "auth-type needs auth-secret", "add auth-secret with the name of a Secret");
            }
        }
        _ => {}
    }
    kind?;
    let field = named?;
    let (namespace, secret) = secret(field, field.node().as_str()?.trim())?;
    let place = field.node().span;
    if let Some(field) = given.get("auth-realm")
        && realm.bytes().any(|b| b == b'"' || b == b'\\' || b.is_ascii_control())
    {
        field.invalid("has a character that a realm must not have", "a text without quotes, backslashes and line ends");
        return None;
    }
    Some(Box::new(BasicAuth { namespace, secret, form: form.unwrap_or_default(), realm: realm.into(), place }))
}
