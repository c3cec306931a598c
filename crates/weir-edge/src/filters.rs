//! Filters: what clients of the node see otherwise than the API server says it. They are applied when an answer is served, whether it comes
//! from the API server or from what was kept; what is kept is always as the API server said it. So a change of the context (the pool of
//! the node, the nodes of a pool, settings, a Service's topology) reaches open watches at once, also without the link.
pub mod chain;
pub mod context;
mod discardcloudservice;
pub mod draft;
mod endpointrepair;
mod forwardkubesvctraffic;
mod inclusterconfig;
mod list;
mod masterservice;
mod nodeportisolation;
mod outcome;
mod served;
mod serviceenvupdater;
pub mod servicetopology;
#[cfg(test)]
mod tests;
mod view;
mod watch;

use crate::{
    apimachinery::{
        gunzip::Gunzip,
        media::{Encoding, MediaType, Shape},
        request::{RequestInfo, ResourceRequest, Verb},
        status::Failure,
    },
    asked::Asked,
    body::{Body, full, pieces, streamed},
    cache::media_of,
    offline::local::Local,
};
use bytes::Bytes;
use chain::Chain;
use context::Context;
use http::{Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use watch::{KeptList, Watched};

/// Bytes of a list that is filtered; a larger one passes as it is.
const MAX_BODY: usize = 64 << 20;

/// The first list waits so long for the topology of Services. What comes later reaches the watch.
const SETTLING: Duration = Duration::from_secs(1);

type Published = Arc<Context>;

/// Counters, for the metrics.
#[derive(Debug, Default)]
pub struct Stats {
    /// Objects that clients were shown otherwise than they are.
    pub changed: AtomicU64,
    /// Objects that clients were not shown.
    pub hidden: AtomicU64,
    /// Answers, events and objects that could not be read, and passed as they are.
    pub unreadable: AtomicU64,
    /// Open watches that went over to another context.
    pub reapplied: AtomicU64,
}

/// The newest resource version that a client has seen.
#[derive(Debug, Default)]
pub struct Newest(AtomicU64);

impl Newest {
    fn seen(&self, version: u64) {
        self.0.fetch_max(version, Relaxed);
    }
}

pub struct Filters {
    context: tokio::sync::watch::Sender<Published>,
    newest: Arc<Newest>,
    /// A client has asked for something of which the pool of the node or the topology of Services matters.
    wanted: tokio::sync::watch::Sender<bool>,
    pub stats: Arc<Stats>,
}

impl Filters {
    /// `newest`: the newest resource version that was kept. What clients that have it were shown before is not known.
    pub fn new(context: Context, newest: u64) -> Filters {
        let context = Arc::new(Context { mark: newest, ..context });
        Filters {
            context: tokio::sync::watch::Sender::new(context),
            newest: Arc::new(Newest(AtomicU64::new(newest))),
            wanted: tokio::sync::watch::Sender::new(false),
            stats: Arc::default(),
        }
    }

    pub fn subscribe(&self) -> tokio::sync::watch::Receiver<Published> {
        self.context.subscribe()
    }

    /// Waits until the pool of the node or the topology of Services matters to a client.
    pub async fn wanted(&self) {
        // The sender is here: it does not end.
        let _ = self.wanted.subscribe().wait_for(|wanted| *wanted).await;
    }

    /// Makes the pool of the node known, whether or not a client needs it.
    pub fn want(&self) {
        self.wanted.send_if_modified(|wanted| !std::mem::replace(wanted, true));
    }

    /// Waits for what the filters of a request need, for the first request that needs it.
    async fn settle(&self, chain: &Chain) {
        let services = chain.has(servicetopology::NAME);
        if services || chain.has(nodeportisolation::NAME) {
            self.want();
        }
        if services && !self.context().settled {
            let mut contexts = self.context.subscribe();
            let settled = tokio::time::timeout(SETTLING, contexts.wait_for(|context| context.settled)).await.is_ok();
            if !settled {
                self.update(|context| context.settled = true);
            }
        }
    }

    pub fn context(&self) -> Arc<Context> {
        self.context.borrow().clone()
    }

    /// Changes the context; open watches hear of it.
    pub fn update(&self, change: impl FnOnce(&mut Context)) {
        self.context.send_if_modified(|context| {
            let mut next = Context::clone(context);
            change(&mut next);
            let changed = next != **context;
            if changed {
                next.mark = self.newest.0.load(Relaxed);
                *context = Arc::new(next);
            }
            changed
        });
    }

    /// An answer as its client sees it.
    pub async fn serve(&self, local: &Local, asked: &Asked, info: &RequestInfo, response: Response<Body>) -> Response<Body> {
        let RequestInfo::Resource(request) = info else { return response };
        let chain = Chain::of(&self.context(), &asked.agent, request).filter(|_| !asked.head_only);
        let Some(chain) = chain.filter(|_| response.status() == StatusCode::OK) else { return response };
        let Some(media) = media_of(&asked.accept, &response) else { return response };
        if media.shape != Shape::Object || !matches!(media.encoding, Encoding::Json | Encoding::Protobuf) {
            return response;
        }
        let coding = response.headers().get(header::CONTENT_ENCODING).cloned();
        let gzip = coding.as_ref().is_some_and(|coding| coding == "gzip");
        if coding.is_some() && !gzip {
            return response;
        }
        self.settle(&chain).await;
        match request.verb {
            Verb::Watch => self.watch(chain, local, asked, request, media, gzip, response),
            // The version of a list is taken note of also where nothing is to be changed.
            Verb::Get | Verb::Patch if !chain.is_active(&self.context()) => response,
            _ => self.whole(asked, request, media, gzip, response).await,
        }
    }

    /// A list, or an object.
    async fn whole(
        &self,
        asked: &Asked,
        request: &ResourceRequest,
        media: MediaType,
        gzip: bool,
        response: Response<Body>,
    ) -> Response<Body> {
        let (mut parts, mut body) = response.into_parts();
        let mut read: Vec<Bytes> = Vec::new();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            match frame.map(Frame::into_data) {
                Ok(Ok(piece)) => {
                    length += piece.len();
                    read.push(piece);
                }
                Ok(Err(_)) => {}
                Err(e) => return Failure::unavailable(format!("the answer of the API server broke off: {e}")).into_response(),
            }
            if length > MAX_BODY {
                self.stats.unreadable.fetch_add(1, Relaxed);
                let begun = futures_util::stream::iter(read.into_iter().map(|piece| Ok(Frame::data(piece))));
                let whole = futures_util::StreamExt::chain(begun, http_body_util::BodyStream::new(body));
                return Response::from_parts(parts, streamed(StreamBody::new(whole)));
            }
        }
        let joined = if let [one] = read.as_slice() { one.clone() } else { read.concat().into() };
        let plain = match gzip {
            false => Some(joined.clone()),
            true => {
                let mut gunzip = Gunzip::new(MAX_BODY);
                gunzip.add(&joined).map(|()| gunzip.take())
            }
        };
        let filtered = loop {
            let context = self.context();
            let Some(chain) = Chain::of(&context, &asked.agent, request) else { break None };
            let filtered = plain.as_ref().and_then(|plain| match request.verb {
                Verb::List => list::list(&chain, &context, plain, media.encoding, &self.newest, &self.stats),
                _ => list::object(&chain, &context, plain, media.encoding, &self.stats),
            });
            // What was shown with a context is seen by the next one.
            if Arc::ptr_eq(&context, &self.context.borrow()) {
                break filtered;
            }
        };
        if plain.is_none() {
            self.stats.unreadable.fetch_add(1, Relaxed);
        }
        let Some(filtered) = filtered else { return Response::from_parts(parts, full(joined)) };
        parts.headers.remove(header::CONTENT_ENCODING);
        parts.headers.insert(header::CONTENT_LENGTH, filtered.iter().map(Bytes::len).sum::<usize>().into());
        Response::from_parts(parts, pieces(filtered))
    }

    #[allow(clippy::too_many_arguments)]
    fn watch(
        &self,
        chain: Chain,
        local: &Local,
        asked: &Asked,
        request: &ResourceRequest,
        media: MediaType,
        gzip: bool,
        response: Response<Body>,
    ) -> Response<Body> {
        let contexts = self.context.subscribe();
        let (agent, of) = (asked.agent.clone(), request.clone());
        let chain_of = move |context: &Context| Chain::of(context, &agent, &of);
        let (mut parts, body) = response.into_parts();
        if chain.is_empty() {
            return Response::from_parts(parts, until_filtered(body, contexts, chain_of));
        }
        parts.headers.remove(header::CONTENT_ENCODING);
        let options = &request.options;
        let (local, asked, request) = (local.clone(), asked.clone(), request.clone());
        let watched = Watched {
            chain,
            chain_of: Box::new(chain_of),
            encoding: media.encoding,
            gzip,
            from: if options.send_initial_events { 0 } else { options.resource_version.parse().unwrap_or_default() },
            initial: options.send_initial_events,
            bookmarks: options.allow_watch_bookmarks,
            source: Box::new(move || {
                let kept = local.list(&local.cache.user(&asked.caller)?, &asked, &request).ok().filter(|kept| !kept.head.dirty)?;
                let version = kept.head.resource_version.parse().ok()?;
                Some(KeptList { head: kept.list, version, objects: kept.listing.items.into_iter().map(|(_, bytes)| bytes).collect() })
            }),
        };
        Response::from_parts(parts, watched.body(body, contexts, self.newest.clone(), self.stats.clone()))
    }
}

/// The watch of a client that has no filter: it passes as it is. If a setting gives the client one, it ends, and the client goes on with it.
fn until_filtered(
    body: Body,
    mut contexts: tokio::sync::watch::Receiver<Published>,
    chain_of: impl Fn(&Context) -> Option<Chain> + Send + 'static,
) -> Body {
    contexts.mark_unchanged();
    let frames = futures_util::stream::unfold((body, contexts, chain_of), |(mut body, mut contexts, chain_of)| async move {
        loop {
            tokio::select! {
                biased;
                frame = body.frame() => return frame.map(|frame| (frame, (body, contexts, chain_of))),
                changed = contexts.changed() => {
                    if changed.is_err() || chain_of(&contexts.borrow()).is_some_and(|chain| !chain.is_empty()) {
                        return None;
                    }
                }
            }
        }
    });
    streamed(StreamBody::new(frames))
}
