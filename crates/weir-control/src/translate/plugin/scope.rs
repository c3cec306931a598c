//! Which streams reach a plugin: by what it targets, and by the rules of Higress where nothing else is configured.
use crate::{
    api::plugin::{Plugin, canary::Canary},
    object::{Key, Kind, Object, Spec},
    translate::{Cx, Part},
};
use serde_json::Value;
use std::sync::Arc;
use weir_config::{
    diagnostic::Diagnostic,
    model::{Name, PluginMatch, PluginScope},
};

#[derive(Default)]
pub struct Scope {
    /// `None` for all streams.
    pub scope: Option<PluginScope>,
    /// Of the listener that `sectionName` names.
    pub ports: Option<Vec<u16>>,
}

/// A canary has the targets of its plugin. `configuration` is what the guest reads, with canaries of an Ingress.
pub fn of(cx: &Cx<'_>, object: &Arc<Object>, plugin: &Plugin, canary: Option<&Canary>, configuration: &str, part: &mut Part) -> Scope {
    let target = match canary.and_then(|canary| cx.find(&canary.of)).map(|base| &base.spec) {
        Some(Spec::WasmPlugin(base)) => base,
        _ => plugin,
    };
    let mut scope = targets(cx, object, target, part);
    // Targets and rules must both hold: the guest knows the rules itself.
    if scope.scope.is_none() && plugin.by_rules {
        scope.scope = rules(configuration);
    }
    scope
}

fn targets(cx: &Cx<'_>, object: &Arc<Object>, plugin: &Plugin, part: &mut Part) -> Scope {
    if let (Some((section, place)), Some([(gateway, _)])) = (&plugin.section, plugin.gateways.as_deref()) {
        return listener(cx, gateway, section).unwrap_or_else(|| {
            let message = format!("{gateway} has no listener {section}: the plugin does not run for it");
            part.report(
                object,
                *place,
                "spec.targetRefs",
                Diagnostic::warning("TargetNotFound", message).help("see the names of its listeners"),
            );
            // Nothing listens on port 0.
            Scope { ports: Some(vec![0]), ..Scope::default() }
        });
    }
    if plugin.routes.is_empty() {
        return Scope::default();
    }
    let mut rule = PluginMatch::default();
    for (key, place) in &plugin.routes {
        if cx.find(key).is_none() {
            let message = format!("there is no {key}: the plugin does not run for it");
            part.report(
                object,
                *place,
                "spec.targetRefs",
                Diagnostic::warning("TargetNotFound", message).help("see its name and namespace"),
            );
        }
        match key.kind {
            Kind::Service => rule.services.push(format!("{}.{}.svc.cluster.local", key.name, key.namespace).into()),
            _ => rule.routes.push(key.to_string().into()),
        }
    }
    Scope { scope: Some(PluginScope { rules: vec![rule] }), ports: None }
}

/// The port of a listener, and its hosts without those that belong to other listeners of the port.
fn listener(cx: &Cx<'_>, gateway: &Key, section: &str) -> Option<Scope> {
    let Some(Spec::Gateway(spec)) = cx.find(gateway).map(|object| &object.spec) else { return None };
    let own = spec.listeners.iter().find(|listener| &*listener.name == section)?;
    let others = spec.listeners.iter().filter(|other| other.port == own.port && &*other.name != section);
    let narrower = |host: &&Name| own.hostname.as_ref().is_none_or(|own| host.len() > own.len() || !host.starts_with('*'));
    let except: Vec<Name> = others.filter_map(|other| other.hostname.as_ref()).filter(narrower).cloned().collect();
    let domains = vec![own.hostname.clone().unwrap_or_else(|| "*".into())];
    let scope = (own.hostname.is_some() || !except.is_empty())
        .then(|| PluginScope { rules: vec![PluginMatch { domains, except_domains: except, ..PluginMatch::default() }] });
    Some(Scope { scope, ports: Some(vec![own.port]) })
}

/// The rules of a configuration that has nothing for other requests.
fn rules(configuration: &str) -> Option<PluginScope> {
    let Ok(Value::Object(read)) = serde_json::from_str(configuration) else { return None };
    let rules = read.get("_rules_")?.as_array()?;
    if read.len() != 1 {
        return None;
    }
    let list =
        |rule: &Value, key: &str| rule[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(Name::from).collect::<Vec<_>>();
    let rule = |rule: &Value| PluginMatch {
        route_names: list(rule, "_match_route_"),
        domains: list(rule, "_match_domain_"),
        services: list(rule, "_match_service_"),
        ..PluginMatch::default()
    };
    Some(PluginScope { rules: rules.iter().map(rule).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_configurations_of_rules_alone_leave_streams_out() {
        for (configuration, wanted) in [
            ("", None),
            ("{}", None),
            (r#"{"a":1,"_rules_":[{"_match_domain_":["x"]}]}"#, None),
            (r#"{"_rules_":[{"a":1,"_match_domain_":["x"]},{"_match_route_":["r"],"_match_service_":["s"]}]}"#, Some("x r s")),
        ] {
            let found = rules(configuration).map(|scope| {
                let names = scope.rules.iter().flat_map(|rule| rule.domains.iter().chain(&rule.route_names).chain(&rule.services));
                names.map(|n| n.to_string()).collect::<Vec<_>>().join(" ")
            });
            assert_eq!(found.as_deref(), wanted, "{configuration}");
        }
    }
}
