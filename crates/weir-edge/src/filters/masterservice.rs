//! `masterservice`: the Service `default/kubernetes` leads to the hub, so that kubelet gives pods the address of the hub as that of the API
//! server.
use super::{context::Context, draft::Draft, outcome::Outcome};
use crate::apimachinery::{object::Object, schema::ContentError};
use serde_json::{Value, json};

pub const NAME: &str = "masterservice";
/// The Service of the API server, in the namespace `default`.
pub const SERVICE: &str = "kubernetes";
/// The name of the port of the API server.
pub const PORT: &str = "https";

pub fn concerns(object: &Object) -> bool {
    object.meta.namespace == "default" && object.meta.name == SERVICE
}

pub fn apply(draft: &mut Draft<'_>, context: &Context) -> Result<Outcome, ContentError> {
    let Some(hub) = context.hub else { return Ok(Outcome::Keep) };
    draft.edit(|service| {
        let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else { return false };
        let ip = hub.ip().to_string();
        spec.insert("clusterIPs".into(), json!([ip]));
        spec.insert("clusterIP".into(), ip.into());
        set_port(spec.get_mut("ports"), hub.port());
        true
    })?;
    Ok(Outcome::Keep)
}

/// Sets the number of the port of the API server.
pub fn set_port(ports: Option<&mut Value>, number: u16) {
    let ports = ports.and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut);
    if let Some(port) = ports.into_iter().find(|port| port.get("name").is_some_and(|name| name == PORT)) {
        port.insert("port".into(), number.into());
    }
}
