//! TLS for the hosts of Ingress objects. Hosts are often spread over several objects, of which one has the certificate, or says how
//! clients are to show one: of those that say so the oldest counts, for all. It counts for each setting by itself.
use super::class;
use crate::{
    api::ingress::{Tls, annotations::ClientAuth},
    object::{Created, Kind, Object, Spec},
    translate::{
        Bind, Cx, Part, PortKind, PortPart, SecretKey, SecretUse, https_table,
        secret::{self, Lacks},
    },
};
use std::sync::Arc;
use weir_config::{
    diagnostic::Diagnostic,
    model::{ClientCertificate, DownstreamTls, Name, TlsVersion},
};

/// How a host is served over TLS.
pub struct Secured<'a> {
    pub table: Name,
    settings: Settings<'a>,
}

/// What Ingress objects say of a host, each setting by the oldest that says it.
#[derive(Default)]
struct Settings<'a> {
    /// With the Ingress that says it.
    client: Option<(&'a Arc<Object>, &'a ClientAuth)>,
    cipher_suites: &'a [String],
    /// The least and the greatest: one object says both.
    versions: (Option<TlsVersion>, Option<TlsVersion>),
}

impl Settings<'_> {
    fn is_default(&self) -> bool {
        self.client.is_none() && self.cipher_suites.is_empty() && self.versions == (None, None)
    }
}

impl<'a> Secured<'a> {
    /// How clients show a certificate, and the Ingress that says so.
    pub fn client(&self) -> Option<(&'a Arc<Object>, &'a ClientAuth)> {
        self.settings.client
    }
    /// Clients must show a certificate: plain HTTP would let them in without one.
    pub fn guarded(&self) -> bool {
        self.client().is_some_and(|(_, client)| !client.optional)
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
    let mut found: Vec<_> = cx.by_word(Kind::Ingress, host).filter_map(says).collect();
    found.sort_by_key(|(object, _)| object.age());
    let settings = Settings {
        client: found.iter().find_map(|(object, tls)| Some((*object, tls.client.as_deref()?))),
        cipher_suites: found.iter().map(|(_, tls)| &*tls.cipher_suites).find(|suites| !suites.is_empty()).unwrap_or_default(),
        versions: found.iter().map(|(_, tls)| (tls.min_version, tls.max_version)).find(|v| *v != (None, None)).unwrap_or_default(),
    };
    let own = settings.client.is_some().then_some(host);
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
        return part.report(object, tls.place, format!("spec.tls[{index}]"), found);
    }
    let Some(name) = &tls.secret else { return };
    let certificate = part.use_secret(SecretKey::certificate(namespace, name));
    // Hosts without settings share a chain.
    let mut plain: Vec<Name> = Vec::new();
    for host in tls.all_hosts() {
        let secured = of_host(cx, &host);
        if secured.settings.is_default() {
            plain.push(host);
            continue;
        }
        report_older(object, &host, &secured, part);
        let Settings { client, cipher_suites, versions: (min_version, max_version) } = secured.settings;
        let made = DownstreamTls { cipher_suites: cipher_suites.to_vec(), min_version, max_version, ..DownstreamTls::default() };
        let made = match client {
            Some((owner, client)) => client_auth(cx, object, owner, client, made, part),
            None => Some(made),
        };
        if let Some(made) = made {
            chain(cx, object, &[host], &certificate, made, secured.table, part);
        }
    }
    if !plain.is_empty() {
        let table = https_table(Bind::port(cx.options.https_port), None);
        chain(cx, object, &plain, &certificate, DownstreamTls::default(), table, part);
    }
}

/// Reports that another Ingress says how clients of a host are verified.
fn report_older(object: &Arc<Object>, host: &str, secured: &Secured<'_>, part: &mut Part) {
    let Spec::Ingress(ingress) = &object.spec else { return };
    let own = ingress.annotations.as_deref().and_then(|notes| notes.tls.client.as_deref());
    let (Some(own), Some((winner, client))) = (own, secured.client()) else { return };
    let said = |by: &Object, client: &ClientAuth| {
        (client.namespace.clone().unwrap_or_else(|| by.key.namespace.clone()), client.secret.clone(), client.optional)
    };
    // An optional one in place of one that is wanted closes the routes, and is reported there.
    if said(object, own) != said(winner, client) && (own.optional || !client.optional) {
        let message = format!("has no effect for {host}: {} is older and says how its clients are verified", winner.title());
        let found = Diagnostic::warning("UnusedField", message).help("say the same in both, or only there");
        part.report(object, own.place, "metadata.annotations", found);
    }
}

fn chain(cx: &Cx<'_>, object: &Object, hosts: &[Name], certificate: &Name, tls: DownstreamTls, table: Name, part: &mut Part) {
    let kind = PortKind::Https {
        server_names: hosts.iter().filter(|h| &***h != "*").map(|h| h.to_string()).collect(),
        tls: DownstreamTls { certificates: vec![certificate.clone()], ..tls },
        table,
    };
    part.ports.push(PortPart {
        bind: Bind::port(cx.options.https_port),
        gateway: object.key.clone(),
        object: object.title(),
        line: 0,
        created: Created::default(),
        kind,
    });
}

/// With the roots for clients' certificates. Without roots the host is not served over TLS; who says that there are to be some
/// reports it.
fn client_auth(
    cx: &Cx<'_>,
    object: &Arc<Object>,
    owner: &Arc<Object>,
    client: &ClientAuth,
    made: DownstreamTls,
    part: &mut Part,
) -> Option<DownstreamTls> {
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
            part.report(object, client.place, "metadata.annotations", found);
        }
        return None;
    }
    let client_certificate = if client.optional { ClientCertificate::Optional } else { ClientCertificate::Required };
    Some(DownstreamTls { client_certificate, client_ca: Some(part.use_secret(key)), ..made })
}
