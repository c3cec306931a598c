//! The command line: every flag is declared here once, and its help is the reference.
mod address;
mod age;
mod check;
pub mod docs;
mod echo;
mod edge;
mod gateway;
mod install;
mod migrate;
mod output;
mod paths;
mod plugin;
mod registry;
mod run;
mod tunnel;

use anyhow::Result;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::process::ExitCode;

/// A gateway from a folder of YAML, with live Wasm plugins
#[derive(Parser, Debug)]
#[command(
    name = "weir",
    version,
    max_term_width = 120,
    propagate_version = true,
    after_help = "\
Examples:
  weir run conf.d/                            serve a folder, and follow its changes
  weir run --to http://127.0.0.1:3000         send everything to one URL
  weir gateway                                serve the objects of a Kubernetes cluster
  weir install --image IMAGE                  install it in a Kubernetes cluster
  weir migrate --from ingress-nginx .         how Weir handles Ingress objects
  weir edge --server-addr URL --node-name N   keep the Kubernetes API for a node
  weir tunnel --uds-name FILE ...             connect kube-apiserver to nodes that it cannot dial
  weir check conf.d/                          what is wrong with it, and where
  weir plugin new greeter && cd greeter       start a plugin in Go
  weir completions bash > ~/.local/share/bash-completion/completions/weir"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
#[command(defer = true)]
pub enum Command {
    Run(Box<run::Args>),
    Gateway(Box<gateway::Args>),
    Install(install::Args),
    Migrate(migrate::Args),
    Edge(Box<edge::Args>),
    Tunnel(tunnel::Args),
    Check(check::Args),
    Echo(echo::Args),
    #[command(subcommand)]
    Plugin(plugin::Command),
    /// Print the version
    Version,
    /// Print a script that completes commands and flags
    #[command(after_help = "\
Examples:
  weir completions bash > ~/.local/share/bash-completion/completions/weir
  weir completions zsh > ~/.zfunc/_weir      with fpath+=(~/.zfunc) before compinit in ~/.zshrc
  weir completions fish > ~/.config/fish/completions/weir.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },
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

/// Reads the command line. The flags of the other commands are built only where help may show them: they take time and memory.
pub fn parse() -> Cli {
    let mut all = Cli::command();
    let given = std::env::args_os().nth(1);
    if !all.get_subcommands().any(|command| given.as_ref().is_some_and(|given| command.get_name() == given)) {
        all.build();
    }
    Cli::from_arg_matches(&all.get_matches()).unwrap_or_else(|error| error.exit())
}

/// Runs a command to its end.
pub fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Run(args) => run::run(*args),
        Command::Gateway(args) => gateway::run(*args),
        Command::Install(args) => install::run(args),
        Command::Migrate(args) => migrate::run(args),
        Command::Edge(args) => edge::run(*args),
        Command::Tunnel(args) => tunnel::run(args),
        Command::Check(args) => check::run(args),
        Command::Echo(args) => echo::run(args),
        Command::Plugin(command) => plugin::run(command),
        Command::Version => {
            println!("weir {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "weir", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Docs(args) => docs::run(&args),
    }
}
