//! Objects that are kept, as an operator reads them. Values of Secrets are hidden unless they are asked for.
use super::{Set, sets};
use crate::{
    apimachinery::media::Encoding,
    store::{ObjectName, Store},
};
use bytes::Bytes;
use serde_json::{Value, json};
use std::fmt::Write;

/// In place of a value that is hidden.
const HIDDEN: &str = "REDACTED";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Which objects. What is empty may be anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// With its group and without its version: `pods`, `deployments.apps`.
    pub resource: String,
    pub namespace: String,
    pub name: String,
    pub user: String,
    pub show_secrets: bool,
}

impl Wanted {
    fn takes_set(&self, set: &Set) -> bool {
        let takes = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
        takes(&self.resource, &set.resource()) && takes(&self.user, &set.key.user)
    }

    fn takes(&self, name: &ObjectName) -> bool {
        (self.namespace.is_empty() || self.namespace == name.namespace) && (self.name.is_empty() || self.name == name.name)
    }

    /// As a query of the admin endpoints.
    pub fn query(&self) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        for (key, value) in [("resource", &self.resource), ("namespace", &self.namespace), ("name", &self.name), ("user", &self.user)] {
            query.append_pair(key, value);
        }
        query.append_pair("show-secrets", if self.show_secrets { "true" } else { "false" });
        query.finish()
    }

    /// Reads what [`Wanted::query`] has made.
    pub fn read(query: &str) -> Wanted {
        let mut wanted = Wanted::default();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match key.as_ref() {
                "resource" => wanted.resource = value.into_owned(),
                "namespace" => wanted.namespace = value.into_owned(),
                "name" => wanted.name = value.into_owned(),
                "user" => wanted.user = value.into_owned(),
                "show-secrets" => wanted.show_secrets = value == "true",
                _ => {}
            }
        }
        wanted
    }
}

/// Shows each object that is wanted, one after the other, until `out` has enough. What cannot be read is shown with its error.
pub fn each(store: &Store, wanted: &Wanted, mut out: impl FnMut(Value) -> bool) {
    for set in sets(store).into_iter().filter(|set| wanted.takes_set(set)) {
        for name in store.names(&set.name).into_iter().filter(|name| wanted.takes(name)) {
            let shown = match store.get(&set.name, &name) {
                Ok(None) => continue,
                Ok(Some(bytes)) => object(&set, &bytes, wanted.show_secrets),
                Err(e) => json!({ "error": e.to_string() }),
            };
            let mut row = json!({
                "user": set.key.user, "resource": set.key.resource, "namespace": name.namespace, "name": name.name, "media": set.key.media,
                "at": set.at, "dirty": set.dirty,
            });
            if let (Some(row), Value::Object(shown)) = (row.as_object_mut(), shown) {
                row.extend(shown);
            }
            if !out(row) {
                return;
            }
        }
    }
}

/// The newest copy of one object, in JSON if there is one.
pub fn newest(store: &Store, wanted: &Wanted) -> Option<Value> {
    let mut best: Option<((bool, u64), Value)> = None;
    each(store, wanted, |row| {
        let rank = (row["object"].is_object(), row["at"].as_u64().unwrap_or_default());
        if best.as_ref().is_none_or(|(before, _)| rank > *before) {
            best = Some((rank, row));
        }
        true
    });
    best.map(|(_, row)| row)
}

fn object(set: &Set, bytes: &Bytes, show_secrets: bool) -> Value {
    let hides = set.key.resource.starts_with("secrets.") && !show_secrets;
    if set.key.media.starts_with(Encoding::Json.name()) {
        return match serde_json::from_slice::<Value>(bytes) {
            Ok(mut value) => {
                if hides {
                    hide(&mut value);
                }
                json!({ "object": value })
            }
            Err(e) => json!({ "error": format!("it is not JSON: {e}") }),
        };
    }
    match hides {
        true => json!({ "redacted": true, "bytes": bytes.len() }),
        false => json!({ "base64": data_encoding::BASE64.encode(bytes) }),
    }
}

/// Hides the values of a Secret, also where kubectl has written it into an annotation.
fn hide(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match (key.as_str(), value) {
                    (LAST_APPLIED, value) => *value = HIDDEN.into(),
                    ("data" | "stringData", Value::Object(entries)) => entries.values_mut().for_each(|value| *value = HIDDEN.into()),
                    (_, value) => hide(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide),
        _ => {}
    }
}

/// What cannot be read of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub set: String,
    /// `None`: the whole set.
    pub object: Option<ObjectName>,
    pub error: String,
}

impl Damage {
    pub fn to_json(&self) -> Value {
        json!({ "set": self.set, "object": self.object.as_ref().map(ToString::to_string), "error": self.error })
    }
}

/// Reads everything: how many objects there are, and what is damaged.
pub fn verify(store: &Store) -> (usize, Vec<Damage>) {
    let (mut objects, mut damaged) = (0, Vec::new());
    for set in sets(store) {
        if set.damaged {
            damaged.push(Damage { set: set.name.clone(), object: None, error: "something of the set was lost".into() });
            continue;
        }
        for name in store.names(&set.name) {
            objects += 1;
            if let Err(e) = store.get(&set.name, &name) {
                damaged.push(Damage { set: set.name.clone(), object: Some(name), error: e.to_string() });
            }
        }
    }
    (objects, damaged)
}

/// Drops the sets that cannot be read whole. Clients list them again when the API server can be reached.
pub fn repair(store: &Store) -> Result<Vec<String>, crate::store::WriteError> {
    let mut sets: Vec<String> = verify(store).1.into_iter().map(|damage| damage.set).collect();
    sets.dedup();
    sets.iter().try_for_each(|set| store.drop_set(set))?;
    store.flush()?;
    Ok(sets)
}

/// A set's name on one line.
pub fn title(set: &Set) -> String {
    let mut out = set.resource();
    if !set.key.namespace.is_empty() {
        let _ = write!(out, " in {}", set.key.namespace);
    }
    match &set.key.selected {
        None => out.push_str(" (single objects)"),
        Some(selectors) => [&selectors.labels, &selectors.fields].into_iter().filter(|s| !s.is_empty()).for_each(|s| {
            let _ = write!(out, " {s}");
        }),
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cache::head::Head, store::Options};

    #[test]
    fn objects_are_found_and_secrets_hidden() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), Options::default()).unwrap();
        let head = |at| Head { resource_version: "7".into(), at, dirty: false, list: Bytes::new() }.to_bytes();
        let object = |name: &str, text: &str| (ObjectName { namespace: "n".into(), name: name.into() }, Bytes::from(text.to_string()));
        let secret = r#"{"kind":"Secret","metadata":{"name":"a","annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{hunter2}","x":"y"}},"data":{"password":"hunter2"}}"#;
        store.replace("u\nsecrets.v1\nn\njson\nlist\n\n", &head(5), [object("a", secret)]).unwrap();
        store.replace("v\nsecrets.v1\n\nprotobuf\nlist\n\n", &head(9), [object("a", "hunter2")]).unwrap();
        store.replace("u\nconfigmaps.v1\nn\njson\nlist\n\n", &head(5), [object("m", r#"{"data":{"k":"hunter2"}}"#)]).unwrap();
        let rows = |wanted: &Wanted| {
            let mut rows = Vec::new();
            each(&store, wanted, |row| {
                rows.push(row);
                true
            });
            rows
        };
        let all = Wanted { resource: "secrets".into(), ..Wanted::default() };
        assert_eq!(rows(&all).len(), 2);
        assert!(!rows(&all).iter().any(|row| row.to_string().contains("hunter2")), "{:?}", rows(&all));
        let shown = rows(&Wanted { show_secrets: true, ..all.clone() });
        assert_eq!((&shown[0]["object"]["data"]["password"], &shown[1]["base64"]), (&json!("hunter2"), &json!("aHVudGVyMg==")));
        assert_eq!(newest(&store, &all).unwrap()["object"]["data"]["password"], HIDDEN);
        assert_eq!(rows(&Wanted { resource: "configmaps".into(), ..Wanted::default() })[0]["object"]["data"]["k"], "hunter2");
        assert!(newest(&store, &Wanted { name: "none".into(), ..all.clone() }).is_none());
        assert_eq!(rows(&Wanted { user: "v".into(), ..Wanted::default() }).len(), 1);
        let wanted = Wanted { namespace: "n".into(), name: "a&b".into(), user: "u v".into(), show_secrets: true, ..all };
        assert_eq!(Wanted::read(&wanted.query()), wanted);
        assert_eq!(verify(&store), (3, Vec::new()));
        assert_eq!(repair(&store).unwrap(), Vec::<String>::new());
    }
}
