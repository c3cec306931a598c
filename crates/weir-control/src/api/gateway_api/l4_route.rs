//! TLSRoute, TCPRoute and UDPRoute: bytes or datagrams to a weighted choice of backends, by the server name or by the port alone.
use super::http_route::{Backend, ParentRef, decode_backend, decode_parents};
use crate::api::checks::hostname;
use weir_config::{model::Name, reader::Object as Fields};

#[derive(Clone, Debug, PartialEq)]
pub struct L4Route {
    pub parents: Box<[ParentRef]>,
    /// Of a TLSRoute, in lower case; empty for any.
    pub hostnames: Box<[Name]>,
    pub backends: Box<[Backend]>,
}

pub fn decode_tls(root: &Fields<'_>) -> Option<L4Route> {
    decode(root, true)
}

pub fn decode_tcp(root: &Fields<'_>) -> Option<L4Route> {
    decode(root, false)
}

pub fn decode_udp(root: &Fields<'_>) -> Option<L4Route> {
    decode(root, false)
}

fn decode(root: &Fields<'_>, named: bool) -> Option<L4Route> {
    let spec = root.required("spec")?.object()?;
    spec.unsupported(&["useDefaultGateways"]);
    let parents = decode_parents(&spec);
    let hostnames = if named { spec.list("hostnames").iter().filter_map(hostname).collect() } else { Box::default() };
    let rules = spec.required("rules")?.list();
    for more in rules.iter().skip(1) {
        more.error("InvalidValue", "a connection has nothing that a second rule could be chosen by", "one rule, with all backendRefs");
    }
    let rule = rules.first()?.object()?;
    rule.ignore(&["name"]);
    let backends = rule.list("backendRefs").iter().filter_map(|f| decode_backend(f, &[])).collect();
    Some(L4Route { parents, hostnames, backends })
}
