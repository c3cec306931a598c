//! What of a set a client has asked for.
use crate::{
    apimachinery::{event::EventKind, media::Encoding, object::Object, request::ResourceRequest, selector::LabelSelector},
    cache::watchers::Changed,
    store::ObjectName,
};
use bytes::Bytes;

/// By default all of it: the API server has selected.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Empty: all.
    pub namespace: String,
    pub labels: LabelSelector,
}

impl Selection {
    /// What a request selects of a whole list; `None` where that cannot be told from labels and namespaces.
    pub fn of(request: &ResourceRequest) -> Option<Selection> {
        let labels = LabelSelector::read(&request.options.label_selector)?;
        (request.options.field_selector.is_empty() && request.name.is_empty())
            .then(|| Selection { namespace: request.namespace.clone(), labels })
    }

    /// Whether an object is one of those. One that cannot be read is not taken away.
    pub fn has(&self, name: &ObjectName, object: &Bytes, encoding: Encoding) -> bool {
        (self.namespace.is_empty() || self.namespace == name.namespace) && self.has_labels(object, encoding)
    }

    fn has_labels(&self, object: &Bytes, encoding: Encoding) -> bool {
        let labels = || Object::read(object.clone(), encoding).and_then(|object| object.labels());
        self.labels.is_empty() || labels().is_ok_and(|labels| self.labels.selects(&labels))
    }

    /// The type of event with which the client sees a change of the set.
    pub fn event(&self, change: &Changed, encoding: Encoding) -> Option<EventKind> {
        let object = Object::read(change.object.clone(), encoding).ok()?;
        if !self.namespace.is_empty() && object.meta.namespace != self.namespace {
            return None;
        }
        if self.labels.is_empty() {
            return Some(change.kind);
        }
        let is = change.kind != EventKind::Deleted && self.has_labels(&change.object, encoding);
        // Where it is not known what it was before, the client has perhaps seen it.
        let was = change.before.as_ref().is_none_or(|before| self.has_labels(before, encoding)) && change.kind != EventKind::Added;
        match (was, is) {
            (_, true) if change.kind == EventKind::Added => Some(EventKind::Added),
            (true, true) => Some(EventKind::Modified),
            (false, true) => Some(EventKind::Added),
            (true, false) => Some(EventKind::Deleted),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use EventKind::{Added, Deleted, Modified};

    #[test]
    fn clients_see_what_enters_and_leaves_their_selection() {
        let object = |label: &str| {
            Bytes::from(format!(
                r#"{{"kind":"Service","apiVersion":"v1","metadata":{{"name":"s","namespace":"n","labels":{{"a":"{label}"}}}}}}"#
            ))
        };
        let selection = Selection { namespace: "n".into(), labels: LabelSelector::read("a=x").unwrap() };
        let all = Selection::default();
        for (kind, before, now, seen) in [
            (Added, None, "x", Some(Added)),
            (Added, None, "y", None),
            (Modified, Some("x"), "x", Some(Modified)),
            (Modified, Some("y"), "x", Some(Added)),
            (Modified, Some("x"), "y", Some(Deleted)),
            (Modified, Some("y"), "y", None),
            (Modified, None, "x", Some(Modified)),
            (Modified, None, "y", Some(Deleted)),
            (Deleted, Some("x"), "x", Some(Deleted)),
            (Deleted, Some("y"), "y", None),
        ] {
            let change = Changed { kind, object: object(now), before: before.map(object), version: Some(1) };
            assert_eq!(selection.event(&change, Encoding::Json), seen, "{kind} {before:?} {now}");
            assert_eq!(all.event(&change, Encoding::Json), Some(kind));
            let other = Selection { namespace: "m".into(), ..selection.clone() };
            assert_eq!(other.event(&change, Encoding::Json), None);
        }
        let name = ObjectName { namespace: "n".into(), name: "s".into() };
        assert!(selection.has(&name, &object("x"), Encoding::Json) && !selection.has(&name, &object("y"), Encoding::Json));
    }
}
