//! `weir plugin`.
use super::{
    Output, address, age,
    registry::Registry,
    run::{self as gateway, Serve},
};
use crate::plugin::{
    BUILT, build, create,
    image::{self, Layout},
    inspect, status, test,
};
use anyhow::{Context, Result, bail};
use clap::{Args as ClapArgs, Subcommand};
use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};
use url::Url;
use weir_net::oci::Reference;

/// Write, build, test and run plugins (proxy-wasm)
#[derive(Subcommand, Debug)]
#[command(after_help = "\
Examples:
  weir plugin new blacklist && cd blacklist
  weir plugin build && weir plugin test
  weir plugin run . --to http://127.0.0.1:3000 --config '{\"greeting\": \"hello\"}'
  weir plugin push registry.example.com/team/blacklist:1.2.0")]
pub enum Command {
    New(New),
    Build(Build),
    Test(Test),
    Run(Box<Run>),
    Inspect(Inspect),
    Push(Push),
    Pull(Pull),
    Status(Status),
}

/// Create a plugin: a folder with working code, its tests and a README
#[derive(ClapArgs, Debug)]
pub struct New {
    /// Lower case letters, digits and `-`
    name: String,
    /// The language
    #[arg(long, value_enum, default_value_t)]
    lang: create::Language,
    /// The parent folder
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

/// Build a plugin's folder into plugin.wasm, with Go or Cargo
#[derive(ClapArgs, Debug)]
pub struct Build {
    /// The folder with go.mod or Cargo.toml
    #[arg(default_value = ".")]
    dir: PathBuf,
}

/// Test a plugin: send requests through a real gateway and compare the results with what is expected
///
/// Builds the plugin first if plugin.wasm is missing or older than its sources. The file describes stand-ins for HTTP services and
/// Redis. Exits with 1 if a case fails.
#[derive(ClapArgs, Debug)]
pub struct Test {
    /// The file of cases (docs/plugins/test.md)
    #[arg(default_value = "cases.yaml")]
    cases: PathBuf,
    /// The plugin (.wasm, or text as .wat) [default: what the file names, or plugin.wasm beside it]
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    /// Only cases whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    filter: String,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// The folder for compiled plugins [default: the user's cache folder]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
}

/// Run a gateway with one plugin in front of a URL, as `weir run --to URL --plugin FILE`
#[derive(ClapArgs, Debug)]
pub struct Run {
    /// The plugin, or the folder of one, which is built first if it is missing or older than its sources
    #[arg(default_value = ".")]
    plugin: PathBuf,
    /// Send everything to this URL
    #[arg(long, value_name = "URL", value_parser = gateway::upstream)]
    to: Url,
    /// The plugin's configuration
    #[arg(long, value_name = "JSON", default_value = "", hide_default_value = true)]
    config: String,
    /// A limit of the plugin, as call-deadline=1s or memory-limit=512Mi; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = gateway::limit)]
    plugin_limit: Vec<gateway::Limit>,
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = address::listen)]
    listen: SocketAddr,
    #[command(flatten)]
    serve: Serve,
}

/// Inspect a module: ABI, callbacks, imports, memory, and what it needs that Weir lacks
#[derive(ClapArgs, Debug)]
pub struct Inspect {
    /// A module (.wasm, gzip, zstd or tar of one, text as .wat), the folder where one was built, or an image (oci://...)
    file: PathBuf,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    registry: Registry,
}

/// Push a plugin to a registry, as an image that Weir, Istio, Envoy Gateway and Higress can pull
///
/// The same module gives the same digest. Builds the plugin first if plugin.wasm is missing or older than its sources.
#[derive(ClapArgs, Debug)]
#[command(after_help = "\
Examples:
  weir plugin push registry.example.com/team/blacklist:1.2.0
  weir plugin push localhost:5000/blacklist:dev ./blacklist.wasm
  weir plugin push ghcr.io/team/blacklist:1.2.0 --annotation org.opencontainers.image.source=https://github.com/team/blacklist")]
pub struct Push {
    /// REGISTRY/REPOSITORY:TAG
    #[arg(value_parser = reference)]
    image: Reference,
    /// The module, or the folder of the plugin
    #[arg(default_value = ".")]
    plugin: PathBuf,
    /// Push an OCI artifact with the module as it is, not an image
    #[arg(long)]
    artifact: bool,
    /// An annotation of the manifest; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = annotation)]
    annotation: Vec<(String, String)>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    registry: Registry,
}

/// Pull the module of an image into a file
#[derive(ClapArgs, Debug)]
#[command(after_help = "\
Examples:
  weir plugin pull registry.example.com/team/blacklist:1.2.0
  weir plugin pull registry.example.com/team/blacklist@sha256:93a4... -o blacklist.wasm")]
pub struct Pull {
    /// REGISTRY/REPOSITORY:TAG, or with @sha256:DIGEST
    #[arg(value_parser = reference)]
    image: Reference,
    /// Where to write the module [default: the last part of the repository, with .wasm]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    registry: Registry,
}

fn reference(text: &str) -> Result<Reference, String> {
    text.parse().map_err(|e| format!("{e}; write it as REGISTRY/REPOSITORY:TAG"))
}

fn annotation(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("write it as NAME=VALUE")?;
    Ok((name.into(), value.into()))
}

/// Show the plugins of a gateway that runs: versions, canaries, streams, traps, 5xx, time in callbacks, memory
///
/// With a name, the versions that the plugin has had, and why each one was replaced. Exits with 1 if there is no such plugin.
#[derive(ClapArgs, Debug)]
#[command(after_help = "\
Examples:
  weir plugin status
  weir plugin status blacklist
  weir plugin status default/blacklist -o json | jq .history
  kubectl exec deploy/weir -- weir plugin status")]
pub struct Status {
    /// A plugin, as NAME or NAMESPACE/NAME
    name: Option<String>,
    /// The admin listener of the gateway
    #[arg(long, value_name = "ADDR", default_value = gateway::ADMIN, value_parser = address::listen)]
    admin: SocketAddr,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::New(args) => new(&args),
        Command::Build(args) => build_in(&args.dir),
        Command::Test(args) => test_cases(args),
        Command::Run(args) => serve(*args),
        Command::Inspect(args) => inspect_file(args),
        Command::Status(args) => show_status(&args),
        Command::Push(args) => push(args),
        Command::Pull(args) => pull(args),
    }
}

fn new(args: &New) -> Result<ExitCode> {
    let files = create::create(&args.dir, &args.name, args.lang)?;
    // `./name` says no more than `name`.
    let folder = if args.dir == Path::new(".") { PathBuf::from(&args.name) } else { args.dir.join(&args.name) };
    println!("{}: {}", folder.display(), files.join(", "));
    println!("next: cd {} && weir plugin build && weir plugin test", folder.display());
    Ok(ExitCode::SUCCESS)
}

fn build_in(dir: &Path) -> Result<ExitCode> {
    let module = build::build(dir)?;
    let size = std::fs::metadata(&module).with_context(|| module.display().to_string())?.len();
    println!("{} ({:.1} MB)", module.display(), size as f64 / 1e6);
    let missing = inspect::facts(&module)?.missing;
    if missing.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("error: it was built, but no gateway can run it:\n  {}", missing.join("\n  "));
    Ok(ExitCode::FAILURE)
}

fn test_cases(args: Test) -> Result<ExitCode> {
    let cache_dir = args.cache_dir.or_else(gateway::cache_dir);
    let reports = test::run(&test::Options { cases: args.cases, plugin: args.plugin, filter: args.filter, cache_dir })?;
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&reports)?),
        Output::Text => test::print(&reports, &mut io::stdout().lock())?,
    }
    Ok(if reports.iter().all(|r| r.passed) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn serve(args: Run) -> Result<ExitCode> {
    let plugin = match args.plugin.is_dir() {
        true if args.plugin.join(BUILT).is_file() => build::up_to_date(&args.plugin)?,
        true => build::build(&args.plugin)?,
        false => args.plugin,
    };
    let source = gateway::direct(args.to, args.listen, Some(plugin), args.config, &args.plugin_limit)?;
    args.serve.run(source, weir_control::Options::default())
}

fn show_status(args: &Status) -> Result<ExitCode> {
    let all = status::ask(args.admin)?;
    let Some(name) = &args.name else {
        match args.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&all)?),
            Output::Text => print!("{}", status::table(&all, &age::age, age::now())),
        }
        return Ok(ExitCode::SUCCESS);
    };
    let found: Vec<_> = status::named(&all, name).collect();
    if found.is_empty() {
        eprintln!("error: the gateway at {} has no plugin {name}", args.admin);
        return Ok(ExitCode::FAILURE);
    }
    for plugin in found {
        match args.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(plugin)?),
            Output::Text => print!("{}", status::details(plugin, &age::age, age::now())),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Exits with 1 for a module that would not run.
fn inspect_file(args: Inspect) -> Result<ExitCode> {
    let shown = args.file.to_string_lossy().into_owned();
    let facts = match shown.strip_prefix("oci://") {
        Some(name) => {
            let image = reference(name).map_err(anyhow::Error::msg)?;
            let code = image::pull(&image, &args.registry.settings(true)?)?;
            if matches!(args.output, Output::Text) {
                println!("image      {}", code.image.as_deref().unwrap_or_default());
            }
            inspect::inspect(&code.wasm).context(shown)?
        }
        None => inspect::facts(&args.file)?,
    };
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&facts)?),
        Output::Text => inspect::print(&facts, &mut io::stdout().lock())?,
    }
    Ok(if facts.missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn push(args: Push) -> Result<ExitCode> {
    let module = match args.plugin.is_dir() {
        true => build::up_to_date(&args.plugin)?,
        false => args.plugin,
    };
    let wasm = inspect::module(&module)?;
    let missing = inspect::inspect(&wasm).with_context(|| module.display().to_string())?.missing;
    if !missing.is_empty() {
        bail!("{}: no gateway can run it:\n  {}", module.display(), missing.join("\n  "));
    }
    let layout = if args.artifact { Layout::Artifact } else { Layout::Compat };
    let pushed = image::push(&args.image, &wasm, layout, &args.annotation, &args.registry.settings(true)?)?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&pushed)?),
        false => println!("{} ({:.1} MB)", pushed.reference, pushed.size as f64 / 1e6),
    }
    Ok(ExitCode::SUCCESS)
}

fn pull(args: Pull) -> Result<ExitCode> {
    let code = image::pull(&args.image, &args.registry.settings(true)?)?;
    let name = args.image.repository.rsplit('/').next().unwrap_or_default();
    let file = args.output.unwrap_or_else(|| PathBuf::from(format!("{name}.wasm")));
    std::fs::write(&file, &code.wasm).with_context(|| file.display().to_string())?;
    println!("{} from {}", file.display(), code.image.as_deref().unwrap_or_default());
    Ok(ExitCode::SUCCESS)
}
