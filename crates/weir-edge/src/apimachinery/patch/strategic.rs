//! Strategic merge patches of status, and the one that leads from one status to another.
//!
//! Lists in a status are replaced, unless [`merge_key`] names the field that identifies their entries. That is what the
//! `patchStrategy` tags of the types of Kubernetes say.
use super::PatchError;
use serde_json::{Map, Value, json};

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const REMOVE: &str = "$deleteFromPrimitiveList/";

/// Where in an object a patch is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Object,
    Status,
    Below,
}

/// Lists of PodStatus and NodeStatus whose entries are merged.
fn merge_key(at: At, field: &str) -> Option<&'static str> {
    match field {
        _ if at != At::Status => None,
        "conditions" | "addresses" => Some("type"),
        "podIPs" | "hostIPs" => Some("ip"),
        "resourceClaimStatuses" => Some("name"),
        "nodeAllocatableResourceClaimStatuses" => Some("resourceClaimName"),
        _ => None,
    }
}

/// Applies a patch to an object with `metadata` and `status`.
pub fn strategic(to: Value, patch: &Value) -> Result<Value, PatchError> {
    let (Value::Object(to), Value::Object(patch)) = (to, patch) else { return Err(expected("", "an object")) };
    object(to, patch, At::Object).map(Value::Object)
}

fn object(mut to: Map<String, Value>, patch: &Map<String, Value>, at: At) -> Result<Map<String, Value>, PatchError> {
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        None | Some("merge") => {}
        Some("replace") => to.clear(),
        Some("delete") => return Ok(Map::new()),
        Some(_) => return Err(expected(DIRECTIVE, "merge, replace or delete")),
    }
    if let Some(retain) = patch.get(RETAIN) {
        let retain = retain.as_array().ok_or_else(|| expected(RETAIN, "a list of names"))?;
        to.retain(|key, _| retain.iter().any(|name| name == key));
    }
    for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        let below = if at == At::Object && key == "status" { At::Status } else { At::Below };
        match value {
            Value::Null => drop(to.shift_remove(key)),
            Value::Object(value) => {
                let before = match to.get_mut(key).map(Value::take) {
                    Some(Value::Object(before)) => before,
                    _ => Map::new(),
                };
                let merged = object(before, value, below).map_err(|e| e.within(key))?;
                to.insert(key.clone(), Value::Object(merged));
            }
            Value::Array(value) => {
                let before = match to.get_mut(key).map(Value::take) {
                    Some(Value::Array(before)) => before,
                    _ => Vec::new(),
                };
                let list = match merge_key(at, key) {
                    Some(by) => merged(before, value, by).map_err(|e| e.within(key))?,
                    None => value.clone(),
                };
                to.insert(key.clone(), Value::Array(list));
            }
            value => drop(to.insert(key.clone(), value.clone())),
        }
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(REMOVE) {
            let gone = value.as_array().ok_or_else(|| expected(key, "a list"))?;
            if let Some(list) = to.get_mut(field).and_then(Value::as_array_mut) {
                list.retain(|value| !gone.contains(value));
            }
        } else if let Some(field) = key.strip_prefix(ORDER) {
            let order = value.as_array().ok_or_else(|| expected(key, "a list"))?;
            if let (Some(by), Some(list)) = (merge_key(at, field), to.get_mut(field).and_then(Value::as_array_mut)) {
                // What the client does not know of goes last.
                list.sort_by_key(|entry| order.iter().position(|o| o[by] == entry[by]).unwrap_or(usize::MAX));
            }
        }
    }
    Ok(to)
}

/// Merges the entries of a list by a field of theirs.
fn merged(mut list: Vec<Value>, patch: &[Value], by: &str) -> Result<Vec<Value>, PatchError> {
    let directive = |entry: &Value| entry[DIRECTIVE].as_str().map(str::to_string);
    if patch.iter().any(|entry| entry.get(by).is_none() && directive(entry).as_deref() == Some("replace")) {
        return Ok(patch.iter().filter(|entry| entry.get(DIRECTIVE).is_none()).cloned().collect());
    }
    for entry in patch {
        let fields = entry.as_object().ok_or_else(|| expected("", "a list of objects"))?;
        let key = fields.get(by).ok_or_else(|| expected(by, "a value: it tells the entries apart"))?;
        let found = list.iter().position(|e| e[by] == *key);
        if directive(entry).as_deref() == Some("delete") {
            list.retain(|e| e[by] != *key);
            continue;
        }
        let before = found.and_then(|at| list[at].as_object().cloned()).unwrap_or_default();
        let entry = Value::Object(object(before, fields, At::Below)?);
        match found {
            Some(at) => list[at] = entry,
            None => list.push(entry),
        }
    }
    Ok(list)
}

/// The patch that leads from one report to another; `None` where they are the same.
///
/// An entry of a list that changed is in it as a whole, so that it arrives as it was meant also where the API server's differs.
pub fn difference(from: &Value, to: &Value) -> Option<Value> {
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return None };
    between(from, to, At::Object).map(Value::Object)
}

fn between(from: &Map<String, Value>, to: &Map<String, Value>, at: At) -> Option<Map<String, Value>> {
    let mut patch = Map::new();
    // Conditions have several writers: only those that changed are named.
    if at == At::Status {
        let conditions = |of: &Map<String, Value>| of.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let changed = entries(&conditions(from), &conditions(to), "type");
        if !changed.is_empty() {
            patch.insert("conditions".into(), changed.into());
        }
    }
    let others = |key: &String| at != At::Status || key != "conditions";
    for key in from.keys().filter(|key| !to.contains_key(*key) && others(key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in to.iter().filter(|(key, value)| from.get(*key) != Some(*value) && others(key)) {
        let below = if at == At::Object && key == "status" { At::Status } else { At::Below };
        let change = match (from.get(key), value) {
            (Some(Value::Object(from)), Value::Object(to)) => between(from, to, below).map(Value::Object),
            // Their order matters, and they belong together.
            (_, Value::Array(to)) if merge_key(at, key).is_some() => {
                Some(std::iter::once(json!({ DIRECTIVE: "replace" })).chain(to.iter().cloned()).collect())
            }
            (_, value) => Some(value.clone()),
        };
        change.into_iter().for_each(|change| drop(patch.insert(key.clone(), change)));
    }
    (!patch.is_empty()).then_some(patch)
}

fn entries(from: &[Value], to: &[Value], by: &str) -> Vec<Value> {
    let changed = to.iter().filter(|entry| !from.contains(entry)).map(|entry| {
        let mut whole = entry.clone();
        let before = from.iter().find(|e| e[by] == entry[by]).and_then(Value::as_object);
        let fields = before.into_iter().flat_map(Map::keys).map(String::as_str).chain(["reason", "message"]);
        for gone in fields.filter(|key| entry.get(*key).is_none()) {
            whole[gone] = Value::Null;
        }
        whole
    });
    let gone = from.iter().filter(|entry| !to.iter().any(|e| e[by] == entry[by]));
    changed.chain(gone.map(|entry| json!({ by: entry[by], DIRECTIVE: "delete" }))).collect()
}

fn expected(field: &str, expected: &'static str) -> PatchError {
    PatchError::Expected { field: field.to_string(), expected }
}

impl PatchError {
    fn within(self, name: &str) -> PatchError {
        match self {
            PatchError::Expected { field, expected } => {
                let field = if field.is_empty() { name.to_string() } else { format!("{name}.{field}") };
                PatchError::Expected { field, expected }
            }
            other => other,
        }
    }
}
