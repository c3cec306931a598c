//! `weir gateway`.
use super::{
    install::namespace,
    paths::present,
    run::{Objects, Serve, duration},
};
use crate::run::Source;
use anyhow::Result;
use clap::{
    Args as ClapArgs,
    builder::{PossibleValuesParser, TypedValueParser},
};
use std::{
    ops::RangeInclusive,
    path::{self, PathBuf},
    process::ExitCode,
    time::Duration,
};
use weir_control::{
    Sources,
    kubernetes::{Access, Connection, ExternalTrafficPolicy, GatewayService, LeaseName, ServiceName, ServiceType},
};

/// Run a gateway on the objects of a Kubernetes cluster
///
/// Watches Gateway API, Istio, Ingress, WasmPlugin and the objects behind them, and serves them in this process. It is ready once
/// every kind was read. While the Kubernetes API cannot be reached, the last configuration keeps serving.
#[derive(ClapArgs, Debug)]
#[command(after_help = "\
Examples:
  weir gateway                                     in a Pod, or with the current context of ~/.kube/config
  weir gateway --kubeconfig admin.conf --context staging
  weir gateway --namespace shop --namespace pay    with permissions for two namespaces only
  weir gateway -f overrides/                       objects of files hide those of the cluster with the same name

SIGTERM and SIGINT (Ctrl-C) stop it without losing a request; a second one stops it at once.
SIGUSR1 and SIGHUP reopen log files.")]
pub struct Args {
    /// The kubeconfig file [default: $KUBECONFIG, ~/.kube/config, or the service account of the Pod]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context in the kubeconfig file [default: its current-context]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Read objects of this namespace only; may be repeated [default: all namespaces]
    #[arg(short, long, value_name = "NAME", value_parser = namespace)]
    namespace: Vec<String>,
    /// Files and folders of YAML or JSON beside the cluster; their objects come first; may be repeated
    #[arg(short, long, value_name = "PATH", num_args = 1..)]
    file: Vec<PathBuf>,
    /// The address, or host name, that the status of Gateways and Ingress objects says; may be repeated [default: spec.addresses of the
    /// Gateway, --bind, or the address of this machine towards the Kubernetes API]
    #[arg(long, value_name = "ADDR")]
    publish_status_address: Vec<String>,
    /// The Service in front of the gateways: the status of Gateways and Ingress objects says its addresses
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = service, conflicts_with = "publish_status_address")]
    publish_service: Option<ServiceName>,
    /// Create a Service of this type for each Gateway, with the labels and annotations of its spec.infrastructure. Its endpoints are
    /// those of --publish-service. The Gateway has the addresses of its Service [default: Gateways share --publish-service]
    #[arg(long, value_name = "TYPE", value_parser = service_type(), requires = "publish_service", conflicts_with = "gateway_address_pool")]
    gateway_service_type: Option<ServiceType>,
    /// externalTrafficPolicy of these Services; Local keeps the address of the client
    #[arg(long, value_name = "POLICY", default_value = "Cluster", value_parser = traffic_policy(), requires = "gateway_service_type")]
    gateway_service_external_traffic_policy: ExternalTrafficPolicy,
    /// loadBalancerClass of these Services
    #[arg(long, value_name = "CLASS", requires = "gateway_service_type")]
    gateway_service_load_balancer_class: Option<String>,
    /// Ports of this process that the ports of these Services lead to, one for each port of a Gateway
    #[arg(long, value_name = "FIRST-LAST", default_value = "20000-29999", value_parser = port_range, requires = "gateway_service_type")]
    gateway_service_target_ports: RangeInclusive<u16>,
    /// Let objects of the cluster name files below this folder: the certificates of Istio objects, the code of a WasmPlugin, and the access log. A
    /// relative path starts here [default: they may name none]
    #[arg(long, value_name = "FOLDER", value_parser = folder)]
    allow_file_references: Option<PathBuf>,
    /// The Lease by which one of several gateways is chosen to write the status of objects; all of them serve
    #[arg(long, value_name = "NAME", default_value = "weir-gateway")]
    leader_election_id: String,
    /// The namespace of that Lease [default: that of the Pod, or of the context]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    leader_election_namespace: String,
    /// How long the API server keeps events (its flag of this name). Those that are still true are renewed after half of it
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = event_ttl)]
    event_ttl: Duration,
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    serve: Serve,
}

pub fn run(args: Args) -> Result<ExitCode> {
    present(&args.file)?;
    let mut addresses = args.publish_status_address;
    addresses.extend(args.objects.bound().filter(|_| addresses.is_empty() && args.publish_service.is_none()).map(|ip| ip.to_string()));
    let gateway_service = args.gateway_service_type.map(|kind| GatewayService {
        kind,
        external_traffic_policy: args.gateway_service_external_traffic_policy,
        load_balancer_class: args.gateway_service_load_balancer_class,
        target_ports: args.gateway_service_target_ports,
    });
    let access = Access {
        kubeconfig: args.kubeconfig,
        context: args.context,
        namespaces: args.namespace,
        addresses,
        service: args.publish_service,
        gateway_service,
        lease: LeaseName { namespace: args.leader_election_namespace, name: args.leader_election_id },
        event_ttl: args.event_ttl,
    };
    let connection = Connection::open(&access)?;
    let target_ports = connection.target_ports();
    let options = args.objects.options(Some(connection.namespace()));
    let options = weir_control::Options { needs_class: true, target_ports, file_references: args.allow_file_references, ..options };
    let cluster = Some(Box::new(connection));
    args.serve.run(Source::Objects(Sources { paths: args.file, cluster }), options)
}

fn event_ttl(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|ttl| if ttl < Duration::from_secs(1) { Err("write at least 1s".into()) } else { Ok(ttl) })
}

fn service_type() -> impl TypedValueParser<Value = ServiceType> {
    const ALL: [ServiceType; 3] = [ServiceType::LoadBalancer, ServiceType::NodePort, ServiceType::ClusterIp];
    let of = |name: String| ALL.into_iter().find(|kind| kind.name() == name).unwrap_or_default();
    PossibleValuesParser::new(ALL.map(ServiceType::name)).map(of)
}

fn traffic_policy() -> impl TypedValueParser<Value = ExternalTrafficPolicy> {
    const ALL: [ExternalTrafficPolicy; 2] = [ExternalTrafficPolicy::Cluster, ExternalTrafficPolicy::Local];
    let of = |name: String| ALL.into_iter().find(|policy| policy.name() == name).unwrap_or_default();
    PossibleValuesParser::new(ALL.map(ExternalTrafficPolicy::name)).map(of)
}

fn folder(text: &str) -> Result<PathBuf, String> {
    match path::absolute(text) {
        Ok(folder) if folder.is_dir() => Ok(folder),
        Ok(_) => Err("there is no such folder".into()),
        Err(e) => Err(e.to_string()),
    }
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let parse = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let range = text.split_once('-').and_then(|(first, last)| Some(parse(first)?..=parse(last)?));
    range.filter(|range| !range.is_empty()).ok_or_else(|| "write the first and the last port, as 20000-29999".into())
}

fn service(text: &str) -> Result<ServiceName, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(ServiceName { namespace: namespace.into(), name: name.into() })
        }
        _ => Err("write it as NAMESPACE/NAME, as weir-system/weir".into()),
    }
}
