//! Where the routes of VirtualServices stand: the servers of Gateways, what they do with connections, and which hosts they take.
use crate::{
    Options,
    api::{
        istio::{
            Gateway, VirtualService,
            gateway::{Mode, Protocol, Server},
            read::intersection,
            virtual_service::{Scope, Source},
        },
        labels::selects,
    },
    object::Object,
    translate::{Bind, http_table, https_table},
};
use std::time::Duration;
use weir_config::model::{ClientCertificate, Name};

/// Envoy's default.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Where routes stand: a port of a gateway.
pub struct Place<'a> {
    pub gateway: &'a Object,
    pub bind: Bind,
}

impl Place<'_> {
    /// As matches name the gateway.
    pub fn name(&self) -> String {
        format!("{}/{}", self.gateway.key.namespace, self.gateway.key.name)
    }
}

/// What a server does with its connections.
#[derive(Clone, Debug, PartialEq)]
pub enum Serves {
    /// HTTP by the routes of a table.
    Routes(Name),
    /// Sends every request of a table to HTTPS.
    Redirect(Name),
    /// TLS by its server name.
    Passthrough,
    /// TLS by a server name that says the cluster.
    AutoPassthrough,
    /// TLS that ends here, with bytes behind it.
    Terminate,
    Bytes,
}

impl Gateway {
    /// Whether it is to be opened here: any is, where nothing was said about this workload's own labels.
    pub fn is_here(&self, options: &Options) -> bool {
        options.labels.is_empty() || selects(&self.selector, &options.labels)
    }
}

impl Server {
    pub fn bind(&self, options: &Options) -> Bind {
        Bind::at(self.address, self.port, options)
    }
    /// `None` where it cannot be opened.
    pub fn serves(&self, gateway: &Object, options: &Options) -> Option<Serves> {
        let bind = self.bind(options);
        let mode = self.tls.as_ref().map(|t| t.mode);
        Some(match (self.protocol, mode) {
            (Protocol::Http, _) if self.tls.as_ref().is_some_and(|t| t.https_redirect) => Serves::Redirect(http_table(bind)),
            (Protocol::Http, _) => Serves::Routes(http_table(bind)),
            (Protocol::Https, Some(Mode::Terminate(ClientCertificate::None))) => Serves::Routes(https_table(bind, None)),
            (Protocol::Https, Some(Mode::Terminate(_))) => {
                // Clients who showed no certificate elsewhere must not reach these routes over another connection.
                let first = self.hosts.first().map_or("*", |h| &*h.host);
                let own = format!("{}.{}.{first}", gateway.key.name, gateway.key.namespace);
                Serves::Routes(https_table(bind, Some(&own)))
            }
            (Protocol::Https | Protocol::Tls, Some(Mode::Passthrough)) => Serves::Passthrough,
            (Protocol::Https | Protocol::Tls, Some(Mode::AutoPassthrough)) => Serves::AutoPassthrough,
            (Protocol::Tcp, _) => Serves::Bytes,
            (Protocol::Tls, Some(Mode::Terminate(_))) => Serves::Terminate,
            (Protocol::Https | Protocol::Tls, None) => return None,
        })
    }

    /// The hosts that a VirtualService has here, the narrower of each pair.
    pub fn hosts_of(&self, gateway: &Object, object: &Object, service: &VirtualService) -> Vec<Name> {
        if !service.export_to.sees(&object.key.namespace, &gateway.key.namespace) {
            return Vec::new();
        }
        let mut found: Vec<Name> = Vec::new();
        let mine = self.hosts.iter().filter(|h| h.namespace.as_ref().is_none_or(|n| **n == *object.key.namespace));
        for host in mine.flat_map(|h| service.hosts.iter().filter_map(|own| intersection(&h.host, own))) {
            if !found.iter().any(|f| **f == *host) {
                found.push(host.into());
            }
        }
        found
    }

    /// Names for the choice of a filter chain; empty for any.
    pub fn server_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.hosts.iter().map(|h| h.host.to_string()).collect();
        names.dedup();
        if names.iter().any(|n| n == "*") { Vec::new() } else { names }
    }
}

impl Scope {
    pub fn holds(&self, options: &Options, place: &Place<'_>) -> bool {
        let source = |source: &Source| {
            selects(&source.labels, &options.labels) && source.namespace.as_ref().is_none_or(|n| **n == *place.gateway.key.namespace)
        };
        self.port.is_none_or(|p| p == place.bind.port)
            && match &self.gateways[..] {
                [] => self.source.as_ref().is_none_or(source),
                some => some.iter().any(|g| **g == *place.name()),
            }
    }
}
