//! `weir install`.
use anyhow::{Result, bail};
use clap::Args as ClapArgs;
use std::{path::PathBuf, process::ExitCode};
use weir_control::kubernetes::{Access, Connection};

/// The chart `deploy/helm/weir` with its default values.
const MANIFESTS: &str = include_str!("../../../../deploy/manifests/weir.yaml");
/// What the manifests say where nothing else is asked for.
const NAMESPACE: &str = "weir-system";
const IMAGE: &str = "image: weir:";

/// Install `weir gateway` in a Kubernetes cluster
///
/// Creates or updates a Deployment, its Service, its permissions, a GatewayClass and an IngressClass, by server-side apply. The Helm chart
/// in deploy/helm/weir creates the same objects and has more settings.
#[derive(ClapArgs, Debug)]
#[command(after_help = "\
Examples:
  weir install --image registry.example.com/weir:0.1.0
  weir install --image registry.example.com/weir:0.1.0 --dry-run | kubectl apply --server-side -f -
  weir install --dry-run --namespace gateways > weir.yaml")]
pub struct Args {
    /// Print the manifests in place of applying them
    #[arg(long)]
    dry_run: bool,
    /// The image, with its registry and tag
    #[arg(long, value_name = "IMAGE", required_unless_present = "dry_run", value_parser = image)]
    image: Option<String>,
    /// The namespace; it is created
    #[arg(short, long, value_name = "NAME", default_value = NAMESPACE, value_parser = namespace)]
    namespace: String,
    /// The kubeconfig file [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    kubeconfig: Option<PathBuf>,
    /// The context in the kubeconfig file [default: its current-context]
    #[arg(long, value_name = "NAME", conflicts_with = "dry_run")]
    context: Option<String>,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let manifests = manifests(&args.namespace, args.image.as_deref());
    if args.dry_run {
        print!("{manifests}");
        return Ok(ExitCode::SUCCESS);
    }
    let access = Access { kubeconfig: args.kubeconfig, context: args.context, ..Access::default() };
    let applied = Connection::open(&access)?.apply("weir.yaml", &manifests, |object| println!("{object} applied"));
    if let Err(e) = applied {
        bail!("{e}; what was applied before stays, and the command can be repeated");
    }
    println!("wait until it serves: kubectl --namespace {} rollout status deployment/weir", args.namespace);
    Ok(ExitCode::SUCCESS)
}

fn manifests(namespace: &str, image: Option<&str>) -> String {
    let line = |line: &str| match image {
        Some(image) if line.trim_start().starts_with(IMAGE) => line.replace(line.trim_start(), &format!("image: {image}")),
        _ => line.replace(NAMESPACE, namespace),
    };
    MANIFESTS.lines().map(|l| line(l) + "\n").collect()
}

/// As a container runtime takes it: `REGISTRY/NAME:TAG` or `REGISTRY/NAME@DIGEST`.
fn image(text: &str) -> Result<String, String> {
    let of_name = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    match text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(of_name) {
        true => Ok(text.into()),
        false => Err("write it as REGISTRY/NAME:TAG, as registry.example.com/weir:0.1.0".into()),
    }
}

/// RFC 1123 label, as Kubernetes requires.
pub fn namespace(text: &str) -> Result<String, String> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = text.bytes().next().is_some_and(inner) && text.bytes().last().is_some_and(inner);
    if ends && text.len() <= 63 && text.bytes().all(|b| inner(b) || b == b'-') {
        return Ok(text.into());
    }
    Err("a name of a namespace has at most 63 lower case letters, digits and -, and begins and ends with a letter or digit".into())
}
