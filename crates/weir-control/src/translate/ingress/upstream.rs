//! How the gateway connects to the Services of an Ingress' backends. The settings apply to the Service: if several Ingress objects have
//! some, the oldest one wins.
use super::class;
use crate::{
    api::ingress::{
        annotations::{Upstream, UpstreamTls},
        index_keys::service_key,
    },
    object::{Kind, Object, Spec},
    translate::{
        ClusterKey, Cx, Part, SecretKey, SecretUse,
        secret::{self, Lacks},
    },
};
use std::sync::Arc;
use weir_config::{
    diagnostic::Diagnostic,
    model::{self, Cluster, HashPolicy, UpstreamVerification},
};

pub fn apply(cx: &Cx<'_>, key: &ClusterKey, cluster: &mut Cluster, part: &mut Part) {
    let Some((namespace, name)) = key.kubernetes() else { return };
    let says = |object| {
        let (object, upstream) = upstream_of(object)?;
        Some((object, upstream))
    };
    let found = cx.by_word(Kind::Ingress, &service_key(namespace, name)).filter_map(says);
    let ours = found.filter(|(object, _)| matches!(&object.spec, Spec::Ingress(i) if class(cx, object, i).is_ok()));
    let Some((object, upstream)) = ours.min_by_key(|(object, _)| object.age()) else {
        return;
    };
    if let Some(timeout) = upstream.connect_timeout {
        cluster.connect_timeout = timeout;
    }
    if let Some(protocol) = upstream.protocol {
        cluster.protocol = protocol;
    }
    if let Some((policy, hash)) = &upstream.balancer {
        cluster.lb_policy = policy.clone();
        cluster.hash_policy = hash.iter().map(|of| HashPolicy { of: of.clone(), terminal: false }).collect();
    }
    if let Some(tls) = &upstream.tls {
        cluster.tls = Some(Box::new(originate(cx, object, tls, part)));
    }
}

fn upstream_of(object: &Arc<Object>) -> Option<(&Arc<Object>, &Upstream)> {
    let Spec::Ingress(ingress) = &object.spec else { return None };
    Some((object, ingress.annotations.as_deref()?.upstream.as_deref()?))
}

fn originate(cx: &Cx<'_>, object: &Arc<Object>, tls: &UpstreamTls, part: &mut Part) -> model::UpstreamTls {
    let mut made = model::UpstreamTls { sni: tls.sni.clone(), ..model::UpstreamTls::default() };
    if !tls.verify {
        made.verification = UpstreamVerification::Skip;
    }
    let Some((namespace, name)) = &tls.secret else { return made };
    let own = &object.key.namespace;
    if namespace.as_ref().is_some_and(|n| n != own) {
        let message = format!("the Secret {name} is in another namespace: no certificate is shown to the backends");
        let found = Diagnostic::error("InvalidCertificateRef", message).help("use one of the Ingress' namespace");
        part.report(object, tls.place, "metadata.annotations", found);
        return made;
    }
    let key = |content| SecretKey { source: Kind::Secret, namespace: own.clone(), name: name.clone(), content };
    let (certificate, roots) = (key(SecretUse::Certificate), key(SecretUse::Roots));
    match secret::check(cx, &certificate) {
        Ok(()) => made.certificate = Some(part.use_secret(certificate)),
        Err(lacks) => {
            let what = if lacks == Lacks::Object {
                format!("there is no Secret {own}/{name}")
            } else {
                format!("the Secret {own}/{name} has no tls.crt and tls.key")
            };
            let found = Diagnostic::error("InvalidCertificateRef", format!("{what}: no certificate is shown to the backends"));
            part.report(object, tls.place, "metadata.annotations", found.help("a Secret of the type kubernetes.io/tls"));
        }
    }
    if tls.verify && secret::check(cx, &roots).is_ok() {
        made.verification = UpstreamVerification::Secret(part.use_secret(roots));
    }
    made
}
