//! A watch without the API server: what is there, and what changes here, until the link is back.
use super::{Local, bookmark::bookmark};
use crate::{
    asked::Asked,
    body::{Body, BodyError, streamed},
    cache::{Cache, watchers::Changed},
    event::{self, EventKind},
    media::MediaType,
    random::between,
    reported::Kind,
    request::ResourceRequest,
    status::Failure,
};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::StreamBody;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::{Instant, interval_at, sleep},
};

/// Time between two bookmarks; the API server sends one each minute or so.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// A watch without `timeoutSeconds` ends after this time, as the API server's do.
const LONGEST: Duration = Duration::from_secs(30 * 60);
/// When the link is back, watches end within this time, and some more for each of them: clients go on at the API server, not all at once.
const HAND_BACK: Duration = Duration::from_millis(1500);
const HAND_BACK_EACH: Duration = Duration::from_millis(25);
const HAND_BACK_LONGEST: Duration = Duration::from_secs(30);
/// Frames that a client may be behind.
const BEHIND: usize = 64;

impl Local {
    pub async fn watch(&self, asked: &Asked, request: &ResourceRequest, link: watch::Receiver<bool>) -> Result<Response<Body>, Failure> {
        let user = self.user(asked)?;
        let set = self.list(&user, asked, request)?;
        let changes = self.cache.watchers.subscribe(&set.set);
        // Once more, now that no change can be missed.
        let kept = self.list(&user, asked, request)?;
        let options = &request.options;
        let from_start = options.send_initial_events || matches!(options.resource_version.as_str(), "" | "0");
        if !from_start && kept.head.resource_version != options.resource_version {
            // What was deleted since then is not known: the client lists again.
            return Err(Failure {
                code: StatusCode::GONE,
                reason: "Expired",
                message: "too old resource version".into(),
                retry_after: None,
            });
        }
        let encoding = kept.media.encoding;
        let failed = |e: &dyn std::error::Error| Failure::unavailable(format!("what was kept cannot be read: {e}"));
        let mark = |ends| bookmark(&kept.list, &kept.head.resource_version, ends);
        let mut first = Vec::new();
        if from_start {
            for (i, (_, object)) in kept.listing.items.iter().enumerate() {
                // The columns of a Table come once.
                let object = if i == 0 { kept.list.with_columns(object).map_err(|e| failed(&e))? } else { object.clone() };
                first.push(event::encode(EventKind::Added, &object, encoding).map_err(|e| failed(&e))?);
            }
            if options.send_initial_events {
                first.push(mark(true).map_err(|e| failed(&e))?);
            }
        } else {
            // The version of the list does not say which changes that were made here the client has seen.
            for name in Kind::of(&request.resource).map(|kind| self.outbox.statuses.names(kind)).unwrap_or_default() {
                if let Some((change, object)) = Kind::of(&request.resource).and_then(|kind| self.changed(&kept.set, kind, &name)) {
                    first.push(event::encode(change, &object, encoding).map_err(|e| failed(&e))?);
                }
            }
        }
        let bookmark = options.allow_watch_bookmarks.then(|| mark(false)).transpose().map_err(|e| failed(&e))?;
        let watching = Watching {
            cache: self.cache.clone(),
            media: kept.media,
            namespace: request.namespace.clone(),
            changes,
            link,
            bookmark,
            lasts: options.timeout_seconds.map_or(LONGEST, Duration::from_secs),
        };
        let (send, receive) = mpsc::channel(BEHIND);
        tokio::spawn(watching.run(first, send));
        let frames = futures_util::stream::unfold(receive, |mut receive| async {
            let bytes: Bytes = receive.recv().await?;
            Some((Ok::<_, BodyError>(Frame::data(bytes)), receive))
        });
        let mut response = Response::new(streamed(StreamBody::new(frames)));
        if let Ok(content_type) = HeaderValue::from_str(&kept.media.content_type(true)) {
            response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        }
        response.headers_mut().insert(super::CACHE, HeaderValue::from_static("hit"));
        Ok(response)
    }
}

struct Watching {
    cache: Arc<Cache>,
    media: MediaType,
    namespace: String,
    changes: broadcast::Receiver<Changed>,
    link: watch::Receiver<bool>,
    bookmark: Option<Bytes>,
    lasts: Duration,
}

impl Watching {
    async fn run(mut self, first: Vec<Bytes>, send: mpsc::Sender<Bytes>) {
        for frame in first {
            if send.send(frame).await.is_err() {
                return;
            }
        }
        let end = sleep(self.lasts);
        let mut bookmarks = interval_at(Instant::now() + BOOKMARKS, BOOKMARKS);
        let mut link = self.link.clone();
        tokio::pin!(end);
        loop {
            let mut mark = None;
            let frame = tokio::select! {
                () = &mut end => return,
                () = send.closed() => return,
                _ = link.wait_for(|up| *up) => break,
                _ = bookmarks.tick() => match &self.bookmark {
                    Some(bookmark) => bookmark.clone(),
                    None => continue,
                },
                // Who is too far behind begins again.
                change = self.changes.recv() => match change {
                    Ok(change) => match self.frame(&change) {
                        Some(frame) => {
                            // The object has the version of its last change in the cloud, which is before that of the list.
                            mark = self.bookmark.clone().filter(|_| change.version.is_none());
                            frame
                        }
                        None => continue,
                    },
                    Err(_) => return,
                },
            };
            for frame in std::iter::once(frame).chain(mark) {
                if send.send(frame).await.is_err() {
                    return;
                }
            }
        }
        let watches = u32::try_from(self.cache.watchers.count(None)).unwrap_or(u32::MAX);
        let within = HAND_BACK.saturating_add(HAND_BACK_EACH.saturating_mul(watches)).min(HAND_BACK_LONGEST);
        sleep(between(Duration::ZERO, within)).await;
    }

    fn frame(&self, change: &Changed) -> Option<Bytes> {
        let object = crate::object::Object::read(change.object.clone(), self.media.encoding).ok()?;
        let wanted = self.namespace.is_empty() || object.meta.namespace == self.namespace;
        wanted.then(|| event::encode(change.kind, &change.object, self.media.encoding).ok()).flatten()
    }
}
