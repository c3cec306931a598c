//! Answers of the gateway's own, header edits, and the access log.
use super::{After, active_stream::ActiveStream, clock::Late, end::End, ns, wait::GivenUp};
use crate::{
    access_log::Record,
    detail::Detail,
    filter::headers::{Edits, Values},
    info::{Flags, Info},
    reply::Reply,
    stream::{Direction, Reached},
};
use std::{future::poll_fn, task::Poll, time::SystemTime};
use weir_net::http::{Known, body, head, relay::Peer};

/// gRPC's code for an HTTP status, as Envoy maps them.
fn grpc_code(status: u16) -> i32 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

impl ActiveStream<'_> {
    /// Sends an answer of the gateway's own, past the filters. Plugins that have begun with another response do not see it.
    pub(super) async fn reply(&mut self, reply: Reply, flags: Flags) -> After {
        let encoding = self.s.reached[Direction::Response as usize].get() != Reached::Nothing;
        let mut body = self.compose(&reply, flags);
        self.response.close_unless(self.request.is_read());
        self.clock.unbind();
        self.clock.route = self.w.now().saturating_add(ns(self.hcm.config().timeouts.stream_flush_timeout));
        self.clock.arm(&self.c.deadline);
        // A reply that a plugin sends in place of another skips all plugins, or two could replace each other's for ever.
        let mut plugins = !encoding;
        while let Some(chain) = &mut self.chain {
            chain.restart_response(plugins);
            match self.encode(body.is_empty(), &body, None).await {
                Ok(()) => break,
                Err(GivenUp::End(End::Reply(other, flags))) if plugins => body = self.compose(&other, flags),
                Err(GivenUp::Late(_)) if plugins => {}
                Err(GivenUp::End(End::Gone(flags, details))) => return self.cut(flags, details),
                Err(_) => return self.cut(Flags::LOCAL_RESET, Detail::LocalReplyHeld),
            }
            plugins = false;
        }
        let sent = self.send_reply(&body).await;
        match sent {
            Ok(()) if self.response.after == After::Keep => After::Keep,
            // What the client has not sent yet it is told to keep (RST_STREAM, NO_ERROR) once the answer is out and the stream dropped.
            Ok(()) if self.h2 => After::Close,
            Ok(()) => self.close().await,
            Err(End::Gone(flags, _)) => {
                let mut info = self.s.info.borrow_mut();
                info.set_flag(flags);
                drop(info);
                if let Peer::H2(stream) = &mut self.c.peer {
                    stream.reset(h2::Reason::INTERNAL_ERROR);
                }
                After::Close
            }
            Err(End::Reply(..)) => After::Close,
        }
    }

    /// Makes the reply the stream's response; returns the body.
    fn compose(&mut self, reply: &Reply, flags: Flags) -> Vec<u8> {
        {
            let mut info = self.s.info.borrow_mut();
            info.set_flag(flags);
            info.details = reply.details.clone();
        }
        let grpc = self.s.req.borrow().is_grpc() && (reply.grpc_status.is_none_or(|s| s >= 0));
        self.reply_head(reply, grpc)
    }

    /// Writes the head into the stream; gives the body.
    fn reply_head(&mut self, reply: &Reply, grpc: bool) -> Vec<u8> {
        let mut resp = self.s.resp.borrow_mut();
        let body = if grpc { Vec::new() } else { reply.body.to_vec() };
        resp.begin(if grpc { 200 } else { reply.status });
        for (name, value) in &reply.headers {
            resp.headers.add_named(name, value);
        }
        if !resp.headers.has(Known::Date) {
            resp.headers.add(Known::Date, &[httpdate::fmt_http_date(SystemTime::now()).as_bytes()]);
        }
        if grpc {
            resp.headers.set(Known::ContentType, &[b"application/grpc"]);
            let code = reply.grpc_status.unwrap_or_else(|| grpc_code(reply.status));
            resp.headers.add(Known::GrpcStatus, &[code.to_string().as_bytes()]);
            let message = percent(if reply.body.is_empty() { reply.details.as_str().as_bytes() } else { &reply.body });
            resp.headers.add(Known::GrpcMessage, &[&message]);
            return body;
        }
        if !body.is_empty() && !resp.headers.has(Known::ContentType) {
            resp.headers.add(Known::ContentType, &[b"text/plain"]);
        }
        let text = match body.is_empty() && reply.status >= 400 {
            // A word for people; plugins and direct responses that say nothing mean it.
            true if reply.headers.is_empty() && reply.details != Detail::DirectResponse => {
                resp.headers.add(Known::ContentType, &[b"text/plain"]);
                head::reason(reply.status).to_ascii_lowercase().into_bytes()
            }
            _ => body,
        };
        if !matches!(reply.status, 204 | 304) {
            resp.headers.set(Known::ContentLength, &[text.len().to_string().as_bytes()]);
        }
        text
    }

    async fn send_reply(&mut self, body: &[u8]) -> Result<(), End> {
        self.s.reached[Direction::Response as usize].set(Reached::Sent);
        let bodiless = body::is_bodiless(self.s.req.borrow().method, self.s.resp.borrow().status);
        let whole = self.chain.as_ref().is_none_or(|c| c.out[1].end);
        let len = self.chain.as_ref().map_or(body.len(), |c| c.out[1].body.len());
        let mut chunked = false;
        {
            let mut resp = self.s.resp.borrow_mut();
            if resp.headers.has(Known::ContentLength) || !bodiless {
                match whole {
                    true if self.s.req.borrow().method != weir_net::http::Method::Head => {
                        resp.headers.set(Known::ContentLength, &[len.to_string().as_bytes()]);
                    }
                    true => {}
                    false => resp.headers.remove(Known::ContentLength),
                }
            }
            if !whole && !self.h2 {
                chunked = true;
                resp.headers.set(Known::TransferEncoding, &[b"chunked"]);
            }
        }
        self.last_headers(None, chunked);
        {
            let mut info = self.s.info.borrow_mut();
            info.status = self.s.resp.borrow().status;
            info.response_start = self.w.now();
        }
        let ends = bodiless || whole && len == 0;
        self.response.head_sent = true;
        let mut writer = self.start_response(chunked, ends)?;
        if self.chain.is_none() && !bodiless {
            writer.push(body);
        }
        if self.chain.is_none() {
            writer.end(None);
        }
        let sent = poll_fn(|cx| {
            if let Poll::Ready(r) = self.poll_down_relay(cx, None, &mut writer) {
                return Poll::Ready(r);
            }
            if let Peer::H2(stream) = &mut self.c.peer {
                stream.absorb(cx);
            }
            match self.check_clock(cx) {
                Err(late) => {
                    if late == Late::Route {
                        self.hcm.stats.downstream_rq_flush_timeout.inc();
                    }
                    Poll::Ready(Err(End::client_gone(self.h2)))
                }
                Ok(()) => Poll::Pending,
            }
        })
        .await;
        self.end_response(writer);
        sent
    }

    /// Applies header edits; values with operators are computed first.
    pub(super) fn edit(&mut self, edits: &Edits, d: Direction) {
        let mut values = Values::default();
        if edits.needs_record() {
            let info = self.s.info.borrow();
            self.with_record(&info, |record| edits.evaluate(record, &mut values));
        }
        match d {
            Direction::Request => edits.apply(&mut self.s.req.borrow_mut().headers, &values),
            Direction::Response => edits.apply(&mut self.s.resp.borrow_mut().headers, &values),
        }
    }

    fn with_record<R>(&self, info: &Info, with: impl FnOnce(&Record<'_>) -> R) -> R {
        let (req, resp) = (self.s.req.borrow(), self.s.resp.borrow());
        let trailers = self.s.trailers[Direction::Response as usize].borrow();
        let record = Record {
            request: Some(&*req),
            response: (resp.status != 0).then_some(&resp.headers as &dyn crate::head_access::Fields),
            trailers: Some(&*trailers),
            info,
            conn: &self.c.conn,
            route_name: self.selected.route.as_ref().map_or("", |r| &**r.name()),
        };
        with(&record)
    }

    /// Writes the access logs.
    pub(super) fn log(&self, info: &Info) {
        let loggers = &self.hcm.rt.access_logs;
        if loggers.is_empty() {
            return;
        }
        self.with_record(info, |record| {
            let mut logs = self.w.logs.borrow_mut();
            loggers.iter().for_each(|l| logs.write(l, record));
        });
    }
}

/// gRPC's percent encoding of a message.
fn percent(text: &[u8]) -> Vec<u8> {
    head::percent_encoded(text, |c| c == b'%' || !matches!(c, b' '..=b'~'))
}
