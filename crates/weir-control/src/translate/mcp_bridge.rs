//! McpBridge. Its services are made by [`crate::registry`]; here is what to say of the object itself.
use super::{Cx, Part};
use crate::{
    api::mcp_bridge::{McpBridge, NAME},
    object::Object,
};
use std::sync::Arc;
use weir_config::diagnostic::Diagnostic;

pub fn translate(cx: &Cx<'_>, object: &Arc<Object>, bridge: &McpBridge, part: &mut Part) {
    let key = &object.key;
    let namespaces = &cx.options.system_namespaces;
    let message = match (*key.name == *NAME, namespaces.contains(&key.namespace)) {
        (true, true) => return,
        (false, _) => format!("a McpBridge must be named {NAME}: the registries of this one are not used"),
        (true, false) => format!("a McpBridge in the namespace {} is not used", key.namespace),
    };
    let help = format!("name it {NAME}, in the namespace {}", namespaces.join(" or "));
    part.report(object, bridge.place, "metadata", Diagnostic::error("NotAccepted", message).help(help));
}
