//! Mechanism: sockets, TLS, DNS, HTTP on the wire. No configuration words and no policy.
#![forbid(unsafe_code)]

pub mod copy;
pub mod descriptors;
pub mod dial;
pub mod dns;
pub mod exposition;
pub mod http;
pub mod io;
pub mod listen;
pub mod oci;
pub mod peek;
pub mod proxy_protocol;
pub mod redis;
pub mod timer;
pub mod tls;
