//! `weir edge cache`.
use super::{ask, place::Place, report::Report};
use crate::cli::age::age;
use anyhow::{Context, Result, bail};
use clap::{Args as ClapArgs, Subcommand};
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    io::{self, BufWriter, Write},
    os::unix::net::UnixStream,
    process::ExitCode,
};
use weir_edge::{
    admin::inspect::{
        self, Set,
        objects::{self, Damage, Wanted},
    },
    store::{Options, Store, key_file},
};

/// Look at what is kept on disk, check and repair it
///
/// Asks the hub that runs, or reads the folder if none runs. Values of Secrets are hidden unless you ask for them.
#[derive(ClapArgs, Debug)]
#[command(after_help = "\
Examples:
  weir edge cache ls
  weir edge cache get pods default/web-0
  weir edge cache get secrets default/password --show-secrets
  weir edge cache export --resource pods > pods.ndjson
  weir edge cache verify
  systemctl stop weir-edge && weir edge cache repair")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// List the lists that are kept, and how old they are
    Ls(Report),
    /// Print the newest copy of an object as JSON; a copy in protobuf is in base64
    Get {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        shown: Shown,
        /// With its group: pods, deployments.apps
        resource: String,
        /// NAMESPACE/NAME, or NAME of an object without a namespace
        name: String,
    },
    /// Read everything, and name what is damaged; exits with 1 if there is any
    Verify(Report),
    /// Drop the lists that are damaged, so that they are listed again; the hub must not run
    Repair {
        #[command(flatten)]
        place: Place,
    },
    /// Print all objects, a line of JSON each
    Export {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        shown: Shown,
        /// Only this resource, with its group: pods, deployments.apps
        #[arg(long, value_name = "RESOURCE", default_value = "", hide_default_value = true)]
        resource: String,
        /// Only this namespace
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        namespace: String,
    },
}

#[derive(ClapArgs, Debug)]
struct Shown {
    /// Only copies of this user, as `weir edge cache ls` prints it
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    user: String,
    /// Print the values of Secrets
    #[arg(long)]
    show_secrets: bool,
}

/// Where the answers come from.
enum Source<'a> {
    Hub(&'a Place),
    Folder(Box<Store>),
}

impl Source<'_> {
    fn open(place: &Place) -> Result<Source<'_>> {
        let socket = place.admin_socket();
        match UnixStream::connect(&socket) {
            Ok(_) => Ok(Source::Hub(place)),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(Source::Folder(Box::new(open_folder(place)?)))
            }
            Err(e) => Err(e).with_context(|| format!("cannot connect to {}", socket.display())),
        }
    }
}

/// The store of a hub that does not run.
fn open_folder(place: &Place) -> Result<Store> {
    let folder = &place.disk_cache_path;
    let key = match Store::is_encrypted(folder)? {
        None => bail!("there is no store in {}: give --disk-cache-path", folder.display()),
        Some(true) => Some(key_file::read(&place.key_file())?),
        Some(false) => None,
    };
    Ok(Store::open(folder, Options { key, quota: u64::MAX, ..Options::default() })?)
}

pub fn run(args: Args) -> Result<ExitCode> {
    match args.command {
        Command::Ls(report) => {
            let sets = match Source::open(&report.place)? {
                Source::Hub(place) => ask::json(place, "GET", "/cache/sets")?,
                Source::Folder(store) => inspect::sets(&store).iter().map(Set::to_json).collect(),
            };
            report.print(&sets, list)?;
        }
        Command::Get { place, shown, resource, name } => {
            let (namespace, name) = name.split_once('/').unwrap_or(("", &name));
            let wanted =
                Wanted { resource, namespace: namespace.into(), name: name.into(), user: shown.user, show_secrets: shown.show_secrets };
            let found = match Source::open(&place)? {
                Source::Hub(place) => ask::json(place, "GET", &format!("/cache/object?{}", wanted.query()))?,
                Source::Folder(store) => objects::newest(&store, &wanted).context("no such object is kept")?,
            };
            println!("{}", serde_json::to_string_pretty(&found)?);
        }
        Command::Verify(report) => {
            let found = match Source::open(&report.place)? {
                Source::Hub(place) => ask::json(place, "GET", "/cache/verify")?,
                Source::Folder(store) => {
                    let (objects, damaged) = objects::verify(&store);
                    json!({ "objects": objects, "damaged": damaged.iter().map(Damage::to_json).collect::<Vec<_>>() })
                }
            };
            report.print(&found, verified)?;
            return Ok(if found["damaged"] == json!([]) { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Repair { place } => match Source::open(&place)? {
            Source::Hub(_) => bail!("the hub is running: stop it first, or let it list again what is damaged"),
            Source::Folder(store) => {
                let dropped = objects::repair(&store)?;
                dropped.iter().for_each(|set| println!("dropped {}", set.replace('\n', " ")));
                println!("{} dropped", weir_config::text::counted(dropped.len(), "list"));
            }
        },
        Command::Export { place, shown, resource, namespace } => {
            let wanted = Wanted { resource, namespace, user: shown.user, show_secrets: shown.show_secrets, ..Wanted::default() };
            let mut out = BufWriter::new(io::stdout().lock());
            match Source::open(&place)? {
                Source::Hub(place) => ask::write(place, "GET", &format!("/cache/export?{}", wanted.query()), &mut out)?,
                Source::Folder(store) => objects::each(&store, &wanted, |row| writeln!(out, "{row}").is_ok()),
            }
            out.flush()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(sets: &Value) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{:<56} {:>8} {:>10} {:>8} {:<8} {:<9} USER", "LIST", "OBJECTS", "BYTES", "AGE", "STATE", "MEDIA");
    for set in sets.as_array().into_iter().flatten().filter_map(Set::from_json) {
        let state = match (set.damaged, set.dirty, set.complete || !set.is_list()) {
            (true, ..) => "damaged",
            (_, true, _) => "old",
            (_, _, false) => "partial",
            _ => "kept",
        };
        let (title, old) = (objects::title(&set), set.age().map_or("-".to_string(), age));
        let media: String = set.key.media.chars().take(9).collect();
        let _ = writeln!(out, "{title:<56} {:>8} {:>10} {old:>8} {state:<8} {media:<9} {}", set.objects, set.bytes, set.key.user);
    }
    out
}

fn verified(found: &Value) -> String {
    let mut out = String::new();
    let damaged: Vec<&Value> = found["damaged"].as_array().into_iter().flatten().collect();
    for of in &damaged {
        let set = of["set"].as_str().unwrap_or_default().replace('\n', " ");
        let _ = writeln!(out, "damaged: {set}{}: {}", of["object"].as_str().map_or(String::new(), |o| format!(" {o}")), of["error"]);
    }
    let _ = writeln!(out, "{} objects were read, {} are damaged", found["objects"], damaged.len());
    out
}
