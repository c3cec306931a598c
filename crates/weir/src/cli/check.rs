//! `weir check`.
use super::{Output, paths::Paths, registry::Registry, run::cache_dir};
use anyhow::{Result, bail};
use clap::Args as ClapArgs;
use std::{io::IsTerminal, path::PathBuf, process::ExitCode, sync::Arc};
use weir_config::{
    delta::VerdictChanges,
    diagnostic::{Diagnostic, Severity},
    text::counted,
};
use weir_control::Options;

/// Check configuration: print each problem with its line and a fix
///
/// Reads what `weir run` would read, and compiles, starts and configures its plugins; opens no port. Exits with 1 if there is an
/// error. A warning names something that Weir ignores.
#[derive(ClapArgs, Debug)]
#[command(after_help = "\
Examples:
  weir check conf.d/
  helm template my-chart | weir check -
  weir check -o json conf.d/ | jq -r '.[] | \"\\(.file):\\(.line) \\(.message)\"'")]
pub struct Args {
    #[command(flatten)]
    paths: Paths,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Exit with 1 for warnings too
    #[arg(long)]
    strict: bool,
    /// Do not compile, start and configure plugins
    #[arg(long)]
    no_plugins: bool,
    /// The folder for compiled plugins [default: the user's cache folder]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    #[command(flatten)]
    registry: Registry,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let paths = args.paths.all()?;
    if paths.is_empty() {
        bail!("nothing to check: give files or folders (weir check PATH), or - for standard input");
    }
    let options = Options::default();
    let status = options.status.clone();
    let mut control = weir_control::Control::new(options);
    control.load(&paths);
    let config = control.config();
    if !args.no_plugins && !config.plugins.is_empty() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        // What plugins log is not a finding.
        weir_proxy::app_log::divert(|_| ());
        let cache_dir = args.cache_dir.or_else(cache_dir);
        let plugins = runtime.block_on(weir_proxy::plugin::check::check(&config, cache_dir, args.registry.settings(true)?))?;
        runtime.shutdown_background();
        let verdicts = plugins.into_iter().map(Arc::new).collect();
        status.apply_verdicts(VerdictChanges { verdicts, ..VerdictChanges::default() });
    }
    let found = status.findings();
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&found)?),
        Output::Text => print(&found, &paths),
    }
    let least = if args.strict { Severity::Warning } else { Severity::Error };
    Ok(if found.iter().any(|d| d.severity >= least) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(found: &[Arc<Diagnostic>], paths: &[PathBuf]) {
    let colour = std::io::stdout().is_terminal();
    for d in found {
        println!("{}\n", d.snippet(colour));
    }
    let count = |severity| found.iter().filter(|d| d.severity == severity).count();
    match (count(Severity::Error), count(Severity::Warning)) {
        (0, 0) if found.is_empty() => {
            let paths: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
            println!("no findings in {}", paths.join(", "));
        }
        (errors, warnings) => println!("{}, {}", counted(errors, "error"), counted(warnings, "warning")),
    }
}
