//! TLS that ends at a server of a Gateway.
use super::files::{self, lacking};
use crate::{
    api::istio::gateway::{Mode, Tls},
    object::{Kind, Object},
    translate::{Cx, Part, SecretKey, SecretUse, secret},
};
use weir_config::{
    diagnostic::Diagnostic,
    model::{ClientCertificate, DownstreamTls, Name},
};

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
        certificates.extend(files::certificate(cx, object, files, part));
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
        return files::roots(cx, object, path, tls.ca_crl.as_deref(), at, part).ok();
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
