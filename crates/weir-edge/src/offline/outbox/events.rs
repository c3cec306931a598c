//! Events that wait, in their order. Repetitions of one event are one record: it was created, and then patched with its count.
use super::{HEAD, NotTaken, Stats, numbered, records};
use crate::{apimachinery::patch::joined, cache::head::seconds, store::Store};
use bytes::Bytes;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::SystemTime,
};

const SET: &str = "\noutbox\nevents";
/// Of one event; the API server takes messages of up to 1 KiB.
pub const MAX_EVENT: usize = 64 << 10;

/// An event that waits.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    /// The path of the collection.
    pub collection: String,
    pub name: String,
    /// Since when it waits, in seconds since 1970; 0: an older version did not write it down.
    pub at: u64,
    /// How it was created, unless the API server has it: the content type and the body.
    pub created: Option<(String, Bytes)>,
    /// What was patched since then: the content type and the patch.
    pub patched: Option<(String, Value)>,
}

impl Waiting {
    pub fn path(&self) -> String {
        format!("{}/{}", self.collection, self.name)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let created = self.created.as_ref().map(|(content_type, _)| content_type);
        let head = json!({ "collection": self.collection, "name": self.name, "at": self.at, "created": created, "patched": self.patched });
        let body = self.created.as_ref().map_or(&b""[..], |(_, body)| body);
        [head.to_string().as_bytes(), b"\n", body].concat()
    }

    fn read(bytes: &Bytes) -> Option<Waiting> {
        let end = memchr::memchr(b'\n', bytes)?;
        let head: Value = serde_json::from_slice(&bytes[..end]).ok()?;
        let text = |value: &Value| value.as_str().map(str::to_string);
        let patched = head["patched"].as_array().and_then(|p| Some((text(p.first()?)?, p.get(1)?.clone())));
        let created = text(&head["created"]).map(|content_type| (content_type, bytes.slice(end + 1..)));
        let at = head["at"].as_u64().unwrap_or_default();
        Some(Waiting { collection: text(&head["collection"])?, name: text(&head["name"])?, at, created, patched })
    }
}

/// A record of the queue; its value is on disk.
struct Entry {
    path: String,
    at: u64,
    bytes: usize,
    /// How often it was changed: what was sent may be older.
    changes: u32,
}

#[derive(Default)]
struct Queue {
    next: u64,
    bytes: usize,
    entries: BTreeMap<u64, Entry>,
    /// By path.
    numbers: HashMap<String, u64>,
}

pub struct Events {
    store: Arc<Store>,
    stats: Arc<Stats>,
    limit: usize,
    queue: Mutex<Queue>,
}

impl Events {
    pub(super) fn open(store: &Arc<Store>, limit: usize, stats: &Arc<Stats>) -> Events {
        let mut queue = Queue::default();
        for (name, bytes) in records(store, SET, stats) {
            let (Ok(number), Some(event)) = (name.name.parse(), Waiting::read(&bytes)) else { continue };
            queue.add(number, Entry { path: event.path(), at: event.at, bytes: bytes.len(), changes: 0 });
        }
        Events { store: store.clone(), stats: stats.clone(), limit, queue: Mutex::new(queue) }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn len(&self) -> usize {
        self.queue().entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of what waits.
    pub fn bytes(&self) -> usize {
        self.queue().bytes
    }

    /// Whether an event waits, by its path.
    pub fn holds(&self, path: &str) -> bool {
        self.queue().numbers.contains_key(path)
    }

    /// Takes a new event. `false`: one of this name waits.
    pub fn create(&self, collection: &str, name: &str, content_type: &str, body: Bytes) -> Result<bool, NotTaken> {
        let created = Some((content_type.to_string(), body));
        let event = Waiting { collection: collection.into(), name: name.into(), at: now(), created, patched: None };
        let mut queue = self.queue();
        if queue.numbers.contains_key(&event.path()) {
            return Ok(false);
        }
        let number = queue.next;
        self.put(&mut queue, number, &event, 0).map(|()| true)
    }

    /// Takes a patch of an event, whether or not it waits itself.
    pub fn patch(&self, collection: &str, name: &str, content_type: &str, patch: Value) -> Result<(), NotTaken> {
        let mut event = Waiting { collection: collection.into(), name: name.into(), at: now(), created: None, patched: None };
        let mut queue = self.queue();
        let (number, changes) = match queue.numbers.get(&event.path()).copied() {
            None => (queue.next, 0),
            Some(number) => {
                // What cannot be read is lost; the patch says at least the last of it.
                event = self.read(number).unwrap_or(event);
                (number, queue.entries.get(&number).map_or(0, |entry| entry.changes + 1))
            }
        };
        let patch = match event.patched.take() {
            Some((_, before)) => joined(before, patch),
            None => patch,
        };
        event.patched = Some((content_type.to_string(), patch));
        self.put(&mut queue, number, &event, changes)
    }

    fn put(&self, queue: &mut Queue, number: u64, event: &Waiting, changes: u32) -> Result<(), NotTaken> {
        let value = event.to_bytes();
        if value.len() > MAX_EVENT.min(self.limit) {
            self.stats.full.fetch_add(1, Relaxed);
            return Err(NotTaken::Full { size: value.len(), limit: MAX_EVENT.min(self.limit) });
        }
        self.store.put(SET, &numbered(number), &value, HEAD)?;
        queue.add(number, Entry { path: event.path(), at: event.at, bytes: value.len(), changes });
        while queue.bytes > self.limit
            && let Some(oldest) = queue.entries.keys().next().copied()
        {
            self.stats.dropped.fetch_add(1, Relaxed);
            self.remove(queue, oldest);
        }
        Ok(())
    }

    /// The numbers of the events that wait, the oldest first, with their paths, since when they wait, and their bytes.
    pub fn items(&self) -> Vec<(u64, String, u64, usize)> {
        self.queue().entries.iter().map(|(number, entry)| (*number, entry.path.clone(), entry.at, entry.bytes)).collect()
    }

    /// The number of the oldest event that is wanted.
    pub fn next(&self, wanted: impl Fn(u64) -> bool) -> Option<u64> {
        self.queue().entries.keys().copied().find(|number| wanted(*number))
    }

    /// How often an event was changed, and itself; without the last it cannot be read.
    pub fn get(&self, number: u64) -> Option<(u32, Option<Waiting>)> {
        let changes = self.queue().entries.get(&number)?.changes;
        Some((changes, self.read(number)))
    }

    /// The API server has it as it was after so many changes. Later ones are still to be sent.
    pub fn done(&self, number: u64, changes: u32) {
        let mut queue = self.queue();
        if queue.entries.get(&number).is_some_and(|entry| entry.changes == changes) {
            self.remove(&mut queue, number);
        }
    }

    fn read(&self, number: u64) -> Option<Waiting> {
        Waiting::read(&self.store.get(SET, &numbered(number)).ok()??)
    }

    fn remove(&self, queue: &mut Queue, number: u64) {
        // Where this fails it is sent again after a restart, and the API server has it then.
        let _ = self.store.remove(SET, &numbered(number), HEAD);
        queue.take(number);
    }
}

fn now() -> u64 {
    seconds(SystemTime::now())
}

impl Queue {
    fn add(&mut self, number: u64, entry: Entry) {
        self.take(number);
        self.bytes += entry.bytes;
        self.next = self.next.max(number + 1);
        self.numbers.insert(entry.path.clone(), number);
        self.entries.insert(number, entry);
    }

    fn take(&mut self, number: u64) {
        if let Some(entry) = self.entries.remove(&number) {
            self.bytes -= entry.bytes;
            self.numbers.remove(&entry.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Options;

    const JSON: &str = "application/json";
    const EVENTS: &str = "/api/v1/namespaces/n/events";

    fn open(folder: &std::path::Path, limit: usize) -> (Events, Arc<Stats>) {
        let store = Arc::new(Store::open(folder, Options::default()).unwrap());
        let stats = Arc::new(Stats::default());
        (Events::open(&store, limit, &stats), stats)
    }

    /// The oldest event.
    fn first(events: &Events) -> Option<(u64, u32, Option<Waiting>)> {
        let number = events.next(|_| true)?;
        events.get(number).map(|(changes, event)| (number, changes, event))
    }

    #[test]
    fn events_wait_in_order_over_a_restart_and_repetitions_are_one() {
        let folder = tempfile::tempdir().unwrap();
        let (events, _) = open(folder.path(), 1 << 20);
        for name in ["b", "a", "c"] {
            assert!(events.create(EVENTS, name, JSON, Bytes::from(format!("{name}\nbody"))).unwrap());
        }
        assert!(!events.create(EVENTS, "a", JSON, Bytes::new()).unwrap());
        for count in [2, 3] {
            events.patch(EVENTS, "a", JSON, json!({ "count": count })).unwrap();
        }
        events.patch(EVENTS, "earlier", JSON, json!({ "count": 9 })).unwrap();
        drop(events);
        let (events, _) = open(folder.path(), 1 << 20);
        assert_eq!(events.len(), 4);
        assert!(events.holds("/api/v1/namespaces/n/events/a") && !events.holds("/api/v1/namespaces/n/events/x"));
        let (mut seen, mut bytes) = (Vec::new(), events.bytes());
        while let Some((number, changes, Some(event))) = first(&events) {
            seen.push((event.name, event.created.map(|(_, body)| body), event.patched.map(|(_, patch)| patch)));
            events.done(number, changes);
            assert!(events.bytes() < bytes);
            bytes = events.bytes();
        }
        let body = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        let wanted = [
            ("b".to_string(), body("b\nbody"), None),
            ("a".to_string(), body("a\nbody"), Some(json!({ "count": 3 }))),
            ("c".to_string(), body("c\nbody"), None),
            ("earlier".to_string(), None, Some(json!({ "count": 9 }))),
        ];
        assert_eq!((seen, bytes), (wanted.to_vec(), 0));
    }

    #[test]
    fn what_changes_while_it_is_sent_is_sent_again() {
        let folder = tempfile::tempdir().unwrap();
        let (events, _) = open(folder.path(), 1 << 20);
        events.create(EVENTS, "a", JSON, Bytes::new()).unwrap();
        let (number, changes, _) = first(&events).unwrap();
        events.patch(EVENTS, "a", JSON, json!({ "count": 2 })).unwrap();
        events.done(number, changes);
        let (number, changes, event) = first(&events).unwrap();
        assert_eq!(event.unwrap().patched.unwrap().1, json!({ "count": 2 }));
        events.done(number, changes);
        assert!(events.is_empty());
    }

    #[test]
    fn the_oldest_events_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let (events, stats) = open(folder.path(), 10_000);
        for i in 0..30 {
            events.create(EVENTS, &format!("e{i}"), JSON, vec![b'x'; 900].into()).unwrap();
        }
        assert!(events.bytes() <= 10_000 && (9..12).contains(&events.len()), "{}", events.len());
        assert_eq!(stats.dropped.load(Relaxed) as usize, 30 - events.len());
        assert!(events.holds("/api/v1/namespaces/n/events/e29"));
        let left = events.len();
        drop(events);
        let (events, _) = open(folder.path(), 10_000);
        assert_eq!(events.len(), left);
        assert!(matches!(events.create(EVENTS, "big", JSON, vec![0; 20_000].into()), Err(NotTaken::Full { .. })));
    }
}
