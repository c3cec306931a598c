//! The one list and watch that keeps a shared set up to date.
use crate::{
    cache::{
        key::SetKey,
        reflect::{Identity, Reflect, ReflectError, is_for_good},
    },
    random::{backoff, between},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinSet, time::sleep};

/// Nobody has asked for so long: the stream ends. What it has kept stays.
const IDLE: Duration = Duration::from_secs(600);
/// How often it is looked at whether anybody still watches.
const LOOK: Duration = Duration::from_secs(30);
/// Waits after failures in a row.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// When the link is back, streams go on within this time, so that not all nodes do so at once.
const SPREAD: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is not known yet, or any more.
    Waiting,
    /// The set is as the API server has it.
    Live,
    /// The API server does not let the hub watch it.
    Refused,
}

pub struct Stream {
    key: SetKey,
    state: watch::Sender<State>,
    wanted: Mutex<Wanted>,
}

struct Wanted {
    /// When somebody asked for it last.
    last: Instant,
    /// A token that may watch it: for where the node may not.
    token: Option<String>,
    node_refused: bool,
}

type All = Arc<Mutex<HashMap<SetKey, Arc<Stream>>>>;

#[derive(Default)]
pub struct Streams {
    all: All,
    tasks: Mutex<JoinSet<()>>,
}

impl Streams {
    pub fn len(&self) -> usize {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn has(&self, key: &SetKey) -> bool {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    pub fn end(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }

    /// The stream of a set, which begins if there is none.
    pub fn get(&self, key: &SetKey, reflect: &Reflect) -> Arc<Stream> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = all.get(key) {
            stream.wanted().last = Instant::now();
            return stream.clone();
        }
        let wanted = Mutex::new(Wanted { last: Instant::now(), token: None, node_refused: false });
        let stream = Arc::new(Stream { key: key.clone(), state: watch::Sender::new(State::Waiting), wanted });
        all.insert(key.clone(), stream.clone());
        // A set that was kept before goes on where it ended.
        let kept = reflect.cache.head(&key.name()).filter(|head| !head.dirty).and_then(|head| head.number());
        reflect.cache.watchers.remember(&key.name(), kept);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(stream.clone().run(reflect.clone(), self.all.clone(), kept.is_some()));
        stream
    }
}

impl Stream {
    fn wanted(&self) -> std::sync::MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// A token whose user may list or watch all of it.
    pub fn offer(&self, token: &str) {
        let mut wanted = self.wanted();
        let news = wanted.token.is_none();
        wanted.token = Some(token.into());
        if news && wanted.node_refused {
            // There is somebody to try again with.
            self.state.send_if_modified(|state| {
                let refused = *state == State::Refused;
                if refused {
                    *state = State::Waiting;
                }
                refused
            });
        }
    }

    async fn run(self: Arc<Stream>, reflect: Reflect, all: All, mut whole: bool) {
        let set = self.key.name();
        let mut link = reflect.remote.changes();
        let mut failures = 0;
        loop {
            tokio::select! {
                up = link.wait_for(|up| *up) => if up.is_err() { return },
                () = self.idle(&reflect) => break,
            }
            if failures > 0 {
                sleep(between(Duration::ZERO, SPREAD)).await;
            }
            let identity = self.identity();
            let ended = tokio::select! {
                ended = self.follow(&reflect, &identity, &mut whole, &mut failures) => ended,
                () = self.idle(&reflect) => break,
            };
            let Err(error) = ended else { continue };
            let state = match error {
                ReflectError::Refused(code) if is_for_good(code) => self.refused(&identity),
                ReflectError::Expired | ReflectError::NotKept => {
                    whole = false;
                    State::Waiting
                }
                _ => State::Waiting,
            };
            self.state.send_replace(state);
            let mut changed = self.state();
            tokio::select! {
                () = sleep(backoff(BACKOFF.0, BACKOFF.1, failures)) => {}
                // Somebody has another token.
                _ = changed.wait_for(|state| *state == State::Waiting), if state == State::Refused => {}
            }
            failures += 1;
        }
        all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        reflect.cache.watchers.forget(&set);
    }

    /// Lists the set where that is needed, and watches it until the watch ends.
    async fn follow(&self, reflect: &Reflect, identity: &Identity, whole: &mut bool, failures: &mut u32) -> Result<(), ReflectError> {
        if !*whole {
            reflect.list(&self.key, identity).await?;
            *whole = true;
        }
        let watch = reflect.watch(&self.key, identity).await?;
        self.state.send_replace(State::Live);
        *failures = 0;
        watch.follow().await
    }

    fn identity(&self) -> Identity {
        let wanted = self.wanted();
        match &wanted.token {
            Some(token) if wanted.node_refused => Identity::Token(token.clone()),
            _ => Identity::Node,
        }
    }

    /// The next one to try with, if there is one.
    fn refused(&self, identity: &Identity) -> State {
        let mut wanted = self.wanted();
        match identity {
            Identity::Node => wanted.node_refused = true,
            Identity::Token(token) if wanted.token.as_ref() == Some(token) => wanted.token = None,
            Identity::Token(_) => {}
        }
        // The node may be let in later; without a token it is asked again.
        if wanted.token.is_some() { State::Waiting } else { State::Refused }
    }

    /// Returns once nobody has wanted it for a while.
    async fn idle(&self, reflect: &Reflect) {
        loop {
            sleep(LOOK).await;
            if self.wanted().last.elapsed() >= IDLE && reflect.cache.watchers.count(Some(&self.key.name())) == 0 {
                return;
            }
        }
    }
}
