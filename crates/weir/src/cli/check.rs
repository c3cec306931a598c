//! `weir check`.
use super::{Output, run::present};
use anyhow::Result;
use clap::Args as ClapArgs;
use std::{io::IsTerminal, path::PathBuf, process::ExitCode};
use weir_config::diagnostic::{Diagnostic, Severity};
use weir_control::Options;

/// Say what is wrong with a configuration, on which line, and what would mend it
///
/// Reads what `weir run` would read. Exits with 1 where it finds an error; warnings are things that have no effect.
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
}

pub fn run(args: &Args) -> Result<ExitCode> {
    present(&args.paths)?;
    let found = weir_control::check(Options::default(), &args.paths);
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&found)?),
        Output::Text => print(&found),
    }
    Ok(if weir_control::failed(&found) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(found: &[Diagnostic]) {
    let colour = std::io::stdout().is_terminal();
    for d in found {
        println!("{}\n", d.snippet(colour));
    }
    let count = |severity| found.iter().filter(|d| d.severity == severity).count();
    match (count(Severity::Error), count(Severity::Warning)) {
        (0, 0) => println!("no findings"),
        (errors, warnings) => println!("{errors} errors, {warnings} warnings"),
    }
}
