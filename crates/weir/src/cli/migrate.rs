//! `weir migrate`.
use super::{Output, install::namespace, paths::Paths};
use anyhow::{Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use std::{collections::BTreeMap, path::PathBuf, process::ExitCode, sync::Arc};
use weir_config::{
    diagnostic::{Diagnostic, Severity},
    text::counted,
};
use weir_control::{
    Control, Options,
    kubernetes::{Access, Connection},
    migrate::{self, Outcome, Row, gateway_api},
    object::{Kind, Object},
};

/// Report how Weir handles the annotations of Ingress objects for ingress-nginx or Higress
///
/// Prints a verdict for each annotation. Exits with 1 if an annotation is not supported, closes a route or has a wrong value, or if a file
/// cannot be read. With --to
/// gateway-api, the equivalent Gateway and HTTPRoute objects go to standard output, and the verdicts to standard error.
#[derive(ClapArgs, Debug)]
#[command(after_help = "\
Examples:
  weir migrate --from ingress-nginx manifests/
  helm template my-chart | weir migrate --from ingress-nginx -
  weir migrate --from ingress-nginx --from-cluster -o json | jq '.verdicts[] | select(.verdict == \"closes-route\")'
  weir migrate --from higress ingress.yaml --to gateway-api > routes.yaml && weir check routes.yaml")]
pub struct Args {
    /// The gateway that serves the objects now
    #[arg(long, value_enum)]
    from: From,
    #[command(flatten)]
    paths: Paths,
    /// Read the Ingress objects and Services of a cluster
    #[arg(long)]
    from_cluster: bool,
    /// The kubeconfig file [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long, value_name = "FILE", requires = "from_cluster")]
    kubeconfig: Option<PathBuf>,
    /// The context in the kubeconfig file [default: its current-context]
    #[arg(long, value_name = "NAME", requires = "from_cluster")]
    context: Option<String>,
    /// Only this namespace of the cluster; may be repeated [default: all]
    #[arg(short, long, value_name = "NAME", requires = "from_cluster", value_parser = namespace)]
    namespace: Vec<String>,
    /// Print the equivalent objects of another API
    #[arg(long, value_enum)]
    to: Option<To>,
    /// The class of the Gateways that are printed
    #[arg(long, value_name = "NAME", default_value = "weir", requires = "to")]
    gateway_class: String,
    /// The port for HTTP of the Gateways that are printed
    #[arg(long, value_name = "PORT", default_value_t = 80, requires = "to")]
    http_port: u16,
    /// The port for HTTPS of the Gateways that are printed
    #[arg(long, value_name = "PORT", default_value_t = 443, requires = "to")]
    https_port: u16,
    /// How to print the verdicts
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum From {
    IngressNginx,
    Higress,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum To {
    GatewayApi,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let from = match args.from {
        From::IngressNginx => migrate::From::IngressNginx,
        From::Higress => migrate::From::Higress,
    };
    let paths = args.paths.all()?;
    let (objects, findings) = match (args.from_cluster, paths.is_empty()) {
        (true, true) => {
            let access = Access { kubeconfig: args.kubeconfig, context: args.context, namespaces: args.namespace, ..Access::default() };
            Connection::open(&access)?.ingresses()?
        }
        (true, false) => bail!("give files or --from-cluster, not both"),
        (false, true) => bail!("nothing to migrate: give files, folders, - for standard input, or --from-cluster"),
        (false, false) => read(&paths),
    };
    let mut rows = migrate::rows(objects.iter(), &findings, from);
    let converted = args.to.map(|To::GatewayApi| {
        let options = gateway_api::Options { class: args.gateway_class, http_port: args.http_port, https_port: args.https_port };
        migrate::to_gateway_api(objects.iter(), &options, &mut rows)
    });
    let count = objects.iter().filter(|object| object.key.kind == Kind::Ingress).count();
    let verdicts = match args.output {
        Output::Json => serde_json::to_string_pretty(&serde_json::json!({ "ingresses": count, "verdicts": rows }))? + "\n",
        Output::Text => text(&rows, count),
    };
    match converted {
        None => print!("{verdicts}"),
        Some(yaml) => {
            eprint!("{verdicts}");
            print!("{yaml}");
        }
    }
    // What is no object at all, as a file that is not YAML.
    let unread = || findings.iter().filter(|found| found.severity == Severity::Error && found.object.is_none());
    unread().for_each(|found| eprintln!("{}", found.line()));
    let is_done = unread().next().is_none() && !rows.iter().any(|row| row.verdict.needs_work());
    Ok(if is_done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read(paths: &[PathBuf]) -> (Vec<Arc<Object>>, Vec<Arc<Diagnostic>>) {
    let mut control = Control::new(Options::default());
    control.load(paths);
    let store = control.index().store();
    let objects = [Kind::Ingress, Kind::Service].into_iter().flat_map(|kind| store.all(kind).cloned()).collect();
    (objects, control.findings())
}

fn text(rows: &[Row], count: usize) -> String {
    let word = |outcome: Outcome| match outcome {
        Outcome::Works => "works",
        Outcome::WorksWithDifference => "works with a difference",
        Outcome::NotNeeded => "not needed",
        Outcome::NotSupported => "not supported",
        Outcome::ClosesRoute => "closes the route (503)",
        Outcome::Invalid => "invalid",
    };
    let (mut out, mut before, mut counts) = (String::new(), "", BTreeMap::new());
    for row in rows {
        if row.object != before {
            out += &format!("{}\n", row.object);
            before = &row.object;
        }
        *counts.entry(word(row.verdict)).or_insert(0usize) += 1;
        let text = if row.text.is_empty() { String::new() } else { format!(": {}", row.text) };
        let lost = if row.no_equivalent { "; Gateway API has no equivalent" } else { "" };
        out += &format!("  {}: {}{text}{lost}\n", row.key, word(row.verdict));
    }
    let counts: Vec<String> = counts.into_iter().map(|(word, count)| format!("{count} {word}")).collect();
    let summary = if counts.is_empty() { "no annotations of an ingress controller".to_string() } else { counts.join(", ") };
    out + &format!("{}: {summary}\n", counted(count, "Ingress object"))
}
