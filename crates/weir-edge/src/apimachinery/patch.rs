//! Changes of what a node reports: a whole object, or one of the patches of the API server.
mod strategic;

use serde_json::Value;
pub use strategic::{difference, strategic};
use thiserror::Error;

/// A patch, by its content type.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    /// What kubelet sends.
    Strategic(Value),
    /// RFC 7386
    Merge(Value),
    /// RFC 6902
    Json(json_patch::Patch),
}

#[derive(Debug, Error)]
pub enum PatchError {
    #[error(
        "patches of content type {0:?} are not applied without the API server; expected application/strategic-merge-patch+json, \
         application/merge-patch+json or application/json-patch+json"
    )]
    Type(String),
    #[error("the patch is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the patch does not apply: {0}")]
    Apply(#[from] json_patch::PatchError),
    #[error("the patch of {field}: expected {expected}")]
    Expected { field: String, expected: &'static str },
}

impl Patch {
    pub fn read(content_type: &str, body: &[u8]) -> Result<Patch, PatchError> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/strategic-merge-patch+json" => Ok(Patch::Strategic(serde_json::from_slice(body)?)),
            "application/merge-patch+json" => Ok(Patch::Merge(serde_json::from_slice(body)?)),
            "application/json-patch+json" => Ok(Patch::Json(serde_json::from_slice(body)?)),
            other => Err(PatchError::Type(other.to_string())),
        }
    }

    pub fn apply(&self, mut to: Value) -> Result<Value, PatchError> {
        match self {
            Patch::Strategic(patch) => strategic(to, patch),
            Patch::Merge(patch) => {
                json_patch::merge(&mut to, patch);
                Ok(to)
            }
            Patch::Json(patch) => {
                json_patch::patch(&mut to, patch)?;
                Ok(to)
            }
        }
    }

    /// A field that the patch sets.
    pub fn sets(&self, pointer: &str) -> Option<&str> {
        match self {
            Patch::Strategic(patch) | Patch::Merge(patch) => patch.pointer(pointer)?.as_str(),
            Patch::Json(_) => None,
        }
    }
}

/// One merge patch that does what two do, one after the other.
pub fn joined(first: Value, second: Value) -> Value {
    match (first, second) {
        (Value::Object(mut first), Value::Object(second)) => {
            for (key, value) in second {
                let before = first.shift_remove(&key);
                let value = match before {
                    Some(before @ Value::Object(_)) => joined(before, value),
                    _ => value,
                };
                first.insert(key, value);
            }
            Value::Object(first)
        }
        (_, second) => second,
    }
}

#[cfg(test)]
mod tests;
