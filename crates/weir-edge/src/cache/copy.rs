//! Works off the copy of one response: reads it as it comes, and writes what it says to the store.
use super::{
    Cache, Keep,
    follows::Follow,
    head::{Head, seconds},
    key::SetKey,
    listed::{Listed, NotListed, Page},
    pages::Pages,
    watchers::Changed,
};
use crate::{
    apimachinery::{
        event::{Event, EventKind},
        frame::{MAX_FRAME, Splitter},
        gunzip::Gunzip,
        list::ListHead,
        media::{MediaType, Shape},
        object::{Meta, Object},
    },
    body::Body,
    cache::tee::{Copied, End},
    store::{ObjectName, Replacement},
};
use bytes::Bytes;
use http_body_util::BodyExt;
use std::{
    sync::{Arc, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::SystemTime,
};

/// How new a set of single objects is, is written so many seconds apart where none of them has changed.
const REFRESH: u64 = 10;

/// Where the bytes come from.
pub(super) enum Source {
    /// From what passes to a client, which does not wait.
    Copied(Copied),
    /// From the API server: nobody else reads it.
    Body(Body),
}

impl Source {
    async fn next(&mut self) -> Result<Bytes, End> {
        match self {
            Source::Copied(copied) => copied.next().await,
            Source::Body(body) => loop {
                match body.frame().await {
                    None => return Err(End::Whole),
                    Some(Err(_)) => return Err(End::Cut),
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            return Ok(data);
                        }
                    }
                }
            },
        }
    }
}

/// What came of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it is kept, up to its end.
    Kept,
    /// It broke off, and what was kept before stays.
    Cut,
    /// The API server ended the watch with an error: its resource version is too old.
    Expired,
    /// Another hub gave something older than what is kept.
    Behind,
    /// Something of it could not be kept.
    Missed,
}

pub(super) struct Copy {
    pub cache: Arc<Cache>,
    pub source: Source,
    /// The client that gets the answer.
    pub agent: String,
    pub gzip: bool,
    pub content_type: String,
}

impl Copy {
    pub async fn run(mut self, keep: Keep) -> Outcome {
        match keep {
            Keep::Watch { key, media, from, initial, of_peer } => {
                let following = Following { of_peer, ..Following::new(self.cache.clone(), &key, &from, initial) };
                self.watch(following, media, initial).await
            }
            Keep::Document { set, name } => match self.whole().await {
                Ok(body) => {
                    let bytes = [self.content_type.as_bytes(), b"\n", &body].concat();
                    self.kept(self.cache.store.put(&set, &name, &bytes, &Head::default().to_bytes()))
                }
                Err(outcome) => outcome,
            },
            Keep::Object { key, media } => match self.whole().await {
                Ok(body) => self.object(&key, media, body),
                Err(outcome) => outcome,
            },
            Keep::List { key, media, page, of_peer } => self.list(&key, media, &page, of_peer).await,
        }
    }

    /// The whole body.
    async fn whole(&mut self) -> Result<Bytes, Outcome> {
        let mut body = Vec::new();
        loop {
            match self.source.next().await {
                Ok(piece) => body.extend_from_slice(&piece),
                Err(End::Whole) => break,
                Err(End::Cut) => return Err(Outcome::Cut),
                Err(End::Overflow) => return Err(self.overflow()),
            }
            if body.len() > self.cache.limits.body {
                return Err(self.unreadable());
            }
        }
        if !self.gzip {
            return Ok(body.into());
        }
        let mut plain = Gunzip::new(self.cache.limits.body);
        match plain.add(&body) {
            Some(()) => Ok(plain.take()),
            None => Err(self.unreadable()),
        }
    }

    fn object(&self, key: &SetKey, media: MediaType, body: Bytes) -> Outcome {
        match Object::read(body, media.encoding) {
            Ok(object) if is_of(media, &object.kind) => {
                let (set, name, head) = (key.name(), name_of(&object.meta), Head::of_objects(now()));
                let fresh = || self.cache.head(&set).is_some_and(|kept| kept.at.abs_diff(head.at) < REFRESH);
                let digest = self.cache.store.digest(object.bytes());
                self.kept(match self.cache.store.holds(&set, &name, digest) {
                    true if fresh() => Ok(()),
                    true => self.cache.store.set_head(&set, &head.to_bytes()),
                    false => self.cache.store.put(&set, &name, object.bytes(), &head.to_bytes()),
                })
            }
            _ => self.unreadable(),
        }
    }

    /// A list, or a page of one: `token` is that of the request.
    async fn list(&mut self, key: &SetKey, media: MediaType, token: &str, of_peer: bool) -> Outcome {
        let set = key.name();
        let listed = match token {
            "" => Some(Listed::new(&self.cache, set)),
            _ => self.pages().take(token, &set),
        };
        // The pages before were not kept.
        let Some(mut listed) = listed else { return Outcome::Cut };
        let list = match self.page(media, &mut listed).await {
            Ok(list) => list,
            Err(outcome) => {
                // The client may ask for the page again.
                if outcome == Outcome::Cut && !token.is_empty() {
                    self.pages().put(token.to_string(), listed);
                }
                return outcome;
            }
        };
        match list.continue_token.is_empty() {
            true => self.outcome(listed.commit(&self.cache, &list, of_peer)),
            false => {
                self.pages().put(list.continue_token, listed);
                Outcome::Kept
            }
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.cache.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn page(&mut self, media: MediaType, listed: &mut Listed) -> Result<ListHead, Outcome> {
        let Ok(mut page) = Page::new(media.encoding) else { return Err(self.unreadable()) };
        let mut gunzip = self.gzip.then(|| Gunzip::new(self.cache.limits.body));
        let mut length = 0;
        loop {
            let piece = match self.source.next().await {
                Ok(piece) => piece,
                Err(End::Whole) => break,
                Err(End::Cut) => return Err(Outcome::Cut),
                Err(End::Overflow) => return Err(self.overflow()),
            };
            let piece = match &mut gunzip {
                None => piece,
                Some(gunzip) => match gunzip.add(&piece) {
                    Some(()) => gunzip.take(),
                    None => return Err(self.unreadable()),
                },
            };
            length += piece.len();
            if length > self.cache.limits.body {
                return Err(self.unreadable());
            }
            if let Err(e) = page.push(piece, &self.cache, listed) {
                return Err(self.outcome(Err(e)));
            }
        }
        page.finish(media).map_err(|e| self.outcome(Err(e)))
    }

    fn outcome(&self, listed: Result<(), NotListed>) -> Outcome {
        match listed {
            Err(NotListed::List(_) | NotListed::Unnamed | NotListed::Kind(_)) => self.unreadable(),
            Err(NotListed::Behind) => Outcome::Behind,
            kept => self.kept(kept),
        }
    }

    /// The events of a watch, from where the set is, or from the objects that there are (`initial`).
    async fn watch(&mut self, mut set: Following, media: MediaType, initial: bool) -> Outcome {
        let Ok(mut frames) = Splitter::new(media.encoding, MAX_FRAME) else { return self.unreadable() };
        if !set.follows {
            return set.gap(initial);
        }
        let mut gunzip = self.gzip.then(|| Gunzip::new(MAX_FRAME));
        loop {
            let piece = match self.source.next().await {
                Ok(piece) => piece,
                // Where a watch ends, the next one goes on.
                Err(End::Whole) => return Outcome::Kept,
                Err(End::Cut) => return Outcome::Cut,
                Err(End::Overflow) => {
                    self.overflow();
                    return set.missed();
                }
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
            if !self.cache.agents.keeps(&self.agent) {
                // Of others the set may be kept; nobody has to list it again for this client.
                set.missed();
                return Outcome::Cut;
            }
            loop {
                let event = match frames.next() {
                    Ok(None) => break,
                    Ok(Some(frame)) => Event::read(&frame, media.encoding).ok(),
                    Err(_) => None,
                };
                match event.map(|event| set.event(event)) {
                    Some(Ok(())) => drop(self.cache.stats.events.fetch_add(1, Relaxed)),
                    Some(Err(NotKept::Ended)) => return Outcome::Expired,
                    Some(Err(NotKept::Behind)) => return Outcome::Behind,
                    Some(Err(NotKept::Failed)) => return set.missed(),
                    None => {
                        self.unreadable();
                        return set.missed();
                    }
                }
            }
        }
    }

    fn kept<E: std::fmt::Display>(&self, result: Result<(), E>) -> Outcome {
        if !self.cache.wrote(result) {
            return Outcome::Missed;
        }
        self.cache.stats.kept.fetch_add(1, Relaxed);
        Outcome::Kept
    }

    fn overflow(&self) -> Outcome {
        self.cache.stats.overflows.fetch_add(1, Relaxed);
        Outcome::Missed
    }

    fn unreadable(&self) -> Outcome {
        self.cache.stats.unreadable.fetch_add(1, Relaxed);
        Outcome::Missed
    }
}

/// Why a watch is not followed any further.
enum NotKept {
    /// The API server says so.
    Ended,
    /// Another hub gave what is older than the set.
    Behind,
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
    /// Another hub gives the events. None of them may be older than the set.
    of_peer: bool,
    /// Held from when the set is whole.
    follow: Option<Follow>,
}

impl Following {
    fn new(cache: Arc<Cache>, key: &SetKey, from: &str, initial: bool) -> Following {
        let set = key.name();
        let head = cache.head(&set);
        let initial = initial.then(|| cache.store.begin_replace(&set).ok()).flatten();
        // A watch from a later version than that of the set would leave a gap; from 0 on, it is not known where it begins.
        let continues = head.as_ref().is_some_and(|head| !from.is_empty() && from != "0" && !head.is_before(from));
        let list = head.as_ref().filter(|_| initial.is_none()).and_then(|head| head.list().ok());
        let follow = (continues && initial.is_none()).then(|| cache.follows.begin(&set));
        let mut head = head.unwrap_or_default();
        // Whatever it missed comes again.
        head.dirty &= !continues;
        Following { cache, set, head, list, follows: continues || initial.is_some(), of_peer: false, initial, follow }
    }

    fn event(&mut self, event: Event) -> Result<(), NotKept> {
        if event.kind == EventKind::Error {
            return Err(NotKept::Ended);
        }
        let object = &event.object;
        let (name, version) = (name_of(&object.meta), object.meta.resource_version.clone());
        if self.initial.is_some() {
            return self.initial_event(&event, &name, &version);
        }
        // A watch may begin before the last event that was kept; those of other hubs do not.
        let told = !self.head.is_before(&version) && (event.kind != EventKind::Bookmark || version != self.head.resource_version);
        if told && self.of_peer {
            return Err(NotKept::Behind);
        }
        if told && event.kind != EventKind::Bookmark {
            return Ok(());
        }
        let mut next = Head { at: now(), ..self.head.clone() };
        if next.is_before(&version) {
            next.resource_version = version;
        }
        let (head, kept) = (next.to_bytes(), self.whole(object)?);
        let remembers = self.cache.watchers.remembers(&self.set) && event.kind != EventKind::Bookmark;
        let before = if remembers { self.cache.store.get(&self.set, &name).ok().flatten() } else { None };
        let written = match event.kind {
            EventKind::Added | EventKind::Modified => self.cache.store.put(&self.set, &name, &kept, &head),
            EventKind::Deleted => self.cache.store.remove(&self.set, &name, &head),
            EventKind::Bookmark | EventKind::Error => self.cache.store.set_head(&self.set, &head),
        };
        self.wrote(written)?;
        let version = next.number();
        self.head = next;
        self.cache.watchers.tell(&self.set, || Changed { kind: event.kind, object: kept, before, version });
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
                self.follow = Some(self.cache.follows.begin(&self.set));
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

    /// It does not continue the set: another watch keeps that up to date, or it is old from now on. A set that nobody has listed is not
    /// begun by a watch alone.
    fn gap(&mut self, initial: bool) -> Outcome {
        if !initial && self.cache.head(&self.set).is_none() { Outcome::Cut } else { self.missed() }
    }

    /// Something was missed: unless another watch brings it, the set is old from now on.
    fn missed(&mut self) -> Outcome {
        drop(self.follow.take());
        if self.cache.follows.any(&self.set) {
            return Outcome::Kept;
        }
        if let Some(head) = self.cache.head(&self.set).filter(|head| !head.dirty) {
            self.cache.wrote(self.cache.store.set_head(&self.set, &Head { dirty: true, ..head }.to_bytes()));
        }
        Outcome::Missed
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
