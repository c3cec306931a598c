//! Copies of requests to other clusters, whose answers nobody waits for. A copy leaves when the whole request has come;
//! one with a body beyond the buffer's limit is not made.
use super::{Checkout, Conn, Protocol, Turn, WorkerCluster};
use crate::{
    filter::fault::happens,
    outlier,
    route::{ForwardRt, MirrorRt, Target},
    worker::Worker,
};
use std::{future::poll_fn, rc::Rc, time::Duration};
use weir_net::http::{
    Headers, Known, RequestHead, ResponseHead,
    body::{self, Framing},
    h2 as border, parse,
    relay::{self, Got, Peer, Reader, Writer},
};

/// How long a copy may take; it holds a connection.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The clusters that get a copy of this request.
pub fn chosen<'a>(w: &Worker, forward: &'a ForwardRt, target: &'a Target) -> Vec<&'a MirrorRt> {
    forward.mirrors.iter().chain(&target.mirrors).filter(|m| happens(m.fraction, w.random())).collect()
}

/// Sends copies of a whole request.
pub fn start(w: &Rc<Worker>, to: &[&MirrorRt], req: &RequestHead, body: &[u8]) {
    for mirror in to {
        let Some(cluster) = w.cluster(&mirror.cluster) else { continue };
        let mut head = RequestHead::default();
        head.copy_from(req);
        let (host, port) = head.authority().split_at(head.host().len());
        let shadow = [host, b"-shadow", port].concat();
        head.headers.set(Known::Host, &[&shadow]);
        head.headers
            .remove_any(Known::TransferEncoding.bit() | Known::ContentLength.bit() | Known::Connection.bit() | Known::Upgrade.bit());
        if !body.is_empty() {
            head.headers.add(Known::ContentLength, &[body.len().to_string().as_bytes()]);
        }
        cluster.stats.upstream_rq_mirror_total.inc();
        tokio::task::spawn_local(run(w.clone(), cluster, head, body.to_vec()));
    }
}

async fn run(w: Rc<Worker>, cluster: Rc<WorkerCluster>, head: RequestHead, body: Vec<u8>) {
    let Some(host) = cluster.pick(None, &[]) else { return };
    let _turn = Turn::new(&cluster, &host);
    cluster.stats.upstream_rq_total.inc();
    let name = String::from_utf8_lossy(head.host()).into_owned();
    let checkout = Checkout { cluster: &cluster, host: &host, protocol: Protocol::of(&cluster, false), server_name: &name, fresh: false };
    let conn = match checkout.ready(&w) {
        Some(conn) => conn,
        None => match checkout.get(&w).await {
            Ok((conn, _)) => conn,
            Err(_) => return,
        },
    };
    let done = tokio::time::timeout(TIMEOUT, async {
        match conn {
            Conn::H1(owned) => {
                let (mut peer, ticket) = owned.into_peer();
                let writer = relay::request_h1(&head, Vec::new(), false);
                let status = exchange(&w, &mut peer, writer, &body, &head).await?;
                match (status.1, peer) {
                    (true, Peer::H1(wire)) => ticket.put_back(&cluster, &host, wire, w.now()),
                    _ => ticket.close(&cluster, true),
                }
                Some(status.0)
            }
            Conn::H2 { send, place, .. } => {
                let _place = place;
                let request = border::request_of(&head)?;
                let (response, stream) = send.ready().await.ok()?.send_request(request, body.is_empty()).ok()?;
                let mut peer = Peer::H2(border::H2Stream { send: Some(stream), ..Default::default() });
                let mut writer = Writer::h2(Vec::new(), body.is_empty());
                writer.push(&body);
                writer.end(None);
                poll_fn(|cx| writer.poll_flush(cx, &mut peer)).await.ok()?;
                let (parts, recv) = response.await.ok()?.into_parts();
                if let Peer::H2(stream) = &mut peer {
                    stream.recv = Some(recv);
                }
                drain(&w, &mut peer, Framing::NONE).await;
                Some(parts.status.as_u16())
            }
        }
    });
    if let Ok(Some(status)) = done.await {
        cluster.stats.answered(status);
        cluster.report(&host, outlier::Outcome::Status(status), w.now());
    }
}

/// Over HTTP/1: the status, and whether the connection can serve another request.
async fn exchange(w: &Worker, peer: &mut Peer, mut writer: Writer, body: &[u8], head: &RequestHead) -> Option<(u16, bool)> {
    writer.push(body);
    writer.end(None);
    poll_fn(|cx| writer.poll_flush(cx, peer)).await.ok()?;
    let mut resp = ResponseHead::default();
    loop {
        let wire = peer.wire()?;
        if !wire.input.is_empty()
            && let Some(n) = parse::response(wire.input.filled(), &mut resp, parse::Limits::default()).ok()?
        {
            wire.input.consume(n);
            w.bufs.reclaim(&mut wire.input);
            if resp.status >= 200 {
                break;
            }
            resp.clear();
            continue;
        }
        let n = poll_fn(|cx| wire.poll_fill(cx, &w.bufs)).await.ok()?;
        if n == 0 {
            return None;
        }
    }
    let framing = body::of_response(&resp, head.method).ok()?;
    let whole = drain(w, peer, framing).await;
    let again = whole && framing != Framing::UntilClose && body::persists(&resp.headers, resp.version);
    Some((resp.status, again && peer.wire()?.input.is_empty()))
}

/// Reads a body to its end, for nobody.
async fn drain(w: &Worker, peer: &mut Peer, framing: Framing) -> bool {
    let (mut reader, mut trailers) = (Reader::new(framing, peer), Headers::default());
    loop {
        match poll_fn(|cx| reader.poll(cx, peer, &w.bufs, &mut trailers, &mut |_| ())).await {
            Ok(Got::Data) => {}
            Ok(Got::End) => return true,
            Err(_) => return false,
        }
    }
}
