//! BackendTLSPolicy: TLS towards the endpoints of a Service, with the name and the authority to verify them by.
use super::authority::{self, AuthorityRef};
use crate::{
    object::{Kind, Meta, Object, Spec},
    translate::{ClusterKey, Cx, Part, SecretKey, SecretUse},
};
use std::sync::Arc;
use weir_config::{
    model::{Name, UpstreamTls, UpstreamVerification},
    reader::Object as Fields,
};

#[derive(Clone, Debug, PartialEq)]
pub struct BackendTlsPolicy {
    pub targets: Vec<Target>,
    pub authority: Authority,
    /// Sent as server name, and verified unless `subject_alt_names` are given.
    pub hostname: String,
    pub subject_alt_names: Vec<String>,
}

/// A Service of the policy's namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub service: Name,
    /// The port's name; `None` for all ports.
    pub section: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Authority {
    /// `wellKnownCACertificates: System`
    System,
    Named(AuthorityRef),
    /// Nothing that can be verified by: connections fail, rather than trust anybody.
    Nobody,
}

pub fn decode(root: &Fields<'_>, _: &Meta) -> Option<Spec> {
    let spec = root.required("spec")?.object()?;
    spec.unsupported(&["options"]);
    let mut targets = Vec::new();
    for item in spec.required("targetRefs")?.list() {
        let target = item.object()?;
        let (group, kind) = (target.str("group").unwrap_or_default(), target.required("kind")?.str()?);
        let service = target.required("name")?.str()?.into();
        let section = target.str("sectionName").map(Into::into);
        match (group, kind) {
            ("" | "core", "Service") => targets.push(Target { service, section }),
            _ => item.warning("UnsupportedValue", format!("{kind} of the group \"{group}\" is no target here"), "a Service"),
        }
    }
    let field = spec.required("validation")?;
    let validation = field.object()?;
    let hostname = super::hostname(&validation.required("hostname")?)?.to_string();
    let subject_alt_names = validation.list("subjectAltNames").into_iter().filter_map(|item| {
        let name = item.object()?;
        let key = name.required("type")?.choice(&[("Hostname", "hostname"), ("URI", "uri")])?;
        Some(name.required(key)?.str()?.to_string())
    });
    let subject_alt_names = subject_alt_names.collect();
    let system = validation.get("wellKnownCACertificates").and_then(|f| f.choice(&[("System", ())])).is_some();
    let authority = match authority::decode(&validation) {
        Some(named) => Authority::Named(named),
        None if system => Authority::System,
        None => {
            if !validation.has("caCertificateRefs") && !validation.has("wellKnownCACertificates") {
                field.error("MissingField", "nothing says whom to trust", "add caCertificateRefs, or wellKnownCACertificates: System");
            }
            Authority::Nobody
        }
    };
    Some(Spec::BackendTlsPolicy(Box::new(BackendTlsPolicy { targets, authority, hostname, subject_alt_names })))
}

/// A policy is found by `namespace/service`.
pub fn index_keys(meta: &Meta, policy: &BackendTlsPolicy) -> Vec<Name> {
    policy.targets.iter().map(|t| format!("{}/{}", meta.namespace, t.service).into()).collect()
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
