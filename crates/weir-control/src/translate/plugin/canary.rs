//! Whether a plugin may take streams of another one.
use crate::{
    api::plugin::{Plugin, canary},
    object::{Key, Object, Spec},
    translate::{Cx, Part},
};
use std::sync::Arc;
use weir_config::{
    diagnostic::Diagnostic,
    model::{Name, PluginCanary},
};

/// The canary cannot be: it runs nowhere, and the reason was reported.
pub struct Refused;

/// `None` for a plugin that is no canary.
pub fn translate(cx: &Cx<'_>, object: &Arc<Object>, plugin: &Plugin, part: &mut Part) -> Result<Option<PluginCanary>, Refused> {
    let Some(canary) = &plugin.canary else { return Ok(None) };
    let of = &canary.of;
    let problem = match cx.find(of).map(|base| (base, &base.spec)) {
        _ if *of == object.key => {
            Some(("InvalidValue", "a plugin cannot be its own canary".to_string(), "name the plugin whose requests it takes"))
        }
        Some((_, Spec::WasmPlugin(base))) if base.canary.is_some() => {
            let message = format!("{} is a canary itself", name(of));
            Some(("InvalidValue", message, "name the plugin that has no weir.dev/canary-of"))
        }
        Some(_) => {
            // The oldest one counts.
            let first = cx.by_word(of.kind, &canary::index_key(of)).min_by_key(|other| other.age());
            first.filter(|first| first.key != object.key).map(|first| {
                let message = format!("{} has a canary already: {}", name(of), name(&first.key));
                ("Conflicted", message, "remove the other one first: a plugin has one canary")
            })
        }
        None => Some(("TargetNotFound", format!("there is no {of}: this canary takes no requests"), "add it, or change the name")),
    };
    if let Some((reason, message, help)) = problem {
        part.report(object, canary.of_at, "metadata.annotations", Diagnostic::error(reason, message).help(help));
        return Err(Refused);
    }
    if let Some(Spec::WasmPlugin(base)) = cx.find(of).map(|base| &base.spec)
        && (plugin.phase != base.phase && plugin.phase != Default::default()
            || plugin.priority.is_some() && plugin.priority != base.priority
            || plugin.gateways.is_some()
            || !plugin.ports.is_empty())
    {
        let message = format!("phase, priority, targetRefs and match have no effect on a canary: it runs where {} does", name(of));
        part.report(object, canary.of_at, "metadata.annotations", Diagnostic::warning("UnusedField", message).help("remove them"));
    }
    for (key, span) in canary.routes.iter().flatten().filter(|(key, _)| cx.find(key).is_none()) {
        let message = format!("there is no {key}: this canary takes no requests of it");
        part.report(
            object,
            *span,
            "metadata.annotations",
            Diagnostic::warning("TargetNotFound", message).help("see its name and namespace"),
        );
    }
    // A canary whose routes are all wrong takes no requests: it does not take all.
    let nowhere = canary.routes.as_ref().is_some_and(Vec::is_empty);
    Ok(Some(PluginCanary {
        of: name(of),
        routes: canary.routes.iter().flatten().map(|(key, _)| key.to_string().into()).collect(),
        by_header: canary.by_header.clone().filter(|_| !nowhere),
        by_cookie: canary.by_cookie.clone().filter(|_| !nowhere),
        weight: if nowhere { 0 } else { canary.weight },
    }))
}

/// Of the plugin in the proxy.
fn name(key: &Key) -> Name {
    format!("{}/{}", key.namespace, key.name).into()
}
