//! How to reach the API server: a kubeconfig file, or the service account of a Pod.
use crate::object::{Key, Kind};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::runtime::{Builder, Runtime};

/// A connection from which nothing comes for so long is broken.
const READ_TIMEOUT: Duration = Duration::from_secs(100);
/// How long the server keeps a watch open. Before that nothing may come: a server sends bookmarks of a kind only once it has seen an
/// event of it, or etcd tells it of its progress.
pub const WATCH_SECONDS: u32 = 80;
const _: () = assert!((WATCH_SECONDS as u64) < READ_TIMEOUT.as_secs());
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Which cluster, and what of it.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// `None` for what `$KUBECONFIG`, `~/.kube/config` or the Pod's service account say, in this order.
    pub kubeconfig: Option<PathBuf>,
    /// `None` for the file's `current-context`.
    pub context: Option<String>,
    /// Empty for all of them.
    pub namespaces: Vec<String>,
    /// What the status says of Gateways without addresses of their own, and of Ingress objects; empty for the address of this machine
    /// towards the API server.
    pub addresses: Vec<String>,
    /// The Service in front of the gateways, whose addresses are said instead.
    pub service: Option<ServiceName>,
    /// Each Gateway gets a Service of its own, whose endpoints are those of `service`.
    pub gateway_service: Option<GatewayService>,
    /// The Lease by which one of several gateways writes statuses. Its namespace may be empty, for that of the Pod or the context.
    pub lease: LeaseName,
    /// How long the API server keeps events.
    pub event_ttl: Duration,
}

/// Where a Service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceName {
    pub namespace: String,
    pub name: String,
}

/// What the Services of Gateways are like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayService {
    pub kind: ServiceType,
    pub external_traffic_policy: ExternalTrafficPolicy,
    pub load_balancer_class: Option<String>,
    /// Each port of a Gateway has one of these, at which the pods listen.
    pub target_ports: RangeInclusive<u16>,
}

/// `spec.type` of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    #[default]
    LoadBalancer,
    NodePort,
    ClusterIp,
}

/// `spec.externalTrafficPolicy` of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExternalTrafficPolicy {
    #[default]
    Cluster,
    Local,
}

impl ServiceType {
    pub fn name(self) -> &'static str {
        match self {
            ServiceType::LoadBalancer => "LoadBalancer",
            ServiceType::NodePort => "NodePort",
            ServiceType::ClusterIp => "ClusterIP",
        }
    }
    /// Whether clients outside of the cluster reach it.
    pub fn is_external(self) -> bool {
        self != ServiceType::ClusterIp
    }
    pub fn is_load_balancer(self) -> bool {
        self == ServiceType::LoadBalancer
    }
}

impl ExternalTrafficPolicy {
    pub fn name(self) -> &'static str {
        match self {
            ExternalTrafficPolicy::Cluster => "Cluster",
            ExternalTrafficPolicy::Local => "Local",
        }
    }
}

impl Default for GatewayService {
    fn default() -> GatewayService {
        GatewayService {
            kind: ServiceType::default(),
            external_traffic_policy: ExternalTrafficPolicy::default(),
            load_balancer_class: None,
            // Below those that connections to upstreams have, and those of Services of the type NodePort.
            target_ports: 20000..=29999,
        }
    }
}

/// Where the Lease is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseName {
    pub namespace: String,
    pub name: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("no Kubernetes cluster is configured: give --kubeconfig FILE, set KUBECONFIG, or run in a Pod with a service account")]
    NotConfigured,
    #[error("cannot read the kubeconfig {file}: {error}")]
    Unreadable { file: String, error: io::Error },
    #[error("{file} is not a kubeconfig: {error}")]
    NotAKubeconfig { file: String, error: String },
    #[error("{file} has no contexts: it must have contexts, clusters and users, as kubectl config view shows them")]
    NoContexts { file: String },
    #[error("{file} has no current-context: give --context, one of {}", contexts.join(", "))]
    NoContext { file: String, contexts: Vec<String> },
    #[error("{file} has no context {context}: there are {}", contexts.join(", "))]
    UnknownContext { file: String, context: String, contexts: Vec<String> },
    #[error("{file}, context {context}: {field}: {error}")]
    Field { file: String, context: String, field: &'static str, error: String },
    #[error("the service account of this Pod cannot be used: {0}")]
    ServiceAccount(String),
    #[error("cannot connect to the Kubernetes API at {server}: {error}")]
    Client { server: String, error: String },
    #[error("cannot start the thread that watches the Kubernetes API: {0}")]
    Thread(#[from] io::Error),
}

/// A client, with the runtime that it lives in. Nothing has been asked of the server yet.
pub struct Connection {
    pub(super) runtime: Runtime,
    pub(super) client: Client,
    pub(super) server: String,
    pub(super) access: Access,
}

impl Connection {
    /// The ConfigMap with the target ports of Gateways, where each has a Service of its own.
    pub fn target_ports(&self) -> Option<Key> {
        let Access { gateway_service, lease, .. } = &self.access;
        gateway_service.as_ref().map(|_| Key::new(Kind::ConfigMap, &lease.namespace, &format!("{}-target-ports", lease.name)))
    }

    /// That of the Pod, or of the context.
    pub fn namespace(&self) -> &str {
        self.client.default_namespace()
    }

    pub fn open(access: &Access) -> Result<Connection, ConnectError> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let mut config = runtime.block_on(config(access))?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(READ_TIMEOUT);
        // The watches have their own way to try again, and say why they do.
        config.default_retry = false;
        let mut access = access.clone();
        if access.lease.namespace.is_empty() {
            access.lease.namespace.clone_from(&config.default_namespace);
        }
        if access.addresses.is_empty() && access.service.is_none() {
            access.addresses.extend(own_address(&config).map(|ip| ip.to_string()));
        }
        let server = config.cluster_url.to_string().trim_end_matches('/').to_string();
        let client = {
            let _within = runtime.enter();
            Client::try_from(config).map_err(|e| ConnectError::Client { server: server.clone(), error: chain(&e) })?
        };
        Ok(Connection { runtime, client, server, access })
    }
}

async fn config(access: &Access) -> Result<Config, ConnectError> {
    let (file, kubeconfig) = match &access.kubeconfig {
        Some(path) => (path.display().to_string(), read(path)?),
        None => match Kubeconfig::from_env() {
            Ok(Some(found)) => ("KUBECONFIG".to_string(), found),
            Err(e) => return Err(unreadable("KUBECONFIG", e)),
            Ok(None) => match home().filter(|path| path.exists()) {
                Some(path) => (path.display().to_string(), read(&path)?),
                None if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() => {
                    return Config::incluster().map_err(|e| ConnectError::ServiceAccount(chain(&e)));
                }
                None => return Err(ConnectError::NotConfigured),
            },
        },
    };
    let contexts: Vec<String> = kubeconfig.contexts.iter().map(|c| c.name.clone()).collect();
    let context = match access.context.clone().or_else(|| kubeconfig.current_context.clone()).filter(|c| !c.is_empty()) {
        Some(context) if contexts.contains(&context) => context,
        _ if contexts.is_empty() => return Err(ConnectError::NoContexts { file }),
        Some(context) => return Err(ConnectError::UnknownContext { file, context, contexts }),
        None => return Err(ConnectError::NoContext { file, contexts }),
    };
    let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
    let loaded = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    loaded.map_err(|e| ConnectError::Field { file, context, field: field(&e), error: chain(&e) })
}

fn read(path: &Path) -> Result<Kubeconfig, ConnectError> {
    Kubeconfig::read_from(path).map_err(|e| unreadable(&path.display().to_string(), e))
}

fn unreadable(file: &str, e: KubeconfigError) -> ConnectError {
    match e {
        KubeconfigError::ReadConfig(error, path) => ConnectError::Unreadable { file: path.display().to_string(), error },
        e => ConnectError::NotAKubeconfig { file: file.to_string(), error: chain(&e) },
    }
}

/// Which field of a kubeconfig an error is about.
fn field(e: &KubeconfigError) -> &'static str {
    match e {
        KubeconfigError::LoadClusterOfContext(_) => "context.cluster",
        KubeconfigError::MissingClusterUrl | KubeconfigError::ParseClusterUrl(_) => "cluster.server",
        KubeconfigError::ParseProxyUrl(_) => "cluster.proxy-url",
        KubeconfigError::LoadCertificateAuthority(_) | KubeconfigError::ParseCertificates(_) => "cluster.certificate-authority",
        KubeconfigError::LoadClientCertificate(_) => "user.client-certificate",
        KubeconfigError::LoadClientKey(_) => "user.client-key",
        _ => "context",
    }
}

fn home() -> Option<PathBuf> {
    Some(Path::new(&std::env::var_os("HOME")?).join(".kube/config"))
}

/// The address that this machine has towards a server. No packet is sent.
fn own_address(config: &Config) -> Option<IpAddr> {
    let host = config.cluster_url.host()?.trim_start_matches('[').trim_end_matches(']');
    let port = config.cluster_url.port_u16().unwrap_or(443);
    let to = (host, port).to_socket_addrs().ok()?.next()?;
    let from: SocketAddr = if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(from).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// An error of a request: the server's words, where it answered.
pub(super) fn text(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => chain(error),
    }
}

/// An error with its causes, each of which is said once.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text += &format!(": {cause}");
        }
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn errors_name_the_file_the_context_and_the_field() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        let contexts = "contexts: [{ name: a, context: { cluster: x } }, { name: b, context: { cluster: y } }]\n";
        let clusters = "clusters: [{ name: x, cluster: { server: 'https://127.0.0.1:1', certificate-authority: /nowhere/ca.crt } }]\n";
        let text = |rest: &str| format!("apiVersion: v1\nkind: Config\n{contexts}{clusters}{rest}");
        for (text, context, words) in [
            ("contexts: [".to_string(), None, &["config is not a kubeconfig"][..]),
            ("apiVersion: v1".to_string(), Some("a"), &["config has no contexts"]),
            (text(""), None, &["has no current-context", "--context, one of a, b"]),
            (text("current-context: c\n"), None, &["has no context c", "there are a, b"]),
            (text("current-context: a\n"), Some("d"), &["has no context d"]),
            (text(""), Some("b"), &["config, context b: context.cluster:", "y"]),
            (text(""), Some("a"), &["config, context a: cluster.certificate-authority:", "/nowhere/ca.crt", "No such file"]),
        ] {
            std::fs::write(&file, &text).unwrap();
            let access = Access { kubeconfig: Some(file.clone()), context: context.map(Into::into), ..Access::default() };
            let error = Connection::open(&access).err().map(|e| e.to_string()).unwrap_or_default();
            for word in words {
                assert!(error.contains(word), "{text}\n{error}");
            }
        }
        let access = Access { kubeconfig: Some(dir.path().join("none")), ..Access::default() };
        let error = Connection::open(&access).err().unwrap().to_string();
        assert!(error.starts_with("cannot read the kubeconfig") && error.contains("none: No such file"), "{error}");
    }
}
