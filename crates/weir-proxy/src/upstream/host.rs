//! One endpoint as a worker sees it: its idle connections and the requests under way to it.
use super::h2::Multiplexed;
use crate::{breaker::Permit, cluster::EndpointRt};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};
use weir_net::http::wire::Wire;

/// Idle connections kept per host.
const MAX_IDLE: usize = 1024;

/// An HTTP/1 connection between requests.
pub(super) struct Idle {
    pub wire: Wire,
    pub since: u64,
    /// Requests that it has served.
    pub requests: u32,
    /// The server name it was made for, where that is the request's.
    pub name: Option<Box<str>>,
    pub permit: Rc<Permit>,
}

pub struct Host {
    pub endpoint: Arc<EndpointRt>,
    /// The address as text, for logs.
    pub text: Rc<str>,
    /// Requests under way from this worker.
    pub active: Cell<u32>,
    idle: RefCell<Vec<Idle>>,
    pub(super) multiplexed: RefCell<Vec<Rc<Multiplexed>>>,
}

impl Host {
    pub fn new(endpoint: Arc<EndpointRt>) -> Host {
        Host {
            text: endpoint.address.to_string().into(),
            endpoint,
            active: Cell::new(0),
            idle: RefCell::default(),
            multiplexed: RefCell::default(),
        }
    }
    /// The connection used last, if one is idle and still open.
    pub(super) fn reuse(&self, name: Option<&str>) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let at = match name {
                None => idle.len().checked_sub(1)?,
                Some(_) => idle.iter().rposition(|i| i.name.as_deref() == name)?,
            };
            let mut found = idle.remove(at);
            if found.wire.is_quiet() {
                return Some(found);
            }
        }
    }
    pub(super) fn put_back(&self, idle: Idle) {
        let mut list = self.idle.borrow_mut();
        if list.len() < MAX_IDLE {
            list.push(idle);
        }
    }
    pub(super) fn sweep(&self, now: u64, idle: u64) {
        let oldest = now.saturating_sub(idle);
        self.idle.borrow_mut().retain_mut(|i| i.since >= oldest && i.wire.is_quiet());
        self.multiplexed.borrow_mut().retain(|m| m.is_usable() && !m.is_idle_since(oldest));
    }
    pub(super) fn is_unused(&self) -> bool {
        self.active.get() == 0 && self.idle.borrow().is_empty() && self.multiplexed.borrow().is_empty()
    }
    pub fn idle_connections(&self) -> usize {
        self.idle.borrow().len()
    }
}

/// One request under way to a host: counted while it lives.
pub struct Turn(pub Rc<Host>);

impl Turn {
    pub fn new(host: &Rc<Host>) -> Turn {
        host.active.set(host.active.get() + 1);
        Turn(host.clone())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
    }
}
