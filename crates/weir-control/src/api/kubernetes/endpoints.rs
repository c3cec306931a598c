//! Endpoints and Pods (v1): where the endpoints of a Service are that has no EndpointSlice, and what labels they have.
use super::{PodRef, SlicePort, TRANSPORTS, pod_ref};
use crate::object::meta::Meta;
use std::net::IpAddr;
use weir_config::{
    model::Name,
    reader::{Field, Object},
};

/// Of the Service of the same name.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoints {
    pub subsets: Vec<Subset>,
}

/// Addresses that all have the same ports.
#[derive(Clone, Debug, PartialEq)]
pub struct Subset {
    pub addresses: Vec<EndpointAddress>,
    pub ports: Vec<SlicePort>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct EndpointAddress {
    pub ip: IpAddr,
    pub pod: Option<PodRef>,
}

pub fn decode_endpoints(root: &Object<'_>) -> Option<Endpoints> {
    let subsets = root.list("subsets").iter().filter_map(subset).collect();
    Some(Endpoints { subsets })
}

fn subset(field: &Field<'_>) -> Option<Subset> {
    let subset = field.object()?;
    subset.ignore(&["notReadyAddresses"]);
    let ports = subset.list("ports").iter().filter_map(subset_port).collect();
    let addresses = subset.list("addresses").iter().filter_map(address).collect();
    Some(Subset { addresses, ports })
}

/// `None` for a port of another transport than TCP and UDP.
fn subset_port(field: &Field<'_>) -> Option<SlicePort> {
    let port = field.object()?;
    port.ignore(&["appProtocol"]);
    let spoken = port.choice("protocol", TRANSPORTS).is_none_or(|protocol| protocol.is_some());
    let name = port.str("name").unwrap_or_default().into();
    let number = port.required("port")?.port()?;
    spoken.then_some(SlicePort { name, port: number })
}

fn address(field: &Field<'_>) -> Option<EndpointAddress> {
    let address = field.object()?;
    address.ignore(&["hostname", "nodeName"]);
    let pod = pod_ref(&address);
    Some(EndpointAddress { ip: ip(&address.required("ip")?)?, pod })
}

fn ip(field: &Field<'_>) -> Option<IpAddr> {
    let text = field.str()?;
    let ip = text.parse().ok();
    if ip.is_none() {
        field.invalid(format!("\"{text}\" is not an IP address"), "an IP address, as 10.0.0.1");
    }
    ip
}

/// A Pod as it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// `None` for one that takes no requests: not scheduled, not ready, or at its end.
    pub ip: Option<IpAddr>,
    /// Of its containers, by name.
    pub ports: Vec<(Box<str>, u16)>,
}

/// Reads what concerns its endpoints; most of a Pod is no business of a gateway.
pub fn decode_pod(root: &Object<'_>) -> Option<Pod> {
    let mut ports = Vec::new();
    if let Some(spec) = root.object("spec") {
        spec.ignore_rest();
        // As Kubernetes, also those of containers that start before the others and go on beside them.
        for container in spec.list("containers").iter().chain(&spec.list("initContainers")).filter_map(Field::object) {
            container.ignore_rest();
            for port in container.list("ports").iter().filter_map(Field::object) {
                port.ignore_rest();
                ports.extend(port.str("name").map(Box::from).zip(port.port("containerPort")));
            }
        }
    }
    let ip = root.object("status").and_then(|status| serving_ip(&status));
    Some(Pod { ip, ports })
}

fn serving_ip(status: &Object<'_>) -> Option<IpAddr> {
    status.ignore_rest();
    let ready = |condition: &Field<'_>| {
        let condition = condition.object()?;
        condition.ignore_rest();
        (condition.str("type")? == "Ready").then(|| condition.str("status") == Some("True"))
    };
    let conditions = status.list("conditions");
    let ready = conditions.iter().find_map(ready).unwrap_or(true);
    let ended = matches!(status.str("phase"), Some("Succeeded" | "Failed"));
    let ip = ip(&status.get("podIP")?)?;
    (ready && !ended).then_some(ip)
}

/// A Pod is found by each of its labels, as `namespace/label=value`.
pub fn index_keys(meta: &Meta) -> Vec<Name> {
    meta.labels.iter().map(|(label, value)| key(&meta.key.namespace, label, value)).collect()
}

pub fn key(namespace: &str, label: &str, value: &str) -> Name {
    format!("{namespace}/{label}={value}").into()
}
