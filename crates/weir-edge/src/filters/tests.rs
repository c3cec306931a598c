mod lists;
mod random_topology;
mod rules;
mod settings;
mod watches;

use super::{
    chain::{Chain, Verdict},
    context::Context,
    served::Served,
};
use crate::apimachinery::{
    media::Encoding,
    object::{Envelope, Object},
    request::{GroupVersionResource, Options, ResourceRequest, Verb},
    wire::put_bytes,
};
use bytes::Bytes;
use serde_json::{Value, json};

fn request(verb: Verb, resource: &str) -> ResourceRequest {
    let (group, version) = if resource == "endpointslices" { ("discovery.k8s.io", "v1") } else { ("", "v1") };
    let resource = GroupVersionResource { group: group.into(), version: version.into(), resource: resource.into() };
    ResourceRequest {
        verb,
        resource,
        namespace: String::new(),
        name: String::new(),
        subresource: String::new(),
        options: Options::default(),
    }
}

fn resource_of(kind: &str) -> &'static str {
    match kind {
        "Service" => "services",
        "Endpoints" => "endpoints",
        "EndpointSlice" => "endpointslices",
        "ConfigMap" => "configmaps",
        _ => "pods",
    }
}

/// An object as the API server would write it.
fn object(value: &Value, encoding: Encoding) -> Object {
    let bytes = if encoding == Encoding::Json { value.to_string().into() } else { wire(value).unwrap() };
    Object::read(bytes, encoding).unwrap()
}

/// In protobuf; `None` if a value is of another type than its field.
fn wire(value: &Value) -> Option<Bytes> {
    let text = |field: &Value| field.as_str().unwrap_or_default().to_string();
    let (meta, kind) = (&value["metadata"], text(&value["kind"]));
    let mut metadata = Vec::new();
    for (number, field) in [(1, "name"), (3, "namespace"), (5, "uid"), (6, "resourceVersion")] {
        put_bytes(&mut metadata, number, text(&meta[field]).as_bytes());
    }
    for (number, field) in [(11, "labels"), (12, "annotations")] {
        for (key, value) in meta[field].as_object().into_iter().flatten() {
            let mut entry = Vec::new();
            put_bytes(&mut entry, 1, key.as_bytes());
            put_bytes(&mut entry, 2, text(value).as_bytes());
            put_bytes(&mut metadata, number, &entry);
        }
    }
    let mut message = Vec::new();
    put_bytes(&mut message, 1, &metadata);
    let served = Served::of(&request(Verb::List, resource_of(&kind)).resource).unwrap();
    let mut rest = value.clone();
    rest.as_object_mut().unwrap().remove("metadata");
    message.extend(served.message.close(&rest).ok()?);
    Some(Envelope::wrap(&text(&value["apiVersion"]), &kind, &message))
}

/// What a client sees of an object: the object without its resource version, as the tables of its kind have it.
fn shown(agent: &str, context: &Context, value: &Value, encoding: Encoding) -> Option<Value> {
    let kind = value["kind"].as_str().unwrap();
    let chain = Chain::of(context, agent, &request(Verb::List, resource_of(kind))).unwrap();
    let before = object(value, encoding);
    match chain.apply(&before, context, None).unwrap() {
        Verdict::Keep => Some(opened(&before)),
        Verdict::Drop => None,
        Verdict::Replace(replaced) => {
            let after = Object::read(replaced.bytes, encoding).unwrap();
            assert_eq!((&after.meta.name, &after.kind, &after.api_version), (&before.meta.name, &before.kind, &before.api_version));
            // Clients that compare versions notice a change; kubelet writes pods with the version that it has.
            let marked = after.meta.resource_version != before.meta.resource_version;
            assert_eq!(marked, kind != "Pod", "{}", after.meta.resource_version);
            assert_eq!(after.meta.resource_version.trim_start_matches('0'), before.meta.resource_version);
            assert_ne!(opened(&after), opened(&before));
            Some(opened(&after))
        }
    }
}

fn opened(object: &Object) -> Value {
    let mut value: Value = match object.encoding() {
        Encoding::Protobuf => {
            let served = Served::of(&request(Verb::List, resource_of(&object.kind)).resource).unwrap();
            let envelope = Envelope::read(object.bytes()).unwrap();
            served.message.open(object.bytes(), envelope.raw).unwrap()
        }
        _ => serde_json::from_slice(object.bytes()).unwrap(),
    };
    value["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    // An empty list is none.
    for field in ["endpoints", "subsets"] {
        if value.get(field).is_some_and(|list| *list == json!([])) {
            value.as_object_mut().unwrap().shift_remove(field);
        }
    }
    value
}
