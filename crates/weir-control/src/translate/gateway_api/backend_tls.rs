//! TLS towards the endpoints of Services, by BackendTLSPolicies.
use crate::{
    api::gateway_api::backend_tls::{Authority, BackendTlsPolicy},
    object::{Kind, Object, Spec},
    translate::{ClusterKey, Cx, Part, SecretKey, SecretUse},
};
use std::sync::Arc;
use weir_config::model::{UpstreamTls, UpstreamVerification};

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
    found.sort_by_key(|(all, object, _)| (*all, &object.meta.created, &object.key));
    found.first().map(|(_, object, policy)| (*object, *policy))
}

/// TLS as the policy of a Service's port has it.
pub fn of_service(cx: &Cx<'_>, key: &ClusterKey, port: Option<&str>, part: &mut Part) -> Option<UpstreamTls> {
    let (namespace, _) = key.kubernetes()?;
    let (object, policy) = policy(cx, key, port)?;
    let nobody = || SecretKey { source: Kind::Secret, namespace: namespace.into(), name: "".into(), content: SecretUse::Roots };
    let verification = match &policy.authority {
        Authority::System => UpstreamVerification::System,
        Authority::Nobody => UpstreamVerification::Secret(part.use_secret(nobody())),
        Authority::Named(reference) => {
            let roots = reference.resolve(cx, object, "spec.validation.caCertificateRefs[0]", part).unwrap_or_else(|_| nobody());
            UpstreamVerification::Secret(part.use_secret(roots))
        }
    };
    Some(UpstreamTls {
        sni: Some(policy.hostname.clone()),
        verification,
        subject_alt_names: policy.subject_alt_names.clone(),
        certificate: None,
        min_version: None,
    })
}
