//! TLS towards the endpoints of Services, by BackendTLSPolicies.
use crate::{
    api::gateway_api::{
        backend_ref::BackendKind,
        backend_tls::{Authority, BackendTlsPolicy},
        http_route::HttpRoute,
    },
    object::{Key, Kind, Object, Spec},
    status::condition::Scope,
    translate::{ClusterKey, Cx, Part},
};
use std::{collections::BTreeSet, sync::Arc};
use weir_config::{
    diagnostic::Diagnostic,
    model::{UpstreamTls, UpstreamVerification},
};

/// Path of the only reference that is taken.
const AUTHORITY: &str = "spec.validation.caCertificateRefs[0]";

/// The status of a policy, which is the same for all its ancestors, and its findings.
pub fn translate(cx: &Cx<'_>, object: &Arc<Object>, policy: &BackendTlsPolicy, part: &mut Part) {
    if let Some(other) = older(cx, object, policy) {
        part.condition(Scope::Object, "Accepted", false, "Conflicted");
        let message = format!("the BackendTLSPolicy {}/{} is for the same Service and port, and older", other.namespace, other.name);
        let found = Diagnostic::warning("Conflicted", message).help("remove one of them, or name different ports by sectionName");
        part.report(object, policy.place, "spec.targetRefs", found);
    }
    let trouble = match &policy.authority {
        Authority::System => None,
        Authority::Nobody => Some("InvalidCACertificateRef"),
        Authority::Named(reference) => reference.resolve(cx, object, AUTHORITY, "InvalidKind", part).err(),
    };
    part.condition(Scope::Object, "Accepted", trouble.is_none(), if trouble.is_none() { "Accepted" } else { "NoValidCACertificate" });
    part.condition(Scope::Object, "ResolvedRefs", trouble.is_none(), trouble.unwrap_or("ResolvedRefs"));
}

/// The policy that goes before this one at a target of both.
fn older<'a>(cx: &Cx<'a>, object: &Arc<Object>, policy: &BackendTlsPolicy) -> Option<&'a Key> {
    let namespace = &object.key.namespace;
    policy.targets.iter().find_map(|target| {
        let all = cx.by_word(Kind::BackendTlsPolicy, &format!("{namespace}/{}", target.service));
        let same = |other: &&Arc<Object>| matches!(&other.spec, Spec::BackendTlsPolicy(policy) if policy.targets.contains(target));
        all.filter(same).filter(|other| other.age() < object.age()).min_by_key(|other| other.age()).map(|other| &other.key)
    })
}

/// Notes the policies of the Services that a route sends requests to by `gateways`.
pub fn note_ancestors(cx: &Cx<'_>, object: &Object, route: &HttpRoute, gateways: &BTreeSet<&Key>, part: &mut Part) {
    let references = route.rules.iter().flat_map(|rule| &rule.backends).map(|backend| &backend.reference);
    for reference in references.filter(|r| r.kind == BackendKind::Service) {
        let namespace = reference.namespace.as_ref().unwrap_or(&object.key.namespace);
        for policy in cx.by_word(Kind::BackendTlsPolicy, &format!("{namespace}/{}", reference.name)) {
            part.ancestors.extend(gateways.iter().map(|gateway| (policy.key.clone(), (*gateway).clone())));
        }
    }
}

/// The policy of a Service's port (`port` is its name): one for the port before one for all, the oldest of equals.
pub fn policy<'a>(cx: &Cx<'a>, key: &ClusterKey, port: Option<&str>) -> Option<(&'a Arc<Object>, &'a BackendTlsPolicy)> {
    let (namespace, name) = key.kubernetes()?;
    let mut found: Vec<(bool, &Arc<Object>, &BackendTlsPolicy)> = cx
        .by_word(Kind::BackendTlsPolicy, &format!("{namespace}/{name}"))
        .filter_map(|object| {
            let Spec::BackendTlsPolicy(policy) = &object.spec else { return None };
            let here = policy.targets.iter().filter(|t| *t.service == *name);
            let best = here.filter(|t| t.section.is_none() || t.section.as_deref() == port).map(|t| t.section.is_none()).min()?;
            Some((best, object, &**policy))
        })
        .collect();
    found.sort_by_key(|(all, object, _)| (*all, object.meta.created, &object.key));
    found.first().map(|(_, object, policy)| (*object, *policy))
}

/// There is a policy, and no authority to verify endpoints by: nothing may be sent to them.
pub struct Unverifiable;

/// TLS as the policy of a Service's port has it; `None` without a policy.
pub fn of_service(cx: &Cx<'_>, key: &ClusterKey, port: Option<&str>, part: &mut Part) -> Option<Result<UpstreamTls, Unverifiable>> {
    let (object, policy) = policy(cx, key, port)?;
    let verification = match &policy.authority {
        Authority::System => UpstreamVerification::System,
        Authority::Nobody => return Some(Err(Unverifiable)),
        // Its errors are reported where the policy itself is translated.
        Authority::Named(reference) => match reference.resolve(cx, object, AUTHORITY, "InvalidKind", &mut Part::default()) {
            Ok(roots) => UpstreamVerification::Secret(part.use_secret(roots)),
            Err(_) => return Some(Err(Unverifiable)),
        },
    };
    Some(Ok(UpstreamTls {
        sni: Some(policy.hostname.clone()),
        verification,
        subject_alt_names: policy.subject_alt_names.clone(),
        certificate: None,
        min_version: None,
    }))
}
