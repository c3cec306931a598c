//! What a pod needs to start: the objects that its spec names.
use crate::apimachinery::{
    media::Encoding,
    object::{Envelope, Object},
    schema::{ContentError, POD_SPEC},
    wire::Fields,
};
use serde_json::Value;
use std::collections::BTreeSet;

/// What a pod needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    Secret(String),
    ConfigMap(String),
    PersistentVolumeClaim(String),
    /// A token of this service account that is bound to the pod.
    Token(String),
}

impl Need {
    /// The kind of the object, and its name.
    pub fn parts(&self) -> (&'static str, &str) {
        match self {
            Need::Secret(name) => ("Secret", name),
            Need::ConfigMap(name) => ("ConfigMap", name),
            Need::PersistentVolumeClaim(name) => ("PersistentVolumeClaim", name),
            Need::Token(name) => ("ServiceAccount token", name),
        }
    }
}

const SPEC: u32 = 2;

/// What a pod cannot start without: what is optional is left out.
pub fn needs(pod: &Object) -> Result<BTreeSet<Need>, ContentError> {
    Ok(of_spec(&spec(pod)?))
}

fn spec(pod: &Object) -> Result<Value, ContentError> {
    if pod.encoding() != Encoding::Protobuf {
        return Ok(serde_json::from_slice::<Value>(pod.bytes())?["spec"].take());
    }
    let buffer = pod.bytes();
    for field in Fields::of(buffer, Envelope::read(buffer)?.raw) {
        let field = field?;
        if field.number == SPEC {
            return Ok(POD_SPEC.decode(buffer, field.bytes()?)?);
        }
    }
    Ok(Value::Null)
}

/// A part that JSON has in place and protobuf in a message of its own.
fn inlined<'a>(value: &'a Value, message: &str) -> &'a Value {
    value.get(message).unwrap_or(value)
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value[field].as_array().into_iter().flatten()
}

/// The name in a reference that is not optional.
fn named(reference: &Value) -> Option<String> {
    let name = inlined(reference, "localObjectReference")["name"].as_str().filter(|name| !name.is_empty());
    name.filter(|_| reference["optional"] != true).map(str::to_string)
}

fn of_spec(spec: &Value) -> BTreeSet<Need> {
    let mut needs = BTreeSet::new();
    let account = spec["serviceAccountName"].as_str().filter(|name| !name.is_empty()).unwrap_or("default");
    for volume in list(spec, "volumes").map(|volume| inlined(volume, "volumeSource")) {
        let secret = &volume["secret"];
        let required = |value: &Value| value["optional"] != true;
        needs.extend(secret["secretName"].as_str().filter(|_| required(secret)).map(|name| Need::Secret(name.into())));
        needs.extend(named(&volume["configMap"]).map(Need::ConfigMap));
        needs.extend(volume["persistentVolumeClaim"]["claimName"].as_str().map(|name| Need::PersistentVolumeClaim(name.into())));
        for source in list(&volume["projected"], "sources") {
            needs.extend(named(&source["secret"]).map(Need::Secret));
            needs.extend(named(&source["configMap"]).map(Need::ConfigMap));
            needs.extend(source["serviceAccountToken"].is_object().then(|| Need::Token(account.into())));
        }
    }
    let containers = ["containers", "initContainers", "ephemeralContainers"].into_iter().flat_map(|field| list(spec, field));
    for container in containers.map(|container| inlined(container, "ephemeralContainerCommon")) {
        for from in list(container, "env").map(|variable| &variable["valueFrom"]) {
            needs.extend(named(&from["secretKeyRef"]).map(Need::Secret));
            needs.extend(named(&from["configMapKeyRef"]).map(Need::ConfigMap));
        }
        for from in list(container, "envFrom") {
            needs.extend(named(&from["secretRef"]).map(Need::Secret));
            needs.extend(named(&from["configMapRef"]).map(Need::ConfigMap));
        }
    }
    needs
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wanted() -> BTreeSet<Need> {
        let secret = |name: &str| Need::Secret(name.into());
        let map = |name: &str| Need::ConfigMap(name.into());
        let claim = Need::PersistentVolumeClaim("claim".into());
        [secret("s1"), secret("s2"), secret("s3"), secret("s4"), map("m1"), map("m2"), map("m3"), claim, Need::Token("a".into())].into()
    }

    #[test]
    fn what_a_pod_needs_is_read_in_json_and_protobuf() {
        let json = json!({
            "serviceAccountName": "a",
            "volumes": [
                { "name": "1", "secret": { "secretName": "s1" } }, { "name": "2", "configMap": { "name": "m1" } },
                { "name": "3", "persistentVolumeClaim": { "claimName": "claim" } }, { "name": "4", "emptyDir": {} },
                { "name": "5", "secret": { "secretName": "not", "optional": true } },
                { "name": "6", "projected": { "sources": [
                    { "secret": { "name": "s2" } }, { "configMap": { "name": "m2" } }, { "configMap": { "name": "not", "optional": true } },
                    { "serviceAccountToken": { "path": "token" } }, { "downwardAPI": {} },
                ] } },
            ],
            "containers": [{ "name": "c", "env": [
                { "name": "A", "value": "x" }, { "name": "B", "valueFrom": { "secretKeyRef": { "name": "s3", "key": "k" } } },
                { "name": "C", "valueFrom": { "configMapKeyRef": { "name": "not", "key": "k", "optional": true } } },
            ] }],
            "initContainers": [{ "name": "i", "envFrom": [{ "secretRef": { "name": "s4" } }] }],
            "ephemeralContainers": [{ "name": "e", "envFrom": [{ "configMapRef": { "name": "m3" } }] }],
        });
        assert_eq!(of_spec(&json), wanted());
        assert_eq!(of_spec(&Value::Null), BTreeSet::new());
        // The same as protobuf has it.
        let local = |name: &str| json!({ "localObjectReference": { "name": name } });
        let protobuf = json!({
            "serviceAccountName": "a",
            "volumes": [
                { "name": "1", "volumeSource": { "secret": { "secretName": "s1" } } },
                { "name": "2", "volumeSource": { "configMap": local("m1") } },
                { "name": "3", "volumeSource": { "persistentVolumeClaim": { "claimName": "claim" } } },
                { "name": "6", "volumeSource": { "projected": { "sources": [
                    { "secret": local("s2") }, { "configMap": local("m2") }, { "serviceAccountToken": { "path": "token" } },
                ] } } },
            ],
            "containers": [{ "name": "c", "env": [{ "name": "B", "valueFrom": { "secretKeyRef": local("s3") } }] }],
            "initContainers": [{ "name": "i", "envFrom": [{ "secretRef": local("s4") }] }],
            "ephemeralContainers": [{ "ephemeralContainerCommon": { "name": "e", "envFrom": [{ "configMapRef": local("m3") }] } }],
        });
        let bytes = POD_SPEC.encode(&protobuf).unwrap();
        assert_eq!(of_spec(&POD_SPEC.decode(&bytes, 0..bytes.len()).unwrap()), wanted());
    }
}
