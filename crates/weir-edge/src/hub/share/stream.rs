//! The one list and watch that keeps a shared set up to date: at the API server, or at another hub of the node pool that has them there.
use crate::{
    cache::{
        key::SetKey,
        reflect::{Identity, Reflect, ReflectError, WATCH, is_for_good},
    },
    hub::pool::{Pool, Source},
    random::{backoff, between},
};
use std::{
    collections::HashMap,
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
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
/// How long a watch lasts that is not at the best place: then that is tried again.
const SECOND_BEST: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(20));
/// A watch of a peer that ends earlier is a failure.
const LEAST: Duration = Duration::from_secs(1);
/// Time between two looks for a peer that can be asked while the API server cannot be reached.
const RETRY: Duration = Duration::from_secs(1);
/// A source beside the names of nodes.
pub const SERVER: &str = "API server";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is not known yet, or any more.
    Waiting,
    /// The set is as the API server has it.
    Live,
    /// The same, as another hub says.
    Relayed,
    /// The API server does not let the hub watch it.
    Refused,
}

impl State {
    pub fn is_current(self) -> bool {
        matches!(self, State::Live | State::Relayed)
    }
}

/// A set that is followed.
pub struct Followed {
    pub key: SetKey,
    /// `API server`, or the name of a node; `None`: it is not followed now.
    pub source: Option<String>,
    pub since: Option<SystemTime>,
    /// Requests and watches of other hubs.
    pub peers: usize,
}

pub struct Stream {
    key: SetKey,
    /// `None`: it is not shared beyond this node.
    pool: Option<Arc<Pool>>,
    state: watch::Sender<State>,
    source: Mutex<Option<(String, SystemTime)>>,
    /// How many requests and watches of other hubs there are.
    asking: watch::Sender<usize>,
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
    pub fn followed(&self) -> Vec<Followed> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut followed: Vec<Followed> = all.values().map(|stream| stream.followed()).collect();
        followed.sort_by_key(|followed| followed.key.name());
        followed
    }

    pub fn has(&self, key: &SetKey) -> bool {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    pub fn end(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }

    /// The stream of a set, which begins if there is none.
    pub fn get(&self, key: &SetKey, reflect: &Reflect, pool: Option<Arc<Pool>>) -> Arc<Stream> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = all.get(key) {
            stream.wanted().last = Instant::now();
            return stream.clone();
        }
        let stream = Arc::new(Stream {
            key: key.clone(),
            pool,
            state: watch::Sender::new(State::Waiting),
            source: Mutex::default(),
            asking: watch::Sender::new(0),
            wanted: Mutex::new(Wanted { last: Instant::now(), token: None, node_refused: false }),
        });
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

/// Another hub that asks for a set, or watches it.
pub struct Asking(Arc<Stream>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.asking.send_modify(|asking| *asking -= 1);
    }
}

/// Why a set was not followed, or not any further.
struct Ended {
    error: ReflectError,
    identity: Identity,
}

impl Stream {
    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn source(&self) -> MutexGuard<'_, Option<(String, SystemTime)>> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    fn followed(&self) -> Followed {
        let is_current = self.state.borrow().is_current();
        let (source, since) = self.source().clone().filter(|_| is_current).unzip();
        Followed { key: self.key.clone(), source, since, peers: *self.asking.borrow() }
    }

    /// Another hub needs the set as the API server has it: this hub follows it there for as long as the value is held.
    pub fn ask(self: &Arc<Stream>) -> Asking {
        self.asking.send_modify(|asking| *asking += 1);
        Asking(self.clone())
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
        let mut failures = 0;
        let mut link = reflect.remote.changes();
        loop {
            link.mark_unchanged();
            tokio::select! {
                () = self.reachable(&reflect) => {}
                () = self.idle(&reflect) => break,
            }
            let ended = tokio::select! {
                ended = self.follow(&reflect, &mut whole, &mut failures) => ended,
                () = self.idle(&reflect) => break,
            };
            let Err(Ended { error, identity }) = ended else { continue };
            let state = match error {
                ReflectError::Refused(code) if is_for_good(code) => self.refused(&identity),
                _ => State::Waiting,
            };
            self.state.send_replace(state);
            let mut changed = self.state();
            tokio::select! {
                () = sleep(backoff(BACKOFF.0, BACKOFF.1, failures)) => {}
                // Somebody has another token.
                _ = changed.wait_for(|state| *state == State::Waiting), if state == State::Refused => {}
                () = returns(&mut link) => {
                    // What failed without the link says nothing any more.
                    failures = 0;
                    self.pool.iter().for_each(|pool| pool.forget_refusals());
                    continue;
                }
            }
            failures += 1;
        }
        all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        reflect.cache.watchers.forget(&set);
    }

    /// Waits until there is somebody to ask.
    async fn reachable(&self, reflect: &Reflect) {
        let mut link = reflect.remote.changes();
        loop {
            let peers = self.pool.as_ref().is_some_and(|pool| !pool.plan(&self.key.kind(), false, false).is_empty());
            if peers || *link.borrow_and_update() {
                return;
            }
            let retry = async {
                match &self.pool {
                    Some(_) => sleep(RETRY).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                changed = link.changed() => if changed.is_err() { pending::<()>().await },
                () = retry => {}
            }
        }
    }

    /// Where it can be followed, the best place first.
    fn plan(&self, reflect: &Reflect) -> Vec<Source> {
        let link = reflect.remote.is_up();
        match &self.pool {
            Some(pool) => pool.plan(&self.key.kind(), *self.asking.borrow() > 0, link),
            None => vec![Source::Server],
        }
    }

    /// Follows the set at the first place where that works, until it ends there or a better place is known.
    async fn follow(&self, reflect: &Reflect, whole: &mut bool, failures: &mut u32) -> Result<(), Ended> {
        let kind = self.key.kind();
        let mut last = None;
        for from in self.plan(reflect) {
            let (mut begun, identity) = (None, self.identity(&from));
            if matches!(from, Source::Server) && (*failures > 0 || last.is_some()) {
                sleep(between(Duration::ZERO, SPREAD)).await;
            }
            let ended = tokio::select! {
                ended = self.follow_at(reflect, &from, &identity, whole, &mut begun) => ended,
                () = self.is_better_elsewhere(&from, last.is_some()) => return Ok(()),
            };
            if begun.is_some() {
                *failures = 0;
            }
            let lasted = begun.is_some_and(|begun| begun.elapsed() >= LEAST);
            let error = match (ended, &from) {
                (Ok(()), Source::Server) => return Ok(()),
                (Ok(()), Source::Peer(_)) if lasted => return Ok(()),
                (Ok(()), Source::Peer(_)) => ReflectError::Cut,
                (Err(error), _) => error,
            };
            if matches!(error, ReflectError::Expired | ReflectError::NotKept) {
                *whole = false;
            }
            self.is_not_current();
            match (&self.pool, &from) {
                (Some(pool), Source::Peer(peer)) => {
                    let unreachable = matches!(error, ReflectError::Remote(_) | ReflectError::Cut);
                    pool.leave(peer, (!unreachable).then_some(&kind));
                    reflect.cache.errors.note(format!("{kind} of the hub of {}: {error}", peer.name));
                }
                // The API server's own answer says what comes next.
                _ => last = Some(Ended { error, identity }),
            }
        }
        Err(last.unwrap_or(Ended { error: ReflectError::Cut, identity: Identity::Node }))
    }

    /// Lists the set where that is needed, and watches it until the watch ends.
    async fn follow_at(
        &self,
        reflect: &Reflect,
        from: &Source,
        identity: &Identity,
        whole: &mut bool,
        begun: &mut Option<Instant>,
    ) -> Result<(), ReflectError> {
        let best = self.pool.as_ref().is_none_or(|pool| pool.is_best(&self.key.kind(), from));
        let time = if best { WATCH } else { SECOND_BEST };
        let mut lists = !*whole;
        loop {
            if lists {
                // A list brings its changes with one version, not event by event: other hubs begin again.
                self.is_not_current();
                reflect.list(&self.key, identity).await?;
                *whole = true;
            }
            let watch = match reflect.watch(&self.key, identity, time).await {
                // The peer has begun later: its list has what was missed.
                Err(ReflectError::Expired) if !lists && matches!(from, Source::Peer(_)) => {
                    lists = true;
                    continue;
                }
                watch => watch?,
            };
            *begun = Some(Instant::now());
            self.is_followed(from);
            return tokio::select! {
                ended = watch.follow() => ended,
                // A peer may not end the watch in time: the best place is tried again.
                () = sleep(time.1), if !best => Ok(()),
            };
        }
    }

    fn is_followed(&self, from: &Source) {
        let (state, name) = match from {
            Source::Server => (State::Live, SERVER),
            Source::Peer(peer) => (State::Relayed, peer.name.as_str()),
        };
        {
            let mut source = self.source();
            if source.as_ref().is_none_or(|(before, _)| before != name) {
                *source = Some((name.to_string(), SystemTime::now()));
            }
        }
        if let (Some(pool), Source::Peer(peer)) = (&self.pool, from) {
            pool.answered(peer, &self.key.kind());
        }
        self.state.send_if_modified(|before| std::mem::replace(before, state) != state);
    }

    fn is_not_current(&self) {
        self.state.send_if_modified(|state| {
            let current = state.is_current();
            if current {
                *state = State::Waiting;
            }
            current
        });
    }

    /// Waits until the set should be followed elsewhere: another hub needs it from here, the pool has changed, or a peer was found. `tried`: the API server
    /// has just been asked in vain.
    async fn is_better_elsewhere(&self, from: &Source, tried: bool) {
        let Some(pool) = &self.pool else { return pending().await };
        let (mut asking, mut members, kind) = (self.asking.subscribe(), pool.changes(), self.key.kind());
        let mut found = pool.found();
        members.mark_unchanged();
        let changed = async {
            loop {
                let changed = tokio::select! {
                    changed = members.changed() => changed,
                    changed = found.changed() => changed,
                };
                match changed {
                    Ok(()) if pool.is_best(&kind, from) => {}
                    Ok(()) => return,
                    Err(_) => return pending().await,
                }
            }
        };
        tokio::select! {
            _ = asking.wait_for(|asking| *asking > 0), if matches!(from, Source::Peer(_)) && !tried => {}
            () = changed => {}
        }
    }

    fn identity(&self, from: &Source) -> Identity {
        let wanted = self.wanted();
        match (from, &wanted.token) {
            (Source::Peer(peer), _) => Identity::Peer(peer.clone()),
            (Source::Server, Some(token)) if wanted.node_refused => Identity::Token(token.clone()),
            (Source::Server, _) => Identity::Node,
        }
    }

    /// The next one to try with, if there is one.
    fn refused(&self, identity: &Identity) -> State {
        let mut wanted = self.wanted();
        match identity {
            Identity::Node => wanted.node_refused = true,
            Identity::Token(token) if wanted.token.as_ref() == Some(token) => wanted.token = None,
            Identity::Token(_) | Identity::Peer(_) => {}
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

/// Waits until the link comes back.
async fn returns(link: &mut watch::Receiver<bool>) {
    while link.changed().await.is_ok() {
        if *link.borrow_and_update() {
            return;
        }
    }
    pending().await
}
