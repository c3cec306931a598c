//! What instances ask for while they start on another thread, and what other threads post to a worker.
use super::{PluginSlot, metrics::Defined, redis::To};
use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};
use weir_net::redis::Options;
use weir_wasm::{LogLevel, Status};

/// The most bytes of calls, messages and commands that may wait for the worker.
const ASKED_BYTES: usize = 16 << 20;
/// A call that only a worker can make. They are kept in the guest's order.
pub(super) enum Ask {
    Http {
        token: u32,
        upstream: String,
        headers: Vec<u8>,
        body: Vec<u8>,
        trailers: Vec<u8>,
        timeout: Option<Duration>,
    },
    Grpc {
        token: u32,
        upstream: String,
        service: String,
        method: String,
        metadata: Vec<u8>,
        message: Vec<u8>,
        timeout: Option<Duration>,
        unary: bool,
    },
    GrpcSend {
        token: u32,
        message: Vec<u8>,
        end: bool,
    },
    GrpcCancel {
        token: u32,
    },
    RedisInit {
        cluster: String,
        user: String,
        password: String,
        timeout: Duration,
    },
    Redis {
        token: u32,
        cluster: String,
        query: Vec<u8>,
    },
}

impl Ask {
    pub fn bytes(&self) -> usize {
        match self {
            Ask::Http { upstream, headers, body, trailers, .. } => upstream.len() + headers.len() + body.len() + trailers.len(),
            Ask::Grpc { upstream, service, method, metadata, message, .. } => {
                upstream.len() + service.len() + method.len() + metadata.len() + message.len()
            }
            Ask::GrpcSend { message, .. } => message.len(),
            Ask::Redis { cluster, query, .. } => cluster.len() + query.len(),
            Ask::RedisInit { cluster, user, password, .. } => cluster.len() + user.len() + password.len(),
            Ask::GrpcCancel { .. } => 0,
        }
    }
}

/// What an instance asked for during its start.
#[derive(Default)]
pub(super) struct Asked {
    pub asks: Vec<Ask>,
    pub tick: Option<Duration>,
    pub defined: Defined,
    pub redis: Vec<RedisWish>,
    /// It named an upstream that does not exist (yet).
    pub unknown: bool,
    /// Bytes of `asks` and of the names in `redis`.
    pub bytes: usize,
    /// How many of its calls have been refused with a warning.
    pub warned: usize,
    /// The first warnings of the guest.
    pub said: Vec<String>,
    /// What a trial has logged, and what it has not logged yet because the reason may quote it.
    pub logged: Vec<String>,
    pub held: Vec<(LogLevel, String)>,
}

impl Asked {
    pub fn take(&mut self, bytes: usize) -> Result<(), Status> {
        let all = self.bytes.saturating_add(bytes);
        if all > ASKED_BYTES {
            return Err(Status::InternalFailure);
        }
        self.bytes = all;
        Ok(())
    }
}

/// One `redis_init` call.
pub(super) struct RedisWish {
    pub name: String,
    pub to: Result<(To, Options), super::redis::InitError>,
}

/// From other threads.
pub(super) enum Posted {
    /// A queue that a plugin of this slot has registered got an entry.
    /// `waiting`: how many of these are on their way.
    Queue { slot: usize, queue: u32, waiting: Arc<AtomicUsize> },
    /// An instance of this generation has trapped on this worker.
    Trapped { slot: Arc<PluginSlot>, generation: u64 },
}
