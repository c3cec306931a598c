//! Connections from the cloud to nodes that it cannot dial: `kubectl logs`, `exec` and `port-forward`.
//!
//! The [`agent`] on a node dials the [`server`] beside kube-apiserver with mutual TLS. On that connection the roles of HTTP/2 change: the
//! server opens a stream for each connection of kube-apiserver (CONNECT), and the agent connects to kubelet. The windows of HTTP/2
//! bound what waits on either side.
pub mod agent;
pub mod permit;
pub mod routes;
pub mod server;

use std::time::Duration;

/// Bytes of a stream, and of a connection, that may wait to be read.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Bytes of a stream that wait to be sent.
const SEND_BUFFER: usize = 256 << 10;
/// Streams of one agent at a time.
const STREAMS: u32 = 250;
/// A connection without an answer to a ping for so long is dead.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// For a connection to where a stream leads.
const DIAL: Duration = Duration::from_secs(10);
