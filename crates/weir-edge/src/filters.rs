//! Filters: what clients of the node see otherwise than the API server says it. They are applied when an answer is served, whether it comes
//! from the API server or from what was kept; what is kept is always as the API server said it. So a change of the context (the pool of
//! the node, the nodes of a pool, settings, a Service's topology) reaches open watches at once, also without the link.
pub mod chain;
pub mod context;
mod contexts;
mod discardcloudservice;
pub mod draft;
mod endpointrepair;
mod forwardkubesvctraffic;
mod inclusterconfig;
mod listing;
mod masterservice;
mod nodeportisolation;
mod outcome;
mod served;
mod serviceenvupdater;
pub mod servicetopology;
pub mod stats;
#[cfg(test)]
mod tests;
mod view;
mod watch;

use crate::{
    apimachinery::{
        frame::MAX_FRAME,
        gunzip::Gunzip,
        media::{Encoding, MediaType, Shape},
        object::Object,
        request::{RequestInfo, ResourceRequest, Verb},
        status::Failure,
    },
    asked::Asked,
    body::{Body, BodyError, pieces, streamed},
    cache::media_of,
    offline::local::Local,
};
use bytes::Bytes;
use chain::{Chain, FILTERS, Verdict};
use context::Context;
use contexts::{Contexts, Published};
use http::{Response, StatusCode, header, response::Parts};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use listing::{Judge, NotHeld, Reader};
use stats::Stats;
use std::{sync::Arc, time::Duration};
use watch::{KeptList, Watched};

/// Bytes of a list in protobuf that is filtered; a larger one passes as it is.
const MAX_BODY: usize = 64 << 20;

/// The first list waits so long for the topology of Services. What comes later reaches the watch.
const SETTLING: Duration = Duration::from_secs(1);

pub struct Filters {
    contexts: Arc<Contexts>,
    /// A client has asked for something of which the pool of the node or the topology of Services matters.
    wanted: tokio::sync::watch::Sender<bool>,
    pub stats: Arc<Stats>,
}

impl Filters {
    /// `newest`: the newest resource version that was kept. What clients that have it were shown before is not known.
    pub fn new(context: Context, newest: u64) -> Filters {
        let counted = FILTERS.iter().flat_map(|filter| filter.resources.iter().map(|resource| (filter.name, *resource)));
        Filters {
            contexts: Arc::new(Contexts::new(context, newest)),
            wanted: tokio::sync::watch::Sender::new(false),
            stats: Arc::new(Stats::new(counted)),
        }
    }

    pub fn subscribe(&self) -> tokio::sync::watch::Receiver<Published> {
        self.contexts.subscribe()
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
            let mut contexts = self.subscribe();
            let settled = tokio::time::timeout(SETTLING, contexts.wait_for(|context| context.settled)).await.is_ok();
            if !settled {
                self.update(|context| context.settled = true);
            }
        }
    }

    pub fn context(&self) -> Published {
        self.contexts.now()
    }

    /// Changes the context; open watches hear of it.
    pub fn update(&self, change: impl FnOnce(&mut Context)) {
        self.contexts.update(change);
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
        let active = chain.is_active(&self.context());
        match request.verb {
            Verb::Watch => self.watch(chain, local, asked, request, media, gzip, response),
            Verb::List => self.list(active, asked, request, media, gzip, response).await,
            _ if active => self.object(asked, request, media, gzip, response).await,
            _ => response,
        }
    }

    async fn list(
        &self,
        active: bool,
        asked: &Asked,
        request: &ResourceRequest,
        media: MediaType,
        gzip: bool,
        response: Response<Body>,
    ) -> Response<Body> {
        let Some(reader) = Reader::new(media.encoding, gzip) else { return response };
        if !active {
            return response.map(|body| listing::noted(body, reader, self.contexts.clone()));
        }
        let (agent, of) = (asked.agent.clone(), request.clone());
        let chain_of = Box::new(move |context: &Context| Chain::of(context, &agent, &of));
        let judge = Judge::new(self.contexts.clone(), self.stats.clone(), chain_of, request, media.encoding);
        let (mut parts, body) = response.into_parts();
        if media.encoding == Encoding::Json {
            parts.headers.remove(header::CONTENT_ENCODING);
            parts.headers.remove(header::CONTENT_LENGTH);
            return Response::from_parts(parts, listing::streaming(body, reader, judge));
        }
        match listing::whole(body, reader, judge, MAX_BODY).await {
            Ok(list) => replaced(parts, list.came, list.shown),
            Err(NotHeld::Broken(e)) => broken(&e),
            Err(NotHeld::TooLong(body)) => Response::from_parts(parts, body),
        }
    }

    async fn object(
        &self,
        asked: &Asked,
        request: &ResourceRequest,
        media: MediaType,
        gzip: bool,
        response: Response<Body>,
    ) -> Response<Body> {
        let (parts, mut body) = response.into_parts();
        let (mut came, mut length) = (Vec::<Bytes>::new(), 0);
        while let Some(frame) = body.frame().await {
            match frame.map(Frame::into_data) {
                Ok(Ok(piece)) => {
                    length += piece.len();
                    came.push(piece);
                }
                Ok(Err(_)) => {}
                Err(e) => return broken(&e),
            }
            if length > MAX_FRAME {
                self.stats.unreadable();
                let begun = futures_util::stream::iter(came.into_iter().map(|piece| Ok(Frame::data(piece))));
                let whole = futures_util::StreamExt::chain(begun, http_body_util::BodyStream::new(body));
                return Response::from_parts(parts, streamed(StreamBody::new(whole)));
            }
        }
        let joined = if let [one] = came.as_slice() { one.clone() } else { came.concat().into() };
        let plain = match gzip {
            false => Some(joined),
            true => {
                let mut gunzip = Gunzip::new(MAX_FRAME);
                gunzip.add(&joined).map(|()| gunzip.take())
            }
        };
        let context = self.context();
        let read = plain.and_then(|plain| Object::read(plain, media.encoding).ok());
        let verdict = match (read, Chain::of(&context, &asked.agent, request)) {
            (Some(object), Some(chain)) => {
                chain.saw(&self.stats);
                chain.count(&object, &context, None, &self.stats).ok()
            }
            (None, _) => None,
            (Some(_), None) => Some(Verdict::Keep),
        };
        let shown = match verdict {
            Some(Verdict::Replace(replaced)) => Some(vec![replaced.bytes]),
            // What a client asks for by name it gets.
            Some(Verdict::Keep | Verdict::Drop) => None,
            None => {
                self.stats.unreadable();
                None
            }
        };
        replaced(parts, came, shown)
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
        let (agent, of) = (asked.agent.clone(), request.clone());
        let chain_of = move |context: &Context| Chain::of(context, &agent, &of);
        let (mut parts, body) = response.into_parts();
        if chain.is_empty() {
            return Response::from_parts(parts, until_filtered(body, self.subscribe(), chain_of));
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
        Response::from_parts(parts, watched.body(body, self.contexts.clone(), self.stats.clone()))
    }
}

/// An answer with another body, or with the one with which it came.
fn replaced(mut parts: Parts, came: Vec<Bytes>, shown: Option<Vec<Bytes>>) -> Response<Body> {
    let Some(shown) = shown else { return Response::from_parts(parts, pieces(came)) };
    parts.headers.remove(header::CONTENT_ENCODING);
    parts.headers.insert(header::CONTENT_LENGTH, shown.iter().map(Bytes::len).sum::<usize>().into());
    Response::from_parts(parts, pieces(shown))
}

fn broken(error: &BodyError) -> Response<Body> {
    Failure::unavailable(format!("the answer of the API server broke off: {error}")).into_response()
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
