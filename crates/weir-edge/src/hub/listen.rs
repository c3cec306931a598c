//! The ports for clients of the node: TLS, and plain where it is asked for.
use crate::{
    hub::{Hub, share::relay},
    identity::{caller::Peer, certificate::validity::seconds, serving::Serving},
    upstream::node::node_of,
};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use std::{
    convert::Infallible,
    io,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use weir_net::tls::Details;

/// A client may take so long for its TLS handshake, and for the head of a request.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Whom a port is for.
#[derive(Clone)]
pub enum Port {
    /// Clients of the node; without TLS, they act as the node.
    Clients(Option<Arc<Serving>>),
    /// Other hubs of the node pool.
    Hubs(Arc<Serving>),
}

/// Accepts connections until the listener fails for good.
pub async fn serve(listener: TcpListener, port: Port, hub: Arc<Hub>, connections: Arc<Semaphore>) -> io::Result<()> {
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return Ok(()) };
        let io = match listener.accept().await {
            Ok((io, _)) => io,
            // A client that left, or no file descriptor: the next one may go better.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let (port, hub) = (port.clone(), hub.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let _held = hub.drain.hold();
            let _ = io.set_nodelay(true);
            let (tls, for_hubs) = match &port {
                Port::Clients(None) => return connection(io, Peer::Plain, hub, false).await,
                Port::Clients(Some(tls)) => (tls, false),
                Port::Hubs(tls) => (tls, true),
            };
            if let Ok(Ok((io, peer))) = timeout(HANDSHAKE, accept(tls, io)).await {
                match for_hubs && !relay::is_of_pool(&hub, &peer) {
                    false => connection(io, peer, hub, for_hubs).await,
                    // It gets an answer that says so, and takes no place away from peers.
                    true => {
                        let _ = timeout(HANDSHAKE, connection(io, peer, hub, for_hubs)).await;
                    }
                }
            }
        });
    }
}

async fn accept(tls: &Serving, io: TcpStream) -> io::Result<(tokio_rustls::server::TlsStream<TcpStream>, Peer)> {
    let server = tls.server().map_err(io::Error::other)?;
    let io = server.accept(io).await?;
    let session = io.get_ref().1;
    let peer = session.peer_certificates().and_then(|chain| Details::from_der(chain.first()?).ok()).map(|details| {
        // An expired certificate is verified as of its last second, and judged with each request.
        let at = seconds(SystemTime::now()).clamp(details.not_before, details.not_after.saturating_sub(1));
        let common_name = common_name(&details.subject).to_string();
        let (node, not_before, not_after) = (node_of(&details).map(str::to_string), details.not_before, details.not_after);
        let trusted = server.trusts_at(session, u64::try_from(at).unwrap_or_default());
        trusted.then_some(Peer::Certificate { common_name, node, not_before, not_after })
    });
    let peer = peer.flatten().unwrap_or(Peer::Tls);
    Ok((io, peer))
}

/// The common name of a distinguished name as RFC 2253 writes it. Names with escapes are of nobody here.
fn common_name(subject: &str) -> &str {
    subject.split(',').find_map(|part| part.strip_prefix("CN=")).filter(|name| !name.contains('\\')).unwrap_or_default()
}

async fn connection(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Peer, hub: Arc<Hub>, for_hubs: bool) {
    let peer = Arc::new(peer);
    let drain = hub.drain.clone();
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (hub, peer) = (hub.clone(), peer.clone());
        async move {
            Ok::<_, Infallible>(match for_hubs {
                false => hub.serve(peer, request).await,
                true => relay::serve(&hub, &peer, request).await,
            })
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(1000);
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(io), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        () = drain.leaving() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
