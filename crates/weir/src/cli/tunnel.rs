//! `weir tunnel`.
use super::output::say;
use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use weir_edge::{
    admin,
    identity::serving::{KeyPairFiles, Serving},
    tunnel::server::{Options, Tunnel},
};

/// Connect kube-apiserver to kubelets that it cannot dial
///
/// It runs beside kube-apiserver, which asks it for connections by its EgressSelectorConfiguration (HTTPConnect). `weir edge
/// --tunnel-server` on each node connects to it and carries them.
#[derive(ClapArgs, Debug)]
#[command(after_help = "\
Examples:
  weir tunnel --uds-name /run/weir/tunnel.sock --cluster-cert tunnel.crt --cluster-key tunnel.key

The socket, and --server-port, answer GET /metrics and GET /healthz as well. SIGTERM and SIGINT (Ctrl-C) stop it.")]
pub struct Args {
    /// The Unix socket for kube-apiserver; only its owner can use it
    #[arg(long, value_name = "FILE")]
    uds_name: Option<PathBuf>,
    /// A port of 127.0.0.1 for kube-apiserver, without TLS: everyone on this machine can reach all nodes by it
    #[arg(long, value_name = "PORT")]
    server_port: Option<u16>,
    /// The address of the port for agents
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    agent_bind_address: IpAddr,
    /// The port for agents
    #[arg(long, value_name = "PORT", default_value_t = 8091)]
    agent_port: u16,
    /// The certificate authority of the cluster: agents show a certificate of their node that it signed
    #[arg(long, value_name = "FILE", default_value = "/etc/kubernetes/pki/ca.crt")]
    cluster_ca_cert: PathBuf,
    /// The certificate that agents see; read again when the file changes
    #[arg(long, value_name = "FILE")]
    cluster_cert: PathBuf,
    /// Its key
    #[arg(long, value_name = "FILE")]
    cluster_key: PathBuf,
    /// Connect directly to hosts that have no agent: nodes in the cloud, webhooks
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    direct: bool,
    /// Most agents at a time
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = super::edge::connections)]
    max_agents: usize,
    /// Most connections of kube-apiserver at a time
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = super::edge::connections)]
    max_connections: usize,
}

pub fn run(args: Args) -> Result<ExitCode> {
    if args.uds_name.is_none() && args.server_port.is_none() {
        bail!("kube-apiserver has no way in: give --uds-name, or --server-port");
    }
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(serve(args))
}

async fn serve(args: Args) -> Result<ExitCode> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let pair = KeyPairFiles { certificate: args.cluster_cert, key: args.cluster_key };
    let tls = Arc::new(Serving::new(vec![pair], args.cluster_ca_cert));
    tls.server()?;
    let options = Options { max_agents: args.max_agents, max_connections: args.max_connections, direct: args.direct };
    let tunnel = Tunnel::new(options, |text| say!("{text}"));
    let (agents, address) = bind(SocketAddr::new(args.agent_bind_address, args.agent_port)).await?;
    tokio::spawn(tunnel.clone().serve_agents(agents, tls));
    say!("agents connect to {address}");
    if let Some(file) = &args.uds_name {
        let socket = admin::bind(file).with_context(|| format!("cannot listen on {}", file.display()))?;
        tokio::spawn(tunnel.clone().serve_socket(socket));
        say!("kube-apiserver connects to {}", file.display());
    }
    if let Some(port) = args.server_port {
        let (listener, address) = bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)).await?;
        tokio::spawn(tunnel.serve_port(listener));
        say!("kube-apiserver connects to http://{address}");
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(ExitCode::SUCCESS)
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}
