//! Where the listeners of a Gateway are opened, and which tables have their routes.
use crate::{
    api::gateway_api::{
        gateway::Gateway,
        listener::{Listener, Protocol},
    },
    object::{Key, Object},
    translate::{Bind, Cx, http_table, https_table},
};
use weir_config::model::Name;

impl Gateway {
    /// Whether the Gateway, which is `object`, has a Service of its own.
    pub fn has_service(&self, object: &Object, cx: &Cx<'_>) -> bool {
        cx.options.target_ports.is_some() && object.document.file().is_none()
    }

    /// Where a listener of it listens: nowhere, if the Gateway asks for an address of a type that is not supported, if the range for
    /// those that ask for none is used up, or if there is no target port for the listener yet.
    pub fn binds(&self, object: &Object, listener: &Listener, cx: &Cx<'_>) -> Vec<Bind> {
        let protocol = listener.protocol.transport();
        let bind = |address| Bind::at(address, listener.port, cx.options).with_protocol(protocol);
        match &self.addresses[..] {
            _ if self.unsupported_address.is_some() => Vec::new(),
            _ if self.has_service(object, cx) => {
                let target = cx.target_port(&self.uid, listener.port, protocol);
                target.map(|target| Bind::target(target, listener.port).with_protocol(protocol)).into_iter().collect()
            }
            [] if cx.options.gateway_address_pool.is_none() => vec![bind(None)],
            [] => cx.gateway_address(&object.key).map(|address| bind(Some(address))).into_iter().collect(),
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
