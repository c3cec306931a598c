//! Works off the copy of one response: reads it as it comes, and writes what it says to the store.
use super::{
    Cache, Keep,
    head::{Head, seconds},
    key::SetKey,
    watchers::Changed,
};
use crate::{
    event::{Event, EventKind},
    frame::{MAX_FRAME, Splitter},
    list::{List, ListHead},
    media::{MediaType, Shape},
    object::{Meta, Object},
    store::{ObjectName, Replacement},
    tee::{Copied, End},
};
use bytes::{Bytes, BytesMut};
use flate2::write::GzDecoder;
use std::{
    io::Write,
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    time::SystemTime,
};

pub(super) struct Copy {
    pub cache: Arc<Cache>,
    pub copied: Copied,
    pub gzip: bool,
    pub content_type: String,
}

impl Copy {
    pub async fn run(mut self, keep: Keep) {
        match keep {
            Keep::Watch { key, media, from, initial } => self.watch(&key, media, &from, initial).await,
            Keep::Document { set, name } => {
                if let Some(body) = self.whole().await {
                    let bytes = [self.content_type.as_bytes(), b"\n", &body].concat();
                    self.kept(self.cache.store.put(&set, &name, &bytes, &Head::default().to_bytes()));
                }
            }
            Keep::Object { key, media } => {
                if let Some(body) = self.whole().await {
                    self.object(&key, media, body);
                }
            }
            Keep::List { key, media, page } => {
                let Some(body) = self.whole().await else { return };
                let bytes = body.len();
                match List::split(&body, media.encoding) {
                    Ok(list) if is_of(media, &list.head.kind) => {
                        let all = self.cache.pages.lock().unwrap_or_else(PoisonError::into_inner).add(&page, list, bytes);
                        all.into_iter().for_each(|list| self.list(&key, list));
                    }
                    _ => self.unreadable(),
                }
            }
        }
    }

    /// The whole body; `None` where it broke off, or is too large.
    async fn whole(&mut self) -> Option<Bytes> {
        let mut body = Vec::new();
        loop {
            match self.copied.next().await {
                Ok(piece) => body.extend_from_slice(&piece),
                Err(End::Whole) => break,
                Err(end) => {
                    self.cut(end);
                    return None;
                }
            }
            if body.len() > self.cache.limits.body {
                self.unreadable();
                return None;
            }
        }
        if !self.gzip {
            return Some(body.into());
        }
        let mut plain = Gunzip::new(self.cache.limits.body);
        let read = plain.add(&body);
        if read.is_none() {
            self.unreadable();
        }
        read.map(|()| plain.take())
    }

    fn object(&self, key: &SetKey, media: MediaType, body: Bytes) {
        match Object::read(body, media.encoding) {
            Ok(object) if is_of(media, &object.kind) => {
                let head = Head::of_objects(now());
                self.kept(self.cache.store.put(&key.name(), &name_of(&object.meta), object.bytes(), &head.to_bytes()));
            }
            _ => self.unreadable(),
        }
    }

    fn list(&self, key: &SetKey, list: List) {
        let head = Head::of_list(&list.head, now());
        let items = list.items.iter().map(|item| (name_of(&item.meta), list.head.whole(item)));
        self.kept(self.cache.store.replace(&key.name(), &head.to_bytes(), items));
    }

    /// The events of a watch, from a resource version on, or from the objects that there are (`initial`).
    async fn watch(&mut self, key: &SetKey, media: MediaType, from: &str, initial: bool) {
        let Ok(mut frames) = Splitter::new(media.encoding, MAX_FRAME) else { return self.unreadable() };
        let mut set = Following::new(self.cache.clone(), key, from, initial);
        let mut gunzip = self.gzip.then(|| Gunzip::new(MAX_FRAME));
        loop {
            let piece = match self.copied.next().await {
                Ok(piece) => piece,
                Err(End::Overflow) => {
                    self.cut(End::Overflow);
                    return set.missed();
                }
                // Where a watch ends, the next one goes on.
                Err(End::Whole | End::Cut) => return,
            };
            let piece = match &mut gunzip {
                None => piece,
                Some(gunzip) => match gunzip.add(&piece) {
                    Some(()) => gunzip.take(),
                    None => {
                        self.unreadable();
                        return set.missed();
                    }
                },
            };
            frames.push(piece);
            loop {
                let event = match frames.next() {
                    Ok(None) => break,
                    Ok(Some(frame)) => Event::read(&frame, media.encoding).ok(),
                    Err(_) => None,
                };
                match event.map(|event| set.event(event)) {
                    Some(Ok(())) => drop(self.cache.stats.events.fetch_add(1, Relaxed)),
                    Some(Err(NotKept::Ended)) => return,
                    Some(Err(NotKept::Failed)) => return set.missed(),
                    None => {
                        self.unreadable();
                        return set.missed();
                    }
                }
            }
        }
    }

    fn kept<E: std::fmt::Display>(&self, result: Result<(), E>) {
        if self.cache.wrote(result) {
            self.cache.stats.kept.fetch_add(1, Relaxed);
        }
    }

    fn cut(&self, end: End) {
        if end == End::Overflow {
            self.cache.stats.overflows.fetch_add(1, Relaxed);
        }
    }

    fn unreadable(&self) {
        self.cache.stats.unreadable.fetch_add(1, Relaxed);
    }
}

/// Why a watch is not followed any further.
enum NotKept {
    /// The server says so, or what it continues is not known.
    Ended,
    Failed,
}

/// A set that follows a watch.
struct Following {
    cache: Arc<Cache>,
    set: String,
    head: Head,
    /// What the list has beside its items.
    list: Option<ListHead>,
    /// The objects of a streaming list until all have come.
    initial: Option<Replacement>,
    follows: bool,
}

impl Following {
    fn new(cache: Arc<Cache>, key: &SetKey, from: &str, initial: bool) -> Following {
        let set = key.name();
        let head = cache.head(&set);
        let initial = initial.then(|| cache.store.begin_replace(&set).ok()).flatten();
        // A watch from a later version than that of the set would leave a gap; from 0 on, it is not known where it begins.
        let follows = initial.is_some() || head.as_ref().is_some_and(|head| !from.is_empty() && from != "0" && !head.is_before(from));
        let list = head.as_ref().filter(|_| initial.is_none()).and_then(|head| head.list().ok());
        let mut following = Following { cache, set, head: head.unwrap_or_default(), list, initial, follows };
        if !following.follows {
            following.missed();
        }
        following
    }

    fn event(&mut self, event: Event) -> Result<(), NotKept> {
        if !self.follows || event.kind == EventKind::Error {
            return Err(NotKept::Ended);
        }
        let object = &event.object;
        let (name, version) = (name_of(&object.meta), object.meta.resource_version.clone());
        if self.initial.is_some() {
            return self.initial_event(&event, &name, &version);
        }
        self.head.at = now();
        // A watch may begin before the last event that was kept.
        if self.head.is_before(&version) {
            self.head.resource_version = version;
        } else if event.kind != EventKind::Bookmark && !self.head.dirty {
            return Ok(());
        }
        let head = self.head.to_bytes();
        let kept = self.whole(object)?;
        let written = match event.kind {
            EventKind::Added | EventKind::Modified => self.cache.store.put(&self.set, &name, &kept, &head),
            EventKind::Deleted => self.cache.store.remove(&self.set, &name, &head),
            EventKind::Bookmark | EventKind::Error => return self.wrote(self.cache.store.set_head(&self.set, &head)),
        };
        self.wrote(written)?;
        self.cache.watchers.tell(&self.set, || Changed { kind: event.kind, object: kept, local: false });
        Ok(())
    }

    /// An event of a streaming list: the objects that there are, then a bookmark.
    fn initial_event(&mut self, event: &Event, name: &ObjectName, version: &str) -> Result<(), NotKept> {
        let object = &event.object;
        if self.list.is_none() {
            self.list = ListHead::of_objects(object, version).ok();
        }
        match event.kind {
            EventKind::Added | EventKind::Modified => {
                let kept = self.whole(object)?;
                let added = self.initial.as_mut().map_or(Ok(()), |initial| initial.add(name, &kept));
                self.wrote(added)
            }
            EventKind::Bookmark if event.ends_initial_events().is_ok_and(|ends| ends) => {
                let list = self.list.as_ref().and_then(|list| list.at_version(version).ok()).ok_or(NotKept::Failed)?;
                self.head = Head::of_list(&list, now());
                let head = self.head.to_bytes();
                let committed = self.initial.take().map_or(Ok(()), |initial| initial.commit(&head));
                self.wrote(committed)
            }
            EventKind::Bookmark => Ok(()),
            // The API server sends none before all objects are there.
            EventKind::Deleted | EventKind::Error => Err(NotKept::Failed),
        }
    }

    /// An object as it is kept.
    fn whole(&self, object: &Object) -> Result<Bytes, NotKept> {
        self.list.as_ref().and_then(|list| list.without_columns(object).ok()).ok_or(NotKept::Failed)
    }

    fn wrote<E: std::fmt::Display>(&self, result: Result<(), E>) -> Result<(), NotKept> {
        if self.cache.wrote(result) { Ok(()) } else { Err(NotKept::Failed) }
    }

    /// Something of the set was missed: it is old from now on.
    fn missed(&mut self) {
        self.follows = false;
        if self.head != Head::default() && !self.head.dirty {
            self.head.dirty = true;
            self.cache.wrote(self.cache.store.set_head(&self.set, &self.head.to_bytes()));
        }
    }
}

fn name_of(meta: &Meta) -> ObjectName {
    ObjectName { namespace: meta.namespace.clone(), name: meta.name.clone() }
}

/// The API server falls back to whole objects where it has no table of them.
fn is_of(media: MediaType, kind: &str) -> bool {
    matches!(media.shape, Shape::Table { .. }) == (kind == "Table")
}

fn now() -> u64 {
    seconds(SystemTime::now())
}

/// A body in gzip, as it comes.
struct Gunzip {
    decoder: GzDecoder<Vec<u8>>,
    max: usize,
}

impl Gunzip {
    fn new(max: usize) -> Gunzip {
        Gunzip { decoder: GzDecoder::new(Vec::new()), max }
    }

    /// `None` where it is no gzip, or becomes too large.
    fn add(&mut self, piece: &[u8]) -> Option<()> {
        // In pieces: a small one may become huge.
        for part in piece.chunks(4096) {
            self.decoder.write_all(part).ok()?;
            self.decoder.flush().ok()?;
            if self.decoder.get_ref().len() > self.max {
                return None;
            }
        }
        Some(())
    }

    /// What has come so far.
    fn take(&mut self) -> Bytes {
        BytesMut::from(std::mem::take(self.decoder.get_mut()).as_slice()).freeze()
    }
}
