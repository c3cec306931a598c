//! One request and its response: the heads, the bodies that are held, what is known of both, and what plugins ask for.
//!
//! Shared by the task that drives it and the plugins that look at it. No borrow is held across an await or a guest call.

use crate::{cluster::ClusterSlot, conn::ConnInfo, info::Info, reply::Reply};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Waker},
};
use weir_config::model::{Name, Title};
use weir_net::http::{Headers, RequestHead, ResponseHead};

/// The two directions of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Request = 0,
    Response = 1,
}

/// What a plugin asked for, during a callback or at any other time.
#[derive(Debug)]
pub enum Event {
    Resume {
        plugin: usize,
        direction: Direction,
    },
    Reply(Reply),
    Inject {
        plugin: usize,
        data: Vec<u8>,
        end: bool,
    },
    /// Give up on the stream.
    Reset,
}

/// What each injection takes beside its bytes.
pub const INJECT_COST: usize = 64;

/// How far a direction has come, for what plugins may still change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reached {
    #[default]
    Nothing,
    /// The head is there, and trailers where they have come.
    Head,
    /// The head was sent on: it can be read only.
    Sent,
}

/// What plugins may ask about the route of a request.
#[derive(Default)]
pub struct RouteInfo {
    pub virtual_host: Option<Name>,
    pub route_name: Option<Name>,
    /// The object that the route is of.
    pub object: Option<Title>,
    /// The cluster of the route's first target.
    pub cluster: Option<Arc<ClusterSlot>>,
}

/// Finds the route of a request again after a plugin has changed the request.
pub trait RouteLookup: Send + Sync {
    fn route_of(&self, request: &RequestHead) -> RouteInfo;
}

#[derive(Default)]
pub struct Stream {
    pub req: RefCell<RequestHead>,
    pub resp: RefCell<ResponseHead>,
    /// Of the request and the response.
    pub trailers: [RefCell<Headers>; 2],
    /// Trailers are there, or may be added: the end of the body has come.
    pub trailers_open: [Cell<bool>; 2],
    pub reached: [Cell<Reached>; 2],
    /// What each plugin holds of the bodies, by direction.
    pub held: [RefCell<Vec<Vec<u8>>>; 2],
    /// The plugin that changed a body last: the length in its head may be wrong now.
    pub edited: [Cell<Option<usize>>; 2],
    /// Bytes of a body that one plugin may hold (`set_decoder_buffer_limit`, `set_encoder_buffer_limit`).
    pub held_limit: [Cell<usize>; 2],
    pub info: RefCell<Info>,
    pub conn: RefCell<Option<Rc<ConnInfo>>>,
    /// Header edits do not lead to another route (`clear_route_cache` = `off`).
    pub keep_route: Cell<bool>,
    /// The route must be looked up again: for the request itself, and for plugins that read it.
    pub route_stale: Cell<bool>,
    pub names_stale: Cell<bool>,
    /// Chosen by a plugin over the balancer.
    pub override_host: Cell<Option<SocketAddr>>,
    /// The routes to look in, if there are plugins.
    pub routes: RefCell<Option<Arc<dyn RouteLookup>>>,
    pub route_name: RefCell<Option<Name>>,
    /// The object that the route is of.
    pub route_object: RefCell<Option<Title>>,
    /// The cluster of the route's first target.
    pub cluster: RefCell<Option<Arc<ClusterSlot>>>,
    pub virtual_host: RefCell<Option<Name>>,
    /// Of the exchange: towards the upstream, towards the client.
    pub buffers: Cell<(Vec<u8>, Vec<u8>)>,
    /// Bytes of the response that have passed all plugins and wait for the client.
    pub unsent: Cell<usize>,
    events: RefCell<VecDeque<Event>>,
    /// A reply is queued.
    replied: Cell<bool>,
    /// Which plugins have answered, one bit each.
    answered: Cell<u128>,
    waker: RefCell<Option<Waker>>,
}

/// Buffers up to this size stay with a pooled stream.
const KEEP_BYTES: usize = 32 * 1024;

impl Stream {
    /// Ready for the next request.
    pub fn clear(&self) {
        let (mut req, mut resp) = (self.req.borrow_mut(), self.resp.borrow_mut());
        req.clear();
        req.headers.shrink(KEEP_BYTES);
        resp.clear();
        resp.headers.shrink(KEEP_BYTES);
        for i in 0..2 {
            self.trailers[i].borrow_mut().clear();
            self.trailers_open[i].set(false);
            self.reached[i].set(Reached::Nothing);
            self.held[i].borrow_mut().clear();
            self.held_limit[i].set(usize::MAX);
            self.edited[i].set(None);
        }
        self.info.borrow_mut().clear();
        *self.conn.borrow_mut() = None;
        self.keep_route.set(false);
        self.route_stale.set(false);
        self.names_stale.set(false);
        self.override_host.set(None);
        *self.routes.borrow_mut() = None;
        *self.route_name.borrow_mut() = None;
        *self.route_object.borrow_mut() = None;
        *self.cluster.borrow_mut() = None;
        *self.virtual_host.borrow_mut() = None;
        let (mut out, mut back) = self.buffers.take();
        for buffer in [&mut out, &mut back] {
            buffer.clear();
            buffer.shrink_to(KEEP_BYTES);
        }
        self.buffers.set((out, back));
        self.unsent.set(0);
        self.events.borrow_mut().clear();
        self.replied.set(false);
        self.answered.set(0);
        *self.waker.borrow_mut() = None;
    }

    /// Forgets the route: it must be looked up again.
    pub fn clear_route_cache(&self) {
        self.route_stale.set(true);
        self.names_stale.set(true);
    }
    /// From now on plugins may change the head without changing the route.
    pub fn keep_route(&self) {
        self.keep_route.set(true);
        self.route_stale.set(false);
        self.names_stale.set(false);
    }
    /// Notes what plugins may ask about the request's route.
    pub fn set_route(&self, route: RouteInfo) {
        self.names_stale.set(false);
        *self.virtual_host.borrow_mut() = route.virtual_host;
        *self.route_name.borrow_mut() = route.route_name;
        *self.route_object.borrow_mut() = route.object;
        *self.cluster.borrow_mut() = route.cluster;
    }
    /// Looks for the route again if a plugin has changed what it depends on, so that the next plugin that asks gets the new one.
    pub fn refresh_route(&self) {
        if self.names_stale.get()
            && let Some(routes) = &*self.routes.borrow()
        {
            self.set_route(routes.route_of(&self.req.borrow()));
        }
    }

    /// Bytes that wait behind this plugin in the response: injected ones that were not processed yet, those that other plugins hold,
    /// and those that wait for the client.
    pub fn injected(&self, plugin: usize) -> usize {
        let of = |event: &Event| if let Event::Inject { data, .. } = event { data.len() + INJECT_COST } else { 0 };
        let queued: usize = self.events.borrow().iter().map(of).sum();
        let held = self.held[Direction::Response as usize].borrow();
        let held: usize = held.iter().enumerate().filter(|(p, _)| *p != plugin).map(|(_, b)| b.len()).sum();
        queued + held + self.unsent.get()
    }

    /// Asks for something; the task that drives the stream looks at it when the guest has returned.
    pub fn post(&self, event: Event) {
        if let Event::Reply(_) = event {
            // Only the first waiting reply counts.
            if self.replied.replace(true) {
                return;
            }
        }
        // A guest may ask for the same again and again within one callback.
        let repeats = match event {
            Event::Resume { plugin, direction } => {
                let same = |e: &Event| matches!(e, Event::Resume { plugin: p, direction: d } if *p == plugin && *d == direction);
                self.events.borrow().iter().rev().take_while(|e| matches!(e, Event::Resume { .. })).any(same)
            }
            Event::Reset => self.events.borrow().iter().any(|e| matches!(e, Event::Reset)),
            Event::Reply(_) | Event::Inject { .. } => false,
        };
        if repeats {
            return;
        }
        self.events.borrow_mut().push_back(event);
        if let Some(w) = &*self.waker.borrow() {
            w.wake_by_ref();
        }
    }
    pub fn next_event(&self) -> Option<Event> {
        let event = self.events.borrow_mut().pop_front();
        if let Some(Event::Reply(_)) = event {
            self.replied.set(false);
        }
        event
    }
    /// Records that a plugin answers the stream; false if it has done so before.
    pub fn first_answer(&self, plugin: usize) -> bool {
        let bit = u32::try_from(plugin).ok().and_then(|n| 1u128.checked_shl(n)).unwrap_or(1 << 127);
        let before = self.answered.get();
        self.answered.set(before | bit);
        before & bit == 0
    }
    /// Whether a reply or a reset waits to be carried out.
    pub fn is_ending(&self) -> bool {
        self.events.borrow().iter().any(|e| matches!(e, Event::Reply(_) | Event::Reset))
    }
    /// Remembers whom to wake.
    pub fn watch(&self, cx: &Context) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }
}
