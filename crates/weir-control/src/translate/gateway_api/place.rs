//! Where the listeners of a Gateway are opened, and which tables have their routes.
use crate::{
    api::gateway_api::gateway::{Gateway, Listener, Protocol},
    translate::{Bind, http_table, https_table},
};
use weir_config::model::Name;

impl Gateway {
    /// Where a port of it is listened on.
    pub fn binds(&self, port: u16) -> Vec<Bind> {
        match &self.addresses[..] {
            [] => vec![Bind::port(port)],
            some => some.iter().map(|address| Bind { port, address: Some(*address) }).collect(),
        }
    }
}

impl Listener {
    /// The table with its routes. Where certificates are asked for, clients who showed none elsewhere must not reach these
    /// routes over another connection: a gateway's such listeners have one of their own.
    pub fn table(&self, (namespace, gateway): (&str, &str), bind: Bind) -> Name {
        match (self.protocol, &self.validation) {
            (Protocol::Https, None) => https_table(bind, None),
            (Protocol::Https, Some(_)) => https_table(bind, Some(&format!("{gateway}.{namespace}"))),
            _ => http_table(bind),
        }
    }
}
