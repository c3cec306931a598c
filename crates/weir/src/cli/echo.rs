//! `weir echo`.
use super::address;
use crate::echo::{Options, Server};
use anyhow::Result;
use clap::Args as ClapArgs;
use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

/// Run an echo server: an upstream that returns the request it received, or what the path asks for
///
/// HTTP/1.1, HTTP/2 (h2c by prior knowledge, or by ALPN with TLS), gRPC, WebSocket and server-sent events on one port.
#[derive(ClapArgs, Debug)]
#[command(after_help = "\
Ask for:
  /                          what was received, as JSON
  /status/503                that status
  /bytes/100000              so many bytes
  /sse?n=5&every=100ms       server-sent events
  /reset, /reset?after=1000  a cut connection, at once or within the body
  /flaky/ID?fail=2           the first two requests with this ID fail with 503
  /trailers                  a trailer
  /stream                    the request's body, as it comes
  ?delay=200ms               any of these, later (also the header x-echo-delay)
  x-echo-status: 418         any of these with another status
  x-echo-header: a=b         any of these with one more header
  a WebSocket, gRPC          every message comes back (x-echo-grpc-status asks for a status)
  another upgrade            every byte comes back

Examples:
  weir echo --listen 127.0.0.1:3000
  curl 'http://127.0.0.1:3000/any?delay=200ms' -H 'x-echo-status: 418'")]
pub struct Args {
    /// Where to listen; port 0 takes any. May be repeated
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:3000", value_parser = address::listen)]
    listen: Vec<SocketAddr>,
    /// A name that every response carries, to tell several apart
    #[arg(long, default_value = "echo")]
    name: String,
    /// A certificate chain (PEM): serve TLS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let tls = args.tls_cert.zip(args.tls_key);
        let mut servers = Vec::new();
        for listen in args.listen {
            let options = Options { listen: Some(listen), name: args.name.clone(), tls: tls.clone() };
            let server = Server::start(options).await?;
            println!("echo listens on {}://{}", if tls.is_some() { "https" } else { "http" }, server.address());
            servers.push(server);
        }
        tokio::signal::ctrl_c().await?;
        Ok(ExitCode::SUCCESS)
    })
}
