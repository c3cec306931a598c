//! TLS for the hosts of Ingress objects. Hosts are often spread over several objects, of which one has the certificate, or says how
//! clients are to show one: of those that say so the oldest counts, for all.
use super::{Ingress, Tls, annotations, class};
use crate::{
    object::{Kind, Object, Spec},
    translate::{
        Bind, Cx, Part, PortKind, PortPart, SecretKey, SecretUse, https_table,
        secret::{self, Lacks},
    },
};
use std::sync::Arc;
use weir_config::{
    diagnostic::Diagnostic,
    model::{ClientCertificate, DownstreamTls, Name},
};

/// An Ingress is found by the hosts that it has certificates for; `*` for one without hosts.
pub fn words(ingress: &Ingress) -> Vec<Name> {
    ingress.tls.iter().filter(|tls| tls.secret.is_some()).flat_map(hosts).collect()
}

fn hosts(tls: &Tls) -> Vec<Name> {
    if tls.hosts.is_empty() { vec!["*".into()] } else { tls.hosts.clone() }
}

/// How a host is served over TLS.
pub struct Secured<'a> {
    pub table: Name,
    /// With the Ingress that says it.
    settings: Option<(&'a Arc<Object>, &'a annotations::Tls)>,
}

impl Secured<'_> {
    /// Clients must show a certificate: plain HTTP would let them in without one.
    pub fn guarded(&self) -> bool {
        self.settings.is_some_and(|(_, tls)| tls.client.as_ref().is_some_and(|client| !client.optional))
    }
}

/// `None` for a host without a certificate. Any Ingress will do.
pub fn secured<'a>(cx: &Cx<'a>, domain: &str) -> Option<Secured<'a>> {
    let wild = domain.split_once('.').map(|(_, parent)| format!("*.{parent}"));
    let words = [Some(domain.to_string()), wild, Some("*".to_string())];
    let covering = words.into_iter().flatten().find(|word| cx.by_word(Kind::Ingress, word).next().is_some())?;
    Some(of_host(cx, &covering))
}

/// For a host as it stands under `tls`, or `*`.
fn of_host<'a>(cx: &Cx<'a>, host: &str) -> Secured<'a> {
    let says = |object: &'a Arc<Object>| {
        let Spec::Ingress(ingress) = &object.spec else { return None };
        let tls = &ingress.annotations.as_deref()?.tls;
        (!tls.is_default() && class(cx, object, ingress).is_ok()).then_some((object, tls))
    };
    let found = cx.by_word(Kind::Ingress, host).filter_map(says);
    let settings = found.min_by(|(a, _), (b, _)| (&a.meta.created, &a.key).cmp(&(&b.meta.created, &b.key)));
    let own = settings.is_some_and(|(_, tls)| tls.client.is_some()).then_some(host);
    Secured { table: https_table(Bind::port(cx.options.https_port), own), settings }
}

/// One entry of `tls`.
pub fn translate(cx: &Cx<'_>, object: &Arc<Object>, tls: &Tls, index: usize, part: &mut Part) {
    let namespace = &object.key.namespace;
    let trouble = match &tls.secret {
        None => Some(("without secretName there is no certificate".to_string(), "add secretName with the name of a Secret")),
        Some(name) => match secret::check(cx, &SecretKey::certificate(namespace, name)) {
            Ok(()) => None,
            Err(Lacks::Object) => Some((format!("there is no Secret {namespace}/{name}"), "add it")),
            Err(Lacks::Content) => {
                Some((format!("the Secret {namespace}/{name} has no tls.crt and tls.key"), "use one of the type kubernetes.io/tls"))
            }
        },
    };
    if let Some((message, help)) = trouble {
        let found = Diagnostic::error("InvalidCertificateRef", format!("{message}: these hosts are not served over TLS")).help(help);
        return part.find(object, tls.place, format!("spec.tls[{index}]"), found);
    }
    let Some(name) = &tls.secret else { return };
    let certificate = part.use_secret(SecretKey::certificate(namespace, name));
    // Hosts of which nobody says anything share a chain.
    let mut plain: Vec<Name> = Vec::new();
    for host in hosts(tls) {
        let secured = of_host(cx, &host);
        match secured.settings {
            None => plain.push(host),
            Some((owner, settings)) => {
                let made = DownstreamTls {
                    cipher_suites: settings.cipher_suites.clone(),
                    min_version: settings.min_version,
                    max_version: settings.max_version,
                    ..DownstreamTls::default()
                };
                if let Some(made) = client_auth(cx, object, owner, settings, made, part) {
                    chain(cx, object, &[host], &certificate, made, secured.table, part);
                }
            }
        }
    }
    if !plain.is_empty() {
        let table = https_table(Bind::port(cx.options.https_port), None);
        chain(cx, object, &plain, &certificate, DownstreamTls::default(), table, part);
    }
}

fn chain(cx: &Cx<'_>, object: &Object, hosts: &[Name], certificate: &Name, tls: DownstreamTls, table: Name, part: &mut Part) {
    let kind = PortKind::Https {
        server_names: hosts.iter().filter(|h| &***h != "*").map(|h| h.to_string()).collect(),
        tls: DownstreamTls { certificates: vec![certificate.clone()], ..tls },
        table,
    };
    part.ports.push(PortPart { bind: Bind::port(cx.options.https_port), object: object.title.clone(), line: 0, kind });
}

/// With the roots for clients' certificates. Without roots the host is not served over TLS; who says that there are to be some
/// reports it.
fn client_auth(
    cx: &Cx<'_>,
    object: &Arc<Object>,
    owner: &Arc<Object>,
    settings: &annotations::Tls,
    made: DownstreamTls,
    part: &mut Part,
) -> Option<DownstreamTls> {
    let Some(client) = &settings.client else { return Some(made) };
    let own = &owner.key.namespace;
    let namespace = client.namespace.as_ref().unwrap_or(own);
    let key = SecretKey { source: Kind::Secret, namespace: namespace.clone(), name: client.secret.clone(), content: SecretUse::Roots };
    let name = format!("{namespace}/{}", client.secret);
    let trouble = if namespace != own {
        Some((format!("the Secret {name} is in another namespace"), "use one of the Ingress' namespace"))
    } else {
        match secret::check(cx, &key) {
            Ok(()) => None,
            Err(Lacks::Object) => Some((format!("there is no Secret {name}"), "add a Secret with ca.crt")),
            Err(Lacks::Content) => Some((format!("the Secret {name} has no ca.crt"), "add it")),
        }
    };
    if let Some((message, help)) = trouble {
        if Arc::ptr_eq(owner, object) {
            let found = Diagnostic::error("InvalidCertificateRef", format!("{message}: its hosts are not served over TLS")).help(help);
            part.find(object, client.place, "metadata.annotations", found);
        }
        return None;
    }
    let client_certificate = if client.optional { ClientCertificate::Optional } else { ClientCertificate::Required };
    Some(DownstreamTls { client_certificate, client_ca: Some(part.use_secret(key)), ..made })
}
