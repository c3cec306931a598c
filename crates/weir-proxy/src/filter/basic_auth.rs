//! Basic authentication (Envoy's filter `basic_auth`): lets clients in by user and password. A hash that is slow to check is checked
//! on another thread, and each user's last good password is remembered.
mod hash;

use super::{FilterContext, Flow, Stop};
use crate::{detail::Detail, info::Flags, reply::Reply, stats::HttpStats};
use arc_swap::ArcSwapOption;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use hash::{Hash, same};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll, ready},
};
use tokio::sync::Semaphore;
use weir_config::model;
use weir_net::http::{Headers, Known};

/// A compiled [`model::BasicAuth`].
#[derive(Debug)]
pub struct BasicAuthRt {
    challenge: Box<str>,
    users: HashMap<Box<str>, Arc<User>>,
}

#[derive(Debug)]
struct User {
    /// `None` lets nobody in.
    hash: Option<Hash>,
    /// SHA-256 of the password that was right last: what is slow to check is checked once.
    known: ArcSwapOption<[u8; 32]>,
}

impl BasicAuthRt {
    pub fn compile(of: &model::BasicAuth) -> BasicAuthRt {
        let user = |hash| Arc::new(User { hash: Hash::parse(hash), known: ArcSwapOption::empty() });
        let users = of.users.0.iter().map(|(name, hash)| (name.clone(), user(hash))).collect();
        BasicAuthRt { challenge: format!("Basic realm=\"{}\"", of.realm).into(), users }
    }
}

/// Checks of slow hashes that run at a time: wrong passwords must not take every core.
static SLOW_CHECKS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(1, |n| n.get().div_ceil(2))));

type Check = Pin<Box<dyn Future<Output = bool>>>;

pub struct BasicAuth {
    config: Arc<BasicAuthRt>,
    /// With what counts its result.
    check: Option<(Check, Arc<HttpStats>)>,
}

impl BasicAuth {
    pub fn new(config: Arc<BasicAuthRt>) -> BasicAuth {
        BasicAuth { config, check: None }
    }

    pub fn decode_headers(&mut self, cx: &FilterContext) -> Flow {
        let credential = credential(&cx.stream.req.borrow().headers);
        let Some((name, password)) = credential else {
            return self.deny(&cx.stats, Detail::MissingCredential);
        };
        let Some((user, hash)) = self.config.users.get(&*name).and_then(|user| Some((user, user.hash.as_ref()?))) else {
            return self.deny(&cx.stats, Detail::InvalidCredential);
        };
        if !hash.is_slow() {
            let accepted = hash.accepts(&password);
            return self.finish(&cx.stats, accepted);
        }
        let fingerprint: [u8; 32] = Sha256::digest(&password).into();
        if user.known.load().as_ref().is_some_and(|known| same(&**known, &fingerprint)) {
            return self.finish(&cx.stats, true);
        }
        self.check = Some((Box::pin(slow_check(user.clone(), password, fingerprint)), cx.stats.clone()));
        Flow::Stop(Stop::AllAndWatermark)
    }

    pub fn is_checking(&self) -> bool {
        self.check.is_some()
    }

    pub fn poll(&mut self, cx: &mut Context) -> Poll<Flow> {
        let Some((check, stats)) = &mut self.check else { return Poll::Pending };
        let accepted = ready!(check.as_mut().poll(cx));
        let stats = stats.clone();
        self.check = None;
        Poll::Ready(self.finish(&stats, accepted))
    }

    fn finish(&self, stats: &HttpStats, accepted: bool) -> Flow {
        if !accepted {
            return self.deny(stats, Detail::InvalidCredential);
        }
        stats.basic_auth_allowed.inc();
        Flow::Continue
    }

    fn deny(&self, stats: &HttpStats, detail: Detail) -> Flow {
        stats.basic_auth_denied.inc();
        let reply = Reply::new(401, detail).header("www-authenticate", self.config.challenge.as_bytes());
        Flow::Reply(Box::new(reply.body(&b"User authentication failed"[..])), Flags::default())
    }
}

async fn slow_check(user: Arc<User>, password: Vec<u8>, fingerprint: [u8; 32]) -> bool {
    let Ok(_permit) = SLOW_CHECKS.acquire().await else { return false };
    let checked = user.clone();
    let accepted =
        tokio::task::spawn_blocking(move || checked.hash.as_ref().is_some_and(|hash| hash.accepts(&password))).await.unwrap_or(false);
    if accepted {
        user.known.store(Some(Arc::new(fingerprint)));
    }
    accepted
}

/// The user and password of a request; `None` where it has none that can be read, or several.
fn credential(headers: &Headers) -> Option<(String, Vec<u8>)> {
    let mut all = headers.all(Known::Authorization);
    let (value, None) = (all.next()?, all.next()) else { return None };
    let (scheme, encoded) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let mut decoded = BASE64_STANDARD.decode(encoded.trim_ascii()).ok()?;
    let colon = decoded.iter().position(|b| *b == b':')?;
    let password = decoded.split_off(colon + 1);
    decoded.pop();
    Some((String::from_utf8(decoded).ok()?, password))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_requests() {
        type Row<'a> = (&'a [&'a str], Option<(&'a str, &'a str)>);
        let table: [Row<'_>; 8] = [
            (&["Basic YTpi"], Some(("a", "b"))),
            (&["basic  YTpi "], Some(("a", "b"))),
            (&["Basic YTpiOmM="], Some(("a", "b:c"))),
            (&["Basic Og=="], Some(("", ""))),
            (&["Basic YWI="], None),
            (&["Bearer YTpi"], None),
            (&["Basic YTpi", "Basic YTpi"], None),
            (&[], None),
        ];
        for (values, wanted) in table {
            let mut headers = Headers::default();
            assert!(values.iter().all(|value| headers.add(Known::Authorization, &[value.as_bytes()])));
            let found = credential(&headers).map(|(user, password)| (user, String::from_utf8(password).unwrap()));
            assert_eq!(found, wanted.map(|(user, password)| (user.to_string(), password.to_string())), "{values:?}");
        }
    }
}
