//! The body of a watch with the client's view of it: events pass through the filters, and when the context changes the client gets what
//! is different now. That is read from what was kept of the same list.
use super::{
    chain::{Chain, ChainOf},
    contexts::{Contexts, Published},
    stats::Stats,
    view::{Step, View},
};
use crate::{
    apimachinery::{
        event::{Event, EventKind, encode},
        frame::{MAX_FRAME, Splitter},
        gunzip::Gunzip,
        list::ListHead,
        media::Encoding,
        object::{Envelope, Object},
        wire::{put_bytes, put_varint},
    },
    body::{Body, BodyError, streamed},
    offline::local::bookmark::bookmark,
};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::json;
use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

/// The list that a watch belongs to, as it was kept.
pub struct KeptList {
    pub head: ListHead,
    /// The resource version up to which it is complete.
    pub version: u64,
    pub objects: Vec<Bytes>,
}

/// Reads it; `None` if it was not kept, or is old.
pub type Source = Box<dyn Fn() -> Option<KeptList> + Send + Sync>;

/// What was kept may be so far behind the client before the client has to list again, and so long a list may be on its way to the cache.
const BEHIND: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(500));
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(5);

pub struct Watched {
    pub chain: Chain,
    /// The chain of this request in another context.
    pub chain_of: ChainOf,
    pub encoding: Encoding,
    pub gzip: bool,
    /// The resource version from which it goes on; 0: it begins with the objects that there are.
    pub from: u64,
    /// It begins with the objects that there are, and a bookmark behind them.
    pub initial: bool,
    pub bookmarks: bool,
    pub source: Source,
}

/// What of what was kept the watch waits for.
enum Pending {
    /// It has just begun. The client has the objects as this context shows them, or it may not have.
    Begin {
        had: bool,
    },
    Change,
}

struct Watching {
    body: Body,
    frames: Splitter,
    gunzip: Option<Gunzip>,
    watched: Watched,
    view: View,
    contexts: watch::Receiver<Published>,
    /// What waits for what was kept, and since when.
    pending: Option<(Pending, Instant)>,
    /// The objects that there are have not all come.
    begins: bool,
    out: VecDeque<Bytes>,
    ended: bool,
    all: Arc<Contexts>,
    stats: Arc<Stats>,
}

impl Watched {
    /// The body as the client sees it.
    pub fn body(self, body: Body, all: Arc<Contexts>, stats: Arc<Stats>) -> Body {
        let Ok(frames) = Splitter::new(self.encoding, MAX_FRAME) else { return body };
        let mut contexts = all.subscribe();
        let context = contexts.borrow_and_update().clone();
        let view = View::new(self.chain.clone(), context.clone(), self.from, stats.clone());
        let had = self.from > context.mark;
        // Nothing is known of what the client has, and nothing may be otherwise than it has it.
        let begin = self.from > 0 && !(had && view.is_idle());
        let watching = Watching {
            body,
            frames,
            gunzip: self.gzip.then(|| Gunzip::new(MAX_FRAME)),
            pending: begin.then(|| (Pending::Begin { had }, Instant::now())),
            begins: self.initial,
            watched: self,
            view,
            contexts,
            out: VecDeque::new(),
            ended: false,
            all,
            stats,
        };
        let frames = futures_util::stream::unfold(watching, |mut watching| async {
            let next = watching.next().await?;
            Some((next.map(Frame::data), watching))
        });
        streamed(StreamBody::new(frames))
    }
}

impl Watching {
    async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        loop {
            if let Some(frame) = self.out.pop_front() {
                return Some(Ok(frame));
            }
            if self.ended {
                return None;
            }
            if self.pending.is_some() && !self.begins {
                // Nothing newer is read meanwhile, so what was kept gets as new as what the client has seen.
                if !self.settle() {
                    sleep(LOOK).await;
                }
                continue;
            }
            tokio::select! {
                biased;
                changed = self.contexts.changed(), if self.pending.is_none() => match changed {
                    Ok(()) => self.pending = Some((Pending::Change, Instant::now())),
                    Err(_) => self.ended = true,
                },
                frame = self.body.frame() => match frame {
                    None => self.ended = true,
                    Some(Err(e)) => {
                        self.ended = true;
                        return Some(Err(e));
                    }
                    Some(Ok(frame)) => if let Ok(piece) = frame.into_data() {
                        self.piece(piece);
                    },
                },
            }
        }
    }

    fn piece(&mut self, piece: Bytes) {
        let piece = match &mut self.gunzip {
            None => piece,
            Some(gunzip) => match gunzip.add(&piece) {
                Some(()) => gunzip.take(),
                None => return self.broken(),
            },
        };
        self.frames.push(piece);
        loop {
            match self.frames.next() {
                Ok(None) => return,
                Ok(Some(frame)) => self.frame(frame),
                Err(_) => return self.broken(),
            }
        }
    }

    /// The watch cannot be read: it ends, and the client goes on from what it has seen.
    fn broken(&mut self) {
        self.stats.unreadable();
        self.ended = true;
    }

    fn frame(&mut self, frame: Bytes) {
        let Ok(event) = Event::read(&frame, self.watched.encoding) else {
            self.stats.unreadable();
            return self.out.push_back(framed(&frame, self.watched.encoding));
        };
        let step = self.view.event(&event);
        self.all.seen(self.view.version);
        if self.begins && event.ends_initial_events().is_ok_and(|ends| ends) {
            self.begins = false;
        }
        match step {
            Step::Pass => self.out.push_back(framed(&frame, self.watched.encoding)),
            Step::Swallow => {}
            Step::Send(kind, object) => self.send(kind, &object),
        }
    }

    fn send(&mut self, kind: EventKind, object: &[u8]) {
        self.out.extend(encode(kind, object, self.watched.encoding));
    }

    /// Does what is pending, once what was kept is new enough. `false`: it is not yet.
    fn settle(&mut self) -> bool {
        let Some((pending, since)) = self.pending.take() else { return true };
        let kept = (self.watched.source)();
        let patience = if kept.is_some() { BEHIND.0 } else { BEHIND.1 };
        let behind = kept.as_ref().is_none_or(|kept| kept.version < self.view.version);
        if behind && since.elapsed() < patience {
            self.pending = Some((pending, since));
            return false;
        }
        let objects = |kept: &KeptList| -> Vec<Object> {
            kept.objects.iter().filter_map(|bytes| Object::read(bytes.clone(), kept.head.encoding()).ok()).collect()
        };
        let kept = kept.filter(|kept| !behind && kept.head.encoding() == self.watched.encoding);
        let published = self.contexts.borrow_and_update().clone();
        let events = match (&pending, &kept) {
            (Pending::Begin { had }, Some(kept)) => self.view.begin(objects(kept), *had),
            // As long as nothing has changed since, the client cannot have anything else. If something has, it lists again.
            (Pending::Begin { .. }, None) if self.watched.from >= published.mark => Vec::new(),
            (Pending::Change, Some(kept)) => {
                let chain = (self.watched.chain_of)(&published).unwrap_or_else(|| self.watched.chain.clone());
                self.stats.reapplied.fetch_add(1, Relaxed);
                self.view.change(chain, published.clone(), objects(kept))
            }
            (_, None) => {
                self.send(EventKind::Error, &gone(self.watched.encoding));
                self.ended = true;
                return true;
            }
        };
        if matches!(pending, Pending::Begin { .. }) && !self.view.is_of(&published) {
            self.pending = Some((Pending::Change, Instant::now()));
        }
        let any = !events.is_empty();
        for (kind, object) in events {
            self.send(kind, &object);
        }
        // The objects have the versions of their last change: the client goes on from where it was.
        if let Some(kept) = kept.filter(|_| any && self.watched.bookmarks) {
            self.out.extend(bookmark(&kept.head, &self.view.version.to_string(), false));
        }
        true
    }
}

/// A frame as it came: with its line break or its length.
fn framed(frame: &Bytes, encoding: Encoding) -> Bytes {
    match encoding {
        Encoding::Protobuf => [&(frame.len() as u32).to_be_bytes()[..], frame].concat().into(),
        _ => [frame, &b"\n"[..]].concat().into(),
    }
}

/// The Status of an event that tells the client to list again.
fn gone(encoding: Encoding) -> Bytes {
    let message = "the filters of the hub have changed, and what the client has is not known";
    match encoding {
        Encoding::Protobuf => {
            let mut status = Vec::new();
            put_bytes(&mut status, 1, b"");
            for (number, text) in [(2, "Failure"), (3, message), (4, "Expired")] {
                put_bytes(&mut status, number, text.as_bytes());
            }
            put_varint(&mut status, 6 << 3);
            put_varint(&mut status, 410);
            Envelope::wrap("v1", "Status", &status)
        }
        _ => {
            let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": "Expired", "code": 410 });
            status.to_string().into()
        }
    }
}
