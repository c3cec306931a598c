//! `weir edge convert` and `weir edge revert`.
use super::{SECURE_PORT, server};
use anyhow::{Result, bail};
use clap::Args;
use std::{
    env,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};
use url::Url;
use weir_edge::convert::{
    journal::{Journal, Phase, Replaced},
    layout::{Layout, below},
    plan::{Step, convert, undo},
    preflight::{Wanted, WantedKubeProxy, look, notes},
    run::{Machine, StepError, forget, step},
};

/// Where the hub keeps its certificates.
const CERT_DIR: &str = "/var/lib/weir/pki";
const SOCKET: &str = "/var/lib/weir/edge/admin.sock";

/// Move kubelet of this node to a hub, which becomes a systemd service
///
/// Files are added, and no file that is there is changed, except the one that --kube-proxy-kubeconfig names. kubelet is
/// restarted, and containers go on. If the hub does not become ready, or kubelet or kube-proxy does not connect through it,
/// everything is undone.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  weir edge convert --dry-run                  what would be done
  weir edge convert
  weir edge convert --layout k3s -- --disk-cache-quota 256
                                               with more flags for the hub")]
pub struct ConvertArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// How kubelet was installed [default: found out]
    #[arg(long, value_name = "kubeadm|k3s|rke2")]
    layout: Option<Layout>,
    /// The API servers [default: that of kubelet's kubeconfig]
    #[arg(long, value_name = "URL", value_parser = server, value_delimiter = ',')]
    server_addr: Vec<Url>,
    /// Move the kube-proxy that the agent of k3s or RKE2 runs, too
    #[arg(long)]
    kube_proxy: bool,
    /// Move a kube-proxy that systemd runs, too: its kubeconfig, which is replaced until the node is reverted
    #[arg(long, value_name = "FILE", conflicts_with = "kube_proxy")]
    kube_proxy_kubeconfig: Option<String>,
    /// The unit that runs that kube-proxy
    #[arg(long, value_name = "UNIT", default_value = "kube-proxy.service", requires = "kube_proxy_kubeconfig")]
    kube_proxy_service: String,
    /// The program that the service runs [default: this one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// More flags for the hub
    #[arg(last = true, value_name = "FLAG")]
    flags: Vec<String>,
}

/// Undo `weir edge convert`
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  weir edge revert --dry-run
  weir edge revert

What the hub has kept stays in /var/lib/weir.")]
pub struct RevertArgs {
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Args, Debug)]
struct PlaceArgs {
    /// The root of the node's file tree
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    root: PathBuf,
    /// Print the steps, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// How long to wait for the hub, and for kubelet
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = super::duration)]
    timeout: Duration,
}

pub fn run_convert(args: ConvertArgs) -> Result<ExitCode> {
    let place = &args.place;
    let mut unfinished = Vec::new();
    match Journal::read(&place.root)? {
        Some(Journal { phase: Phase::Converted, layout, .. }) => {
            println!("this node is converted already ({layout}); `weir edge revert` undoes it");
            return Ok(ExitCode::SUCCESS);
        }
        Some(journal) => {
            println!("a conversion was not brought to its end; it is undone first");
            unfinished = undo(&journal);
            run(&unfinished, place)?;
        }
        None => {}
    }
    if place.dry_run && !unfinished.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let program = match args.program {
        Some(program) => program,
        None => env::current_exe()?,
    };
    let kube_proxy = match args.kube_proxy_kubeconfig {
        Some(file) => WantedKubeProxy::Unit(Replaced { file, service: args.kube_proxy_service }),
        None if args.kube_proxy => WantedKubeProxy::Agent,
        None => WantedKubeProxy::Keep,
    };
    let wanted = Wanted {
        root: place.root.clone(),
        layout: args.layout,
        servers: args.server_addr.iter().map(|url| url.as_str().trim_end_matches('/').to_string()).collect(),
        program,
        hub: SocketAddr::from((Ipv4Addr::LOCALHOST, SECURE_PORT)),
        cert_dir: CERT_DIR.into(),
        arguments: args.flags,
        kube_proxy,
    };
    let node = match look(&wanted, SystemTime::now()) {
        Ok(node) => node,
        Err(findings) => {
            let findings: Vec<String> = findings.iter().map(|finding| format!("\n- {finding}")).collect();
            bail!("this node cannot be converted, and nothing was changed:{}", findings.concat())
        }
    };
    println!("node {}, installed by {}", node.name, node.layout);
    for note in notes(&node) {
        println!("note: {note}");
    }
    if let Err(error) = run(&convert(&node), place) {
        eprintln!("error: {error}");
        let Some(journal) = Journal::read(&place.root)? else { return Ok(ExitCode::FAILURE) };
        println!("everything is undone");
        run(&undo(&journal), place)?;
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

pub fn run_revert(args: &RevertArgs) -> Result<ExitCode> {
    let place = &args.place;
    match Journal::read(&place.root)? {
        Some(journal) => run(&undo(&journal), place)?,
        None => {
            println!("this node was not converted");
            if !place.dry_run {
                forget(&place.root)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Does the steps, or only prints them.
fn run(steps: &[Step], place: &PlaceArgs) -> Result<(), StepError> {
    let failed = |error| StepError::Io { step: "start".into(), error };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let socket = below(&place.root, SOCKET);
    let machine = Machine { socket: Path::new(&socket) };
    for one in steps {
        println!("- {one}");
        if place.dry_run {
            if let Step::Write { text, .. } = one {
                for line in text.lines() {
                    match line.split_once("token:") {
                        Some((indent, _)) if indent.trim().is_empty() => println!("    {indent}token: (not shown)"),
                        _ => println!("    {line}"),
                    }
                }
            }
            continue;
        }
        runtime.block_on(step(one, &place.root, &machine, place.timeout))?;
    }
    Ok(())
}
