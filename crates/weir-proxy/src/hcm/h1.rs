//! HTTP/1 towards clients: one task per connection, one request after the other.
use super::{After, Connection, Downstream, Hcm, Waits, active_stream::ActiveStream, ns};
use crate::{
    detail::Detail,
    drain::{IDLE_GRACE, Phase, Watch},
    info::Flags,
    stream::Stream,
};
use std::{
    future::poll_fn,
    rc::{Rc, Weak},
    task::Poll,
};
use weir_net::http::{
    parse::{self, Bad},
    relay::Peer,
    wire::Wire,
};

/// Why there is no request on a connection that is still open.
enum Refused {
    Bad(Bad),
    Late,
}

/// How a connection ended.
pub enum Ended {
    /// By the client; with a request under way.
    Remote {
        active: bool,
    },
    /// No request came for too long.
    Idle,
    /// It has had as many requests as it may.
    MostRequests,
    /// It was idle during a drain.
    Drained,
    Local,
}

/// `since`: when its first byte came, if it has.
pub async fn serve(wire: Wire, mut since: Option<u64>, connection: Connection, mut known: Weak<Hcm>, mut waits: Waits) -> Ended {
    let Connection { conn, key, worker: w, hcms, ip } = connection;
    let mut c = Downstream { peer: Peer::H1(wire), deadline: w.timers.deadline(), conn, ip };
    let (mut last, mut requests) = (None, 0u32);
    let drain = c.conn.drain.watch();
    loop {
        let (stream, head) = match request_head(&mut c, &w, &waits, since.take(), &drain).await {
            Ok(found) => found,
            Err(ended) => return ended,
        };
        // A connection manager that is gone serves what it has begun.
        let Some(hcm) = hcms.get(&key, &mut known).or_else(|| last.take()) else { return Ended::Local };
        waits = hcm.waits;
        requests += 1;
        hcm.stats.downstream_rq_http1_total.inc();
        *stream.conn.borrow_mut() = Some(c.conn.clone());
        let limit = hcm.config().limits.max_requests_per_connection;
        let most = limit > 0 && requests >= limit;
        let closing = c.conn.drain.is_draining() || most;
        let ex = ActiveStream::new(&mut c, &w, &hcm, &stream, closing);
        let after = match head {
            Ok(()) => ex.run().await,
            Err(Refused::Bad(bad)) => ex.refuse(bad.status(), bad.into()).await,
            Err(Refused::Late) => ex.refuse(408, Detail::RequestHeaderTimeout).await,
        };
        let gone = stream.info.borrow().flags.has(Flags::DOWNSTREAM_CONNECTION_TERMINATION);
        w.give_back(stream);
        match after {
            After::Close if gone => return Ended::Remote { active: true },
            After::Close if most => return Ended::MostRequests,
            After::Close => return Ended::Local,
            After::Keep => {}
        }
        if c.conn.drain.is_draining() {
            last = Some(hcm);
        }
    }
}

/// Waits for a request. Nothing but the connection is held until its first byte is there.
async fn request_head(
    c: &mut Downstream,
    w: &Rc<super::Worker>,
    waits: &Waits,
    since: Option<u64>,
    drain: &Watch,
) -> Result<(Rc<Stream>, Result<(), Refused>), Ended> {
    let Downstream { peer, deadline, .. } = c;
    let wire = peer.wire().ok_or(Ended::Local)?;
    let begun = w.moment();
    deadline.set(begun.saturating_add(waits.idle));
    let mut stream: Option<Rc<Stream>> = None;
    let mut leaving = false;
    loop {
        if !wire.input.is_empty() {
            let first = stream.is_none();
            let s = stream.get_or_insert_with(|| w.stream());
            let parsed = parse::request(wire.input.filled(), &mut s.req.borrow_mut(), waits.limits);
            match parsed {
                Ok(Some(n)) => {
                    if !first {
                        w.now();
                    }
                    s.info.borrow_mut().header_bytes_received = n as u64;
                    wire.input.consume(n);
                    w.bufs.reclaim(&mut wire.input);
                    return Ok((s.clone(), Ok(())));
                }
                Ok(None) if first => deadline.set(since.unwrap_or_else(|| w.now()).saturating_add(waits.head)),
                Ok(None) => {}
                Err(Bad::NotHttp) => return Err(Ended::Local),
                Err(bad) => return Ok((s.clone(), Err(Refused::Bad(bad)))),
            }
            // Within the limit, or it would have been refused.
            if wire.input.is_full() {
                w.bufs.enlarge(&mut wire.input);
            }
        }
        // Only a connection that waits idly ends with the drain.
        let idle = stream.is_none();
        let filled = poll_fn(|cx| {
            if idle && !leaving && drain.phase(cx) >= Phase::Closing {
                leaving = true;
                deadline.set(begun.saturating_add(ns(Some(IDLE_GRACE))));
            }
            // A request that has come is served, even if the time is over.
            let filled = wire.poll_fill(cx, &w.bufs);
            if filled.is_pending() && deadline.expired(cx) {
                return Poll::Ready(Err(if leaving { Ended::Drained } else { Ended::Idle }));
            }
            filled.map(Ok)
        });
        match filled.await {
            Ok(Ok(1..)) => {}
            Ok(_) => return Err(Ended::Remote { active: stream.is_some() }),
            Err(ended) => return stream.map(|s| (s, Err(Refused::Late))).ok_or(ended),
        }
    }
}
