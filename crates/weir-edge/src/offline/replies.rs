//! Answers to requests of the node that it is given again without the link: service account tokens until they expire, and for a while what
//! the API server said of the users of kubelet's own port. Only the same request gets them.
use crate::{
    apimachinery::{
        media::MediaType,
        object::{Object, time},
        reported::TOKEN_REQUEST,
    },
    cache::head::seconds,
    offline::outbox::{HEAD, Stats, records},
    store::{ObjectName, Store},
};
use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

const TOKENS: &str = "\ntokens";
/// Tokens that are held, and reviews.
const MOST: usize = 1000;
/// Of one answer.
const MAX_REPLY: usize = 64 << 10;

pub type Key = [u8; 32];

/// The same for the same request.
pub fn key(target: &str, content_type: &str, accept: &str, body: &[u8]) -> Key {
    let mut digest = Sha256::new();
    for part in [target.as_bytes(), content_type.as_bytes(), accept.as_bytes(), body] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub content_type: String,
    pub body: Bytes,
}

pub struct Replies {
    store: Arc<Store>,
    /// When each token expires, in seconds since 1970. They are on disk: pods need them to start again.
    tokens: Mutex<HashMap<Key, u64>>,
    /// In memory only.
    reviews: Mutex<HashMap<Key, (Instant, Reply)>>,
    review_ttl: Duration,
}

impl Replies {
    pub fn open(store: &Arc<Store>, review_ttl: Duration, stats: &Stats) -> Replies {
        let read = |(name, bytes): (ObjectName, Bytes)| Some((name_key(&name)?, Token::read(&bytes)?.expires));
        let tokens = records(store, TOKENS, stats).into_iter().filter_map(read).collect();
        Replies { store: store.clone(), tokens: Mutex::new(tokens), reviews: Mutex::default(), review_ttl }
    }

    /// Remembers a token that the API server has issued. One that has expired makes room first, and not before that: the clock may be wrong.
    pub fn issued(&self, key: &Key, reply: Reply) {
        let encoding = MediaType::read(&reply.content_type).map(|media| media.encoding);
        let object = encoding.and_then(|encoding| Object::read(reply.body.clone(), encoding).ok());
        let status = object.and_then(|object| TOKEN_REQUEST.read(&object).ok()).map(|mut report| report[TOKEN_REQUEST.part].take());
        let expires = status.and_then(|status| time::seconds(status["expirationTimestamp"].as_str()?));
        let Some(expires) = expires.and_then(|at| u64::try_from(at).ok()).filter(|_| reply.body.len() <= MAX_REPLY) else { return };
        let mut tokens = lock(&self.tokens);
        if tokens.len() >= MOST
            && !tokens.contains_key(key)
            && let Some(first) = tokens.iter().min_by_key(|(_, at)| **at).map(|(key, _)| *key)
        {
            let _ = self.store.remove(TOKENS, &key_name(&first), HEAD);
            tokens.remove(&first);
        }
        // Without room it is asked for again.
        if self.store.put(TOKENS, &key_name(key), &Token { expires, reply }.to_bytes(), HEAD).is_ok() {
            tokens.insert(*key, expires);
        }
    }

    /// The last token that was issued for the same request, until it expires.
    pub fn token(&self, key: &Key, now: SystemTime) -> Option<Reply> {
        lock(&self.tokens).get(key).filter(|at| **at > seconds(now))?;
        Some(Token::read(&self.store.get(TOKENS, &key_name(key)).ok()??)?.reply)
    }

    /// The service account tokens that are kept, by the requests that they answer.
    pub fn account_tokens(&self) -> Vec<(Key, ServiceAccountToken)> {
        let keys: Vec<Key> = lock(&self.tokens).keys().copied().collect();
        let read = |key: Key| Some((key, ServiceAccountToken::read(&Token::read(&self.store.get(TOKENS, &key_name(&key)).ok()??)?)?));
        keys.into_iter().filter_map(read).collect()
    }

    /// Forgets a token.
    pub fn forget(&self, key: &Key) -> bool {
        let mut tokens = lock(&self.tokens);
        let forgotten = self.store.remove(TOKENS, &key_name(key), HEAD).is_ok();
        if forgotten {
            tokens.remove(key);
        }
        forgotten
    }

    /// Remembers what the API server said of a user.
    pub fn reviewed(&self, key: &Key, reply: Reply, now: Instant) {
        if self.review_ttl.is_zero() || reply.body.len() > MAX_REPLY {
            return;
        }
        let mut reviews = lock(&self.reviews);
        reviews.retain(|_, (at, _)| now.saturating_duration_since(*at) < self.review_ttl);
        if reviews.len() >= MOST
            && let Some(first) = reviews.iter().min_by_key(|(_, (at, _))| *at).map(|(key, _)| *key)
        {
            reviews.remove(&first);
        }
        reviews.insert(*key, (now, reply));
    }

    /// What it said of the same user a while ago.
    pub fn review(&self, key: &Key, now: Instant) -> Option<Reply> {
        let reviews = lock(&self.reviews);
        let (at, reply) = reviews.get(key)?;
        (now.saturating_duration_since(*at) < self.review_ttl).then(|| reply.clone())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key_name(key: &Key) -> ObjectName {
    ObjectName { namespace: String::new(), name: data_encoding::HEXLOWER.encode(key) }
}

fn name_key(name: &ObjectName) -> Option<Key> {
    data_encoding::HEXLOWER.decode(name.name.as_bytes()).ok()?.try_into().ok()
}

/// What the claims of a token say, without the token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceAccountToken {
    pub namespace: String,
    pub account: String,
    /// The pod that it is bound to; empty: none.
    pub pod: String,
    pub pod_uid: String,
    /// Seconds since 1970.
    pub expires: u64,
}

impl ServiceAccountToken {
    fn read(token: &Token) -> Option<ServiceAccountToken> {
        let object = Object::read(token.reply.body.clone(), MediaType::read(&token.reply.content_type)?.encoding).ok()?;
        let report = TOKEN_REQUEST.read(&object).ok()?;
        let claims = report[TOKEN_REQUEST.part]["token"].as_str()?.split('.').nth(1)?;
        let claims: Value = serde_json::from_slice(&BASE64URL_NOPAD.decode(claims.as_bytes()).ok()?).ok()?;
        let of = &claims["kubernetes.io"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        Some(ServiceAccountToken {
            namespace: text(&of["namespace"]),
            account: text(&of["serviceaccount"]["name"]),
            pod: text(&of["pod"]["name"]),
            pod_uid: text(&of["pod"]["uid"]),
            expires: token.expires,
        })
    }
}

/// As it lies in the store.
struct Token {
    expires: u64,
    reply: Reply,
}

impl Token {
    fn to_bytes(&self) -> Vec<u8> {
        let head = json!({ "expires": self.expires, "contentType": self.reply.content_type }).to_string();
        [head.as_bytes(), b"\n", &self.reply.body].concat()
    }

    fn read(bytes: &Bytes) -> Option<Token> {
        let end = memchr::memchr(b'\n', bytes)?;
        let head: Value = serde_json::from_slice(&bytes[..end]).ok()?;
        let content_type = head["contentType"].as_str()?.to_string();
        Some(Token { expires: head["expires"].as_u64()?, reply: Reply { content_type, body: bytes.slice(end + 1..) } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Options;
    use std::time::UNIX_EPOCH;

    fn open(folder: &std::path::Path) -> Replies {
        let store = Arc::new(Store::open(folder, Options::default()).unwrap());
        Replies::open(&store, Duration::from_secs(60), &Stats::default())
    }

    fn issued(text: &str) -> Reply {
        let body = format!(
            r#"{{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","metadata":{{"name":"a"}},"status":{{"token":"t","expirationTimestamp":"{text}"}}}}"#
        );
        Reply { content_type: "application/json".into(), body: body.into() }
    }

    #[test]
    fn tokens_are_given_again_until_they_expire() {
        let folder = tempfile::tempdir().unwrap();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let replies = open(folder.path());
        let (a, b) = (key("/a", "", "", b"x"), key("/a", "", "", b"y"));
        replies.issued(&a, issued("1970-01-01T00:01:40Z"));
        assert_eq!(
            (replies.token(&a, at(99)), replies.token(&a, at(100)), replies.token(&b, at(1))),
            (Some(issued("1970-01-01T00:01:40Z")), None, None)
        );
        drop(replies);
        let replies = open(folder.path());
        assert_eq!(replies.token(&a, at(99)), Some(issued("1970-01-01T00:01:40Z")));
        assert!(replies.account_tokens().is_empty(), "it has no claims");
        let claims = r#"{"kubernetes.io":{"namespace":"n","pod":{"name":"p","uid":"u"},"serviceaccount":{"name":"s"}}}"#;
        let bound = BASE64URL_NOPAD.encode(claims.as_bytes());
        let text = String::from_utf8(issued("1970-01-01T00:01:40Z").body.to_vec()).unwrap().replace(r#""t""#, &format!("\"h.{bound}.s\""));
        replies.issued(&key("/bound", "", "", b""), Reply { content_type: "application/json".into(), body: text.into() });
        let wanted = ServiceAccountToken { namespace: "n".into(), account: "s".into(), pod: "p".into(), pod_uid: "u".into(), expires: 100 };
        assert_eq!(replies.account_tokens(), [(key("/bound", "", "", b""), wanted)]);
        assert!(replies.forget(&key("/bound", "", "", b"")) && replies.account_tokens().is_empty());
        // What is no token, and what does not say when it expires, is not remembered.
        for body in ["{}", "[]", r#"{"kind":"TokenRequest","status":{"token":"t"}}"#] {
            replies.issued(&b, Reply { content_type: "application/json".into(), body: body.into() });
            assert_eq!(replies.token(&b, at(1)), None, "{body}");
        }
        // Those that have expired make room, and then the ones that expire first.
        for i in 0..MOST as u64 {
            replies.issued(&key("/", "", "", &i.to_le_bytes()), issued(&time::text(1000 + i as i64, None)));
        }
        assert_eq!(replies.token(&a, at(1)), None);
        replies.issued(&b, issued("1970-01-01T01:00:00Z"));
        assert_eq!(replies.token(&key("/", "", "", &0u64.to_le_bytes()), at(1)), None);
        assert!(replies.token(&key("/", "", "", &1u64.to_le_bytes()), at(1)).is_some() && replies.token(&b, at(1)).is_some());
        assert_eq!(lock(&replies.tokens).len(), MOST);
    }

    #[test]
    fn reviews_are_given_again_for_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let replies = open(folder.path());
        let (now, reply) = (Instant::now(), issued("1970-01-01T00:00:01Z"));
        let at = |seconds| now + Duration::from_secs(seconds);
        replies.reviewed(&[0; 32], reply.clone(), at(0));
        assert_eq!(
            (replies.review(&[0; 32], at(59)), replies.review(&[0; 32], at(60)), replies.review(&[1; 32], at(0))),
            (Some(reply.clone()), None, None)
        );
        for i in 0..MOST as u64 {
            replies.reviewed(&key("/", "", "", &i.to_le_bytes()), reply.clone(), at(1));
        }
        assert_eq!(replies.review(&[0; 32], at(1)), None);
        assert_eq!(lock(&replies.reviews).len(), MOST);
    }
}
