//! A Redis server within the process: strings, hashes, lists, sets, sorted sets, expiry and Lua scripts in memory.
//!
//! It speaks RESP 2 and answers as redis-server 7.0 does. All state of a server lives on a thread of its own, which runs one
//! command after the other, as Redis does: a slow script holds up the other clients of that server and nobody else. A server
//! opens no port; [`Server::connect`] is a connection in memory. It is gone when the last handle is dropped.
mod commands;
mod dict;
mod engine;
mod glob;
mod lua;
mod number;
mod options;
mod reply;
mod request;
mod serve;
mod server;
mod store;
mod value;
mod weigh;

pub use options::{Options, ScriptLimits};
pub use reply::Reply;
pub use request::Command;
pub use serve::serve;
pub use server::{Server, Stats};
