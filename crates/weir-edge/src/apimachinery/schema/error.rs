//! Why the content of an object cannot be read or written.
use super::SchemaError;
use crate::apimachinery::{object::ObjectError, wire::WireError};
use thiserror::Error;

#[derive(Debug, Error)]
pub enum ContentError {
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error(transparent)]
    Schema(#[from] SchemaError),
    #[error("the object is not JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<WireError> for ContentError {
    fn from(error: WireError) -> ContentError {
        ContentError::Object(error.into())
    }
}
