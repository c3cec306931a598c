//! A Redis client that passes RESP through: a query in, the server's raw reply out.
//!
//! One pipelined connection per server, written at once and only coalesced within one turn of the event loop; opened by the
//! first command. `AUTH` and `SELECT` go first and their verdicts are kept apart from replies. A command that times out closes
//! the connection and fails everything that waits on it: a pipeline has no other way to know whose reply comes late.
//! For a Redis Cluster the map of slots is read in the background, again after each redirect and failure, and redirects are
//! followed. With Sentinels each connection is to the master of that moment.
mod check;
mod client;
mod node;
mod order;
mod pipeline;
mod resp;
mod sentinel;
mod slots;
mod target;

pub use check::{CheckError, check};
pub use client::Client;
pub use node::{Dial, Dialing, Duplex};
pub use resp::{Framer, Limits, ProtocolError, Query, QueryError, command};
pub use sentinel::{Sentinel, SentinelError, is_master, master_of};
pub use target::{Kind, Target, TargetError, redact};

use bytes::Bytes;
use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

/// What a client's own server is part of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Topology {
    /// Nothing, until a redirect shows that it is one of a Cluster.
    #[default]
    Server,
    Cluster,
    /// A master and its replicas: each new connection is to the master of that moment.
    Sentinel,
}

/// How a [`Client`] behaves. Clients that differ in any of it share nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Options {
    /// Empty: `AUTH password`, the default user.
    pub user: String,
    /// Empty: no `AUTH` at all.
    pub password: String,
    /// `SELECT`ed on each new connection, where it is not 0.
    pub database: u32,
    pub topology: Topology,
    /// For one command, the wait for a connection included.
    pub timeout: Duration,
    /// Commands that may wait for their replies on one connection.
    pub max_pending: usize,
    /// Bytes of commands that may wait to be written.
    pub max_pending_bytes: usize,
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            user: String::new(),
            password: String::new(),
            database: 0,
            topology: Topology::Server,
            timeout: Duration::from_secs(1),
            max_pending: 1024,
            max_pending_bytes: 16 << 20,
            limits: Limits::default(),
        }
    }
}

/// Why a command got no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is no connection; with the reason. Also while the back-off after a failure lasts.
    Connect(String),
    /// The connection ended with this command under way.
    Closed(String),
    /// This command, or one before it on the same connection, took too long.
    Timeout,
    /// What came is no RESP, or more of it than the limits allow.
    Protocol(ProtocolError),
    /// [`Options::max_pending`] or [`Options::max_pending_bytes`].
    Overflow,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Connect(reason) => write!(f, "no connection: {reason}"),
            Error::Closed(reason) => write!(f, "the connection was closed: {reason}"),
            Error::Timeout => f.write_str("timed out"),
            Error::Protocol(e) => e.fmt(f),
            Error::Overflow => f.write_str("too many commands are waiting"),
        }
    }
}

/// What a command came to: the raw bytes of its reply, which may be an error reply.
pub type Answer = Result<Bytes, Error>;

/// What is known of a client's server.
#[derive(Debug, Default)]
pub struct Status {
    pub connected: Cell<bool>,
    /// What the server said to `AUTH` on the last connection, when it refused it.
    pub auth_error: RefCell<Option<String>>,
    /// The same for `SELECT`. Commands are then answered with it, instead of running on another database.
    pub select_error: RefCell<Option<String>>,
    /// The last failure that was not a reply.
    pub last_error: RefCell<Option<Error>>,
    pub counters: Counters,
}

/// Totals since the client was made.
#[derive(Debug, Default)]
pub struct Counters {
    pub commands: Cell<u64>,
    /// Replies of any kind.
    pub replies: Cell<u64>,
    /// Those among them that are errors.
    pub error_replies: Cell<u64>,
    /// Commands without a reply, for any reason; the next two are among them.
    pub failures: Cell<u64>,
    pub timeouts: Cell<u64>,
    pub overflows: Cell<u64>,
    pub connects: Cell<u64>,
    pub connect_failures: Cell<u64>,
    /// `MOVED` and `ASK` replies followed.
    pub redirects: Cell<u64>,
    /// Maps of a Cluster that were read.
    pub slot_maps: Cell<u64>,
}

fn count(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}
