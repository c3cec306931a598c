//! Failures as the API server words them: a `Status` object of `meta/v1`.
use crate::body::{Body, full};
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

/// Why a request fails here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: StatusCode,
    /// One of the reasons of `meta/v1`.
    pub reason: &'static str,
    pub message: String,
    /// Seconds after which it may go better.
    pub retry_after: Option<u32>,
}

impl Failure {
    pub fn unauthorized(message: impl Into<String>) -> Failure {
        Failure { code: StatusCode::UNAUTHORIZED, reason: "Unauthorized", message: message.into(), retry_after: None }
    }
    pub fn forbidden(message: impl Into<String>) -> Failure {
        Failure { code: StatusCode::FORBIDDEN, reason: "Forbidden", message: message.into(), retry_after: None }
    }
    pub fn not_found(message: impl Into<String>) -> Failure {
        Failure { code: StatusCode::NOT_FOUND, reason: "NotFound", message: message.into(), retry_after: None }
    }
    pub fn already_exists(message: impl Into<String>) -> Failure {
        Failure { code: StatusCode::CONFLICT, reason: "AlreadyExists", message: message.into(), retry_after: None }
    }
    /// Another version of an object than the client has, or another object.
    pub fn conflict(message: impl Into<String>) -> Failure {
        Failure { code: StatusCode::CONFLICT, reason: "Conflict", message: message.into(), retry_after: None }
    }
    /// A resource version or a page that is not known here: the client lists again.
    pub fn expired(message: impl Into<String>) -> Failure {
        Failure { code: StatusCode::GONE, reason: "Expired", message: message.into(), retry_after: None }
    }
    pub fn bad_request(message: impl Into<String>) -> Failure {
        Failure { code: StatusCode::BAD_REQUEST, reason: "BadRequest", message: message.into(), retry_after: None }
    }
    /// It can be read, and is no object that there may be.
    pub fn invalid(message: impl Into<String>) -> Failure {
        Failure { code: StatusCode::UNPROCESSABLE_ENTITY, reason: "Invalid", message: message.into(), retry_after: None }
    }
    pub fn unsupported(content_type: &str) -> Failure {
        let message = format!("content type {content_type:?}: expected application/json or application/vnd.kubernetes.protobuf");
        Failure { code: StatusCode::UNSUPPORTED_MEDIA_TYPE, reason: "UnsupportedMediaType", message, retry_after: None }
    }
    pub fn too_large(limit: usize) -> Failure {
        let message = format!("the body of the request is larger than {limit} bytes");
        Failure { code: StatusCode::PAYLOAD_TOO_LARGE, reason: "RequestEntityTooLarge", message, retry_after: None }
    }
    /// Of one client.
    pub fn too_many_requests(message: impl Into<String>) -> Failure {
        Failure { code: StatusCode::TOO_MANY_REQUESTS, reason: "TooManyRequests", message: message.into(), retry_after: Some(1) }
    }
    /// The link is down, and nothing that was kept answers it.
    pub fn unavailable(message: impl Into<String>) -> Failure {
        Failure { code: StatusCode::SERVICE_UNAVAILABLE, reason: "ServiceUnavailable", message: message.into(), retry_after: Some(5) }
    }

    pub fn into_response(self) -> Response<Body> {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code.as_u16(),
        });
        if let Some(seconds) = self.retry_after {
            status["details"] = json!({ "retryAfterSeconds": seconds });
        }
        let mut response = Response::new(full(status.to_string()));
        *response.status_mut() = self.code;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
