//! An object as it comes from an API server. It goes straight into the tree that the decoders read; what they have no use for is
//! skipped while it is read.
use super::{own, status::validation};
use crate::{
    guard::guarded,
    object::{Decoded, Document, Key, Kind, KindInfo, Object, decode_as},
};
use kube::{
    api::{ApiResource, ObjectMeta},
    core::DynamicResourceScope,
};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value as Json;
use std::{borrow::Cow, fmt, num::NonZeroU32, sync::Arc};
use weir_config::{
    diagnostic::Diagnostic,
    model::Name,
    node::{Chars, Key as NodeKey, Node, Value, deserialize::Without},
    source::Source,
};

/// A kind in one of the versions that a server has it in.
#[derive(Clone, Copy)]
pub struct Served {
    pub info: &'static KindInfo,
    pub version: &'static str,
}

impl Served {
    /// As kube asks for it.
    pub fn resource(self) -> ApiResource {
        let Served { info, version } = self;
        ApiResource {
            group: info.group.into(),
            version: version.into(),
            api_version: info.api_version(version),
            kind: info.name.into(),
            plural: info.plural(),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Fetched {
    /// Only what watches ask for: the name, the namespace and the resource version.
    meta: ObjectMeta,
    entries: Vec<(NodeKey, Node)>,
    status: Option<Node>,
}

impl kube::Resource for Fetched {
    type DynamicType = Served;
    type Scope = DynamicResourceScope;

    fn kind(served: &Served) -> Cow<'_, str> {
        served.info.name.into()
    }
    fn group(served: &Served) -> Cow<'_, str> {
        served.info.group.into()
    }
    fn version(served: &Served) -> Cow<'_, str> {
        served.version.into()
    }
    fn plural(served: &Served) -> Cow<'_, str> {
        served.info.plural().into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// Large, and nothing here depends on them.
const META_WITHOUT: &[&str] = &["managedFields", "ownerReferences", "finalizers", "selfLink", "generateName"];

impl<'de> Deserialize<'de> for Fetched {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fetched, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Fetched;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fetched, A::Error> {
                let mut fetched = Fetched::default();
                while let Some(text) = map.next_key::<Box<str>>()? {
                    let node = match &*text {
                        "metadata" => {
                            let node = map.next_value_seed(Without(META_WITHOUT))?;
                            fetched.meta = object_meta(&node);
                            node
                        }
                        // Lists of built-in kinds do not say them for each item.
                        "apiVersion" | "kind" => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                        "status" => {
                            fetched.status = Some(map.next_value()?);
                            continue;
                        }
                        _ => map.next_value()?,
                    };
                    fetched.entries.push((NodeKey { text, span: Chars::default() }, node));
                }
                Ok(fetched)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

fn object_meta(node: &Node) -> ObjectMeta {
    let text = |name| node.get(name).and_then(Node::as_str).map(String::from);
    let generation = node.get("generation").and_then(|generation| match generation.value {
        Value::Int(generation) => Some(generation),
        _ => None,
    });
    ObjectMeta {
        name: text("name"),
        namespace: text("namespace"),
        resource_version: text("resourceVersion"),
        generation,
        ..ObjectMeta::default()
    }
}

/// What reading an object came to.
#[derive(Clone, Debug)]
pub struct Read {
    pub key: Key,
    /// `None` for one in error that nothing stands in for.
    pub object: Option<Arc<Object>>,
    /// It has errors: its last good version goes on where there is one.
    pub broken: bool,
    pub findings: Vec<Diagnostic>,
    /// Of kinds whose status is written.
    pub observed: Option<Observed>,
}

/// What matters of the status that an object has on the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The resource version.
    pub version: Box<str>,
    /// The [`own::digest`] of Weir's part.
    pub own: u64,
    /// There is no status at all: it can be written without another look.
    pub empty: bool,
    /// The generation of a version with errors of an Istio object that is, or may be, for this gateway.
    pub rejected: Option<NonZeroU32>,
}

impl Observed {
    pub fn of(kind: Kind, controller: &str, version: &str, status: &Json) -> Observed {
        let empty = status.as_object().is_none_or(|map| map.is_empty());
        Observed { version: version.into(), own: own::digest(&own::own(kind, controller, status)), empty, rejected: None }
    }
}

/// Reads objects. All of them share one document, as none stands in a file.
pub struct Reader {
    document: Document,
    source: Arc<Source>,
    /// Whose part of a status is looked at.
    pub controller: Name,
}

impl Reader {
    pub fn new(controller: Name) -> Reader {
        Reader { document: Document::without_file(), source: Arc::new(Source::new("", "", 1)), controller }
    }

    pub fn key(info: &'static KindInfo, fetched: &Fetched) -> Key {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Key::new(info.kind, &text(&fetched.meta.namespace), &text(&fetched.meta.name))
    }

    pub fn read(&self, info: &'static KindInfo, fetched: Fetched) -> Read {
        let key = Reader::key(info, &fetched);
        let mut observed = own::is_written(info.kind).then(|| {
            let status = fetched.status.as_ref().map(Node::to_json).unwrap_or_default();
            Observed::of(info.kind, &self.controller, fetched.meta.resource_version.as_deref().unwrap_or_default(), &status)
        });
        let generation = fetched.meta.generation.and_then(|generation| NonZeroU32::new(generation.try_into().ok()?));
        let mut entries = fetched.entries;
        // Findings about an object as a whole stand at its kind.
        let kind = Node { value: Value::String(info.name.into()), span: Chars::default() };
        entries.push((NodeKey { text: "kind".into(), span: Chars::default() }, kind));
        let root = Node { value: Value::Map(entries), span: Chars::default() };
        let mut findings = Vec::new();
        let (object, broken) = match guarded(|| decode_as(info, &root, &self.source, &self.document, &mut findings)) {
            Ok(Decoded::Object(object)) => (Some(Arc::from(object)), false),
            Ok(Decoded::Broken(_, stand_in)) => (stand_in.map(Arc::from), true),
            Ok(Decoded::Ignored) => (None, true),
            Err(panic) => {
                findings = vec![panic.finding("reading this object").object(&key.to_string().into())];
                (None, true)
            }
        };
        if let Some(observed) = observed.as_mut().filter(|_| broken && is_for_gateways(info.kind, &root)) {
            observed.rejected = generation;
        }
        Read { key, object, broken, findings, observed }
    }
}

/// Whether an object of Istio's API may be for this gateway, whatever errors it has: not a VirtualService of the mesh alone, and not
/// what only serves other objects.
fn is_for_gateways(kind: Kind, root: &Node) -> bool {
    match (kind, root.get("spec").and_then(|spec| spec.get("gateways")).map(|gateways| &gateways.value)) {
        (Kind::VirtualService, Some(Value::List(gateways))) => gateways.iter().any(|gateway| gateway.as_str() != Some("mesh")),
        (Kind::VirtualService, _) => false,
        (kind, _) => validation::has_messages(kind),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{api::gateway_api::CONTROLLER, object::Spec};

    #[test]
    fn objects_are_read_without_what_nobody_needs() {
        let text = r#"{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":"shop","namespace":"a",
            "resourceVersion":"7","uid":"u","generation":3,"managedFields":[{"manager":"x","fieldsV1":{"f:spec":{}}}],
            "annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}","x":"y"}},
            "spec":{"parentRefs":[{"name":"g"}],"hostnames":["shop.test"],"rules":[{"backendRefs":[{"name":"s","port":"x"}]}]},
            "status":{"parents":[]}}"#;
        let fetched: Fetched = serde_json::from_str(text).unwrap();
        let names: Vec<&str> = fetched.entries.iter().map(|(k, _)| &*k.text).collect();
        assert_eq!(names, ["metadata", "spec"]);
        assert!(fetched.entries[0].1.get("managedFields").is_none());
        assert_eq!(fetched.meta.resource_version.as_deref(), Some("7"));
        let read = Reader::new(CONTROLLER.into()).read(Kind::HttpRoute.info(), fetched);
        assert_eq!(read.key.to_string(), "HTTPRoute/a/shop");
        assert!(read.broken && read.object.is_none());
        let found = &read.findings[0];
        assert_eq!((&*found.field, found.place.is_none()), ("spec.rules[0].backendRefs[0].port", true), "{found:?}");
        assert_eq!(found.object.as_deref(), Some("HTTPRoute/a/shop"));

        assert_eq!(read.observed.map(|observed| observed.rejected), Some(None), "only Istio's objects have a status in any case");

        let good: Fetched = serde_json::from_str(&text.replace(r#""x"}]"#, "80}]")).unwrap();
        let read = Reader::new(CONTROLLER.into()).read(Kind::HttpRoute.info(), good);
        let object = read.object.unwrap();
        assert!(matches!(object.spec, Spec::HttpRoute(_)) && !read.broken && read.findings.is_empty(), "{:?}", read.findings);
        assert_eq!(object.meta.annotations.iter().count(), 1);
        assert_eq!(object.origin().file(), None);
    }

    #[test]
    fn a_rejected_object_may_be_for_this_gateway() {
        // What is added to the spec, and the generation that a status would be about.
        let table = [
            (Kind::VirtualService, r#""gateways":["in"],"hosts":["a.test"],"http":[{"match":[{"uri":{"regex":"("}}]}]"#, 3),
            (Kind::VirtualService, r#""gateways":["mesh"],"hosts":["a.test"],"http":[{"match":[{"uri":{"regex":"("}}]}]"#, 0),
            (Kind::VirtualService, r#""hosts":["a.test"],"http":[{"match":[{"uri":{"regex":"("}}]}]"#, 0),
            (Kind::DestinationRule, r#""host":"a.test","trafficPolicy":{"loadBalancer":{"simple":"X"}}"#, 3),
            (Kind::DestinationRule, r#""host":"a.test""#, 0),
        ];
        for (kind, spec, wanted) in table {
            let text = format!(r#"{{"metadata":{{"name":"a","namespace":"n","generation":3}},"spec":{{{spec}}}}}"#);
            let read = Reader::new(CONTROLLER.into()).read(kind.info(), serde_json::from_str(&text).unwrap());
            assert_eq!(read.observed.unwrap().rejected.map_or(0, NonZeroU32::get), wanted, "{spec}");
        }
    }
}
