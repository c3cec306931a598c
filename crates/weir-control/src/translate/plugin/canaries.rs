//! Rules of plugins that name an Ingress hold for its canaries too.
use crate::api::plugin::rules::ROUTES;
use serde_json::Value;
use weir_config::model::Name;

/// Adds each canary to the rules that name the Ingress it takes requests from, so that a header cannot lead past a plugin that
/// guards a route. A canary that a rule names itself is left to that rule.
pub fn with_canaries(configuration: String, canaries: impl FnOnce() -> Vec<(Name, Name)>) -> String {
    if !configuration.contains(ROUTES) {
        return configuration;
    }
    let canaries = canaries();
    let Ok(mut read) = serde_json::from_str::<Value>(&configuration) else { return configuration };
    let Some(rules) = read.get_mut("_rules_").and_then(Value::as_array_mut).filter(|_| !canaries.is_empty()) else { return configuration };
    let has = |rule: &Value, name: &str| rule[ROUTES].as_array().is_some_and(|routes| routes.iter().any(|route| route == name));
    let open: Vec<&(Name, Name)> = canaries.iter().filter(|(_, canary)| !rules.iter().any(|rule| has(rule, canary))).collect();
    for rule in rules {
        let found: Vec<Value> = open.iter().filter(|(base, _)| has(rule, base)).map(|(_, canary)| (**canary).into()).collect();
        if let Some(routes) = rule.get_mut(ROUTES).and_then(Value::as_array_mut) {
            routes.extend(found);
        }
    }
    read.to_string()
}
