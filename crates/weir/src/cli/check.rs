//! `weir check`.
use super::{Output, paths::Paths};
use anyhow::{Result, bail};
use clap::Args as ClapArgs;
use std::{io::IsTerminal, path::PathBuf, process::ExitCode};
use weir_config::diagnostic::{Diagnostic, Severity};
use weir_config::text::counted;
use weir_control::Options;

/// Check configuration: print each problem with its line and a fix
///
/// Reads what `weir run` would read. Exits with 1 if there is an error. A warning is something that Weir ignores.
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
}

pub fn run(args: Args) -> Result<ExitCode> {
    let paths = args.paths.all()?;
    if paths.is_empty() {
        bail!("nothing to check: give files or folders (weir check PATH), or - for standard input");
    }
    let found = weir_control::check(Options::default(), &paths);
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&found)?),
        Output::Text => print(&found, &paths),
    }
    let least = if args.strict { Severity::Warning } else { Severity::Error };
    Ok(if found.iter().any(|d| d.severity >= least) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(found: &[Diagnostic], paths: &[PathBuf]) {
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
