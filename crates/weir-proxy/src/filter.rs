//! HTTP filters. A connection manager has a list of them; a request passes the list in order, its response in reverse, and the router
//! is behind the last one. [`config`] has their compiled configurations, [`chain`] takes a stream through its filters.
//!
//! To add a filter: a variant of `HttpFilterConfig` in the model, of [`FilterConfig`] and of [`Filter`], a file here, and its place in
//! `HttpFilter::list`.
pub mod basic_auth;
pub mod chain;
pub mod compressor;
pub mod config;
pub mod cors;
pub mod fault;
pub mod headers;
pub mod local_rate_limit;
pub mod rbac;
pub mod wasm;

pub use chain::Chain;
pub use config::{BodyMode, FilterConfig, FilterList, Overrides};

use crate::{
    core::Core,
    info::Flags,
    plugin::WorkerPlugins,
    reply::Reply,
    snapshot::HcmRt,
    stats::HttpStats,
    stream::{Direction, Stream},
};
use std::{
    net::IpAddr,
    ops::Deref,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll},
};

/// What a filter says of a head, of body bytes or of trailers that it was shown.
#[derive(Debug)]
pub enum Flow {
    /// They go on to the next filter.
    Continue,
    /// The head goes on, and the stream ends with it.
    ContinueAndEndStream,
    /// They stay here until the filter resumes the stream.
    Stop(Stop),
    /// This answers the stream; nothing that the filter was shown goes on.
    Reply(Box<Reply>, Flags),
}

/// What a filter that stops still wants to be shown, and what happens to bytes that arrive meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It still sees what follows. More body bytes than its limit are an error.
    Iteration,
    /// It still sees what follows. Many body bytes make the sender wait.
    Watermark,
    /// It has taken these body bytes away.
    NoBuffer,
    /// It sees nothing until it resumes. More body bytes than its limit are an error.
    AllAndBuffer,
    /// It sees nothing until it resumes. Many body bytes make the sender wait.
    AllAndWatermark,
}

/// A part of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Headers,
    Body,
    Trailers,
}

/// What filters may use of the connection manager and of the worker (Envoy's `FactoryContext`).
pub struct FactoryContext {
    pub core: Rc<Core>,
    pub stats: Arc<HttpStats>,
    pub rt: Arc<HcmRt>,
    pub plugins: Weak<WorkerPlugins>,
}

/// What the filters of one stream may use.
pub struct FilterContext {
    pub stream: Rc<Stream>,
    pub factory: Rc<FactoryContext>,
}

impl Deref for FilterContext {
    type Target = FactoryContext;

    fn deref(&self) -> &FactoryContext {
        &self.factory
    }
}

impl FilterContext {
    /// The client's address, by trusted hops where there are any.
    pub fn client(&self) -> Option<IpAddr> {
        let known = self.stream.info.borrow().remote_address;
        known.or_else(|| self.stream.conn.borrow().as_ref().map(|c| c.peer)).map(|a| a.ip())
    }

    /// Body bytes that a filter holds, or is just being shown.
    pub fn held(&self, direction: Direction, position: usize) -> usize {
        self.stream.held[direction as usize].borrow()[position].len()
    }
}

/// A filter on one stream.
pub enum Filter {
    BasicAuth(basic_auth::BasicAuth),
    Compressor(compressor::CompressorFilter),
    Cors(cors::Cors),
    Fault(fault::Fault),
    Rbac(rbac::Rbac),
    LocalRateLimit(local_rate_limit::LocalRateLimit),
    Wasm(wasm::Wasm),
    #[cfg(test)]
    Scripted(chain::tests::Scripted),
}

impl Filter {
    pub fn new(config: &FilterConfig) -> Filter {
        match config {
            FilterConfig::BasicAuth(config) => Filter::BasicAuth(basic_auth::BasicAuth::new(config.clone())),
            FilterConfig::Compressor(config) => Filter::Compressor(compressor::CompressorFilter::new(config.clone())),
            FilterConfig::Cors(config) => Filter::Cors(cors::Cors::new(config.clone())),
            FilterConfig::Fault(config) => Filter::Fault(fault::Fault::new(config.clone())),
            FilterConfig::Rbac(config) => Filter::Rbac(rbac::Rbac::new(config.clone())),
            FilterConfig::LocalRateLimit(config) => Filter::LocalRateLimit(local_rate_limit::LocalRateLimit::new(config.clone())),
            FilterConfig::Wasm(slot) => Filter::Wasm(wasm::Wasm::new(slot.clone())),
        }
    }

    /// Whether the filter wants to see this part. A body that no filter wants is passed on unread.
    pub fn wants(&self, direction: Direction, part: Part) -> bool {
        match self {
            Filter::Compressor(f) => part == Part::Headers || direction == Direction::Response && f.is_compressing(),
            Filter::Cors(_) | Filter::LocalRateLimit(_) => part == Part::Headers,
            Filter::BasicAuth(_) | Filter::Fault(_) | Filter::Rbac(_) => (direction, part) == (Direction::Request, Part::Headers),
            Filter::Wasm(f) => f.wants(direction, part),
            #[cfg(test)]
            Filter::Scripted(_) => true,
        }
    }

    /// A head is about to reach the filter.
    pub fn before_head(&mut self, cx: &FilterContext) {
        if let Filter::Wasm(f) = self {
            f.before_head(cx);
        }
    }

    /// The request's head; `end`: there is no body.
    pub fn decode_headers(&mut self, cx: &FilterContext, end: bool) -> Flow {
        match self {
            Filter::BasicAuth(f) => f.decode_headers(cx),
            Filter::Compressor(f) => f.decode_headers(cx),
            Filter::Cors(f) => f.decode_headers(cx),
            Filter::Fault(f) => f.decode_headers(cx),
            Filter::Rbac(f) => f.decode_headers(cx),
            Filter::LocalRateLimit(f) => f.decode_headers(cx),
            Filter::Wasm(f) => f.headers(Direction::Request, end),
            #[cfg(test)]
            Filter::Scripted(f) => f.call(Direction::Request, Part::Headers, 0, end),
        }
    }

    /// Bytes of the request's body have come. They stand in the stream's `held`, behind those that the filter has held before; what the
    /// filter leaves there goes on or stays. `position` is that of the filter.
    pub fn decode_data(&mut self, cx: &FilterContext, position: usize, end: bool) -> Flow {
        let d = Direction::Request;
        match self {
            Filter::Wasm(f) => f.body(d, cx.held(d, position), end),
            #[cfg(test)]
            Filter::Scripted(f) => f.call(d, Part::Body, cx.held(d, position), end),
            _ => Flow::Continue,
        }
    }

    pub fn decode_trailers(&mut self) -> Flow {
        match self {
            Filter::Wasm(f) => f.trailers(Direction::Request),
            #[cfg(test)]
            Filter::Scripted(f) => f.call(Direction::Request, Part::Trailers, 0, true),
            _ => Flow::Continue,
        }
    }

    /// The response's head; `end`: there is no body.
    pub fn encode_headers(&mut self, cx: &FilterContext, end: bool) -> Flow {
        match self {
            Filter::Compressor(f) => f.encode_headers(cx, end),
            Filter::Cors(f) => f.encode_headers(cx),
            Filter::LocalRateLimit(f) => f.encode_headers(cx),
            Filter::Wasm(f) => f.headers(Direction::Response, end),
            #[cfg(test)]
            Filter::Scripted(f) => f.call(Direction::Response, Part::Headers, 0, end),
            _ => Flow::Continue,
        }
    }

    /// As [`Filter::decode_data`], for the response.
    pub fn encode_data(&mut self, cx: &FilterContext, position: usize, end: bool) -> Flow {
        let d = Direction::Response;
        match self {
            Filter::Compressor(f) => f.encode_data(cx, position, end),
            Filter::Wasm(f) => f.body(d, cx.held(d, position), end),
            #[cfg(test)]
            Filter::Scripted(f) => f.call(d, Part::Body, cx.held(d, position), end),
            _ => Flow::Continue,
        }
    }

    /// Body bytes that the filter leaves in the stream's `held` go on before the trailers.
    pub fn encode_trailers(&mut self, cx: &FilterContext, position: usize) -> Flow {
        match self {
            Filter::Compressor(f) => f.encode_data(cx, position, true),
            Filter::Wasm(f) => f.trailers(Direction::Response),
            #[cfg(test)]
            Filter::Scripted(f) => f.call(Direction::Response, Part::Trailers, 0, true),
            _ => Flow::Continue,
        }
    }

    /// Whether the filter has stopped a head and works on its decision, which [`Filter::poll`] gives.
    pub fn is_working(&self) -> bool {
        match self {
            Filter::BasicAuth(f) => f.is_checking(),
            Filter::Fault(f) => f.is_delayed(),
            _ => false,
        }
    }

    /// The decision about a head that the filter has stopped.
    pub fn poll(&mut self, cx: &mut Context) -> Poll<Flow> {
        match self {
            Filter::BasicAuth(f) => f.poll(cx),
            Filter::Fault(f) => f.poll(cx),
            _ => Poll::Pending,
        }
    }

    /// Whether the filter decides who is let in: it must see a request again that has got another route on its way.
    pub fn guards(&self) -> bool {
        matches!(self, Filter::BasicAuth(_) | Filter::Rbac(_) | Filter::LocalRateLimit(_))
    }

    /// The stream is over, and was answered with this status, or 0; called once.
    pub fn end(&mut self, status: u16) {
        if let Filter::Wasm(f) = self {
            f.end(status);
        }
    }
}
