//! A client: its own server, and those of the same Redis Cluster that redirects name.
use super::{
    Answer, Dial, Error, Options, Status, count,
    node::{Done, Node},
    resp::Query,
};
use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Instant};

/// Redirects followed for one command.
const MAX_HOPS: u8 = 5;
/// Servers of a Cluster that a client talks to.
const MAX_NODES: usize = 64;

/// Sends commands to one server (or Redis Cluster). Belongs to one worker; copies share everything. Must be used within a
/// `LocalSet`, as its connections are local tasks.
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
    /// Where `MOVED` said that a slot lives.
    slots: RefCell<HashMap<u16, Rc<str>>>,
}

struct Redirect {
    asking: bool,
    slot: u16,
    address: Rc<str>,
}

impl Client {
    /// Nothing is connected before the first command.
    pub fn new(options: Options, dial: Dial) -> Client {
        let (options, status) = (Rc::new(options), Rc::new(Status::default()));
        let home = RefCell::new(Rc::new(Node::new(options.clone(), status.clone(), dial.clone(), None)));
        Client { shared: Rc::new(Shared { options, status, dial, home, nodes: RefCell::default(), slots: RefCell::default() }) }
    }

    /// `done` gets the reply as it came, later: never before this returns.
    pub fn call(&self, query: Query, done: impl FnOnce(Answer) + 'static) {
        let shared = &self.shared;
        count(&shared.status.counters.commands);
        let status = shared.status.clone();
        let counted = Box::new(move |answer: Answer| {
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
        let address = query.slot.and_then(|s| shared.slots.borrow().get(&s).cloned());
        let node = address.and_then(|a| shared.node(&a)).unwrap_or_else(|| shared.home.borrow().clone());
        send(shared.clone(), &node, query, false, 0, Instant::now() + shared.options.timeout, counted);
    }

    /// The server may be another one from now on: the next command opens a new connection. What waits for replies still gets them
    /// on the old connections, which then close.
    pub fn renew(&self) {
        let s = &self.shared;
        *s.home.borrow_mut() = Rc::new(Node::new(s.options.clone(), s.status.clone(), s.dial.clone(), None));
        s.nodes.borrow_mut().clear();
        s.slots.borrow_mut().clear();
    }

    pub fn status(&self) -> &Status {
        &self.shared.status
    }

    pub fn options(&self) -> &Options {
        &self.shared.options
    }
}

/// One hop of a command. Its deadline stays what it was.
fn send(shared: Rc<Shared>, node: &Rc<Node>, query: Query, asking: bool, hops: u8, deadline: Instant, done: Done) {
    let again = query.clone();
    node.call(
        &query,
        asking,
        deadline,
        Box::new(move |answer| {
            if let (Err(Error::Connect(_)), Some(slot)) = (&answer, again.slot) {
                // The server that held the slot may be gone for good: ask the first one again.
                shared.slots.borrow_mut().remove(&slot);
            }
            let Some(redirect) = redirect(&answer).filter(|_| hops < MAX_HOPS && Instant::now() < deadline) else {
                return done(answer);
            };
            let Some(node) = shared.node(&redirect.address) else { return done(answer) };
            count(&shared.status.counters.redirects);
            if !redirect.asking {
                shared.slots.borrow_mut().insert(redirect.slot, redirect.address);
            }
            send(shared, &node, again, redirect.asking, hops + 1, deadline, done);
        }),
    );
}

impl Shared {
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
    let slot = words.next()?.parse().ok().filter(|s| *s < 16384)?;
    let address = words.next().filter(|a| a.contains(':'))?;
    Some(Redirect { asking, slot, address: address.into() })
}
