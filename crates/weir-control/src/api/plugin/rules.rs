//! A plugin's configuration as its guest reads it. Higress' `matchRules` become the keys that its SDK matches by.
use crate::{
    api::ingress,
    object::meta::{Key, Kind},
};
use serde_json::{Map, Value};
use weir_config::{
    node::{self, Chars, Node},
    reader::{Field, Object},
};

/// The key of a rule's route names.
pub const ROUTES: &str = "_match_route_";

/// The JSON text; the inner `None` is a plugin that is switched off. `None` after an error. `namespace` is the plugin's.
#[expect(clippy::option_option, reason = "an error and a plugin that is switched off are not the same")]
pub fn configuration(spec: &Object<'_>, higress: bool, namespace: &str) -> Option<Option<String>> {
    let given = spec.get("pluginConfig").map(|f| object(&f));
    if !higress {
        return Some(Some(given.flatten().map(|map| Value::Object(map).to_string()).unwrap_or_default()));
    }
    let default = spec.get("defaultConfig").map(|f| object(&f));
    let default_off = flag(spec, "defaultConfigDisable").unwrap_or(false);
    let listed = spec.get("matchRules");
    let rules: Vec<Option<Option<Value>>> =
        listed.as_ref().map(|f| f.list().iter().map(|f| rule(f, namespace)).collect()).unwrap_or_default();
    if let Some(own) = given {
        if let Some(rules) = &listed {
            rules.warning("UnusedField", "has no effect beside pluginConfig", "write defaultConfig in place of pluginConfig");
        }
        return Some(Some(Value::Object(own?).to_string()));
    }
    let mut config = match default {
        Some(default) if !default_off => default?,
        _ => Map::new(),
    };
    let mut active = Vec::new();
    for rule in rules {
        active.extend(rule?);
    }
    if default_off && active.is_empty() {
        return Some(None);
    }
    if !active.is_empty() {
        config.insert("_rules_".into(), Value::Array(active));
    }
    Some(Some(Value::Object(config).to_string()))
}

/// The Ingress objects that rules name as `namespace/name`.
pub fn ingresses(spec: &Object<'_>) -> Vec<(Key, Chars)> {
    fn items(node: &Node) -> &[Node] {
        if let node::Value::List(items) = &node.value { items } else { &[] }
    }
    let Some(rules) = spec.get("matchRules") else { return Vec::new() };
    let names = items(rules.node()).iter().filter_map(|rule| rule.get("ingress")).flat_map(items);
    let named = names.filter_map(|name| {
        let (namespace, text) = name.as_str()?.split_once('/').filter(|(_, name)| !name.contains('/'))?;
        Some((Key::new(Kind::Ingress, namespace, text), name.span))
    });
    named.collect()
}

/// Higress' flags are wrapped booleans, which some write as objects.
fn flag(object: &Object<'_>, name: &'static str) -> Option<bool> {
    let field = object.get(name)?;
    match &field.node().value {
        node::Value::Map(_) => field.object()?.bool("value"),
        _ => field.bool(),
    }
}

fn object(field: &Field<'_>) -> Option<Map<String, Value>> {
    match field.node().to_json() {
        Value::Object(map) => Some(map),
        _ => {
            field.error("InvalidType", format!("expected an object, found {}", field.node().kind()), "write an object");
            None
        }
    }
}

/// The rule's configuration with what it matches; the inner `None` is a rule that is switched off.
#[expect(clippy::option_option, reason = "an error and a rule that is switched off are not the same")]
fn rule(field: &Field<'_>, namespace: &str) -> Option<Option<Value>> {
    let rule = field.object()?;
    rule.unsupported(&["routeType"]);
    rule.describe(&[
        ("config", "", "The configuration for requests that this rule matches."),
        ("configDisable", "false", "Leave this rule out: its requests get the configuration of a later rule or `defaultConfig`."),
        ("ingress", "", "Names of Ingress objects, or `NAMESPACE/NAME`."),
        ("domain", "", "Hosts; `*` at one end stands for any text."),
        ("service", "", "Services, as `NAME.NAMESPACE.svc.cluster.local` with or without `:PORT`."),
    ]);
    let mut config = match rule.get("config") {
        Some(f) => object(&f)?,
        None => Map::new(),
    };
    let off = flag(&rule, "configDisable").unwrap_or(false);
    let mut any = false;
    for (name, key) in [("ingress", ROUTES), ("domain", "_match_domain_"), ("service", "_match_service_")] {
        let list = match name {
            "ingress" => rule.strings(name).iter().flat_map(|named| ingress::route_names(named, namespace)).collect(),
            "domain" => rule.list(name).iter().filter_map(domain).collect(),
            _ => rule.strings(name),
        };
        let list: Vec<Value> = list.into_iter().map(Value::String).collect();
        if !list.is_empty() {
            any = true;
            config.insert(key.into(), Value::Array(list));
        }
    }
    if off {
        return Some(None);
    }
    if !any {
        field.invalid("a rule that matches nothing", "at least one of ingress, domain, service");
        return None;
    }
    Some(Some(Value::Object(config)))
}

/// A host in the form in which plugins see the request's host: lower case, international names as A-labels, no port and no dot at
/// the end. `*.test` and `pre.*` match hosts that end or begin so.
fn domain(field: &Field<'_>) -> Option<String> {
    let text = field.str()?;
    let lower = text.to_lowercase();
    let (before, name, after) = match (lower.strip_prefix('*'), lower.strip_suffix('*')) {
        (Some(rest), _) => ("*", rest, ""),
        (None, Some(rest)) => ("", rest, "*"),
        (None, None) => ("", &*lower, ""),
    };
    let (name, port) = match name.rsplit_once(':') {
        Some((name, port)) if after.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => (name, Some(port)),
        _ => (name, None),
    };
    if let Some(port) = port {
        let help = format!("leave :{port} out; spec.match has the ports that a plugin is for");
        field.warning("PortIgnored", format!("\"{text}\" means the host on every port"), help);
    }
    let name = if after.is_empty() { name.strip_suffix('.').unwrap_or(name) } else { name };
    // Label by label, since the text beside an asterisk need not be a whole name.
    let labels: Option<Vec<String>> = name.split('.').map(a_label).collect();
    if labels.is_none() {
        field.invalid(format!("\"{text}\" is not a host name"), "a DNS name as shop.test, *.shop.test or shop.*");
    }
    Some(format!("{before}{}{after}", labels?.join(".")))
}

fn a_label(label: &str) -> Option<String> {
    if label.is_ascii() {
        return Some(label.into());
    }
    match url::Host::parse(label) {
        Ok(url::Host::Domain(name)) => Some(name),
        _ => None,
    }
}
