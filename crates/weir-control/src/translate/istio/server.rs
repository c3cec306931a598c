//! Gateways to ports, and which hosts a VirtualService has at a server.
use super::{
    Gateway, VirtualService, auto_passthrough,
    gateway::{Mode, Protocol, Server, Tls},
    read::{At, intersection},
};
use crate::{
    object::{Kind, Object},
    translate::{Cx, Part, PortKind, PortPart, Rank, RankApi, RouteEntry, SecretKey, SecretUse, http_table, https_table, secret},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use weir_config::{
    diagnostic::Diagnostic,
    model::{ClientCertificate, DownstreamTls, Name, Redirect, RedirectPort, Route, RouteAction, RouteMatch},
};

/// What a server does with its connections.
#[derive(Clone, Debug, PartialEq)]
pub enum Serves {
    /// HTTP by the routes of a table.
    Routes(Name),
    /// Sends every request of a table to HTTPS.
    Redirect(Name),
    /// TLS by its server name.
    Passthrough,
    /// TLS by a server name that says the cluster.
    AutoPassthrough,
    /// TLS that ends here, with bytes behind it.
    Terminate,
    Bytes,
}

impl Server {
    /// `None` where it cannot be opened.
    pub fn serves(&self, gateway: &Object) -> Option<Serves> {
        let mode = self.tls.as_ref().map(|t| t.mode);
        Some(match (self.protocol, mode) {
            (Protocol::Http, _) if self.tls.as_ref().is_some_and(|t| t.https_redirect) => Serves::Redirect(http_table(self.bind)),
            (Protocol::Http, _) => Serves::Routes(http_table(self.bind)),
            (Protocol::Https, Some(Mode::Terminate(ClientCertificate::None))) => Serves::Routes(https_table(self.bind, None)),
            (Protocol::Https, Some(Mode::Terminate(_))) => {
                // Clients who showed no certificate elsewhere must not reach these routes over another connection.
                let first = self.hosts.first().map_or("*", |h| &*h.host);
                let own = format!("{}.{}.{first}", gateway.key.name, gateway.key.namespace);
                Serves::Routes(https_table(self.bind, Some(&own)))
            }
            (Protocol::Https | Protocol::Tls, Some(Mode::Passthrough)) => Serves::Passthrough,
            (Protocol::Https | Protocol::Tls, Some(Mode::AutoPassthrough)) => Serves::AutoPassthrough,
            (Protocol::Tcp, _) => Serves::Bytes,
            (Protocol::Tls, Some(Mode::Terminate(_))) => Serves::Terminate,
            (Protocol::Https | Protocol::Tls, None) => return None,
        })
    }

    /// The hosts that a VirtualService has here, the narrower of each pair.
    pub fn hosts_of(&self, gateway: &Object, object: &Object, service: &VirtualService) -> Vec<Name> {
        if !service.export_to.sees(&object.key.namespace, &gateway.key.namespace) {
            return Vec::new();
        }
        let mut found: Vec<Name> = Vec::new();
        let mine = self.hosts.iter().filter(|h| h.namespace.as_ref().is_none_or(|n| **n == *object.key.namespace));
        for host in mine.flat_map(|h| service.hosts.iter().filter_map(|own| intersection(&h.host, own))) {
            if !found.iter().any(|f| **f == *host) {
                found.push(host.into());
            }
        }
        found
    }

    /// Names for the choice of a filter chain; empty for any.
    pub fn server_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.hosts.iter().map(|h| h.host.to_string()).collect();
        names.dedup();
        if names.iter().any(|n| n == "*") { Vec::new() } else { names }
    }
}

pub fn translate(cx: &Cx<'_>, object: &Arc<Object>, gateway: &Gateway, part: &mut Part) {
    if !gateway.is_here(cx.options) {
        return;
    }
    for server in &gateway.servers {
        let kind = match server.serves(object) {
            Some(Serves::Redirect(table)) => {
                redirect_all(object, gateway, server, &table, part);
                PortKind::Http
            }
            Some(Serves::Routes(table)) => match &server.tls {
                Some(tls) if server.protocol == Protocol::Https => {
                    let Some(tls) = terminate(cx, object, tls, part) else { continue };
                    PortKind::Https { server_names: server.server_names(), tls, table }
                }
                _ => PortKind::Http,
            },
            // VirtualServices say where the bytes go; what is wrong with the certificate is said here.
            Some(Serves::Terminate) => {
                let mut checked = Part::default();
                server.tls.as_ref().and_then(|tls| terminate(cx, object, tls, &mut checked));
                part.findings.append(&mut checked.findings);
                continue;
            }
            Some(Serves::AutoPassthrough) => auto_passthrough::translate(cx, object, server, part),
            Some(Serves::Passthrough | Serves::Bytes) | None => continue,
        };
        part.ports.push(PortPart { bind: server.bind, object: object.title.clone(), line: server.line, kind });
    }
}

/// Every request to this server's hosts goes to HTTPS.
fn redirect_all(object: &Object, gateway: &Gateway, server: &Server, table: &Name, part: &mut Part) {
    let route = redirect_route(object, gateway, server);
    for host in &server.hosts {
        let rank = Rank::listed(RankApi::VirtualService, "", object.title.clone(), 0);
        part.routes.push(RouteEntry { table: table.clone(), domain: (&*host.host).into(), rank, route: Some(route.clone()) });
    }
}

/// Of `httpsRedirect: true`: to the port where this Gateway has HTTPS for these hosts, else to 443.
pub fn redirect_route(object: &Object, gateway: &Gateway, server: &Server) -> Arc<Route> {
    let shares = |other: &&Server| other.hosts.iter().any(|a| server.hosts.iter().any(|b| intersection(&a.host, &b.host).is_some()));
    let secure = gateway.servers.iter().filter(|s| s.protocol == Protocol::Https).find(shares);
    let port = secure.map(|s| s.bind.port).filter(|port| *port != 443).map_or(RedirectPort::FromProtocol, RedirectPort::Literal);
    let redirect = Redirect { scheme: Some("https".into()), host: None, port: Some(port), path: None, status: 301, strip_query: false };
    let name = format!("{}/{}/https-redirect", object.key.namespace, object.key.name);
    Arc::new(Route::new(name.into(), RouteMatch::any(), RouteAction::Redirect(redirect), object.origin()))
}

/// TLS with the certificates that can be had; without any the server is not opened.
pub fn terminate(cx: &Cx<'_>, object: &Object, tls: &Tls, part: &mut Part) -> Option<DownstreamTls> {
    let namespace = &object.key.namespace;
    let mut certificates = Vec::new();
    for (name, at) in &tls.credentials {
        let key = SecretKey::certificate(namespace, name);
        match secret::check(cx, &key) {
            Ok(()) => certificates.push(part.use_secret(key)),
            Err(lacks) => lacking(object, at, lacks, &format!("{namespace}/{name}"), "tls.crt and tls.key", part),
        }
    }
    for files in &tls.files {
        let key = SecretKey::certificate_files(&beside(object, &files.chain), &beside(object, &files.key));
        certificates.extend(from_files(cx, object, key, &files.at, part));
    }
    if certificates.is_empty() {
        return None;
    }
    let Mode::Terminate(client_certificate) = tls.mode else { return None };
    let client_ca = match client_certificate {
        ClientCertificate::None => None,
        // Without roots to verify against, nobody may enter.
        _ => Some(roots(cx, object, tls, part)?),
    };
    Some(DownstreamTls {
        certificates,
        min_version: tls.min_version,
        max_version: tls.max_version,
        client_certificate,
        client_ca,
        subject_alt_names: tls.subject_alt_names.clone(),
        verify_certificate_hash: tls.certificate_hashes.clone(),
        verify_certificate_spki: tls.key_hashes.clone(),
        cipher_suites: tls.cipher_suites.clone(),
        ..DownstreamTls::default()
    })
}

/// Where the roots for client certificates are: the named Secret, `NAME-cacert`, or the certificate's own Secret.
fn roots(cx: &Cx<'_>, object: &Object, tls: &Tls, part: &mut Part) -> Option<Name> {
    let namespace = &object.key.namespace;
    let key = |name: &str| SecretKey { source: Kind::Secret, namespace: namespace.clone(), name: name.into(), content: SecretUse::Roots };
    if let Some((name, at)) = &tls.ca_credential {
        let key = key(name);
        return match secret::check(cx, &key) {
            Ok(()) => Some(part.use_secret(key)),
            Err(lacks) => {
                lacking(object, at, lacks, &format!("{namespace}/{name}"), "ca.crt", part);
                None
            }
        };
    }
    if let Some((path, at)) = &tls.ca_file {
        let crl = tls.ca_crl.as_deref().map(|crl| beside(object, crl));
        return from_files(cx, object, SecretKey::roots_file(&beside(object, path), crl.as_deref()), at, part);
    }
    let Some((name, at)) = tls.credentials.first() else {
        let found = Diagnostic::error("MissingField", "clients' certificates need roots to be verified against").help("add caCertificates");
        part.report(object, tls.files.first()?.at.span, &*tls.files.first()?.at.field, found);
        return None;
    };
    let found = [format!("{name}-cacert"), name.to_string()].into_iter().map(|n| key(&n)).find(|k| secret::check(cx, k).is_ok());
    if found.is_none() {
        lacking(object, at, secret::Lacks::Content, &format!("{namespace}/{name}"), "ca.crt for the clients' certificates", part);
    }
    found.map(|key| part.use_secret(key))
}

/// A path that an object names: a relative one starts at the folder of its file.
pub fn beside(object: &Object, path: &str) -> PathBuf {
    Path::new(&*object.document.file).parent().unwrap_or(Path::new("")).join(path)
}

/// A secret of files. What is wrong with them is reported; files that were good before go on with what they held.
pub fn from_files(cx: &Cx<'_>, object: &Object, key: SecretKey, at: &At, part: &mut Part) -> Option<Name> {
    let (content, trouble) = secret::files(cx, &key);
    if let Some(why) = trouble {
        let help = "a PEM file; a relative path starts at the folder of this file";
        part.report(object, at.span, &*at.field, Diagnostic::error("InvalidCertificateRef", why).help(help));
    }
    content.map(|_| part.use_secret(key))
}

/// Reports a Secret that is not there or does not hold what it should.
pub fn lacking(object: &Object, at: &At, lacks: secret::Lacks, name: &str, what: &str, part: &mut Part) {
    let (message, help) = match lacks {
        secret::Lacks::Object => (format!("there is no Secret {name}"), format!("add a Secret with {what}")),
        secret::Lacks::Content => (format!("the Secret {name} has no {what}"), format!("add {what} to it")),
    };
    part.report(object, at.span, &*at.field, Diagnostic::error("InvalidCertificateRef", message).help(help));
}
