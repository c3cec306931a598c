//! BackendTLSPolicy: TLS towards the endpoints of a Service, with the name and the authority to verify them by.
use super::authority::{self, AuthorityRef};
use crate::{api::checks::hostname, object::meta::Meta};
use weir_config::{model::Name, node::Chars, reader::Object as Fields};

#[derive(Clone, Debug, PartialEq)]
pub struct BackendTlsPolicy {
    pub targets: Vec<Target>,
    pub authority: Authority,
    /// Sent as server name, and verified unless `subject_alt_names` are given.
    pub hostname: String,
    pub subject_alt_names: Vec<String>,
    /// Of the targets.
    pub place: Chars,
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

impl BackendTlsPolicy {
    /// A policy is found by `namespace/service`.
    pub fn index_keys(&self, meta: &Meta) -> Vec<Name> {
        self.targets.iter().map(|t| format!("{}/{}", meta.key.namespace, t.service).into()).collect()
    }
}

pub fn decode(root: &Fields<'_>) -> Option<BackendTlsPolicy> {
    let spec = root.required("spec")?.object()?;
    spec.unsupported(&["options"]);
    let mut targets = Vec::new();
    let given = spec.required("targetRefs")?;
    for item in given.list() {
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
    let hostname = hostname(&validation.required("hostname")?)?.to_string();
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
    Some(BackendTlsPolicy { targets, authority, hostname, subject_alt_names, place: given.node().span })
}
