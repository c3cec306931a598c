//! What a stream is made of: its request, its response, and what was chosen for it.
use super::After;
use crate::{route::RouteRt, session::Session, upstream::WorkerCluster};
use std::{pin::Pin, rc::Rc, sync::Arc};
use tokio::time::Sleep;
use weir_net::http::{body::Framing, relay::Reader};

/// Whether the client waits for `100 Continue` before it sends its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    Nothing,
    Continue,
}

/// The request on its way in.
pub(super) struct RequestState {
    /// How the body is delimited on HTTP/1, until something reads it.
    pub framing: Framing,
    pub reader: Reader,
    pub expect: Expect,
    /// The raw pump has read the whole request.
    pub pumped: bool,
    /// The rest of the request cannot be sent.
    pub broken: bool,
    /// When to check next whether a client that nothing is read from has gone.
    pub check_client: Option<Pin<Box<Sleep>>>,
}

impl RequestState {
    pub fn new(reader: Reader) -> RequestState {
        let framing = Framing::NONE;
        RequestState { framing, reader, expect: Expect::Nothing, pumped: false, broken: false, check_client: None }
    }
    /// Whether all of the request was read, so that the next one may follow.
    pub fn is_read(&self) -> bool {
        self.reader.is_done() || self.pumped
    }
}

/// The response on its way out.
pub(super) struct ResponseState {
    /// What happens to the connection.
    pub after: After,
    /// The head has gone to the client.
    pub head_sent: bool,
    /// Of an interim response, on its way to the client.
    pub interim: Vec<u8>,
}

impl ResponseState {
    pub fn new(after: After) -> ResponseState {
        ResponseState { after, head_sent: false, interim: Vec::new() }
    }
    pub fn close_unless(&mut self, can_persist: bool) {
        if !can_persist {
            self.after = After::Close;
        }
    }
}

/// What was chosen for the request.
#[derive(Default)]
pub(super) struct Selected {
    pub route: Option<Arc<RouteRt>>,
    pub cluster: Option<Rc<WorkerCluster>>,
    /// That the request has, and its route keeps.
    pub session: Option<Session>,
    /// A cookie to be set, for a choice by hash.
    pub cookie: Option<String>,
    /// The upstream is told which try this is.
    pub attempt_count: bool,
}
