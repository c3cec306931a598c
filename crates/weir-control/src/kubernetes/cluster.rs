//! A cluster as a source of objects: a thread of its own follows the API server; what changed is kept by key, the newest version
//! only, until the control plane takes it.
use super::{
    client::{ConnectError, Connection},
    gateway_service::GatewayServices,
    state::{Shared, Wake, readiness::Readiness},
    stats::Sample,
    status::{Leader, Writer, WriterOptions, events},
    watch,
};
use crate::{
    Status,
    api::gateway_api::CONTROLLER,
    object::{Key, Object},
    source::files::Changes,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock, Weak},
    thread,
    time::Duration,
};
use tokio::{sync::oneshot, time::timeout};
use weir_config::diagnostic::Diagnostic;

/// How long the end of the process may wait for the API server.
const RESIGN: Duration = Duration::from_secs(1);

/// The way to the statistics, and to what the configuration waits for, from outside of the control plane; without a cluster there are none.
#[derive(Clone, Default)]
pub struct Stats(Arc<OnceLock<Weak<Shared>>>);

impl Stats {
    pub fn samples(&self) -> Vec<Sample> {
        self.0.get().and_then(Weak::upgrade).map(|shared| shared.samples()).unwrap_or_default()
    }

    /// What the first configuration waits for, and whether the cluster is followed.
    pub fn readiness(&self) -> Readiness {
        self.0.get().and_then(Weak::upgrade).map(|shared| shared.readiness()).unwrap_or_default()
    }
}

impl std::fmt::Debug for Stats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stats")
    }
}

/// The objects of a cluster, followed until this is dropped.
pub struct Cluster {
    shared: Arc<Shared>,
    server: String,
    /// Ends the thread when it is dropped.
    _stop: oneshot::Sender<()>,
}

impl Cluster {
    /// Starts to follow a cluster, and to write what `status` says into its objects. `wake` is called when there is something to take.
    pub fn follow(connection: Connection, status: Status, stats: &Stats, wake: Wake) -> Result<Cluster, ConnectError> {
        let target_ports = connection.target_ports();
        let Connection { runtime, client, server, access } = connection;
        let shared = Arc::new(Shared::new(server.clone(), CONTROLLER.into(), &access.namespaces, target_ports.as_ref(), wake));
        // Only one cluster is followed.
        let _ = stats.0.set(Arc::downgrade(&shared));
        let options = WriterOptions { lease: access.lease, addresses: access.addresses, service: access.service, gateway_services: false };
        let (leader, lease) = (Arc::new(Leader::default()), options.lease.clone());
        let events = events::run(client.clone(), shared.clone(), status.clone(), leader.clone(), access.event_ttl);
        let services = access.gateway_service.zip(options.service.clone()).zip(target_ports);
        let services = services.map(|((options, front), target_ports)| GatewayServices {
            client: client.clone(),
            shared: shared.clone(),
            status: status.clone(),
            leader: leader.clone(),
            options,
            front,
            target_ports,
            namespaces: access.namespaces,
            written: Default::default(),
        });
        let options = WriterOptions { gateway_services: services.is_some(), ..options };
        let writer = Writer::new(client.clone(), shared.clone(), status, leader.clone(), options);
        let (stop, stopped) = oneshot::channel::<()>();
        let followed = shared.clone();
        thread::Builder::new().name("weir-kubernetes".into()).spawn(move || {
            runtime.block_on(async {
                tokio::spawn(watch::probe(client.clone(), followed.clone()));
                tokio::spawn(watch::follow_definitions(client.clone(), followed.clone()));
                for id in followed.scopes() {
                    tokio::spawn(watch::follow(id, client.clone(), followed.clone()));
                }
                tokio::spawn(writer.run());
                tokio::spawn(events);
                if let Some(services) = services {
                    tokio::spawn(services.run());
                }
                let _ = stopped.await;
                // Where it fails, the others wait for the end of the Lease.
                let _ = timeout(RESIGN, leader.resign(client, &lease)).await;
            });
            runtime.shutdown_background();
        })?;
        Ok(Cluster { shared, server, _stop: stop })
    }

    /// The address of the API server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// What changed since the last time; `None` for as long as not every kind was read.
    pub fn take(&self) -> Option<Changes> {
        self.shared.take()
    }

    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.shared.get(key)
    }

    /// How many objects there are, by kind.
    pub fn count(&self, kinds: &mut BTreeMap<&'static str, usize>) {
        self.shared.count(kinds);
    }

    /// The findings about objects that changed since the last time.
    pub fn take_found(&self) -> Vec<(Key, Vec<Diagnostic>)> {
        self.shared.take_found()
    }

    /// Findings about the connection and kinds, and about the Services of Gateways.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        self.shared.diagnostics()
    }
}
