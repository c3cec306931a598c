//! Where the listeners of a Gateway are opened, and which tables have their routes.
use crate::{
    api::gateway_api::{
        gateway::Gateway,
        listener::{Listener, Protocol},
    },
    object::Key,
    translate::{Bind, Cx, http_table, https_table},
};
use weir_config::model::{Name, SocketProtocol};

impl Gateway {
    /// Where a listener of it listens: nowhere, if the Gateway asks for an address of a type that is not supported, or if the range for
    /// those that ask for none is used up.
    pub fn binds(&self, key: &Key, listener: &Listener, cx: &Cx<'_>) -> Vec<Bind> {
        let protocol = if listener.protocol == Protocol::Udp { SocketProtocol::Udp } else { SocketProtocol::Tcp };
        let bind = |address| Bind::at(address, listener.port, cx.options).with_protocol(protocol);
        match &self.addresses[..] {
            _ if self.unsupported_address.is_some() => Vec::new(),
            [] if cx.options.gateway_address_pool.is_none() => vec![bind(None)],
            [] => cx.gateway_address(key).map(|address| bind(Some(address))).into_iter().collect(),
            some => some.iter().map(|address| bind(Some(*address))).collect(),
        }
    }

    /// The table with the routes of a listener of this Gateway, which is `key`. Where certificates are asked for, clients who showed
    /// none elsewhere must not reach these routes over another connection: a gateway's such listeners have one of their own.
    pub fn table(&self, listener: &Listener, key: &Key, bind: Bind) -> Name {
        match (listener.protocol, self.validation(listener)) {
            (Protocol::Https, None) => https_table(bind, None),
            (Protocol::Https, Some(_)) => https_table(bind, Some(&format!("{}.{}", key.name, key.namespace))),
            _ => http_table(bind),
        }
    }
}
