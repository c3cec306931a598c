//! ListenerSet: more listeners for a Gateway.
use super::{
    GROUP,
    listener::{Listener, decode_listeners},
};
use crate::object::meta::Meta;
use weir_config::{model::Name, node::Chars, reader::Object};

#[derive(Clone, Debug, PartialEq)]
pub struct ListenerSet {
    /// Of the Gateway; `None` for that of the set.
    pub namespace: Option<Name>,
    pub gateway: Name,
    /// The parent is no Gateway, which was reported.
    pub foreign: bool,
    /// Of the parent.
    pub place: Chars,
    pub listeners: Vec<Listener>,
}

impl ListenerSet {
    /// A set is found by its Gateway: `namespace/name`.
    pub fn index_keys(&self, meta: &Meta) -> Vec<Name> {
        let namespace = self.namespace.as_ref().unwrap_or(&meta.key.namespace);
        if self.foreign { Vec::new() } else { vec![format!("{namespace}/{}", self.gateway).into()] }
    }
}

pub fn decode(root: &Object<'_>) -> Option<ListenerSet> {
    let spec = root.required("spec")?.object()?;
    let listeners = decode_listeners(&spec);
    let field = spec.required("parentRef")?;
    let parent = field.object()?;
    let (group, kind) = (parent.str("group").unwrap_or(GROUP), parent.str("kind").unwrap_or("Gateway"));
    let foreign = (group, kind) != (GROUP, "Gateway");
    if foreign {
        field.warning(
            "UnsupportedValue",
            format!("a parent of the kind {kind} is not supported: Weir ignores this ListenerSet"),
            "a Gateway",
        );
    }
    let namespace = parent.str("namespace").map(Into::into);
    let gateway = parent.required("name")?.str()?.into();
    Some(ListenerSet { namespace, gateway, foreign, place: field.node().span, listeners })
}
