//! Decoded objects: what remains of a document once it was read. Small typed values, no trees, no source text.
pub mod meta;
pub mod pairs;
pub mod schema;
mod unknown;

pub use meta::{Created, Document, Finding, KINDS, Key, Kind, KindInfo, Meta};
pub use pairs::Pairs;

use crate::api::{gateway_api, ingress, istio, kubernetes, mcp_bridge, plugin};
use std::{ops::Deref, sync::Arc};
use weir_config::{
    diagnostic::Diagnostic,
    model::{Name, Origin},
    node::{Chars, Node, Value},
    reader::{self, Reader},
    source::Source,
};

/// What an object says, by kind. Boxed, so that no object has to have room for the largest kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    GatewayClass(Box<gateway_api::GatewayClass>),
    Gateway(Box<gateway_api::Gateway>),
    ListenerSet(Box<gateway_api::ListenerSet>),
    /// Of HTTPRoutes and GRPCRoutes.
    HttpRoute(Box<gateway_api::HttpRoute>),
    /// TLSRoute, TCPRoute and UDPRoute.
    L4Route(Box<gateway_api::L4Route>),
    BackendTlsPolicy(Box<gateway_api::BackendTlsPolicy>),
    ReferenceGrant(Box<gateway_api::ReferenceGrant>),
    Ingress(Box<ingress::Ingress>),
    IngressClass(Box<ingress::IngressClass>),
    /// Only its labels matter.
    Namespace,
    Service(Box<kubernetes::Service>),
    EndpointSlice(Box<kubernetes::EndpointSlice>),
    Endpoints(Box<kubernetes::Endpoints>),
    Pod(Box<kubernetes::Pod>),
    Secret(Box<kubernetes::Secret>),
    ConfigMap(Box<kubernetes::ConfigMap>),
    IstioGateway(Box<istio::Gateway>),
    VirtualService(Box<istio::VirtualService>),
    DestinationRule(Box<istio::DestinationRule>),
    ServiceEntry(Box<istio::ServiceEntry>),
    WorkloadEntry(Box<istio::WorkloadEntry>),
    AuthorizationPolicy(Box<istio::AuthorizationPolicy>),
    /// Of both API groups.
    WasmPlugin(Box<plugin::Plugin>),
    McpBridge(Box<mcp_bridge::McpBridge>),
}

/// A decoded object. Equal ones say the same, wherever they stand.
#[derive(Clone, Debug)]
pub struct Object {
    pub meta: Meta,
    pub spec: Spec,
    pub document: Document,
}

/// For the key and the line, which everybody asks for.
impl Deref for Object {
    type Target = Meta;

    fn deref(&self) -> &Meta {
        &self.meta
    }
}

impl Object {
    /// `Kind/namespace/name`
    pub fn title(&self) -> Name {
        self.key.to_string().into()
    }
    /// With the line as of now.
    pub fn origin(&self) -> Origin {
        self.origin_at(self.line)
    }
    /// At a line of its document, counted from 1.
    pub fn origin_at(&self, line: u32) -> Origin {
        Origin { object: self.key.title(), line: self.document.line(line) }
    }
    /// Sorts the oldest first, those of one age by name.
    pub fn age(&self) -> (Created, &Key) {
        (self.meta.created, &self.key)
    }
    /// Whether it is, or stands in for, an object in error: not a version to keep.
    pub fn is_stand_in(&self) -> bool {
        match &self.spec {
            Spec::WasmPlugin(plugin) => matches!(plugin.code, plugin::Code::Unusable(_)),
            Spec::Ingress(ingress) => ingress.closed,
            Spec::AuthorizationPolicy(policy) => policy.closed,
            Spec::HttpRoute(route) => route.is_partial(),
            _ => false,
        }
    }
    /// A finding made after reading; `field` is the path of the field at `span`.
    pub fn finding(&self, span: Chars, field: impl Into<String>, diagnostic: Diagnostic) -> Finding {
        Finding::new(&self.title(), &self.document, span, field, diagnostic)
    }
    /// The keys that the object can be found by, beside its name.
    pub fn index_keys(&self) -> Vec<Name> {
        let meta = &self.meta;
        match &self.spec {
            Spec::EndpointSlice(s) => s.index_keys(meta),
            Spec::Pod(_) => kubernetes::pod_index_keys(meta),
            Spec::VirtualService(v) => v.index_keys(),
            Spec::DestinationRule(d) => d.index_keys(),
            Spec::ServiceEntry(s) => s.index_keys(),
            Spec::Ingress(i) => i.index_keys(meta),
            Spec::ListenerSet(s) => s.index_keys(meta),
            Spec::HttpRoute(r) if self.key.kind == Kind::GrpcRoute => r.index_keys(meta),
            Spec::BackendTlsPolicy(p) => p.index_keys(meta),
            Spec::WasmPlugin(p) => p.index_keys(),
            // By the namespace that it opens, or is looked for in.
            Spec::ReferenceGrant(_) | Spec::WorkloadEntry(_) => vec![meta.key.namespace.clone()],
            _ => Vec::new(),
        }
    }
    pub fn says_the_same(&self, other: &Object) -> bool {
        self.meta == other.meta && self.spec == other.spec
    }
}

/// What reading one object came to.
pub enum Decoded {
    /// As it was written, but for the rules with errors of a cluster's route.
    Object(Box<Object>),
    /// Known, but with errors: its last good version goes on, or, where there is none, what stands in for it.
    Broken(Key, Option<Box<Object>>),
    /// Nothing that Weir acts on.
    Ignored,
}

/// Reads one object of a document. `List`s must have been unfolded before.
pub fn decode(node: &Node, source: &Arc<Source>, document: &Document, found: &mut Vec<Diagnostic>) -> Decoded {
    let reader = Reader::new(source.clone());
    let decoded = match identify(&reader, node) {
        Some((root, info)) => decode_object(&reader, root, info, document),
        None => Decoded::Ignored,
    };
    found.extend(reader.take());
    decoded
}

/// Reads an object of which it is known what it is, as those of an API server are.
pub fn decode_as(info: &'static KindInfo, node: &Node, source: &Arc<Source>, document: &Document, found: &mut Vec<Diagnostic>) -> Decoded {
    let reader = Reader::new(source.clone());
    let decoded = match reader.root(node).object() {
        Some(root) => {
            root.ignore(&["apiVersion", "kind"]);
            decode_object(&reader, root, info, document)
        }
        None => Decoded::Ignored,
    };
    found.extend(reader.take());
    decoded
}

/// The kind of an object, by `apiVersion` and `kind`; reports what Weir does not know.
fn identify<'a>(reader: &'a Reader, node: &'a Node) -> Option<(reader::Object<'a>, &'static KindInfo)> {
    let field = reader.root(node);
    if !matches!(node.value, Value::Map(_)) {
        unknown::report_no_map(&field);
        return None;
    }
    let root = field.object()?;
    if !root.has("apiVersion") && !root.has("kind") {
        root.ignore_rest();
        unknown::report_no_object(root.field());
        return None;
    }
    let (version, kind) = (root.required("apiVersion").and_then(|f| f.str()), root.required("kind"));
    let (Some(version), Some(kind_field)) = (version, kind) else {
        root.ignore_rest();
        return None;
    };
    let Some(kind) = kind_field.str() else {
        root.ignore_rest();
        return None;
    };
    let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
    let Some(info) = KINDS.iter().find(|i| i.group == group && i.name == kind) else {
        root.ignore_rest();
        unknown::report(&kind_field, group, kind);
        return None;
    };
    if !info.versions.contains(&version) {
        let field = root.get("apiVersion").unwrap_or(kind_field);
        let accepted: Vec<String> = info.versions.iter().map(|v| info.api_version(v)).collect();
        field.error("UnknownVersion", format!("unsupported version {version} of {kind}"), format!("write {}", accepted.join(" or ")));
        root.ignore_rest();
        return None;
    }
    Some((root, info))
}

fn decode_object(reader: &Reader, root: reader::Object<'_>, info: &'static KindInfo, document: &Document) -> Decoded {
    let Some(mut meta) = root.required("metadata").and_then(|m| meta::decode(&m, info)) else {
        root.ignore_rest();
        return Decoded::Ignored;
    };
    let key = meta.key.clone();
    root.ignore(&["status"]);
    let spec = decode_spec(info.kind, &root, &meta);
    meta.drop_unread_labels();
    meta.line = root.field().line() + 1 - document.first_line();
    drop(root);
    let object = |spec| Box::new(Object { meta, spec, document: document.clone() });
    match (spec, reader.first_error()) {
        (Some(spec), None) => Decoded::Object(object(spec)),
        (Some(Spec::WasmPlugin(plugin)), Some(why)) => {
            let stand_in = object(Spec::WasmPlugin(Box::new(plugin.unusable(&why))));
            Decoded::Broken(key, Some(stand_in))
        }
        // What it guards must not be left to a wider route.
        (Some(Spec::Ingress(mut ingress)), Some(_)) if ingress.guards() => {
            ingress.closed = true;
            let stand_in = object(Spec::Ingress(ingress));
            Decoded::Broken(key, Some(stand_in))
        }
        // Of files, the version before goes on, and without one the valid rules serve. Of a cluster they serve in any case: Gateway API
        // lets a route fall back to its last good state only where a restart restores it. A request for a rule with an error must not
        // be left to a wider rule.
        (Some(Spec::HttpRoute(route)), Some(_)) => {
            let rest = reader.errors(|fields| route.without(fields)).map(|rest| object(Spec::HttpRoute(Box::new(rest))));
            match rest {
                Some(rest) if document.file().is_none() => Decoded::Object(rest),
                rest => Decoded::Broken(key, rest),
            }
        }
        // What it guards must not be open.
        (Some(Spec::AuthorizationPolicy(mut policy)), Some(_)) => {
            policy.closed = true;
            let stand_in = object(Spec::AuthorizationPolicy(policy));
            Decoded::Broken(key, Some(stand_in))
        }
        _ => Decoded::Broken(key, None),
    }
}

/// Reads everything but apiVersion, kind, metadata and status.
fn decode_spec(kind: Kind, root: &reader::Object<'_>, meta: &Meta) -> Option<Spec> {
    Some(match kind {
        Kind::GatewayClass => Spec::GatewayClass(Box::new(gateway_api::decode_class(root)?)),
        Kind::Gateway => Spec::Gateway(Box::new(gateway_api::decode_gateway(root)?)),
        Kind::ListenerSet => Spec::ListenerSet(Box::new(gateway_api::decode_listener_set(root)?)),
        Kind::HttpRoute => Spec::HttpRoute(Box::new(gateway_api::decode_http_route(root)?)),
        Kind::GrpcRoute => Spec::HttpRoute(Box::new(gateway_api::decode_grpc_route(root)?)),
        Kind::TlsRoute => Spec::L4Route(Box::new(gateway_api::decode_tls_route(root)?)),
        Kind::TcpRoute => Spec::L4Route(Box::new(gateway_api::decode_tcp_route(root)?)),
        Kind::UdpRoute => Spec::L4Route(Box::new(gateway_api::decode_udp_route(root)?)),
        Kind::BackendTlsPolicy => Spec::BackendTlsPolicy(Box::new(gateway_api::decode_backend_tls(root)?)),
        Kind::ReferenceGrant => Spec::ReferenceGrant(Box::new(gateway_api::decode_grant(root)?)),
        Kind::Ingress => Spec::Ingress(Box::new(ingress::decode(root)?)),
        Kind::IngressClass => Spec::IngressClass(Box::new(ingress::decode_class(root)?)),
        Kind::Namespace => {
            root.ignore(&["spec"]);
            Spec::Namespace
        }
        Kind::Service => Spec::Service(Box::new(kubernetes::decode_service(root)?)),
        Kind::EndpointSlice => Spec::EndpointSlice(Box::new(kubernetes::decode_endpoint_slice(root, meta)?)),
        Kind::Endpoints => Spec::Endpoints(Box::new(kubernetes::decode_endpoints(root)?)),
        Kind::Pod => Spec::Pod(Box::new(kubernetes::decode_pod(root)?)),
        Kind::Secret => Spec::Secret(Box::new(kubernetes::decode_secret(root)?)),
        Kind::ConfigMap => Spec::ConfigMap(Box::new(kubernetes::decode_config_map(root, meta)?)),
        Kind::IstioGateway => Spec::IstioGateway(Box::new(istio::decode_gateway(root, meta)?)),
        Kind::VirtualService => Spec::VirtualService(Box::new(istio::decode_virtual_service(root, meta)?)),
        Kind::DestinationRule => Spec::DestinationRule(Box::new(istio::decode_destination_rule(root, meta)?)),
        Kind::ServiceEntry => Spec::ServiceEntry(Box::new(istio::decode_service_entry(root)?)),
        Kind::WorkloadEntry => Spec::WorkloadEntry(Box::new(istio::decode_workload_entry(root, meta)?)),
        Kind::AuthorizationPolicy => Spec::AuthorizationPolicy(Box::new(istio::decode_authorization_policy(root, meta))),
        Kind::WasmPlugin => Spec::WasmPlugin(Box::new(plugin::decode(root, meta, false))),
        Kind::HigressWasmPlugin => Spec::WasmPlugin(Box::new(plugin::decode(root, meta, true))),
        Kind::McpBridge => Spec::McpBridge(Box::new(mcp_bridge::decode(root)?)),
    })
}
