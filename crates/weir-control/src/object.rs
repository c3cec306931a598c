//! Decoded objects: what remains of a document once it was read. Small typed values, no trees, no source text.
mod unknown;

use crate::translate::{endpoints, gateway_api, ingress, istio, kubernetes, plugin};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU32, Ordering},
};
use weir_config::{
    diagnostic::{Diagnostic, Source},
    model::{Line, Name, Origin},
    node::{Chars, Node, Value},
    reader::{self, Field, Reader},
};

/// The kinds that Weir acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    GatewayClass,
    Gateway,
    HttpRoute,
    GrpcRoute,
    TlsRoute,
    TcpRoute,
    BackendTlsPolicy,
    ReferenceGrant,
    Ingress,
    IngressClass,
    Namespace,
    Service,
    EndpointSlice,
    Endpoints,
    Pod,
    Secret,
    ConfigMap,
    IstioGateway,
    VirtualService,
    DestinationRule,
    ServiceEntry,
    WorkloadEntry,
    WasmPlugin,
    HigressWasmPlugin,
}

type Decode = fn(&reader::Object<'_>, &Meta) -> Option<Spec>;

/// How a kind is spelled and read.
pub struct KindInfo {
    pub kind: Kind,
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Versions that are read; they have the same fields as far as Weir reads them.
    pub versions: &'static [&'static str],
    pub name: &'static str,
    pub namespaced: bool,
    /// Reads everything but apiVersion, kind, metadata and status.
    decode: Decode,
}

macro_rules! kinds {
    ($($kind:ident $group:literal $versions:tt $name:literal $scope:ident $decode:path;)*) => {
        /// Every kind that Weir acts on, declared once.
        pub const KINDS: &[KindInfo] = &[$(KindInfo {
            kind: Kind::$kind, group: $group, versions: &$versions, name: $name, namespaced: kinds!(@ $scope), decode: $decode,
        }),*];
    };
    (@ cluster) => { false };
    (@ namespaced) => { true };
}

kinds! {
    GatewayClass "gateway.networking.k8s.io" ["v1", "v1beta1"] "GatewayClass" cluster gateway_api::decode_class;
    Gateway "gateway.networking.k8s.io" ["v1", "v1beta1"] "Gateway" namespaced gateway_api::decode_gateway;
    HttpRoute "gateway.networking.k8s.io" ["v1", "v1beta1"] "HTTPRoute" namespaced gateway_api::decode_http_route;
    GrpcRoute "gateway.networking.k8s.io" ["v1"] "GRPCRoute" namespaced gateway_api::decode_grpc_route;
    TlsRoute "gateway.networking.k8s.io" ["v1", "v1alpha3", "v1alpha2"] "TLSRoute" namespaced gateway_api::decode_tls_route;
    TcpRoute "gateway.networking.k8s.io" ["v1", "v1alpha2"] "TCPRoute" namespaced gateway_api::decode_tcp_route;
    BackendTlsPolicy "gateway.networking.k8s.io" ["v1", "v1alpha3"] "BackendTLSPolicy" namespaced gateway_api::decode_backend_tls;
    ReferenceGrant "gateway.networking.k8s.io" ["v1", "v1beta1"] "ReferenceGrant" namespaced gateway_api::decode_grant;
    Ingress "networking.k8s.io" ["v1"] "Ingress" namespaced ingress::decode;
    IngressClass "networking.k8s.io" ["v1"] "IngressClass" cluster ingress::decode_class;
    Namespace "" ["v1"] "Namespace" cluster kubernetes::decode_namespace;
    Service "" ["v1"] "Service" namespaced kubernetes::decode_service;
    EndpointSlice "discovery.k8s.io" ["v1"] "EndpointSlice" namespaced kubernetes::decode_endpoint_slice;
    Endpoints "" ["v1"] "Endpoints" namespaced endpoints::decode_endpoints;
    Pod "" ["v1"] "Pod" namespaced endpoints::decode_pod;
    Secret "" ["v1"] "Secret" namespaced kubernetes::decode_secret;
    ConfigMap "" ["v1"] "ConfigMap" namespaced kubernetes::decode_config_map;
    IstioGateway "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] "Gateway" namespaced istio::decode_gateway;
    VirtualService "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] "VirtualService" namespaced istio::decode_virtual_service;
    DestinationRule "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] "DestinationRule" namespaced istio::decode_destination_rule;
    ServiceEntry "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] "ServiceEntry" namespaced istio::decode_service_entry;
    WorkloadEntry "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] "WorkloadEntry" namespaced istio::decode_workload_entry;
    WasmPlugin "extensions.istio.io" ["v1alpha1"] "WasmPlugin" namespaced plugin::decode_istio;
    HigressWasmPlugin "extensions.higress.io" ["v1alpha1"] "WasmPlugin" namespaced plugin::decode_higress;
}

impl KindInfo {
    /// `GROUP/VERSION`
    pub fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_string() } else { format!("{}/{version}", self.group) }
    }
}

impl Kind {
    pub fn info(self) -> &'static KindInfo {
        // The table is in the order of the enum; a test holds that.
        &KINDS[self as usize]
    }
}

/// What an object says, by kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    GatewayClass(gateway_api::GatewayClass),
    Gateway(Box<gateway_api::Gateway>),
    /// Of HTTPRoutes and GRPCRoutes.
    HttpRoute(Box<gateway_api::HttpRoute>),
    /// TLSRoute and TCPRoute.
    L4Route(Box<gateway_api::L4Route>),
    BackendTlsPolicy(Box<gateway_api::BackendTlsPolicy>),
    ReferenceGrant(gateway_api::ReferenceGrant),
    Ingress(Box<ingress::Ingress>),
    IngressClass(ingress::IngressClass),
    /// Only its labels matter.
    Namespace,
    Service(Box<kubernetes::Service>),
    EndpointSlice(Box<kubernetes::EndpointSlice>),
    Endpoints(Box<endpoints::Endpoints>),
    Pod(Box<endpoints::Pod>),
    Secret(Box<kubernetes::Secret>),
    ConfigMap(kubernetes::ConfigMap),
    IstioGateway(Box<istio::Gateway>),
    VirtualService(Box<istio::VirtualService>),
    DestinationRule(Box<istio::DestinationRule>),
    ServiceEntry(Box<istio::ServiceEntry>),
    WorkloadEntry(Box<istio::WorkloadEntry>),
    /// Of both API groups.
    WasmPlugin(Box<plugin::Plugin>),
}

/// The identity of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub kind: Kind,
    /// Empty for kinds of the whole cluster.
    pub namespace: Name,
    pub name: Name,
}

impl Key {
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Key {
        Key { kind, namespace: if kind.info().namespaced { namespace.into() } else { "".into() }, name: name.into() }
    }
}

/// `HTTPRoute/default/shop`
impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let info = self.kind.info();
        match info.namespaced {
            true => write!(f, "{}/{}/{}", info.name, self.namespace, self.name),
            false => write!(f, "{}/{}", info.name, self.name),
        }
    }
}

/// One document of a file, after it was read.
#[derive(Debug)]
pub struct Document {
    /// As it was named on the command line, or found in the folder that was.
    pub file: Name,
    /// Of its text.
    pub hash: u64,
    /// Where it starts in the file; moves without the document being read again, and is shared with what was made of the
    /// versions of it before.
    first_line: Mutex<Arc<AtomicU32>>,
}

/// The same text of the same file, wherever it stands in it.
impl PartialEq for Document {
    fn eq(&self, other: &Document) -> bool {
        (self.hash, &self.file) == (other.hash, &other.file)
    }
}

impl Document {
    pub fn new(file: Name, hash: u64, first_line: u32) -> Document {
        Document { file, hash, first_line: Mutex::new(Arc::new(first_line.into())) }
    }
    fn start(&self) -> MutexGuard<'_, Arc<AtomicU32>> {
        self.first_line.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// One-based.
    pub fn first_line(&self) -> u32 {
        self.start().load(Ordering::Relaxed)
    }
    pub fn move_to(&self, line: u32) {
        self.start().store(line, Ordering::Relaxed);
    }
    /// Takes the place of an earlier version: what was made of that one moves with this one from now on.
    pub fn follow(&self, before: &Document) {
        if !std::ptr::eq(self, before) {
            let line = self.first_line();
            let start = before.start().clone();
            start.store(line, Ordering::Relaxed);
            *self.start() = start;
        }
    }
}

/// What is kept of `metadata`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta {
    pub name: Name,
    /// Empty for kinds of the whole cluster.
    pub namespace: Name,
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// Without `kubectl.kubernetes.io/last-applied-configuration`.
    pub annotations: Box<[(Box<str>, Box<str>)]>,
    /// Text of `creationTimestamp` (RFC 3339 in UTC, so that texts sort as times); empty where there is none.
    pub created: Box<str>,
}

impl Meta {
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| &**k == name).map(|(_, v)| &**v)
    }
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.iter().find(|(k, _)| &**k == name).map(|(_, v)| &**v)
    }
}

/// A decoded object. Equal ones say the same, wherever they stand.
#[derive(Clone, Debug)]
pub struct Object {
    pub key: Key,
    /// `Kind/namespace/name`, shared by every resource that is made of it.
    pub title: Name,
    pub meta: Meta,
    pub spec: Spec,
    pub document: Arc<Document>,
    /// One-based line of the object in its document.
    pub line: u32,
}

impl Object {
    /// With the line as of now.
    pub fn origin(&self) -> Origin {
        self.origin_at(self.line)
    }
    /// At a line of its document, counted from 1.
    pub fn origin_at(&self, line: u32) -> Origin {
        Origin {
            object: self.title.clone(),
            file: Some(self.document.file.clone()),
            line: Line::first(self.document.start().clone()).below(line.saturating_sub(1)),
        }
    }
    /// Sorts the oldest first, those of one age by name.
    pub fn age(&self) -> (&str, &Key) {
        (&self.meta.created, &self.key)
    }
    /// Whether it stands in for an object in error: not a version to keep.
    pub fn is_stand_in(&self) -> bool {
        match &self.spec {
            Spec::WasmPlugin(plugin) => matches!(plugin.code, plugin::Code::Unusable(_)),
            Spec::Ingress(ingress) => ingress.closed,
            _ => false,
        }
    }
    pub fn says_the_same(&self, other: &Object) -> bool {
        self.meta == other.meta && self.spec == other.spec
    }
}

/// What reading one object came to.
pub enum Decoded {
    Object(Box<Object>),
    /// Known, but with errors: its last good version goes on, or, where there is none, what stands in for it.
    Broken(Key, Option<Box<Object>>),
    /// Nothing that Weir acts on.
    Ignored,
}

/// Reads one object of a document. `List`s must have been unfolded before.
pub fn decode(node: &Node, source: &Arc<Source>, document: &Arc<Document>, found: &mut Vec<Diagnostic>) -> Decoded {
    let reader = Reader::new(source.clone());
    let decoded = decode_with(&reader, node, document);
    found.extend(reader.take());
    decoded
}

fn decode_with(reader: &Reader, node: &Node, document: &Arc<Document>) -> Decoded {
    let field = reader.root(node);
    if !matches!(node.value, Value::Map(_)) {
        unknown::report_no_map(&field);
        return Decoded::Ignored;
    }
    let Some(root) = field.object() else { return Decoded::Ignored };
    if !root.has("apiVersion") && !root.has("kind") {
        root.ignore_rest();
        unknown::report_no_object(root.field());
        return Decoded::Ignored;
    }
    let (version, kind) = (root.required("apiVersion").and_then(|f| f.str()), root.required("kind"));
    let (Some(version), Some(kind_field)) = (version, kind) else {
        root.ignore_rest();
        return Decoded::Ignored;
    };
    let Some(kind) = kind_field.str() else {
        root.ignore_rest();
        return Decoded::Ignored;
    };
    let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
    let Some(info) = KINDS.iter().find(|i| i.group == group && i.name == kind) else {
        root.ignore_rest();
        unknown::report(&kind_field, group, kind);
        return Decoded::Ignored;
    };
    if !info.versions.contains(&version) {
        let field = root.get("apiVersion").unwrap_or(kind_field);
        let accepted: Vec<String> = info.versions.iter().map(|v| info.api_version(v)).collect();
        field.error("UnknownVersion", format!("unsupported version {version} of {kind}"), format!("write {}", accepted.join(" or ")));
        root.ignore_rest();
        return Decoded::Ignored;
    }
    let Some(meta) = root.required("metadata").and_then(|m| decode_meta(&m, info)) else {
        root.ignore_rest();
        return Decoded::Ignored;
    };
    let key = Key { kind: info.kind, namespace: meta.namespace.clone(), name: meta.name.clone() };
    let title: Name = key.to_string().into();
    root.ignore(&["status"]);
    let spec = (info.decode)(&root, &meta);
    let line = root.field().line() + 1 - document.first_line();
    drop(root);
    let object = |spec| Box::new(Object { key: key.clone(), title, meta, spec, document: document.clone(), line });
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
        _ => Decoded::Broken(key, None),
    }
}

/// Fields of ObjectMeta that a cluster fills in and nothing here depends on.
const META_OF_OTHERS: &[&str] = &[
    "annotations",
    "clusterName",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "initializers",
    "labels",
    "managedFields",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

fn decode_meta(field: &Field<'_>, info: &KindInfo) -> Option<Meta> {
    let meta = field.object()?;
    meta.ignore(META_OF_OTHERS);
    let name = meta.required("name")?;
    let text = name.str()?;
    // A name goes into resource names, metrics and logs: keep it to what Kubernetes takes.
    if text.is_empty() || text.len() > 253 || !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':')) {
        name.invalid("is not a name", "up to 253 letters, digits, - and .");
        return None;
    }
    let namespace = match meta.get("namespace") {
        Some(f) if info.namespaced => f.str()?,
        None if info.namespaced => "default",
        _ => "",
    };
    // Before anything more is found.
    field.reader().set_object(Key { kind: info.kind, namespace: namespace.into(), name: text.into() }.to_string().into());
    let texts = |name: &'static str| -> Box<[(Box<str>, Box<str>)]> {
        let entries = meta.entries(name).into_iter().filter(|(k, _)| *k != "kubectl.kubernetes.io/last-applied-configuration");
        entries.filter_map(|(k, v)| Some((k.into(), v.str()?.into()))).collect()
    };
    Some(Meta {
        name: text.into(),
        namespace: namespace.into(),
        labels: texts("labels"),
        annotations: texts("annotations"),
        created: meta.str("creationTimestamp").unwrap_or_default().into(),
    })
}

/// A finding made after reading: about an object, at a place in its document.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub diagnostic: Diagnostic,
    pub document: Arc<Document>,
    pub span: Chars,
}

impl Finding {
    /// `field` is the path of the field at `span`.
    pub fn new(object: &Object, span: Chars, field: impl Into<String>, diagnostic: Diagnostic) -> Finding {
        let mut diagnostic = diagnostic.object(&object.title);
        diagnostic.field = field.into();
        Finding { diagnostic, document: object.document.clone(), span }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_stand_in_the_order_of_their_enum() {
        for (i, info) in KINDS.iter().enumerate() {
            assert_eq!(info.kind as usize, i, "{}", info.name);
        }
    }
}
