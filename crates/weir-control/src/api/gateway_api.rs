//! Gateway API: GatewayClass, Gateway, ListenerSet, HTTPRoute, GRPCRoute, TLSRoute, TCPRoute, UDPRoute, BackendTLSPolicy, ReferenceGrant
//! (gateway.networking.k8s.io, v1).
pub mod authority;
pub mod backend_ref;
pub mod backend_tls;
pub mod features;
pub mod filters;
pub mod gateway;
pub mod grant;
mod grpc_route;
pub mod http_route;
pub mod l4_route;
pub mod listener;
pub mod listener_set;
pub mod namespaces;
mod session;

pub use backend_tls::{BackendTlsPolicy, decode as decode_backend_tls};
pub use gateway::{Gateway, decode as decode_gateway};
pub use grant::{ReferenceGrant, decode as decode_grant};
pub use grpc_route::decode as decode_grpc_route;
pub use http_route::{HttpRoute, decode as decode_http_route};
pub use l4_route::{L4Route, decode_tcp as decode_tcp_route, decode_tls as decode_tls_route, decode_udp as decode_udp_route};
pub use listener_set::{ListenerSet, decode as decode_listener_set};

use weir_config::reader::Object;

/// The `controllerName` of GatewayClasses that are Weir's.
pub const CONTROLLER: &str = "weir.dev/gateway-controller";
/// The API group.
pub const GROUP: &str = "gateway.networking.k8s.io";

#[derive(Clone, Debug, PartialEq)]
pub struct GatewayClass {
    pub controller: Box<str>,
}

pub fn decode_class(root: &Object<'_>) -> Option<GatewayClass> {
    let spec = root.required("spec")?.object()?;
    spec.ignore(&["description"]);
    spec.unsupported(&["parametersRef"]);
    let controller = spec.required("controllerName")?.str()?.into();
    Some(GatewayClass { controller })
}
