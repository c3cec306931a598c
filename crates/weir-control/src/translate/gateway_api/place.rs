//! Where the listeners of a Gateway are opened, and which tables have their routes.
use crate::{
    Options,
    api::gateway_api::gateway::{Gateway, Listener, Protocol},
    translate::{Bind, http_table, https_table},
};
use weir_config::model::Name;

impl Gateway {
    /// Where a port of it is listened on: nowhere, if it asks for an address of a type that is not supported.
    pub fn binds(&self, port: u16, options: &Options) -> Vec<Bind> {
        match &self.addresses[..] {
            _ if self.unsupported_address.is_some() => Vec::new(),
            [] => vec![Bind::port(port)],
            some => some.iter().map(|address| Bind::at(Some(*address), port, options)).collect(),
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
