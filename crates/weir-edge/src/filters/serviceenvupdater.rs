//! `serviceenvupdater`: containers that are given the address of the API server in their environment get that of the hub.
use super::{context::Context, draft::Draft, outcome::Outcome};
use crate::apimachinery::{object::Object, schema::ContentError};
use memchr::memmem;
use serde_json::Value;

pub const NAME: &str = "serviceenvupdater";
pub const PREFIX: &str = "KUBERNETES_SERVICE_";
const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";

pub fn concerns(object: &Object) -> bool {
    memmem::find(object.bytes(), PREFIX.as_bytes()).is_some()
}

pub fn apply(draft: &mut Draft<'_>, context: &Context) -> Result<Outcome, ContentError> {
    let Some(hub) = context.hub else { return Ok(Outcome::Keep) };
    let (host, port) = (hub.ip().to_string(), hub.port().to_string());
    draft.edit(|pod| {
        let mut changed = false;
        let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return false };
        for field in ["initContainers", "containers"] {
            let containers = spec.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten();
            let variables = containers.filter_map(|container| container.get_mut("env")?.as_array_mut()).flatten();
            for variable in variables.filter_map(Value::as_object_mut) {
                let wanted = match variable.get("name").and_then(Value::as_str) {
                    Some(HOST) => &host,
                    Some(PORT) => &port,
                    _ => continue,
                };
                // What comes from elsewhere has no value of its own.
                if variable.contains_key("valueFrom") || variable.get("value").is_some_and(|value| value == wanted) {
                    continue;
                }
                variable.insert("value".into(), wanted.as_str().into());
                changed = true;
            }
        }
        changed
    })?;
    Ok(Outcome::Keep)
}
