//! Events (events.k8s.io/v1) for what is found about objects whose status has no conditions: `kubectl describe` shows them.
//!
//! The name of an event is made of its object and content, so that the server refuses one that is there already: neither a restart nor
//! another leader writes it again. The server removes an event after some time. One that is still true is renewed before, as a series.
use super::{leader::Leader, queue::Queue};
use crate::{
    kubernetes::{client::text, fetched::Served, own, state::Shared},
    object::{Key, Kind},
    status::{ObjectStatus, Status},
};
use k8s_openapi::jiff::{Timestamp, fmt::strtime};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::time::sleep_until;
use weir_config::diagnostic::{Diagnostic, Severity};

/// Between two events: at most 20 in a second.
const PAUSE: Duration = Duration::from_millis(50);
/// Events for one object.
const MAX_EVENTS: usize = 10;
/// Bytes of a note that the API takes.
const MAX_NOTE: usize = 1024;
const CONTROLLER: &str = "weir.dev/gateway-controller";
/// Reasons of objects that are for another controller: it is not for this gateway to say something of them.
const NOT_OURS: [&str; 1] = ["NotAccepted"];

/// Whether events are written for what is found about objects of a kind. Others always have conditions, are made by controllers, or
/// belong to no namespace; a Service without endpoints is usual while a Deployment starts.
fn has_events(kind: Kind) -> bool {
    let is_passing = matches!(kind, Kind::Service | Kind::EndpointSlice | Kind::Endpoints | Kind::Pod | Kind::Namespace);
    let is_silent = !own::is_written(kind) || own::is_written_where_used(kind);
    kind == Kind::Ingress || kind.info().namespaced && is_silent && !is_passing
}

/// Writes events for as long as the process lives, while it leads. `ttl`: how long the server keeps them.
pub async fn run(client: Client, shared: Arc<Shared>, status: Status, leader: Arc<Leader>, ttl: Duration) {
    let (mut changes, mut leads) = (status.stream(), leader.changes());
    let mut recorder = Recorder { client, shared, leader: leader.clone(), renew: ttl / 2, written: HashMap::new() };
    let mut queue = Queue::default();
    let mut free = Instant::now();
    loop {
        if leader.leads()
            && Instant::now() >= free
            && let Some(key) = queue.next(Instant::now())
        {
            let mut writes = 0;
            let done = recorder.record(&key, status.status(&key), &mut writes).await;
            recorder.shared.event_trouble(done.as_ref().err().map(text));
            queue.done(key, done.unwrap_or_else(|_| Some(Queue::retry())));
            free = Instant::now() + PAUSE * writes.max(1);
        }
        let next = if queue.is_waiting() { Some(free) } else { queue.wakes() }.filter(|_| leader.leads());
        tokio::select! {
            changed = changes.next() => changed.keys.into_iter().filter(|key| has_events(key.kind)).for_each(|key| queue.add(key)),
            Ok(()) = leads.changed() => {}
            () = sleep_until(next.unwrap_or(free).into()), if next.is_some() => {}
        }
    }
}

/// The events of an object.
#[derive(Default)]
struct Written {
    /// When each was last written, and how often, by digest.
    events: BTreeMap<u64, (Instant, u32)>,
    /// When the object comes again to have them renewed.
    due: Option<Instant>,
}

/// What to do about an event.
#[derive(Debug, PartialEq)]
enum Step {
    Create,
    /// With the count of the series.
    Renew(u32),
    Nothing,
}

impl Written {
    fn step(&self, digest: u64, renew: Duration, now: Instant) -> Step {
        match self.events.get(&digest) {
            None => Step::Create,
            Some((at, count)) if *at + renew <= now => Step::Renew(count + 1),
            Some(_) => Step::Nothing,
        }
    }

    /// When the next renewal of the object is due; `None` where that is known already.
    fn schedule(&mut self, renew: Duration, now: Instant) -> Option<Instant> {
        if self.due.is_some_and(|due| due > now) {
            return None;
        }
        self.due = self.events.values().map(|(at, _)| *at + renew).min();
        self.due
    }
}

struct Recorder {
    client: Client,
    shared: Arc<Shared>,
    leader: Arc<Leader>,
    /// After this time an event is written again.
    renew: Duration,
    /// Of the objects that something is found about now.
    written: HashMap<Key, Written>,
}

impl Recorder {
    /// Writes new events of an object, and renews those that are due; counts in `writes`. Returns when the next renewal is due.
    async fn record(&mut self, key: &Key, of: Option<ObjectStatus>, writes: &mut u32) -> kube::Result<Option<Instant>> {
        let has_status = |of: &&ObjectStatus| own::is_written_where_used(key.kind) && of.object.is_some();
        let findings = of.as_ref().filter(|of| !has_status(of)).map(noted).unwrap_or_default();
        let mut written = self.written.remove(key).unwrap_or_default();
        if findings.is_empty() {
            return Ok(None);
        }
        let digests: Vec<u64> = findings.iter().map(|finding| digest(finding)).collect();
        written.events.retain(|digest, _| digests.contains(digest));
        let done = self.write(key, &findings, &mut written, writes).await;
        let due = done.map(|()| written.schedule(self.renew, Instant::now()));
        self.written.insert(key.clone(), written);
        due
    }

    async fn write(&self, key: &Key, findings: &[Arc<Diagnostic>], written: &mut Written, writes: &mut u32) -> kube::Result<()> {
        let steps: Vec<(&Diagnostic, Step)> =
            findings.iter().map(|finding| (&**finding, written.step(digest(finding), self.renew, Instant::now()))).collect();
        if steps.iter().all(|(_, step)| *step == Step::Nothing) {
            return Ok(());
        }
        // An object of a file is in no cluster.
        let Some(served) = self.shared.served(key) else { return Ok(()) };
        let Some(uid) = self.uid(served, key).await? else { return Ok(()) };
        let events: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &key.namespace, &resource());
        for (finding, step) in steps {
            if !self.leader.leads() {
                return Ok(());
            }
            let count = match step {
                Step::Nothing => continue,
                Step::Renew(count) if renew(&events, key, &uid, finding, count).await? => count,
                Step::Create | Step::Renew(_) => {
                    create(&events, event(served, key, &uid, finding, Timestamp::now())).await?;
                    1
                }
            };
            *writes += 1;
            self.shared.counters.events.fetch_add(1, Ordering::Relaxed);
            written.events.insert(digest(finding), (Instant::now(), count));
        }
        Ok(())
    }

    /// By a list: this needs no right to get objects. `None` for one that is gone.
    async fn uid(&self, served: Served, key: &Key) -> kube::Result<Option<String>> {
        let resource = served.resource();
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &key.namespace, &resource);
        let found = api.list_metadata(&ListParams::default().fields(&format!("metadata.name={}", key.name))).await?;
        Ok(found.items.into_iter().next().and_then(|object| object.metadata.uid))
    }
}

/// One that is there already is as good.
async fn create(events: &Api<DynamicObject>, event: Value) -> kube::Result<()> {
    let event = serde_json::from_value(event).map_err(kube::Error::SerdeError)?;
    match events.create(&PostParams::default(), &event).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        created => created.map(drop),
    }
}

/// False where the server has removed it.
async fn renew(events: &Api<DynamicObject>, key: &Key, uid: &str, finding: &Diagnostic, count: u32) -> kube::Result<bool> {
    let series = json!({ "series": { "count": count, "lastObservedTime": micro_time(Timestamp::now()) } });
    match events.patch(&name(key, uid, finding), &PatchParams::default(), &Patch::Merge(series)).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
        renewed => renewed.map(|_| true),
    }
}

fn resource() -> ApiResource {
    ApiResource {
        group: "events.k8s.io".into(),
        version: "v1".into(),
        api_version: "events.k8s.io/v1".into(),
        kind: "Event".into(),
        plural: "events".into(),
    }
}

/// The findings that events are written for: errors come first.
fn noted(of: &ObjectStatus) -> Vec<Arc<Diagnostic>> {
    if of.findings.iter().any(|finding| NOT_OURS.contains(&finding.reason)) {
        return Vec::new();
    }
    let mut findings: Vec<Arc<Diagnostic>> = of.findings.iter().filter(|finding| finding.severity != Severity::Info).cloned().collect();
    findings.sort_by_key(|finding| finding.severity != Severity::Error);
    findings.truncate(MAX_EVENTS);
    findings
}

/// The same for equal content, in every process.
fn digest(finding: &Diagnostic) -> u64 {
    let hash = Sha256::new().chain_update(finding.reason).chain_update("\n").chain_update(note(finding)).finalize();
    u64::from_be_bytes(std::array::from_fn(|i| hash[i]))
}

fn note(finding: &Diagnostic) -> String {
    let mut note = String::new();
    let text = match finding.field.is_empty() {
        true => finding.text(),
        false => format!("{}: {}", finding.field, finding.text()),
    };
    for c in text.chars() {
        if note.len() + c.len_utf8() > MAX_NOTE {
            break;
        }
        note.push(c);
    }
    note
}

/// The name of an event.
fn name(key: &Key, uid: &str, finding: &Diagnostic) -> String {
    // Another object of the same name has events of its own.
    let of_uid: String = uid.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    // A name has up to 253 characters.
    let name: String = key.name.chars().take(200).collect();
    format!("{name}.{of_uid}{:016x}", digest(finding))
}

fn micro_time(at: Timestamp) -> String {
    strtime::format("%Y-%m-%dT%H:%M:%S.%6fZ", at).unwrap_or_default()
}

fn event(served: Served, key: &Key, uid: &str, finding: &Diagnostic, now: Timestamp) -> Value {
    let Served { info, version } = served;
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": { "name": name(key, uid, finding), "namespace": &*key.namespace },
        "eventTime": micro_time(now),
        "type": "Warning",
        "reason": finding.reason,
        "note": note(finding),
        "action": "Translate",
        "reportingController": CONTROLLER,
        "reportingInstance": CONTROLLER,
        "regarding": {
            "apiVersion": info.api_version(version),
            "kind": info.name,
            "namespace": &*key.namespace,
            "name": &*key.name,
            "uid": uid,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_named_by_object_and_content() {
        let key = Key::new(Kind::Ingress, "shop", "web");
        let served = Served { info: Kind::Ingress.info(), version: "v1" };
        let name = |uid: &str, finding: &Diagnostic| event(served, &key, uid, finding, Timestamp::UNIX_EPOCH)["metadata"]["name"].clone();
        let finding = Diagnostic::warning("UnsupportedAnnotation", "a has no effect").help("remove it");
        let first = name("0123-4567-89", &finding);
        assert_eq!(first, name("0123-4567-89", &finding.clone()));
        assert!(first.as_str().is_some_and(|text| text.starts_with("web.01234567")), "{first}");
        let others = [
            name("9123-4567-89", &finding),
            name("0123-4567-89", &Diagnostic::warning("UnsupportedAnnotation", "b has no effect").help("remove it")),
            name("0123-4567-89", &Diagnostic::warning("UnusedField", "a has no effect").help("remove it")),
        ];
        assert!(others.iter().all(|other| *other != first), "{others:?}");
        let long = Diagnostic::warning("UnsupportedAnnotation", "ö".repeat(2000));
        assert_eq!(note(&long).len(), MAX_NOTE);
    }

    #[test]
    fn what_is_still_true_is_renewed_in_time() {
        const RENEW: Duration = Duration::from_secs(30);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut written = Written::default();
        assert_eq!((written.step(1, RENEW, start), written.schedule(RENEW, start)), (Step::Create, None));
        written.events.insert(1, (start, 1));
        assert_eq!(written.schedule(RENEW, start), Some(at(30)));
        // Another one is found: the object comes again for the first one, and then for the second.
        assert_eq!((written.step(1, RENEW, at(10)), written.step(2, RENEW, at(10))), (Step::Nothing, Step::Create));
        written.events.insert(2, (at(10), 1));
        assert_eq!(written.schedule(RENEW, at(10)), None, "it is scheduled once");
        assert_eq!((written.step(1, RENEW, at(30)), written.step(2, RENEW, at(30))), (Step::Renew(2), Step::Nothing));
        written.events.insert(1, (at(30), 2));
        assert_eq!(written.schedule(RENEW, at(30)), Some(at(40)));
    }

    #[test]
    fn kinds_with_events() {
        for (kind, wanted) in [
            (Kind::Ingress, true),
            (Kind::Secret, true),
            (Kind::Service, false),
            (Kind::HttpRoute, false),
            (Kind::DestinationRule, true),
            (Kind::VirtualService, false),
            (Kind::EndpointSlice, false),
            (Kind::IngressClass, false),
            (Kind::Namespace, false),
        ] {
            assert_eq!(has_events(kind), wanted, "{kind:?}");
        }
    }
}
