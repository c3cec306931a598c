//! `weir check`.
use super::{Output, run::present};
use crate::run::counted;
use anyhow::Result;
use clap::Args as ClapArgs;
use std::{io::IsTerminal, path::PathBuf, process::ExitCode};
use weir_config::diagnostic::{Diagnostic, Severity};
use weir_control::Options;

/// Check configuration: print each problem with its line and a fix
///
/// Reads what `weir run` would read. Exits with 1 if there is an error. A warning is something that Weir ignores.
#[derive(ClapArgs, Debug)]
#[command(after_help = "\
Examples:
  weir check conf.d/
  weir check -o json conf.d/ | jq -r '.[] | \"\\(.file):\\(.line) \\(.message)\"'")]
pub struct Args {
    /// Files and folders
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Exit with 1 for warnings too
    #[arg(long)]
    strict: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    present(&args.paths)?;
    let found = weir_control::check(Options::default(), &args.paths);
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&found)?),
        Output::Text => print(&found),
    }
    let least = if args.strict { Severity::Warning } else { Severity::Error };
    Ok(if found.iter().any(|d| d.severity >= least) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(found: &[Diagnostic]) {
    let colour = std::io::stdout().is_terminal();
    for d in found {
        println!("{}\n", d.snippet(colour));
    }
    let count = |severity| found.iter().filter(|d| d.severity == severity).count();
    match (count(Severity::Error), count(Severity::Warning)) {
        (0, 0) if found.is_empty() => println!("no findings"),
        (errors, warnings) => println!("{}, {}", counted(errors, "error"), counted(warnings, "warning")),
    }
}
