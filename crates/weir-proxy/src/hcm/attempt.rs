//! What the tries of a request share, and what one try is.
use super::{
    body::{Body, Replay},
    clock::Late,
    end::End,
};
use crate::{
    breaker::Permit,
    route::{ForwardRt, RouteRt, Target},
    upstream::{ActiveRequest, Host, Protocol, StreamPermit, Ticket, WorkerCluster},
};
use std::{pin::Pin, rc::Rc};
use weir_net::http::{client::ResponseHeads, pump::Pump, relay::Peer};

/// Everything about a request that stays over its tries.
pub(super) struct Plan<'a> {
    pub route: &'a RouteRt,
    pub forward: &'a ForwardRt,
    pub target: &'a Target,
    pub cluster: Rc<WorkerCluster>,
    pub hash: Option<u64>,
    pub protocol: Protocol,
    /// The body passes as it is.
    pub raw: bool,
    pub rewrite_host: bool,
    /// Held while the request is under way.
    pub _permit: Permit,
}

/// What one try leaves to the next.
pub(super) struct Kept {
    pub replay: Replay,
    /// Where the body passes as it is.
    pub raw: Option<Pump>,
    /// How many of the bytes on their way are the head.
    pub sent_head: usize,
    /// Only a new connection will do.
    pub fresh: bool,
}

impl Kept {
    /// `limit`: bytes of the body that are held for another try or for a copy.
    pub fn new(limit: usize) -> Kept {
        Kept { replay: Replay::new(limit), raw: None, sent_head: 0, fresh: false }
    }
    pub fn take_up(&mut self, up: Body) {
        if let Body::Raw(pump) = up {
            self.raw = Some(pump);
        }
    }
}

/// One try under way.
pub(super) struct Try {
    pub peer: Peer,
    pub up: Body,
    pub host: Rc<Host>,
    pub turn: ActiveRequest,
    /// For an HTTP/1 connection to be kept.
    pub ticket: Option<Ticket>,
    /// The place on an HTTP/2 connection.
    pub place: Option<StreamPermit>,
    pub response: Option<Pin<Box<h2::client::ResponseFuture>>>,
    pub reused: bool,
    pub heads: ResponseHeads,
}

/// Why no response head came from the upstream.
pub(super) enum Lost {
    /// The connection or stream ended; whether any byte of a response had come, and whether the upstream refused it.
    Broken {
        silent: bool,
        refused: bool,
    },
    Malformed,
    Late(Late),
    End(End),
}
