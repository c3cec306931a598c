//! Sends what waits in the outbox once the API server can be reached: the Lease, then statuses, then events at a bounded rate.
use crate::{
    apimachinery::{
        object::time,
        reported::{Kind, NODE},
    },
    body::{full, whole},
    offline::outbox::{
        Outbox,
        aside::{Aside, Next, backoff},
        item::Item,
        refused::Letter,
    },
    settings::AGENT,
    store::ObjectName,
    upstream::remote::{Remote, RemoteError, Show},
};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use serde_json::{Value, json};
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

/// The API server may take so long for one of them.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest wait that the API server can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);
/// The wait for work; new work cuts it short.
const IDLE: Duration = Duration::from_secs(3600);
/// Of an answer.
const MAX_ANSWER: usize = 16 << 20;
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const MERGE: &str = "application/merge-patch+json";

pub struct Replay {
    /// The name of the node.
    node: String,
    remote: Arc<Remote>,
    outbox: Arc<Outbox>,
    /// One at a time, so that nothing older arrives behind something newer.
    sending: Mutex<()>,
}

/// What came of sending one record.
#[derive(Debug)]
enum Sent {
    Done,
    /// There was no answer: it is sent again when the link works.
    Unanswered,
    /// The answer was an error that may pass: it is sent again, after the time that the API server asks for.
    Again(Option<Duration>),
}

/// An answer of the API server.
struct Answer {
    code: StatusCode,
    retry_after: Option<Duration>,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Of a Status.
    fn message(&self) -> String {
        self.json()["message"].as_str().map_or_else(|| self.code.to_string(), str::to_string)
    }

    fn is(&self, reason: &str) -> bool {
        self.json()["reason"] == reason
    }

    /// Whether the same may succeed later: the API server is busy or broken, or does not accept the certificate of the node yet. One
    /// that has just started does not know all rights yet, so it is believed only after some `failures`.
    fn is_temporary(&self, failures: u32) -> bool {
        self.code.is_server_error() || [401, 408, 429].contains(&self.code.as_u16()) || self.code == 403 && failures < 5
    }
}

impl Replay {
    pub fn new(node: &str, remote: Arc<Remote>, outbox: Arc<Outbox>) -> Replay {
        Replay { node: node.to_string(), remote, outbox, sending: Mutex::new(()) }
    }

    /// Sends what waits, whenever the link is up, until the hub ends.
    pub async fn run(&self) {
        let mut link = self.remote.changes();
        let mut tokens = Tokens::new(self.outbox.limits.events_per_second, Instant::now());
        let mut aside = Aside::new(self.outbox.limits.retry_timeout);
        // Failures of the link in a row, and items that were sent since nothing waited.
        let (mut unanswered, mut done) = (0, 0);
        loop {
            if link.wait_for(|up| *up).await.is_err() {
                return;
            }
            let now = Instant::now();
            let Some(item) = self.outbox.next(|item| !aside.is_aside(item, now)) else {
                if self.outbox.waiting() == 0 {
                    if done > 0 {
                        self.outbox.notice(format!("what was written without the API server has been sent: {done}"));
                    }
                    done = 0;
                    aside.clear();
                }
                let wait = aside.next(now).map_or(IDLE, |at| at - now);
                let _ = timeout(wait, self.outbox.work.notified()).await;
                continue;
            };
            match self.item(&item, aside.failures(&item), &mut tokens).await {
                Sent::Done => {
                    aside.done(&item);
                    (unanswered, done) = (0, done + 1);
                }
                Sent::Unanswered => {
                    self.outbox.stats.retried.fetch_add(1, Relaxed);
                    sleep(backoff(unanswered)).await;
                    unanswered += 1;
                }
                Sent::Again(after) => {
                    self.outbox.stats.retried.fetch_add(1, Relaxed);
                    match aside.failed(&item, Instant::now()) {
                        Next::Again(wait) => sleep(after.unwrap_or(wait)).await,
                        Next::SetAside { first: true } => {
                            self.outbox
                                .notice(format!("the API server keeps answering {item} with errors: what waits behind it is sent first"));
                        }
                        Next::SetAside { first: false } => {}
                    }
                }
            }
        }
    }

    async fn item(&self, item: &Item, failures: u32, tokens: &mut Tokens) -> Sent {
        match item {
            Item::Lease => self.lease(failures).await,
            Item::Status(kind, name) => self.status(kind, name, failures).await,
            Item::Event(number) => {
                let wait = tokens.take(Instant::now());
                if !wait.is_zero() {
                    sleep(wait).await;
                }
                self.event(*number, failures).await
            }
            // It is not sent again.
            Item::Refused(_) => Sent::Done,
        }
    }

    /// Sends what waits of one status, so that a newer one can follow it.
    pub async fn flush(&self, kind: &'static Kind, name: &ObjectName) {
        let _ = self.status(kind, name, 0).await;
    }

    async fn send(&self, method: Method, path: &str, content_type: &str, body: Bytes) -> Result<Answer, Sent> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, content_type)
            .header(header::USER_AGENT, AGENT)
            .body(full(body));
        let Ok(request) = request else { return Ok(Answer::unsendable()) };
        let answered = timeout(PATIENCE, async {
            let response = self.remote.send(request, Show::Node).await?;
            let (parts, body) = response.into_parts();
            Ok::<_, RemoteError>((parts, whole(body, MAX_ANSWER).await))
        });
        match answered.await {
            Ok(Ok((parts, Ok(body)))) => {
                let after = parts.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
                let retry_after = after.map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
                Ok(Answer { code: parts.status, retry_after, body })
            }
            _ => Err(Sent::Unanswered),
        }
    }

    /// The newest renewal, unless the API server has a newer one.
    async fn lease(&self, failures: u32) -> Sent {
        let _one = self.sending.lock().await;
        let Some(Ok(spec)) = self.outbox.lease.waiting() else {
            self.outbox.lease.done(None);
            return Sent::Done;
        };
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{}", self.node);
        let now = match self.send(Method::GET, &path, "application/json", Bytes::new()).await {
            Ok(answer) if answer.is_temporary(failures) => return Sent::Again(answer.retry_after),
            // kubelet makes it again, if there is to be one.
            Ok(answer) if answer.code != StatusCode::OK => {
                self.outbox.lease.done(Some(&spec));
                return Sent::Done;
            }
            Ok(answer) => answer.json(),
            Err(unanswered) => return unanswered,
        };
        if renewed(&now["spec"]) < renewed(&spec) {
            let patch = json!({ "metadata": { "resourceVersion": now["metadata"]["resourceVersion"] }, "spec": spec });
            match self.send(Method::PATCH, &path, MERGE, patch.to_string().into()).await {
                Ok(answer) if answer.is_temporary(failures) => return Sent::Again(answer.retry_after),
                Ok(answer) if answer.code.is_success() => drop(self.outbox.stats.sent.fetch_add(1, Relaxed)),
                // In between kubelet has renewed it itself.
                Ok(answer) if answer.code == StatusCode::CONFLICT => {}
                Ok(answer) => self.refuse(&Method::PATCH, &path, &answer, patch.to_string().as_bytes()),
                Err(unanswered) => return unanswered,
            }
        }
        self.outbox.lease.done(Some(&spec));
        Sent::Done
    }

    async fn status(&self, kind: &'static Kind, name: &ObjectName, failures: u32) -> Sent {
        let _one = self.sending.lock().await;
        let Some(changed) = self.outbox.statuses.get(kind, name).filter(|changed| changed.sent.is_none()) else { return Sent::Done };
        let object = match kind.resource == NODE.resource {
            true => format!("/api/v1/nodes/{}", name.name),
            false => format!("/api/v1/namespaces/{}/pods/{}", name.namespace, name.name),
        };
        let path = format!("{object}/status");
        let mut patch = changed.patch.clone();
        // Of another object of this name it says nothing.
        patch["metadata"]["uid"] = changed.uid.as_str().into();
        let body = patch.to_string();
        let answer = match self.send(Method::PATCH, &path, STRATEGIC, body.clone().into()).await {
            Ok(answer) => answer,
            Err(unanswered) => return unanswered,
        };
        match answer.code.as_u16() {
            200..300 => {
                let version = answer.json()["metadata"]["resourceVersion"].as_str().and_then(|version| version.parse().ok());
                self.outbox.statuses.sent(kind, name, changed.changes, version.unwrap_or_default());
                self.outbox.stats.sent.fetch_add(1, Relaxed);
                return Sent::Done;
            }
            _ if answer.is_temporary(failures) => return Sent::Again(answer.retry_after),
            404 => self.gone(&object),
            409 | 422 => match self.send(Method::GET, &object, "application/json", Bytes::new()).await {
                Ok(now) if now.is_temporary(failures) => return Sent::Again(now.retry_after),
                Ok(now) if now.code == StatusCode::NOT_FOUND => self.gone(&object),
                Ok(now) if now.code == StatusCode::OK && now.json()["metadata"]["uid"] != changed.uid.as_str() => self.gone(&object),
                Ok(_) if answer.code == StatusCode::CONFLICT => return Sent::Again(None),
                Ok(_) => self.refuse(&Method::PATCH, &path, &answer, body.as_bytes()),
                Err(unanswered) => return unanswered,
            },
            _ => self.refuse(&Method::PATCH, &path, &answer, body.as_bytes()),
        }
        self.outbox.statuses.forget(kind, name, changed.changes);
        Sent::Done
    }

    async fn event(&self, number: u64, failures: u32) -> Sent {
        let _one = self.sending.lock().await;
        // It may have made room meanwhile.
        let Some((changes, event)) = self.outbox.events.get(number) else { return Sent::Done };
        let Some(event) = event else {
            self.outbox.stats.damaged.fetch_add(1, Relaxed);
            self.outbox.events.done(number, changes);
            return Sent::Done;
        };
        let mut steps = Vec::new();
        if let Some((content_type, body)) = &event.created {
            steps.push((Method::POST, event.collection.clone(), content_type.as_str(), body.clone()));
        }
        if let Some((content_type, patch)) = &event.patched {
            steps.push((Method::PATCH, event.path(), content_type.as_str(), Bytes::from(patch.to_string())));
        }
        for (method, path, content_type, body) in steps {
            let answer = match self.send(method.clone(), &path, content_type, body.clone()).await {
                Ok(answer) => answer,
                Err(unanswered) => return unanswered,
            };
            // It was sent already, and then the hub ended.
            let again = method == Method::POST && answer.code == StatusCode::CONFLICT && answer.is("AlreadyExists");
            if answer.is_temporary(failures) {
                return Sent::Again(answer.retry_after);
            }
            if !answer.code.is_success() && !again {
                match answer.code {
                    StatusCode::NOT_FOUND => self.gone(&path),
                    _ => self.refuse(&method, &path, &answer, &body),
                }
                self.outbox.events.done(number, changes);
                return Sent::Done;
            }
        }
        self.outbox.stats.sent.fetch_add(1, Relaxed);
        self.outbox.events.done(number, changes);
        Sent::Done
    }

    fn gone(&self, path: &str) {
        self.outbox.stats.gone.fetch_add(1, Relaxed);
        self.outbox.notice(format!("{path} is gone: what was written of it without the API server is dropped"));
    }

    fn refuse(&self, method: &Method, path: &str, answer: &Answer, body: &[u8]) {
        self.outbox.stats.refused.fetch_add(1, Relaxed);
        let message = answer.message();
        self.outbox
            .notice(format!("the API server refuses what was written without it: {method} {path}: {} {message}", answer.code.as_u16()));
        // Without room it is still in the log.
        let _ = self.outbox.refused.add(Letter::new(method.as_str(), path, answer.code.as_u16(), message, body));
    }
}

impl Answer {
    /// Of a request that cannot be made: it would never be accepted.
    fn unsendable() -> Answer {
        Answer { code: StatusCode::BAD_REQUEST, retry_after: None, body: Bytes::new() }
    }
}

/// When a Lease was renewed.
fn renewed(spec: &Value) -> (i64, u32) {
    let text = spec["renewTime"].as_str().unwrap_or_default();
    (time::seconds(text).unwrap_or_default(), time::micros(text))
}

/// A token bucket.
struct Tokens {
    per_second: f64,
    most: f64,
    tokens: f64,
    at: Instant,
}

impl Tokens {
    fn new(per_second: u32, now: Instant) -> Tokens {
        let per_second = f64::from(per_second.max(1));
        let most = (per_second / 2.0).max(1.0);
        Tokens { per_second, most, tokens: most, at: now }
    }

    /// Takes a token, and says how long to wait for it.
    fn take(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.most) - 1.0;
        self.at = now;
        Duration::from_secs_f64((-self.tokens / self.per_second).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_at_their_rate() {
        let start = Instant::now();
        let mut tokens = Tokens::new(10, start);
        let waits: Vec<u128> = (0..8).map(|_| tokens.take(start).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 100, 200, 300]);
        let later = start + Duration::from_secs(60);
        let waits: Vec<u128> = (0..7).map(|_| tokens.take(later).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 100, 200]);
        assert_eq!(Tokens::new(0, start).take(start), Duration::ZERO);
    }

    #[test]
    fn some_answers_are_not_the_last_word() {
        let table = [(403, 0, true), (403, 4, true), (403, 5, false), (401, 9, true), (429, 9, true), (500, 9, true), (503, 9, true)];
        let more = [(200, 0, false), (400, 0, false), (404, 0, false), (409, 0, false), (422, 0, false)];
        for (code, failures, temporary) in table.into_iter().chain(more) {
            let answer = Answer { code: StatusCode::from_u16(code).unwrap(), retry_after: None, body: Bytes::new() };
            assert_eq!(answer.is_temporary(failures), temporary, "{code} {failures}");
        }
    }

    #[test]
    fn later_renewals_are_later() {
        let at = |text: &str| renewed(&json!({ "renewTime": text }));
        assert!(at("2026-11-28T02:04:38.000002Z") > at("2026-11-28T02:04:38.000001Z"));
        assert!(at("2026-11-28T02:04:38.000001Z") > at("2026-11-28T02:04:37.999999Z"));
        assert!(at("2026-11-28T02:04:38Z") > renewed(&json!({})));
    }
}
