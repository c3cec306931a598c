//! The command line: every flag is declared here once, and its help is the reference.
mod check;
pub mod docs;
mod echo;
mod plugin;
mod run;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use std::process::ExitCode;

/// A gateway from a folder of YAML, with live Wasm plugins
#[derive(Parser, Debug)]
#[command(name = "weir", version, max_term_width = 120, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    Run(Box<run::Args>),
    Check(check::Args),
    Echo(echo::Args),
    #[command(subcommand)]
    Plugin(plugin::Command),
    #[command(name = "__docs", hide = true)]
    Docs(docs::Args),
}

/// How to print what a command found.
#[derive(ValueEnum, Clone, Copy, Debug, Default)]
enum Output {
    #[default]
    Text,
    Json,
}

/// Runs a command to its end.
pub fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Run(args) => run::run(*args),
        Command::Check(args) => check::run(&args),
        Command::Echo(args) => echo::run(args),
        Command::Plugin(command) => plugin::run(command),
        Command::Docs(args) => docs::run(&args),
    }
}
