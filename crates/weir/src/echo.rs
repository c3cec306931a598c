//! An upstream to try a gateway with: answers what it received, or what it is asked for.
//!
//! | request | answer |
//! | --- | --- |
//! | any | JSON: who answers, method, path, query, host, headers, body, protocol, connection number |
//! | `/status/503` | that status |
//! | `/bytes/100000` | this many bytes |
//! | `/sse?n=5&every=100ms` | this many server-sent events, at this interval |
//! | `/reset`, `/reset?after=1000` | the connection (HTTP/2: the stream) is cut, at once or within the body |
//! | `/flaky/ID?fail=2&status=503` | the first two with this ID fail |
//! | `/trailers` | a body with the trailer `x-echo-trailer` |
//! | `/stream` | the request's body, piece by piece as it comes, and its trailers |
//! | WebSocket upgrade | every message comes back (over HTTP/2 too) |
//! | any other upgrade | every byte comes back |
//! | `content-type: application/grpc` | every message comes back, then `grpc-status` from `x-echo-grpc-status` or 0 |
//! | `?delay=200ms` or `x-echo-delay` | any of these, later |
//! | `x-echo-status` | any of these with another status |
//! | `x-echo-header: name=value` | any of these with one more header; may be repeated |
mod answer;
mod body;
mod upgrade;

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Port 0 takes any.
    pub listen: Option<SocketAddr>,
    /// Said in every answer, to tell several of them apart.
    pub name: String,
    /// PEM files of a certificate chain and its key: serves TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// A running echo server; its tasks end with the runtime they were started on, or when it is dropped.
pub struct Server {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

/// What all connections share.
pub(crate) struct Shared {
    name: String,
    /// Requests seen so far under each ID of `/flaky`.
    seen: Mutex<HashMap<String, u32>>,
}

impl Server {
    /// Binds and serves on the current runtime.
    pub async fn start(options: Options) -> io::Result<Server> {
        let address = options.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        let acceptor = options.tls.as_ref().map(|(chain, key)| acceptor(chain, key)).transpose()?;
        let refused = |e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}"));
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { name: options.name, seen: Mutex::default() });
        let task = tokio::spawn(serve(listener, acceptor, shared));
        Ok(Server { address, task })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for ever: it ends only by being dropped.
    pub async fn wait(mut self) {
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, acceptor: Option<TlsAcceptor>, shared: Arc<Shared>) {
    static CONNECTIONS: AtomicU64 = AtomicU64::new(1);
    loop {
        let Ok((io, peer)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        let _ = io.set_nodelay(true);
        let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        let (shared, acceptor) = (shared.clone(), acceptor.clone());
        tokio::spawn(async move {
            let mut server = auto::Builder::new(TokioExecutor::new());
            server.http2().enable_connect_protocol().max_concurrent_streams(1000);
            let service = hyper::service::service_fn(move |request| answer::answer(request, shared.clone(), peer, number));
            // A failed connection is the client's to notice.
            match acceptor {
                Some(tls) => {
                    if let Ok(io) = tls.accept(io).await {
                        let _ = server.serve_connection_with_upgrades(TokioIo::new(io), service).await;
                    }
                }
                None => {
                    let _ = server.serve_connection_with_upgrades(TokioIo::new(io), service).await;
                }
            }
        });
    }
}

fn acceptor(chain: &Path, key: &Path) -> io::Result<TlsAcceptor> {
    use pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
    let read = |file: &Path| std::fs::read(file).map_err(|e| io::Error::new(e.kind(), format!("cannot read {}: {e}", file.display())));
    let bad = |file: &Path, what: &str, e: pem::Error| io::Error::other(format!("{}: no {what} in PEM: {e}", file.display()));
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(chain)?).collect();
    let certificates = certificates.map_err(|e| bad(chain, "certificate", e))?;
    if certificates.is_empty() {
        return Err(bad(chain, "certificate", pem::Error::NoItemsFound));
    }
    let key_file = key;
    let key = PrivateKeyDer::from_pem_slice(&read(key_file)?).map_err(|e| bad(key_file, "private key", e))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(|e| io::Error::other(format!("{} does not fit {}: {e}", key_file.display(), chain.display())))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
