//! Accepting on one worker: limits, the PROXY protocol, the look at the ClientHello, the filter chain, the handshake.
use super::{ChainRt, ListenerContext, ListenerRt, ListenerSlot, Total, info, network_filters, next_id, tcp_proxy};
use crate::{app_log::Logger, conn::ConnInfo, stats::ListenerStats};
use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::spawn_local,
    time::timeout,
};
use weir_net::{
    io::Io,
    peek::{peek, skip},
    proxy_protocol,
    tls::{self, ClientHello, Hello, Refusal, inspect},
};

/// Waits after a failure to accept, doubled while it lasts.
const BACK_OFF_FIRST: Duration = Duration::from_millis(5);
const BACK_OFF_LAST: Duration = Duration::from_secs(1);
/// Bytes of a first flight that are looked at: a ClientHello of 16 KiB in several records.
const INSPECTED: usize = 17 * 1024;

/// Connections that are still taken after the end, at most: the kernel's queue.
const LAST: usize = 4096;

/// Accepts until told to stop, then takes what already waits, so that nobody who was let in is turned away.
pub(crate) async fn run(context: Rc<ListenerContext>, slot: Arc<ListenerSlot>, listener: TcpListener, stop: Rc<Notify>) {
    let mut back_off = BACK_OFF_FIRST;
    let _accepting = Accepting::begin(&slot.total);
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.notified() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((io, peer)) => {
                back_off = BACK_OFF_FIRST;
                take(&context, &slot, io, peer);
            }
            // The client gave up while it waited; the next one may be fine.
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
            Err(e) => {
                slot.stats.downstream_accept_error.inc();
                Logger::Connection.warning(format_args!("listener `{}` cannot accept: {e}; next try in {back_off:?}", slot.name));
                tokio::time::sleep(back_off).await;
                back_off = (back_off * 2).min(BACK_OFF_LAST);
            }
        }
    }
    // The kernel is asked itself: the event loop may not have heard yet of who waits.
    let Ok(listener) = listener.into_std() else { return };
    for _ in 0..LAST {
        let Ok((io, peer)) = listener.accept() else { return };
        if io.set_nonblocking(true).is_ok()
            && let Ok(io) = TcpStream::from_std(io)
        {
            take(&context, &slot, io, peer);
        }
    }
}

fn take(context: &Rc<ListenerContext>, slot: &Arc<ListenerSlot>, io: TcpStream, peer: SocketAddr) {
    slot.stats.downstream_cx_total.inc();
    if context.shared.overload.refuses_connections() {
        slot.stats.downstream_cx_overload_reject.inc();
        return slot.stats.downstream_cx_destroy.inc();
    }
    match Guard::enter(slot) {
        Some(guard) => drop(spawn_local(connection(context.clone(), guard, io, peer))),
        None => slot.stats.downstream_cx_destroy.inc(),
    }
}

/// Counts an accepting socket while it lives.
pub(super) struct Accepting(Arc<Total>);

impl Accepting {
    pub fn begin(total: &Arc<Total>) -> Accepting {
        total.accepting.fetch_add(1, Ordering::Relaxed);
        Accepting(total.clone())
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        if self.0.accepting.fetch_sub(1, Ordering::Release) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

/// Counts a connection, or a UDP session, for as long as it lives.
pub(super) struct Guard {
    slot: Arc<ListenerSlot>,
}

impl Guard {
    /// `None` where a limit is reached: the connection is closed at once.
    pub fn enter(slot: &Arc<ListenerSlot>) -> Option<Guard> {
        let limit = slot.current.load().config.max_connections;
        if slot.open.fetch_add(1, Ordering::Relaxed) >= limit {
            slot.open.fetch_sub(1, Ordering::Relaxed);
            slot.stats.downstream_cx_overflow.inc();
            return None;
        }
        if slot.total.open.fetch_add(1, Ordering::Relaxed) >= slot.total.limit {
            slot.open.fetch_sub(1, Ordering::Relaxed);
            slot.total.leave();
            slot.stats.downstream_global_cx_overflow.inc();
            return None;
        }
        Some(Guard { slot: slot.clone() })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.slot.open.fetch_sub(1, Ordering::Relaxed);
        self.slot.total.leave();
        self.slot.stats.downstream_cx_destroy.inc();
    }
}

impl Total {
    fn leave(&self) {
        if self.open.fetch_sub(1, Ordering::Release) == 1 {
            self.idle.notify_waiters();
        }
    }
}

/// What is known of a connection before its filter chain is.
struct Arrival {
    peer: SocketAddr,
    local: SocketAddr,
    direct_peer: SocketAddr,
    hello: Option<ClientHello>,
}

async fn connection(context: Rc<ListenerContext>, guard: Guard, io: TcpStream, peer: SocketAddr) {
    let slot = &guard.slot;
    let listener = slot.current.load_full();
    let _ = io.set_nodelay(true);
    let Ok(address) = io.local_addr() else { return };
    let mut arrival = Arrival { peer, local: address, direct_peer: peer, hello: None };
    let looks = listener.needs_inspection();
    if listener.config.proxy_protocol || looks {
        let prepared = prepare(&context, slot, &listener, &io, &mut arrival, looks);
        match timeout(context.shared.options.listener_filters_timeout, prepared).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return,
            Ok(Err(e)) => {
                // A client that leaves before its first byte (a health check by TCP) is no error.
                if e.kind() != io::ErrorKind::UnexpectedEof {
                    slot.stats.downstream_listener_filter_error.inc();
                }
                return;
            }
            Err(_) => return slot.stats.downstream_pre_cx_timeout.inc(),
        }
    }
    let chain = if looks { listener.find(arrival.hello.as_ref()) } else { listener.only() };
    let Some(chain) = chain.cloned() else { return slot.stats.no_filter_chain_match.inc() };
    drop(listener);
    serve(&context, &guard, chain, io, arrival).await;
}

/// Waits for the next byte. `false`: `ended` came first. A client that has begun to send is not cut off by a drain; the timeouts
/// of what it began bound it.
async fn begins(io: &TcpStream, ended: impl Future<Output = ()>) -> bool {
    tokio::select! {
        biased;
        // The next reader sees an error too.
        _ = peek(io, 1, |bytes| (!bytes.is_empty()).then_some(())) => true,
        () = ended => false,
    }
}

/// The listener filters: PROXY protocol, then the look at the first bytes. `false`: the client was silent while its listener ended.
async fn prepare(
    context: &ListenerContext,
    slot: &ListenerSlot,
    listener: &ListenerRt,
    io: &TcpStream,
    arrival: &mut Arrival,
    looks: bool,
) -> io::Result<bool> {
    if listener.config.proxy_protocol {
        if !begins(io, context.arrivals()).await {
            return Ok(false);
        }
        let header = peek(io, proxy_protocol::MAX_HEADER_BYTES, proxy_protocol::parse).await?;
        let header = header.map_err(|why| {
            slot.stats.proxy_proto_not_found_disallowed.inc();
            io::Error::new(io::ErrorKind::InvalidData, why)
        })?;
        skip(io, header.length)?;
        if let Some((peer, local)) = header.addresses {
            (arrival.peer, arrival.local) = (peer, local);
        }
    }
    if looks {
        if !begins(io, context.arrivals()).await {
            return Ok(false);
        }
        let hello = peek(io, INSPECTED, |bytes| match inspect(bytes) {
            Hello::Incomplete => None,
            Hello::Plain => Some(Ok(None)),
            Hello::Tls(hello) => Some(Ok(Some(hello))),
            Hello::Malformed(why) => Some(Err(why)),
        });
        arrival.hello = hello.await?.map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))?;
    }
    Ok(true)
}

/// From the chosen chain on.
async fn serve(context: &Rc<ListenerContext>, guard: &Guard, chain: Arc<ChainRt>, io: TcpStream, arrival: Arrival) {
    let stats = &guard.slot.stats;
    let mut conn = ConnInfo {
        id: next_id(),
        peer: arrival.peer,
        local: arrival.local,
        direct_peer: arrival.direct_peer,
        listener: guard.slot.name.clone(),
        chain: chain.config.name.clone(),
        tls: None,
        requested_server_name: arrival.hello.and_then(|h| h.server_name),
        drain: context.drain_of(&chain.drain_group),
    };
    let io = match &chain.tls {
        None => Io::Plain(io),
        Some(server) => match handshake(context, stats, server, io, &mut conn).await {
            Some(io) => io,
            None => return,
        },
    };
    if !network_filters::admit(&chain.rbac, &conn, stats) {
        return;
    }
    match &chain.tcp {
        Some(_) => tcp_proxy::serve(context, &chain, io, &conn, stats).await,
        None => context.serve_http(io, conn).await,
    }
}

/// The server's side of the TLS handshake; what it brought is noted in `conn`.
async fn handshake(
    context: &ListenerContext,
    stats: &ListenerStats,
    server: &tls::Server,
    io: TcpStream,
    conn: &mut ConnInfo,
) -> Option<Io> {
    let drain = conn.drain.watch();
    let shaken = async {
        match begins(&io, drain.idle()).await {
            true => Some(server.accept(io).await),
            false => None,
        }
    };
    let stream = match timeout(context.shared.options.handshake_timeout, shaken).await {
        Ok(Some(Ok(stream))) => stream,
        Ok(None) => return None,
        Ok(Some(Err(e))) => {
            let failed = match tls::refusal(&e) {
                None => &stats.ssl_connection_error,
                Some(Refusal::NoCertificate) => &stats.ssl_fail_verify_no_cert,
                Some(Refusal::Invalid) => &stats.ssl_fail_verify_error,
                Some(Refusal::Name) => &stats.ssl_fail_verify_san,
                Some(Refusal::Pin) => &stats.ssl_fail_verify_cert_hash,
            };
            failed.inc();
            Logger::Connection.debug(format_args!("{}: TLS handshake with {}: {e}", conn.listener, conn.peer));
            return None;
        }
        Err(_) => {
            stats.ssl_handshake_timeout.inc();
            return None;
        }
    };
    stats.ssl_handshake.inc();
    let session = stream.get_ref().1;
    if session.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
        stats.ssl_session_reused.inc();
    }
    let tls = info::tls(session, server);
    if tls.peer_certificate.is_none() {
        stats.ssl_no_certificate.inc();
    }
    if conn.requested_server_name.is_none() {
        conn.requested_server_name = tls.sni.clone();
    }
    conn.tls = Some(tls);
    Some(Io::tls(stream))
}
