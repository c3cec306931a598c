//! A client: its own server, or the servers of a Redis Cluster.
use super::{
    Answer, Dial, Error, Options, Status, Topology, count,
    node::{Done, Node},
    order::Turn,
    resp::{Query, command},
    slots::{self, SLOTS, Slots},
};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::{Rc, Weak},
    time::{Duration, Instant},
};
use tokio::{sync::oneshot, task::spawn_local, time::sleep};

/// Redirects followed, and servers tried, for one command.
const MAX_HOPS: u8 = 5;
/// Servers of a Cluster that a client talks to.
const MAX_NODES: usize = 128;
/// The map of a Cluster is read at most this often; after a failure again, with the pause doubling up to the second.
const REFRESH: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Sends commands to one server, or to the servers of a Redis Cluster. Belongs to one worker; copies share everything. Must be used
/// within a `LocalSet`, as its connections are local tasks.
#[derive(Clone)]
pub struct Client {
    shared: Rc<Shared>,
}

struct Shared {
    options: Rc<Options>,
    status: Rc<Status>,
    dial: Dial,
    home: RefCell<Rc<Node>>,
    nodes: RefCell<HashMap<Rc<str>, Rc<Node>>>,
    slots: RefCell<Slots>,
    /// There are several servers: it was said, or a redirect has shown it.
    cluster: Cell<bool>,
    refresh: Refresh,
    turn: Turn,
}

/// How the map of a Cluster is read.
#[derive(Default)]
struct Refresh {
    running: Cell<bool>,
    last: Cell<Option<Instant>>,
}

struct Redirect {
    asking: bool,
    slot: u16,
    address: Rc<str>,
}

/// A command on its way.
struct Sent {
    query: Query,
    hops: u8,
    /// Stays what it was over all hops.
    deadline: Instant,
    done: Done,
}

impl Client {
    /// Nothing is connected before the first command.
    pub fn new(options: Options, dial: Dial) -> Client {
        let (options, status) = (Rc::new(options), Rc::new(Status::default()));
        let home = RefCell::new(Rc::new(Node::new(options.clone(), status.clone(), dial.clone(), None)));
        let cluster = Cell::new(options.topology == Topology::Cluster);
        let (nodes, slots, refresh, turn) = Default::default();
        Client { shared: Rc::new(Shared { options, status, dial, home, nodes, slots, cluster, refresh, turn }) }
    }

    /// `done` gets the reply as it came, later: never before this returns.
    pub fn call(&self, query: Query, done: impl FnOnce(Answer) + 'static) {
        let shared = &self.shared;
        count(&shared.status.counters.commands);
        let status = shared.status.clone();
        let counted: Done = Box::new(move |answer: Answer| {
            let counters = &status.counters;
            match &answer {
                Ok(reply) => {
                    count(&counters.replies);
                    if reply.starts_with(b"-") {
                        count(&counters.error_replies);
                    }
                }
                Err(_) => count(&counters.failures),
            }
            done(answer);
        });
        let done = match shared.cluster.get() {
            true => {
                shared.clone().read_map_once();
                shared.turn.enter(counted)
            }
            false => counted,
        };
        let node = shared.holder(query.slot);
        send(shared.clone(), &node, Sent { query, hops: 0, deadline: Instant::now() + shared.options.timeout, done }, false);
    }

    /// The server may be another one from now on: the next command opens a new connection. What waits for replies still gets them
    /// on the old connections, which then close.
    pub fn renew(&self) {
        self.shared.renew();
    }

    pub fn status(&self) -> &Status {
        &self.shared.status
    }

    pub fn options(&self) -> &Options {
        &self.shared.options
    }
}

/// One hop of a command.
fn send(shared: Rc<Shared>, node: &Rc<Node>, sent: Sent, asking: bool) {
    let (query, deadline, to) = (sent.query.clone(), sent.deadline, node.clone());
    node.call(&query, asking, deadline, Box::new(move |answer| answered(shared, &to, sent, answer)));
}

/// Answers the caller, or sends the command where it belongs.
fn answered(shared: Rc<Shared>, from: &Rc<Node>, mut sent: Sent, answer: Answer) {
    let more = sent.hops < MAX_HOPS && Instant::now() < sent.deadline;
    sent.hops += 1;
    if let Some(redirect) = redirect(&answer) {
        shared.cluster.set(true);
        if !redirect.asking {
            shared.slots.borrow_mut().moved(redirect.slot, redirect.address.clone());
            shared.clone().read_map();
        }
        return match shared.node(&redirect.address).filter(|_| more) {
            Some(node) => {
                count(&shared.status.counters.redirects);
                send(shared, &node, sent, redirect.asking);
            }
            None => (sent.done)(answer),
        };
    }
    if shared.cluster.get() && (answer.is_err() || starts(&answer, b"-CLUSTERDOWN")) {
        shared.clone().read_map();
        // It was never sent: another server knows who has the slot now.
        if let (Err(Error::Connect(_)), true) = (&answer, more) {
            if let Some(slot) = sent.query.slot {
                shared.slots.borrow_mut().forget(slot);
            }
            if let Some(node) = shared.another(from) {
                return send(shared, &node, sent, false);
            }
        }
    }
    if more && shared.options.topology == Topology::Sentinel && starts(&answer, b"-READONLY") {
        // A replica now: the Sentinels name the master of the next connection. Nothing was written.
        if Rc::ptr_eq(from, &shared.home.borrow()) {
            shared.renew();
        }
        let home = shared.home.borrow().clone();
        return send(shared, &home, sent, false);
    }
    (sent.done)(answer);
}

fn starts(answer: &Answer, with: &[u8]) -> bool {
    answer.as_ref().is_ok_and(|reply| reply.starts_with(with))
}

impl Shared {
    /// Whom a command for this slot goes to first.
    fn holder(&self, slot: Option<u16>) -> Rc<Node> {
        let address = slot.and_then(|s| self.slots.borrow().master(s).cloned());
        address.and_then(|a| self.node(&a)).unwrap_or_else(|| self.anyone())
    }

    /// The first server; where it is not reached, another one of the Cluster.
    fn anyone(&self) -> Rc<Node> {
        let home = self.home.borrow().clone();
        if home.is_down()
            && let Some(other) = self.another(&home)
        {
            other
        } else {
            home
        }
    }

    /// A server other than this one that is not known to be down.
    fn another(&self, than: &Rc<Node>) -> Option<Rc<Node>> {
        let nodes = self.nodes.borrow();
        let home = self.home.borrow();
        std::iter::once(&*home).chain(nodes.values()).find(|node| !Rc::ptr_eq(node, than) && !node.is_down()).cloned()
    }

    /// The connection to that server; `None` when there are too many.
    fn node(&self, address: &Rc<str>) -> Option<Rc<Node>> {
        let mut nodes = self.nodes.borrow_mut();
        if let Some(node) = nodes.get(address) {
            return Some(node.clone());
        }
        if nodes.len() >= MAX_NODES {
            return None;
        }
        let node = Rc::new(Node::new(self.options.clone(), self.status.clone(), self.dial.clone(), Some(address.to_string())));
        nodes.insert(address.clone(), node.clone());
        Some(node)
    }

    fn renew(&self) {
        *self.home.borrow_mut() = Rc::new(Node::new(self.options.clone(), self.status.clone(), self.dial.clone(), None));
        self.nodes.borrow_mut().clear();
        *self.slots.borrow_mut() = Slots::default();
        self.refresh.last.set(None);
    }

    /// Before the first command.
    fn read_map_once(self: Rc<Shared>) {
        if self.refresh.last.get().is_none() {
            self.read_map();
        }
    }

    /// Reads the map of the Cluster in the background, unless that is under way.
    fn read_map(self: Rc<Shared>) {
        if self.refresh.running.replace(true) {
            return;
        }
        let wait = self.refresh.last.get().map_or(Duration::ZERO, |last| REFRESH.0.saturating_sub(last.elapsed()));
        self.refresh.last.set(Some(Instant::now() + wait));
        let shared = Rc::downgrade(&self);
        spawn_local(async move {
            sleep(wait).await;
            let mut pause = REFRESH.0;
            while let Some(read) = read_map_from_anyone(&shared).await {
                if read {
                    break;
                }
                sleep(pause).await;
                pause = (pause * 2).min(REFRESH.1);
            }
            if let Some(shared) = shared.upgrade() {
                shared.refresh.running.set(false);
                shared.refresh.last.set(Some(Instant::now()));
            }
        });
    }

    fn install(&self, slots: Slots) {
        let masters = slots.masters();
        // What still waits for replies there gets them: a connection ends when it is idle.
        self.nodes.borrow_mut().retain(|address, _| masters.contains(address));
        drop(masters);
        *self.slots.borrow_mut() = slots;
        count(&self.status.counters.slot_maps);
    }
}

/// Asks one server after the other; `None` when the client is gone.
async fn read_map_from_anyone(shared: &Weak<Shared>) -> Option<bool> {
    let mut all: Vec<Rc<Node>> = {
        let shared = shared.upgrade()?;
        let nodes = shared.nodes.borrow();
        nodes.values().cloned().chain([shared.home.borrow().clone()]).collect()
    };
    all.sort_by_key(|node| node.is_down());
    for node in all {
        let query = Query::new(command(&[b"CLUSTER", b"SLOTS"])).ok()?;
        let (done, reply) = oneshot::channel();
        let deadline = Instant::now() + shared.upgrade()?.options.timeout;
        node.call(&query, false, deadline, Box::new(move |answer| drop(done.send(answer))));
        let Ok(Ok(reply)) = reply.await else { continue };
        let shared = shared.upgrade()?;
        if let Some(ranges) = slots::parse(&reply) {
            // An empty map is that of a server which has not joined yet.
            if !ranges.is_empty() {
                shared.install(Slots::new(ranges));
                return Some(true);
            }
        } else if reply.starts_with(b"-ERR This instance has cluster support disabled") {
            // One server after all.
            shared.cluster.set(false);
            return Some(true);
        }
    }
    Some(false)
}

/// `-MOVED 3999 127.0.0.1:6381` and `-ASK …`.
fn redirect(answer: &Answer) -> Option<Redirect> {
    let text = std::str::from_utf8(answer.as_ref().ok()?.strip_prefix(b"-")?).ok()?;
    let mut words = text.split_ascii_whitespace();
    let asking = match words.next()? {
        "MOVED" => false,
        "ASK" => true,
        _ => return None,
    };
    let slot = words.next()?.parse().ok().filter(|s| *s < SLOTS)?;
    let address = words.next().filter(|a| a.contains(':'))?;
    Some(Redirect { asking, slot, address: address.into() })
}
