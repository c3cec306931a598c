//! Destinations of routes: which cluster each of them means.
use super::upstream;
use crate::{
    api::istio::{read::At, virtual_service::Destination},
    object::Object,
    translate::{ClusterKey, Cx, Part, Purpose},
};
use weir_config::diagnostic::Diagnostic;

/// The cluster of a destination: its port, or the only one of the service, or the one that the gateway listens on. What it
/// does not find is reported; such a cluster is empty or missing, so that requests to it are answered with 503. `None` for
/// one that is not the object's to see.
pub fn resolve(cx: &Cx<'_>, object: &Object, to: &Destination, listens: u16, http: bool, part: &mut Part) -> Option<ClusterKey> {
    let kubernetes = ClusterKey::host(0, &to.host);
    let service = kubernetes.kubernetes().and_then(|(namespace, name)| cx.service(namespace, name));
    let entries = if service.is_some() { Vec::new() } else { upstream::entries(cx, &to.host) };
    let seen: Vec<_> = entries.iter().filter(|(owner, entry)| entry.export_to.sees(&owner.key.namespace, &object.key.namespace)).collect();
    let ports: Vec<u16> = match service {
        Some(service) => service.ports.iter().map(|p| p.port).collect(),
        None => seen.iter().flat_map(|(_, entry)| entry.ports.iter().map(|p| p.number)).collect(),
    };
    let port = to.port.unwrap_or(if let [only] = ports[..] { only } else { listens });
    let key = ClusterKey::new(port, &to.subset, &to.host, Purpose::Any);
    if service.is_none() && seen.is_empty() && !entries.is_empty() {
        let message =
            format!("the ServiceEntry of {} is not exported to {}: requests to it are answered with 503", to.host, object.key.namespace);
        report(part, object, &to.at, Diagnostic::warning("HostNotFound", message).help("see its exportTo"));
        return None;
    }
    let external = service.is_some_and(|s| s.external_name().is_some());
    if service.is_none() && seen.is_empty() {
        report(part, object, &to.at, unknown_host(cx, &to.host));
    } else if !ports.contains(&port) && !external {
        let list: Vec<String> = ports.iter().map(u16::to_string).collect();
        let message = format!("{} has no port {port}: requests to it are answered with 503", to.host);
        let found = match to.port {
            Some(_) => Diagnostic::warning("PortNotFound", message).help(format!("one of {}", list.join(", "))),
            None => Diagnostic::warning("PortRequired", message).help(format!("add port.number: one of {}", list.join(", "))),
        };
        report(part, object, &to.at, found);
    } else if !to.subset.is_empty() && !upstream::has_subset(cx, &key) {
        let message = format!("no DestinationRule for {} has a subset {}: requests to it are answered with 503", to.host, to.subset);
        let help = "add the subset to the DestinationRule of this host";
        report(part, object, &to.at, Diagnostic::warning("SubsetNotFound", message).help(help));
    } else if http && upstream::is_tunnel(cx, &key) {
        let message =
            format!("the tunnel that a DestinationRule has for {} is for routes of tcp and tls: requests go to the host itself", to.host);
        report(
            part,
            object,
            &to.at,
            Diagnostic::warning("UnusedField", message).help("route it by tcp or tls, or remove trafficPolicy.tunnel"),
        );
    } else if http {
        let speaks_tls = seen.iter().any(|(_, entry)| entry.ports.iter().any(|p| p.number == port && p.tls && p.originate.is_none()));
        if speaks_tls && upstream::settings(cx, &key).tls.is_none() {
            let message = format!("port {port} of {} speaks TLS, and no DestinationRule originates it: plain text is sent there", to.host);
            let help = "add a DestinationRule for the host with trafficPolicy.tls.mode: SIMPLE (or DISABLE, to be plain about it)";
            report(part, object, &to.at, Diagnostic::warning("PlainText", message).help(help));
        }
    }
    Some(key)
}

fn unknown_host(cx: &Cx<'_>, host: &str) -> Diagnostic {
    let message = format!("there is no Service or ServiceEntry {host}: requests to it are answered with 503");
    // `name.namespace` is what people write, and what Istio does not read either.
    let short = host.split_once('.').filter(|(name, namespace)| !namespace.contains('.') && cx.service(namespace, name).is_some());
    let help = match short {
        Some(_) => format!("write {host}.svc.cluster.local"),
        None => "add a Service with its EndpointSlice, or a ServiceEntry".into(),
    };
    Diagnostic::warning("HostNotFound", message).help(help)
}

fn report(part: &mut Part, object: &Object, at: &At, diagnostic: Diagnostic) {
    part.report(object, at.span, &*at.field, diagnostic);
}
