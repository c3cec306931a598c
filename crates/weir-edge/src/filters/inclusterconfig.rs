//! `inclusterconfig`: kube-proxy is told to find the API server as pods do, so that it connects to the hub.
use super::{context::Context, draft::Draft, outcome::Outcome};
use crate::apimachinery::{object::Object, schema::ContentError};
use serde_json::Value;

pub const NAME: &str = "inclusterconfig";
/// In the namespace `kube-system`.
pub const MAP: &str = "kube-proxy";
const FILE: &str = "config.conf";
const FIELD: &str = "kubeconfig";

pub fn concerns(object: &Object) -> bool {
    object.meta.namespace == "kube-system" && object.meta.name == MAP
}

pub fn apply(draft: &mut Draft<'_>, _: &Context) -> Result<Outcome, ContentError> {
    draft.edit(|config| {
        let Some(file) = config.get_mut("data").and_then(|data| data.get_mut(FILE)) else { return false };
        let changed = file.as_str().and_then(commented_out);
        let found = changed.is_some();
        changed.into_iter().for_each(|text| *file = Value::String(text));
        found
    })?;
    Ok(Outcome::Keep)
}

/// The file without its kubeconfig; `None` if it names none.
fn commented_out(file: &str) -> Option<String> {
    let mut found = false;
    let lines: Vec<String> = file
        .split('\n')
        .map(|line| {
            let parts: Vec<&str> = line.trim_matches(' ').split(':').collect();
            if parts.len() != 2 || parts[0] != FIELD {
                return line.to_string();
            }
            found = true;
            line.replacen(FIELD, &format!("#{FIELD}"), 1)
        })
        .collect();
    found.then(|| lines.join("\n"))
}
