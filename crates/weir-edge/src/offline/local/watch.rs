//! A watch of what is kept: what is there, and what changes.
use super::{Kept, Local, Selection, bookmark::bookmark};
use crate::{
    apimachinery::{
        event::{self, EventKind},
        list::ListHead,
        media::MediaType,
        reported::Kind,
        request::ResourceRequest,
        status::Failure,
    },
    asked::Asked,
    body::{Body, BodyError, streamed},
    cache::{Cache, watchers::Changed},
    random::between,
};
use bytes::Bytes;
use http::{HeaderValue, Response, header};
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
const TOO_OLD: &str = "too old resource version";
/// Frames that a client may be behind.
const BEHIND: usize = 64;

impl Local {
    /// A watch while the API server cannot be reached. It is handed back once the link is up again.
    pub async fn watch(&self, asked: &Asked, request: &ResourceRequest, link: watch::Receiver<bool>) -> Result<Response<Body>, Failure> {
        let user = self.user(asked)?;
        let kept = self.list(&user, asked, request)?;
        self.begin(kept, request, Some(link))
    }

    /// A watch of a set, or of a list that is newer than the set; `link`: until this is up. Where the changes of the set are remembered, it
    /// may begin at any of them.
    pub(crate) fn begin(
        &self,
        kept: Kept,
        request: &ResourceRequest,
        link: Option<watch::Receiver<bool>>,
    ) -> Result<Response<Body>, Failure> {
        let options = &request.options;
        let from_start = options.send_initial_events || matches!(options.resource_version.as_str(), "" | "0");
        let version = if from_start { &kept.head.resource_version } else { &options.resource_version };
        let (version, remembered) = (version.clone(), version.parse().ok());
        let remembered = remembered.and_then(|version| self.cache.watchers.subscribe_after(&kept.set, version));
        let (kept, version, earlier, changes) = match remembered {
            Some((earlier, changes)) => (kept, version, earlier, changes),
            None => {
                let changes = self.cache.watchers.subscribe(&kept.set);
                // As it is now that no change can be missed.
                let Some(kept) = self.load(&kept.set, kept.media, request, kept.selection)? else { return Err(Failure::expired(TOO_OLD)) };
                if !from_start && kept.head.resource_version != options.resource_version {
                    // What was deleted since then is not known: the client lists again.
                    return Err(Failure::expired(TOO_OLD));
                }
                let version = kept.head.resource_version.clone();
                (kept, version, Vec::new(), changes)
            }
        };
        let encoding = kept.media.encoding;
        let failed = |e: &dyn std::error::Error| Failure::unavailable(format!("what was kept cannot be read: {e}"));
        let mut first = Vec::new();
        if from_start {
            for (i, (_, object)) in kept.listing.items.iter().enumerate() {
                // The columns of a Table come once.
                let object = if i == 0 { kept.list.with_columns(object).map_err(|e| failed(&e))? } else { object.clone() };
                first.push(event::encode(EventKind::Added, &object, encoding).map_err(|e| failed(&e))?);
            }
            if options.send_initial_events {
                first.push(bookmark(&kept.list, &version, true).map_err(|e| failed(&e))?);
            }
        } else {
            // The version of the list does not say which changes that were made here the client has seen.
            for name in Kind::of(&request.resource).map(|kind| self.outbox.statuses.names(kind)).unwrap_or_default() {
                if let Some((change, object)) = Kind::of(&request.resource).and_then(|kind| self.changed(&kept.set, kind, &name)) {
                    first.push(event::encode(change, &object, encoding).map_err(|e| failed(&e))?);
                }
            }
        }
        let mut watching = Watching {
            cache: self.cache.clone(),
            media: kept.media,
            selection: kept.selection,
            list: kept.list,
            bookmarks: options.allow_watch_bookmarks,
            changes,
            link,
            begun: version.parse().ok(),
            version,
            lasts: options.timeout_seconds.map_or(LONGEST, Duration::from_secs),
        };
        first.extend(earlier.iter().filter_map(|change| watching.frame(change)));
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
    selection: Selection,
    list: ListHead,
    /// Whether the client wants them.
    bookmarks: bool,
    changes: broadcast::Receiver<Changed>,
    /// The watch ends when this is up.
    link: Option<watch::Receiver<bool>>,
    /// The client has seen everything up to this resource version before.
    begun: Option<u64>,
    /// And by now up to this one.
    version: String,
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
        let mut link = self.link.take();
        tokio::pin!(end);
        loop {
            let mut mark = None;
            let frame = tokio::select! {
                () = &mut end => return,
                () = send.closed() => return,
                () = is_up(&mut link) => break,
                _ = bookmarks.tick() => self.bookmark(),
                // Who is too far behind goes on where it was, or lists again.
                change = self.changes.recv() => match change {
                    Ok(change) => {
                        let frame = self.frame(&change);
                        // The object has the version of its last change in the cloud, which is before that of the list.
                        mark = if change.version.is_none() && frame.is_some() { self.bookmark() } else { None };
                        frame
                    }
                    Err(_) => return,
                },
            };
            for frame in frame.into_iter().chain(mark) {
                if send.send(frame).await.is_err() {
                    return;
                }
            }
        }
        let watches = u32::try_from(self.cache.watchers.count(None)).unwrap_or(u32::MAX);
        let within = HAND_BACK.saturating_add(HAND_BACK_EACH.saturating_mul(watches)).min(HAND_BACK_LONGEST);
        sleep(between(Duration::ZERO, within)).await;
    }

    /// What the client gets of a change.
    fn frame(&mut self, change: &Changed) -> Option<Bytes> {
        if let Some(version) = change.version {
            if self.begun.is_some_and(|begun| version <= begun) {
                return None;
            }
            self.version = version.to_string();
        }
        if change.kind == EventKind::Bookmark {
            return self.bookmark();
        }
        let kind = self.selection.event(change, self.media.encoding)?;
        event::encode(kind, &change.object, self.media.encoding).ok()
    }

    fn bookmark(&self) -> Option<Bytes> {
        self.bookmarks.then(|| bookmark(&self.list, &self.version, false).ok()).flatten()
    }
}

async fn is_up(link: &mut Option<watch::Receiver<bool>>) {
    match link {
        Some(link) => drop(link.wait_for(|up| *up).await),
        None => std::future::pending().await,
    }
}
