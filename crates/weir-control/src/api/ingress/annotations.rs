//! Annotations of an Ingress, with the meaning that Higress gives them: `nginx.ingress.kubernetes.io/NAME` and `higress.io/NAME` say the
//! same, and where both are there the first counts. What cannot be honoured is reported; where it guards access, the Ingress is refused.
mod auth;
mod connection;
mod destination;
mod given;
pub mod keys;
mod policy;
mod routing;
mod unsupported;

pub use auth::{BasicAuth, SecretForm};
pub use connection::{ClientAuth, Tls, Upstream, UpstreamTls};
pub use policy::{ServiceRef, Traffic};
pub use routing::{Canary, Matching, Redirects, Rewrite};
pub use unsupported::{GUARDS, Refusal, Unsupported, Verdict, verdict};

use crate::api::istio::virtual_service::Destination;
use given::Given;
use std::sync::Arc;
use weir_config::{
    model::{Cors, HeaderEdits, LocalRateLimit, Rbac},
    node::Chars,
    reader::Object,
};

/// Everything that the annotations of one Ingress say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Annotations {
    pub matching: Matching,
    pub redirects: Redirects,
    pub rewrite: Rewrite,
    pub canary: Option<Canary>,
    pub canary_place: Chars,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub cors: Option<Arc<Cors>>,
    pub rbac: Option<Arc<Rbac>>,
    pub basic_auth: Option<Box<BasicAuth>>,
    pub local_rate_limit: Option<Arc<LocalRateLimit>>,
    pub traffic: Traffic,
    /// Where requests of the backend McpBridge go.
    pub destinations: Vec<Destination>,
    pub tls: Tls,
    pub upstream: Option<Box<Upstream>>,
    /// Something here keeps requests out, or is meant to: the Ingress must not be served without it.
    pub guards: bool,
    /// Why none of its requests may be let through.
    pub refused: Option<Refusal>,
    /// Annotations without effect, reported if the Ingress is Weir's.
    pub unsupported: Vec<Unsupported>,
}

/// `None` where no annotation is meant for an ingress controller.
pub fn decode(root: &Object<'_>) -> Option<Box<Annotations>> {
    let meta = root.object("metadata")?;
    meta.ignore_rest();
    let given = Given::new(&meta);
    if given.is_empty() {
        return None;
    }
    let (request_headers, response_headers) = policy::headers(&given);
    let mut read = Annotations {
        matching: routing::matching(&given),
        redirects: routing::redirects(&given),
        rewrite: routing::rewrite(&given),
        canary: routing::canary(&given),
        canary_place: given.get("canary").map(|field| field.node().span).unwrap_or_default(),
        request_headers,
        response_headers,
        cors: policy::cors(&given).map(Arc::new),
        rbac: policy::source_ranges(&given).map(Arc::new),
        basic_auth: auth::basic_auth(&given),
        local_rate_limit: policy::rate_limit(&given).map(Arc::new),
        traffic: policy::traffic(&given),
        destinations: destination::destinations(&given),
        tls: connection::tls(&given),
        upstream: connection::upstream(&given).map(Box::new),
        ..Annotations::default()
    };
    unsupported::sort(&given, &mut read);
    Some(Box::new(read))
}
