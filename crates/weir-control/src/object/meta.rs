//! What every object has, whatever its kind: the kind, the key, the metadata and the document that it stands in.
use super::pairs::Pairs;
use std::{cell::RefCell, cmp::Ordering, ops::Deref, path::Path, sync::Arc};
use weir_config::{
    diagnostic::Diagnostic,
    model::{DocumentStart, FileId, Line, Name, Rare, Title},
    node::Chars,
    reader::Field,
    recent::{self, Recent},
};

/// The kinds that Weir acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    GatewayClass,
    Gateway,
    ListenerSet,
    HttpRoute,
    GrpcRoute,
    TlsRoute,
    TcpRoute,
    UdpRoute,
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
    AuthorizationPolicy,
    WasmPlugin,
    HigressWasmPlugin,
    McpBridge,
}

/// How a kind is spelled and read.
pub struct KindInfo {
    pub kind: Kind,
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Versions that are read; they have the same fields as far as Weir reads them.
    pub versions: &'static [&'static str],
    pub name: &'static str,
    pub namespaced: bool,
}

macro_rules! kinds {
    ($($kind:ident $group:literal $versions:tt $name:literal $scope:ident;)*) => {
        /// Every kind that Weir acts on, declared once.
        pub const KINDS: &[KindInfo] = &[$(KindInfo {
            kind: Kind::$kind, group: $group, versions: &$versions, name: $name, namespaced: kinds!(@ $scope),
        }),*];
    };
    (@ cluster) => { false };
    (@ namespaced) => { true };
}

kinds! {
    GatewayClass "gateway.networking.k8s.io" ["v1", "v1beta1"] "GatewayClass" cluster;
    Gateway "gateway.networking.k8s.io" ["v1", "v1beta1"] "Gateway" namespaced;
    ListenerSet "gateway.networking.k8s.io" ["v1"] "ListenerSet" namespaced;
    HttpRoute "gateway.networking.k8s.io" ["v1", "v1beta1"] "HTTPRoute" namespaced;
    GrpcRoute "gateway.networking.k8s.io" ["v1"] "GRPCRoute" namespaced;
    TlsRoute "gateway.networking.k8s.io" ["v1", "v1alpha3", "v1alpha2"] "TLSRoute" namespaced;
    TcpRoute "gateway.networking.k8s.io" ["v1", "v1alpha2"] "TCPRoute" namespaced;
    UdpRoute "gateway.networking.k8s.io" ["v1", "v1alpha2"] "UDPRoute" namespaced;
    BackendTlsPolicy "gateway.networking.k8s.io" ["v1", "v1alpha3"] "BackendTLSPolicy" namespaced;
    ReferenceGrant "gateway.networking.k8s.io" ["v1", "v1beta1"] "ReferenceGrant" namespaced;
    Ingress "networking.k8s.io" ["v1"] "Ingress" namespaced;
    IngressClass "networking.k8s.io" ["v1"] "IngressClass" cluster;
    Namespace "" ["v1"] "Namespace" cluster;
    Service "" ["v1"] "Service" namespaced;
    EndpointSlice "discovery.k8s.io" ["v1"] "EndpointSlice" namespaced;
    Endpoints "" ["v1"] "Endpoints" namespaced;
    Pod "" ["v1"] "Pod" namespaced;
    Secret "" ["v1"] "Secret" namespaced;
    ConfigMap "" ["v1"] "ConfigMap" namespaced;
    IstioGateway "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] "Gateway" namespaced;
    VirtualService "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] "VirtualService" namespaced;
    DestinationRule "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] "DestinationRule" namespaced;
    ServiceEntry "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] "ServiceEntry" namespaced;
    WorkloadEntry "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] "WorkloadEntry" namespaced;
    AuthorizationPolicy "security.istio.io" ["v1", "v1beta1"] "AuthorizationPolicy" namespaced;
    WasmPlugin "extensions.istio.io" ["v1alpha1"] "WasmPlugin" namespaced;
    HigressWasmPlugin "extensions.higress.io" ["v1alpha1"] "WasmPlugin" namespaced;
    McpBridge "networking.higress.io" ["v1"] "McpBridge" namespaced;
}

impl KindInfo {
    /// As in the paths of the API: `httproutes`, `ingresses`.
    pub fn plural(&self) -> String {
        let name = self.name.to_ascii_lowercase();
        match name.strip_suffix('y') {
            _ if self.kind == Kind::Endpoints => name,
            Some(stem) if !stem.ends_with(['a', 'e', 'i', 'o', 'u']) => format!("{stem}ies"),
            None if name.ends_with('s') => format!("{name}es"),
            _ => format!("{name}s"),
        }
    }
    /// The name of its CustomResourceDefinition: `httproutes.gateway.networking.k8s.io`.
    pub fn crd(&self) -> String {
        format!("{}.{}", self.plural(), self.group)
    }
    /// Kubernetes itself has it; others come with a CustomResourceDefinition.
    pub fn is_built_in(&self) -> bool {
        matches!(self.group, "" | "networking.k8s.io" | "discovery.k8s.io")
    }
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

/// The identity of an object. Copies share it: many maps are keyed by it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<Identity>);

#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    collection: Arc<Collection>,
    pub name: Name,
}

/// The objects of a kind in a namespace, which have the same one.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Collection {
    pub kind: Kind,
    /// Empty for kinds of the whole cluster.
    pub namespace: Name,
}

/// For the kind and the namespace.
impl Deref for Identity {
    type Target = Collection;

    fn deref(&self) -> &Collection {
        &self.collection
    }
}

/// By kind, namespace and name.
impl Ord for Identity {
    fn cmp(&self, other: &Identity) -> Ordering {
        let by_collection = match Arc::ptr_eq(&self.collection, &other.collection) {
            true => Ordering::Equal,
            false => self.collection.cmp(&other.collection),
        };
        by_collection.then_with(|| self.name.cmp(&other.name))
    }
}

impl PartialOrd for Identity {
    fn partial_cmp(&self, other: &Identity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Deref for Key {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.0
    }
}

impl Key {
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Key {
        let namespace = if kind.info().namespaced { namespace } else { "" };
        thread_local! {
            static COLLECTIONS: RefCell<Recent<Collection>> = const { RefCell::new(Recent::new()) };
        }
        // Objects of one namespace mostly come together, and those of one application often have one name: they share both.
        let collection = Collection { kind, namespace: recent::name(namespace) };
        let collection = COLLECTIONS.with_borrow_mut(|recent| recent.share(collection));
        Key(Arc::new(Identity { collection, name: recent::name(name) }))
    }

    /// `Kind/namespace/name`, for a resource that is made of the object.
    pub fn title(&self) -> Title {
        Title::new(self.0.clone())
    }

    /// The keys that are written so; several API groups may have a kind of the same name.
    pub fn titled(title: &str) -> impl Iterator<Item = Key> {
        let (kind, rest) = title.split_once('/').unwrap_or_default();
        KINDS.iter().filter(move |info| info.name == kind).filter_map(move |info| match info.namespaced {
            true => rest.split_once('/').map(|(namespace, name)| Key::new(info.kind, namespace, name)),
            false => Some(Key::new(info.kind, "", rest)),
        })
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// `HTTPRoute/default/shop`
impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let info = self.kind.info();
        match info.namespaced {
            true => write!(f, "{}/{}/{}", info.name, self.namespace, self.name),
            false => write!(f, "{}/{}", info.name, self.name),
        }
    }
}

/// One document of a file, after it was read.
#[derive(Clone, Debug)]
pub struct Document {
    start: Arc<DocumentStart>,
    /// Of its text.
    pub hash: u64,
}

/// The same text of the same file, wherever it stands in it.
impl PartialEq for Document {
    fn eq(&self, other: &Document) -> bool {
        (self.hash, self.file()) == (other.hash, other.file())
    }
}

impl Document {
    pub fn new(file: Arc<FileId>, hash: u64, first_line: u32) -> Document {
        Document { start: Arc::new(DocumentStart::new(Some(file), first_line)), hash }
    }
    /// Of objects from a Kubernetes API, which stand in no file.
    pub fn without_file() -> Document {
        Document { start: Arc::new(DocumentStart::new(None, 1)), hash: 0 }
    }
    /// As it was named on the command line, or found in a folder; `None` for what came from a Kubernetes API.
    pub fn file(&self) -> Option<&Name> {
        self.start.file()
    }
    /// The folder of its file, from which relative paths in it count; empty where there is no file.
    pub fn folder(&self) -> &Path {
        self.file().and_then(|file| Path::new(&**file).parent()).unwrap_or(Path::new(""))
    }
    /// A line of this document (counted from 1 at its beginning) that moves with it.
    pub fn line(&self, line: u32) -> Line {
        Line::first(self.start.clone()).below(line.saturating_sub(1))
    }
    /// One-based.
    pub fn first_line(&self) -> u32 {
        self.start.line()
    }
    pub fn move_to(&self, line: u32) {
        self.start.move_to(line);
    }
    /// Takes the place of an earlier version: what was made of that one moves with this one from now on.
    pub fn follow(&mut self, before: &Document) {
        before.move_to(self.first_line());
        self.start = before.start.clone();
    }
    /// The same for all versions of a document.
    pub fn identity(&self) -> *const DocumentStart {
        Arc::as_ptr(&self.start)
    }
    /// Whether both are versions of one document.
    pub fn is_version_of(&self, other: &Document) -> bool {
        self.identity() == other.identity()
    }
}

/// When an object was created; the oldest first, and before them what no API server has created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Created(u64);

impl Created {
    /// Of a `creationTimestamp` (RFC 3339, in UTC and whole seconds): its digits, which sort as the times do.
    fn of(text: &str) -> Created {
        let digits = text.bytes().filter(u8::is_ascii_digit).take("YYYYMMDDhhmmss".len());
        Created(digits.fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
    }
}

/// What is kept of `metadata`, and where it stands.
#[derive(Clone, Debug)]
pub struct Meta {
    pub key: Key,
    /// Those that something reads.
    pub labels: Pairs,
    /// Without `kubectl.kubernetes.io/last-applied-configuration`.
    pub annotations: Rare<Pairs>,
    pub created: Created,
    /// Rises with every change of the spec; 0 where nothing counts it.
    pub generation: u32,
    /// One-based line of the object in its document.
    pub line: u32,
}

/// The same, wherever it stands.
impl PartialEq for Meta {
    fn eq(&self, other: &Meta) -> bool {
        let Meta { key, labels, annotations, created, generation, line: _ } = self;
        (key, labels, annotations, created, generation)
            == (&other.key, &other.labels, &other.annotations, &other.created, &other.generation)
    }
}

impl Meta {
    /// Without labels and annotations.
    pub fn new(key: Key) -> Meta {
        Meta { key, labels: Pairs::default(), annotations: Rare::default(), created: Created::default(), generation: 0, line: 1 }
    }
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name)
    }
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name)
    }
    /// Once the object is decoded: forgets the labels that nothing reads from then on.
    pub fn drop_unread_labels(&mut self) {
        let is_read = |label: &str| match self.key.kind {
            Kind::Gateway | Kind::Namespace | Kind::Pod | Kind::WorkloadEntry | Kind::ConfigMap => true,
            // Those of the endpoints, where they have no Pods.
            Kind::EndpointSlice | Kind::Endpoints => !label.contains("kubernetes.io/"),
            _ => false,
        };
        if !self.labels.iter().all(|(label, _)| is_read(label)) {
            self.labels = self.labels.iter().filter(|(label, _)| is_read(label)).collect();
        }
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
    "initializers",
    "labels",
    "managedFields",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Reads `metadata`.
pub fn decode(field: &Field<'_>, info: &KindInfo) -> Option<Meta> {
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
    let key = Key::new(info.kind, namespace, text);
    field.reader().set_object(key.to_string().into());
    let texts = |name: &'static str| -> Pairs {
        let entries = meta.entries(name).into_iter().filter(|(k, _)| *k != "kubectl.kubernetes.io/last-applied-configuration");
        entries.filter_map(|(k, v)| Some((k, v.str()?.to_string()))).collect()
    };
    Some(Meta {
        key,
        labels: texts("labels"),
        annotations: texts("annotations").into(),
        created: meta.str("creationTimestamp").map(Created::of).unwrap_or_default(),
        // No object is changed more often than can be counted so.
        generation: u32::try_from(meta.int("generation", 0..=i64::MAX).unwrap_or_default()).unwrap_or(u32::MAX),
        line: 1,
    })
}

/// A finding made after reading: about an object, at a place in its document.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub diagnostic: Diagnostic,
    pub document: Document,
    pub span: Chars,
}

impl Finding {
    /// About the object `title` of `document`; `field` is the path of the field at `span`.
    pub fn new(title: &Name, document: &Document, span: Chars, field: impl Into<String>, diagnostic: Diagnostic) -> Finding {
        let mut diagnostic = diagnostic.object(title);
        diagnostic.field = field.into();
        Finding { diagnostic, document: document.clone(), span }
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

    #[test]
    fn plurals_are_those_of_the_api() {
        for (kind, plural) in [
            (Kind::Gateway, "gateways"),
            (Kind::GatewayClass, "gatewayclasses"),
            (Kind::HttpRoute, "httproutes"),
            (Kind::BackendTlsPolicy, "backendtlspolicies"),
            (Kind::Ingress, "ingresses"),
            (Kind::Endpoints, "endpoints"),
            (Kind::EndpointSlice, "endpointslices"),
            (Kind::ServiceEntry, "serviceentries"),
            (Kind::HigressWasmPlugin, "wasmplugins"),
            (Kind::McpBridge, "mcpbridges"),
        ] {
            assert_eq!(kind.info().plural(), plural);
        }
    }
}
