//! Basic authentication (RFC 7617).
use serde::{Serialize, Serializer, ser::SerializeSeq};
use std::collections::BTreeMap;

/// Who is let in, by user name and password (Envoy's filter `basic_auth`). Others are answered with 401.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BasicAuth {
    pub realm: String,
    pub users: Users,
}

/// Users and the hashes of their passwords. Only the names are ever shown.
#[derive(Clone, Default, PartialEq)]
pub struct Users(pub BTreeMap<Box<str>, PasswordHash>);

/// As in a file of htpasswd.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(Box<str>);

impl PasswordHash {
    /// `None` for a hash of another kind than those of [`PasswordHash::KINDS`], and for one that would take seconds to check.
    pub fn new(text: &str) -> Option<PasswordHash> {
        let known = PasswordHash::KINDS.iter().any(|start| text.starts_with(start));
        let cost = text.strip_prefix("$2").and_then(|rest| rest.get(2..4)).map(str::parse);
        let cheap = !text.starts_with("$2") || cost.is_some_and(|cost| cost.is_ok_and(|cost: u32| cost <= PasswordHash::MAX_COST));
        (known && cheap).then(|| PasswordHash(text.into()))
    }

    /// The greatest cost of bcrypt; htpasswd takes at most 17.
    pub const MAX_COST: u32 = 17;

    /// How the hashes begin that can be checked: bcrypt, Apache's MD5, MD5 of crypt, SHA-1 without and with a salt, plain text.
    pub const KINDS: [&str; 8] = ["$2y$", "$2a$", "$2b$", "$apr1$", "$1$", "{SHA}", "{SSHA}", "{PLAIN}"];

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordHash")
    }
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Serialize for Users {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut names = to.serialize_seq(Some(self.0.len()))?;
        self.0.keys().try_for_each(|name| names.serialize_element(name))?;
        names.end()
    }
}
