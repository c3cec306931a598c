//! What users may list and watch of kinds that all share: asked of the API server, and remembered for when it cannot be reached.
use crate::{
    cache::head::{Head, seconds},
    store::{ObjectName, Store},
};
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// The set in the store. It belongs to no user.
const ACCESS: &str = "\naccess";
/// Most decisions that are remembered; the oldest make room.
const MOST: usize = 10_000;
/// How long a decision counts while the API server can be asked again, as for webhooks of the API server.
const ALLOWED: Duration = Duration::from_secs(300);
const DENIED: Duration = Duration::from_secs(30);
/// Largest answer of a refusal that is kept.
pub const MAX_REFUSAL: usize = 64 << 10;

/// What somebody wants to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    pub user: String,
    /// `list` or `watch`.
    pub verb: &'static str,
    /// As [`crate::apimachinery::request::GroupVersionResource`] prints it.
    pub resource: String,
    /// Empty: all namespaces.
    pub namespace: String,
}

/// The API server's own answer to who may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub content_type: String,
    pub body: Bytes,
}

#[derive(Clone, Debug)]
struct Decision {
    allowed: bool,
    refusal: Option<Refusal>,
    /// When the API server was asked, if this process did it.
    asked: Option<Instant>,
    /// The same in seconds since 1970.
    at: u64,
}

pub struct Access {
    store: Arc<Store>,
    known: Mutex<HashMap<String, Decision>>,
}

impl Access {
    pub fn open(store: &Arc<Store>) -> Access {
        if store.head(ACCESS).is_none() {
            // Where this fails, so does each write, and decisions are not remembered beyond the process.
            let _ = store.replace(ACCESS, &Head::default().to_bytes(), []);
        }
        let kept = store.list(ACCESS).ok().flatten().map(|listing| listing.items).unwrap_or_default();
        let known = kept.into_iter().filter_map(|(name, bytes)| Some((name.name, Decision::read(&bytes)?))).collect();
        Access { store: store.clone(), known: Mutex::new(known) }
    }

    /// What the API server has said, however long ago.
    pub fn last(&self, question: &Question) -> Option<bool> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&question.name()).map(|decision| decision.allowed)
    }

    /// What it has said lately.
    pub fn lately(&self, question: &Question, now: Instant) -> Option<bool> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let decision = known.get(&question.name())?;
        let lasts = if decision.allowed { ALLOWED } else { DENIED };
        (now.duration_since(decision.asked?) < lasts).then_some(decision.allowed)
    }

    /// The answer of the API server that forbids it.
    pub fn refusal(&self, question: &Question) -> Option<Refusal> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&question.name()).filter(|decision| !decision.allowed)?.refusal.clone()
    }

    /// Remembers a decision. A refusal stays until another one comes, or it is allowed.
    pub fn decided(&self, question: &Question, allowed: bool, refusal: Option<Refusal>, now: Instant) {
        let name = question.name();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.get(&name);
        let refusal = refusal.or_else(|| before.and_then(|decision| decision.refusal.clone())).filter(|_| !allowed);
        let news = before.is_none_or(|decision| decision.allowed != allowed || decision.refusal != refusal);
        let decision = Decision { allowed, refusal, asked: Some(now), at: seconds(SystemTime::now()) };
        let bytes = decision.to_bytes(question);
        known.insert(name.clone(), decision);
        let oldest =
            (known.len() > MOST).then(|| known.iter().min_by_key(|(_, decision)| decision.at).map(|(name, _)| name.clone())).flatten();
        if let Some(oldest) = &oldest {
            known.remove(oldest);
        }
        drop(known);
        // What cannot be written is known to this process only.
        let (object, head) = (|name: String| ObjectName { namespace: String::new(), name }, Head::default().to_bytes());
        if news {
            let _ = self.store.put(ACCESS, &object(name), &bytes, &head);
        }
        if let Some(oldest) = oldest {
            let _ = self.store.remove(ACCESS, &object(oldest), &head);
        }
    }
}

impl Question {
    /// The same question has the same name.
    fn name(&self) -> String {
        let text = [self.user.as_str(), self.verb, &self.resource, &self.namespace].join("\n");
        data_encoding::HEXLOWER.encode(&Sha256::digest(text)[..16])
    }

    /// The body of a SelfSubjectAccessReview.
    pub fn review(&self) -> String {
        Question::body("SelfSubjectAccessReview", json!({ "resourceAttributes": self.attributes() }))
    }

    /// The body of a SubjectAccessReview for its user, who is in these groups.
    pub fn review_of(&self, groups: &[&str]) -> String {
        let spec = json!({ "user": self.user, "groups": groups, "resourceAttributes": self.attributes() });
        Question::body("SubjectAccessReview", spec)
    }

    fn attributes(&self) -> Value {
        let mut parts = self.resource.splitn(3, '.');
        let (resource, version, group) = (parts.next(), parts.next(), parts.next().unwrap_or_default());
        json!({ "verb": self.verb, "group": group, "version": version, "resource": resource, "namespace": self.namespace })
    }

    fn body(kind: &str, spec: Value) -> String {
        json!({ "apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec }).to_string()
    }
}

impl Decision {
    fn to_bytes(&self, question: &Question) -> Vec<u8> {
        let mut value = json!({
            "user": question.user, "verb": question.verb, "resource": question.resource, "namespace": question.namespace,
            "allowed": self.allowed, "at": self.at,
        });
        if let Some(refusal) = &self.refusal {
            value["contentType"] = refusal.content_type.as_str().into();
            value["body"] = data_encoding::BASE64.encode(&refusal.body).into();
        }
        value.to_string().into_bytes()
    }

    fn read(bytes: &[u8]) -> Option<Decision> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let refusal = value["body"].as_str().and_then(|body| {
            let body = data_encoding::BASE64.decode(body.as_bytes()).ok()?.into();
            Some(Refusal { content_type: value["contentType"].as_str()?.into(), body })
        });
        Some(Decision { allowed: value["allowed"].as_bool()?, refusal, asked: None, at: value["at"].as_u64()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Options;

    #[test]
    fn decisions_are_asked_again_after_a_while_and_kept_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Arc::new(Store::open(folder.path(), Options::default()).unwrap());
        let question = |user: &str| Question { user: user.into(), verb: "watch", resource: "services.v1".into(), namespace: String::new() };
        let (a, b) = (question("a"), question("b"));
        let review: Value =
            serde_json::from_str(&Question { resource: "endpointslices.v1.discovery.k8s.io".into(), ..question("a") }.review()).unwrap();
        let attributes = &review["spec"]["resourceAttributes"];
        assert_eq!((attributes["group"].as_str(), attributes["resource"].as_str()), (Some("discovery.k8s.io"), Some("endpointslices")));
        let refusal = Refusal { content_type: "application/json".into(), body: Bytes::from_static(b"no") };
        let now = Instant::now();
        let mut access = Access::open(&open());
        assert_eq!((access.last(&a), access.lately(&a, now)), (None, None));
        access.decided(&a, true, None, now);
        access.decided(&b, false, None, now);
        assert!(access.refusal(&b).is_none());
        access.decided(&b, false, Some(refusal.clone()), now);
        // Another answer to the same question does not forget how it was refused.
        access.decided(&b, false, None, now);
        for (question, allowed, lasts) in [(&a, true, ALLOWED), (&b, false, DENIED)] {
            assert_eq!(access.lately(question, now + lasts - Duration::from_millis(1)), Some(allowed));
            assert_eq!((access.lately(question, now + lasts), access.last(question)), (None, Some(allowed)));
        }
        drop(access);
        access = Access::open(&open());
        assert_eq!((access.last(&a), access.last(&b), access.lately(&a, now)), (Some(true), Some(false), None));
        assert_eq!(access.refusal(&b), Some(refusal));
        access.decided(&b, true, None, now);
        assert!(access.refusal(&b).is_none() && access.refusal(&a).is_none());
    }
}
