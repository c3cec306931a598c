//! The ConfigMap that holds the target port of each port of a Gateway's Service. All replicas listen by it; the leader writes it.
use crate::object::meta::Meta;
use std::collections::{BTreeMap, HashSet};
use weir_config::{model::SocketProtocol, reader::Object};

/// The label that the ConfigMap has.
pub const LABEL: &str = "weir.dev/target-ports";

/// Target ports, by the port and protocol of the listener.
pub type PortsOfGateway = BTreeMap<(u16, SocketProtocol), u16>;

/// The target ports of Gateways, by their uid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetPorts(BTreeMap<Box<str>, PortsOfGateway>);

impl TargetPorts {
    pub fn of(&self, uid: &str, port: u16, protocol: SocketProtocol) -> Option<u16> {
        self.of_gateway(uid)?.get(&(port, protocol)).copied()
    }
    pub fn of_gateway(&self, uid: &str) -> Option<&PortsOfGateway> {
        self.0.get(uid)
    }
    pub fn iter(&self) -> impl Iterator<Item = (&str, &PortsOfGateway)> {
        self.0.iter().map(|(uid, ports)| (&**uid, ports))
    }
    pub fn set(&mut self, uid: &str, ports: PortsOfGateway) {
        self.0.insert(uid.into(), ports);
    }
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|uid, _| keep(uid));
    }

    /// Reads `data`. An entry that is not understood, or takes a port of another one, is left out: the leader chooses ports for it.
    pub fn parse<'a>(data: impl IntoIterator<Item = (&'a str, &'a str)>) -> TargetPorts {
        let (mut all, mut taken) = (BTreeMap::new(), HashSet::new());
        for (uid, text) in data {
            let ports: Option<PortsOfGateway> = text.split_whitespace().skip(1).map(parse_port).collect();
            if let Some(ports) = ports.filter(|ports| ports.values().all(|target| taken.insert(*target))) {
                all.insert(uid.into(), ports);
            }
        }
        TargetPorts(all)
    }
}

/// The value for a Gateway: `shop/web 80/TCP=20001 443/TCP=20002`. Its name is there for people.
pub fn value(gateway: &str, ports: &PortsOfGateway) -> String {
    ports.iter().fold(gateway.to_string(), |text, ((port, protocol), target)| text + &format!(" {port}/{}={target}", word(*protocol)))
}

/// As Services spell it.
pub fn word(protocol: SocketProtocol) -> &'static str {
    if protocol.is_tcp() { "TCP" } else { "UDP" }
}

fn parse_port(text: &str) -> Option<((u16, SocketProtocol), u16)> {
    let (port, target) = text.split_once('=')?;
    let (port, protocol) = port.split_once('/')?;
    let protocol = [SocketProtocol::Tcp, SocketProtocol::Udp].into_iter().find(|p| word(*p) == protocol)?;
    Some(((port.parse().ok()?, protocol), target.parse().ok()?))
}

pub fn decode(root: &Object<'_>, meta: &Meta) -> Option<TargetPorts> {
    meta.label(LABEL)?;
    let entries = root.entries("data");
    Some(TargetPorts::parse(entries.iter().filter_map(|(uid, field)| Some((*uid, field.str()?)))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use SocketProtocol::{Tcp, Udp};

    #[test]
    fn what_is_written_is_read() {
        let ports = PortsOfGateway::from([((80, Tcp), 20001), ((53, Udp), 20007)]);
        let text = value("shop/web", &ports);
        assert_eq!(text, "shop/web 53/UDP=20007 80/TCP=20001");
        let read = TargetPorts::parse([("a", &*text), ("b", "x/y 80/TCP=20001"), ("c", "x/z 80/SCTP=20009"), ("d", "x/w 81/TCP=20010")]);
        assert_eq!(read.of("a", 53, Udp), Some(20007));
        assert_eq!((read.of("a", 53, Tcp), read.of_gateway("b"), read.of_gateway("c")), (None, None, None));
        assert_eq!(read.of("d", 81, Tcp), Some(20010));
    }
}
