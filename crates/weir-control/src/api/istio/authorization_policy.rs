//! AuthorizationPolicy: who may do what. Conditions that Weir cannot decide never open anything: they hold for nobody in a policy that
//! allows, and for everybody in one that denies.
mod conditions;

use super::read::At;
use crate::{
    api::labels::{Labels, labels},
    object::meta::{Key, Kind, Meta},
};
use conditions::Conditions;
use weir_config::{
    model::RbacMatch,
    node::{Chars, Value},
    reader::{Field, Object},
};

#[derive(Clone, Debug, PartialEq)]
pub struct AuthorizationPolicy {
    pub scope: Scope,
    pub action: Action,
    /// By the annotation `istio.io/dry-run`: only count.
    pub dry_run: bool,
    pub rules: Vec<Rule>,
    /// Conditions that Weir cannot decide, with what they ask about.
    pub undecided: Vec<(At, String)>,
    /// The object is in error: refuse every request.
    pub closed: bool,
    /// Of `spec`.
    pub place: Chars,
}

/// Which workloads of the namespace, or of all namespaces for the root namespace.
#[derive(Clone, Debug, PartialEq)]
pub enum Scope {
    All,
    /// Those with these labels.
    Selector(Labels, Chars),
    /// Those of these objects.
    Targets(Vec<Target>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// A Gateway or GatewayClass; `None` for what is not at a gateway, as a Service.
    pub key: Option<Key>,
    pub at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Allow,
    Deny,
    Audit,
    Custom,
}

/// Holds if one of its permissions and one of its principals do.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub permissions: Vec<RbacMatch>,
    pub principals: Vec<RbacMatch>,
}

pub fn decode(root: &Object<'_>, meta: &Meta) -> AuthorizationPolicy {
    let mut policy = AuthorizationPolicy {
        scope: Scope::All,
        action: Action::Allow,
        dry_run: matches!(meta.annotation("istio.io/dry-run"), Some("true" | "1" | "t" | "T" | "TRUE" | "True")),
        rules: Vec::new(),
        undecided: Vec::new(),
        closed: false,
        place: root.get("spec").map(|f| f.node().span).unwrap_or_default(),
    };
    let Some(spec) = root.required("spec").and_then(|f| f.object()) else { return policy };
    spec.describe(&[
        (
            "action",
            "ALLOW",
            "What happens to a request that a rule matches. With `ALLOW`, a request that no rule of any policy matches is denied.",
        ),
        ("selector", "", "The gateways that the policy applies to, by their labels. By default all of the namespace."),
        ("targetRef", "", "The gateway that the policy applies to."),
        ("targetRefs", "", "The gateways that the policy applies to."),
    ]);
    policy.scope = scope(&spec, meta);
    let words = [("ALLOW", Action::Allow), ("DENY", Action::Deny), ("AUDIT", Action::Audit), ("CUSTOM", Action::Custom)];
    policy.action = spec.choice("action", &words).unwrap_or(Action::Allow);
    provider(&spec, policy.action);
    let mut conditions = Conditions { allows: policy.action == Action::Allow, namespace: &meta.key.namespace, undecided: Vec::new() };
    policy.rules = spec.list("rules").iter().filter_map(|f| rule(f, &mut conditions)).collect();
    policy.undecided = conditions.undecided;
    if policy.rules.is_empty() && policy.action != Action::Allow {
        let field = spec.get("rules").or_else(|| spec.get("action"));
        let message = "no rules: this policy never matches";
        field.iter().for_each(|f| f.warning("NoRules", message, "add a rule; the rule {} matches every request"));
    }
    policy
}

/// `provider` goes with CUSTOM, and only with it.
fn provider(spec: &Object<'_>, action: Action) {
    let field = if action == Action::Custom { spec.required("provider") } else { spec.get("provider") };
    let Some(field) = field else { return };
    if let Some(provider) = field.object()
        && let Some(name) = provider.required("name")
    {
        name.str();
    }
    if action != Action::Custom {
        field.invalid("provider goes with action: CUSTOM only", "leave it out");
    }
}

fn scope(spec: &Object<'_>, meta: &Meta) -> Scope {
    let mut targets: Vec<Field<'_>> = spec.get("targetRef").into_iter().collect();
    targets.extend(spec.list("targetRefs"));
    let selector = spec.get("selector").map(|f| (f.clone(), f.object().map(|object| labels(&object, "matchLabels")).unwrap_or_default()));
    if let (Some((field, _)), false) = (&selector, targets.is_empty()) {
        field.invalid("selector and targetRefs exclude each other", "one of them");
    }
    if !targets.is_empty() {
        return Scope::Targets(targets.iter().filter_map(|f| target(f, meta)).collect());
    }
    let Some((field, labels)) = selector else { return Scope::All };
    if labels.is_empty() { Scope::All } else { Scope::Selector(labels, field.node().span) }
}

fn target(field: &Field<'_>, meta: &Meta) -> Option<Target> {
    let object = field.object()?;
    object.describe(&[
        ("group", "", "The API group of the target."),
        ("kind", "", "`Gateway` or `GatewayClass`."),
        ("name", "", "The name of the target."),
        ("namespace", "", "The namespace of the policy, if it is given."),
    ]);
    let (group, kind) = (object.str("group").unwrap_or_default(), object.required("kind")?.str()?);
    let name = object.required("name")?.str()?;
    if let Some(other) = object.get("namespace")
        && other.str().is_some_and(|n| n != &*meta.key.namespace)
    {
        other.invalid("a target must be in the namespace of the policy", "leave it out");
    }
    let key = match (group, kind) {
        ("gateway.networking.k8s.io", "Gateway") => Some(Key::new(Kind::Gateway, &meta.key.namespace, name)),
        ("gateway.networking.k8s.io", "GatewayClass") => Some(Key::new(Kind::GatewayClass, "", name)),
        ("networking.istio.io", "Gateway") => Some(Key::new(Kind::IstioGateway, &meta.key.namespace, name)),
        ("" | "core", "Service") | ("networking.istio.io", "ServiceEntry") => None,
        _ => {
            let message = format!("{kind} of the group \"{group}\" is not a target of policies");
            field.invalid(message, "Gateway or GatewayClass of gateway.networking.k8s.io");
            return None;
        }
    };
    Some(Target { key, at: At::of(field) })
}

fn rule(field: &Field<'_>, conditions: &mut Conditions<'_>) -> Option<Rule> {
    let object = field.object()?;
    // These hold for every `from` and every `to`.
    let (mut permission, mut principal) = (Vec::new(), Vec::new());
    for when in object.list("when") {
        conditions.when(&when, &mut permission, &mut principal);
    }
    let from = each(&object, "from", "source", &mut |source| conditions.source(source));
    let to = each(&object, "to", "operation", &mut |operation| conditions.operation(operation));
    Some(Rule { permissions: with(to, permission), principals: with(from, principal) })
}

/// The conditions of each entry of a list; `None` where there is no list. An empty list or entry is an error, since it says nothing of
/// whom it is about.
fn each<'a>(
    rule: &Object<'a>,
    list: &'static str,
    entry: &'static str,
    read: &mut dyn FnMut(&Object<'a>) -> Vec<RbacMatch>,
) -> Option<Vec<RbacMatch>> {
    let field = rule.get(list)?;
    let items = field.list();
    if items.is_empty() {
        field.invalid(format!("{list} is empty"), format!("entries with {entry}, or leave it out"));
    }
    let mut found = Vec::new();
    for item in items {
        let Some(inner) = item.object().and_then(|object| object.required(entry)) else { continue };
        let Some(object) = inner.object() else { continue };
        if matches!(&inner.node().value, Value::Map(fields) if fields.is_empty()) {
            inner.invalid(format!("{entry} is empty"), "at least one field");
        }
        found.push(RbacMatch::And(read(&object)));
    }
    Some(found)
}

/// One of `some` and all of `all`.
fn with(some: Option<Vec<RbacMatch>>, all: Vec<RbacMatch>) -> Vec<RbacMatch> {
    match some {
        None if all.is_empty() => vec![RbacMatch::Any],
        None => vec![RbacMatch::And(all)],
        Some(some) if all.is_empty() => some,
        Some(some) => some.into_iter().map(|one| RbacMatch::And([vec![one], all.clone()].concat())).collect(),
    }
}
