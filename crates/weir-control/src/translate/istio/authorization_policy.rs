//! AuthorizationPolicies become rules of the gateways in their scope. Istio's scope is workloads: here those are the Gateways of the
//! policy's namespace, or all gateways for a policy of the root namespace. One that cannot be enforced as it stands refuses more, not less.
use crate::{
    api::{
        istio::authorization_policy::{Action, AuthorizationPolicy, Scope},
        labels::{Labels, selects},
    },
    object::{Key, Kind, Object, Spec},
    translate::{Cx, Part, PolicyPart, settings},
};
use std::sync::Arc;
use weir_config::{
    diagnostic::Diagnostic,
    model::{RbacAction, RbacMatch, RbacPolicy},
};

pub fn translate(cx: &Cx<'_>, object: &Arc<Object>, policy: &AuthorizationPolicy, part: &mut Part) {
    let gateways = gateways(cx, object, policy, part);
    if gateways.as_ref().is_some_and(Vec::is_empty) {
        let message = "no gateway is in the scope of this policy: it is not enforced";
        let help = "a policy is for the Gateways of its namespace, or for all gateways in the root namespace (istio-system)";
        let found = Diagnostic::warning("NotEnforced", message).help(help);
        return part.report(object, policy.place, "spec", found);
    }
    if policy.action == Action::Audit && !policy.closed {
        let found = Diagnostic::warning("UnsupportedValue", "AUDIT only logs, which is not supported yet: this policy has no effect")
            .help("ALLOW or DENY");
        return part.report(object, policy.place, "spec.action", found);
    }
    for (at, what) in &policy.undecided {
        let effect = if policy.action == Action::Allow { "the rule allows nothing" } else { "the rule denies as if this condition held" };
        let found = Diagnostic::error("UnsupportedCondition", format!("Weir does not know {what}: {effect}"))
            .help("use conditions on addresses, client certificates or headers");
        part.report(object, at.span, &*at.field, found);
    }
    if policy.action == Action::Custom && !policy.closed {
        let message = "CUSTOM needs an external authorizer, which is not supported yet: requests that the rules match are denied";
        let found = Diagnostic::error("UnsupportedValue", message).help("ALLOW or DENY");
        part.report(object, policy.place, "spec.action", found);
    }
    let key = &object.key;
    let name = |rule: &str| format!("ns[{}]-policy[{}]-rule[{rule}]", key.namespace, key.name).into();
    let everything = || vec![RbacMatch::Any];
    let (action, policies) = match policy.action {
        _ if policy.closed => {
            (RbacAction::Deny, vec![RbacPolicy { name: name("invalid"), permissions: everything(), principals: everything() }])
        }
        action => {
            let rules = policy.rules.iter().enumerate().map(|(n, rule)| RbacPolicy {
                name: name(&n.to_string()),
                permissions: rule.permissions.clone(),
                principals: rule.principals.clone(),
            });
            (if action == Action::Allow { RbacAction::Allow } else { RbacAction::Deny }, rules.collect())
        }
    };
    part.policies.push(PolicyPart { gateways, action, policies, dry_run: policy.dry_run && !policy.closed });
}

/// Those that the policy is for; `None` for all.
fn gateways(cx: &Cx<'_>, object: &Object, policy: &AuthorizationPolicy, part: &mut Part) -> Option<Vec<Key>> {
    let own = &object.key.namespace;
    let everywhere = **own == *root_namespace(cx);
    match &policy.scope {
        Scope::All if everywhere => None,
        Scope::All => Some(all(cx).filter(|g| g.is_in(own)).map(Workload::into_key).collect()),
        Scope::Selector(labels, _) => {
            Some(all(cx).filter(|g| (everywhere || g.is_in(own)) && g.is_selected(cx, labels)).map(Workload::into_key).collect())
        }
        Scope::Targets(targets) => {
            let mut found = Vec::new();
            for target in targets {
                let Some(key) = &target.key else {
                    let message = "this target is not a gateway: the policy is not enforced for it";
                    let d = Diagnostic::warning("NotEnforced", message).help("Gateway or GatewayClass of gateway.networking.k8s.io");
                    part.report(object, target.at.span, &*target.at.field, d);
                    continue;
                };
                if cx.find(key).is_none() {
                    let d = Diagnostic::warning("TargetNotFound", format!("there is no {key}: the policy is not enforced for it"))
                        .help("check its name and namespace");
                    part.report(object, target.at.span, &*target.at.field, d);
                }
                match key.kind {
                    Kind::GatewayClass => found.extend(of_class(cx, &key.name)),
                    _ => found.push(key.clone()),
                }
            }
            Some(found)
        }
    }
}

/// `rootNamespace` of Istio's settings.
fn root_namespace(cx: &Cx<'_>) -> String {
    let maps = cx.all(Kind::ConfigMap).filter(|o| settings::is_used(cx, o));
    let named = |object: &Arc<Object>| match &object.spec {
        Spec::ConfigMap(map) => map.settings.as_ref()?.root_namespace.clone(),
        _ => None,
    };
    maps.filter_map(named).last().unwrap_or_else(|| "istio-system".into())
}

/// What Istio would call the workload of a gateway.
struct Workload<'a> {
    object: &'a Arc<Object>,
    /// As far as they are known.
    labels: Labels,
}

/// Every gateway; an Ingress stands for the gateway that serves it.
fn all<'a>(cx: &Cx<'a>) -> impl Iterator<Item = Workload<'a>> + use<'a> {
    let of_gateway = cx.all(Kind::Gateway).map(|object| {
        let mut labels: Labels = object.meta.labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        labels.insert("gateway.networking.k8s.io/gateway-name".into(), object.key.name.to_string());
        Workload { object, labels }
    });
    let of_istio = cx.all(Kind::IstioGateway).map(|object| match &object.spec {
        Spec::IstioGateway(gateway) => Workload { object, labels: gateway.selector.clone() },
        _ => Workload { object, labels: Labels::new() },
    });
    let of_ingress = cx.all(Kind::Ingress).map(|object| Workload { object, labels: Labels::new() });
    of_gateway.chain(of_istio).chain(of_ingress)
}

impl Workload<'_> {
    fn is_in(&self, namespace: &str) -> bool {
        // Ingresses of all namespaces have one gateway, which policies of the root namespace are for.
        self.object.key.kind != Kind::Ingress && *self.object.key.namespace == *namespace
    }
    /// Where this process does not know its own labels, only labels of the gateway that differ keep a policy away.
    fn is_selected(&self, cx: &Cx<'_>, selector: &Labels) -> bool {
        match cx.options.labels.is_empty() {
            true => selector.iter().all(|(name, value)| self.labels.get(name).is_none_or(|own| own == value)),
            false => selects(selector, &cx.options.labels),
        }
    }
    fn into_key(self) -> Key {
        self.object.key.clone()
    }
}

fn of_class(cx: &Cx<'_>, class: &str) -> Vec<Key> {
    let of = |object: &&Arc<Object>| matches!(&object.spec, Spec::Gateway(gateway) if *gateway.class == *class);
    cx.all(Kind::Gateway).filter(of).map(|object| object.key.clone()).collect()
}
