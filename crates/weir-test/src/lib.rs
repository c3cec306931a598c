//! What the tests of all crates share: free ports, servers to talk to, a strict HTTP/1 client, certificates, waiting.
//! It depends on no other crate of the workspace, so that every one of them can use it.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

pub mod archive;
pub mod backend;
pub mod certificates;
pub mod client;
pub mod consul;
pub mod dns;
pub mod eureka;
pub mod kube;
pub mod ports;
pub mod received;
pub mod redis;
pub mod registry;
pub mod upstream;
pub mod wait;
pub mod zookeeper;

pub use archive::tar;
pub use certificates::{Ca, Signed, self_signed};
pub use consul::ConsulServer;
pub use dns::DnsServer;
pub use eureka::EurekaServer;
pub use kube::Kube;
pub use ports::free_port;
pub use received::Received;
pub use redis::{RedisCluster, RedisSentinel, RedisServer};
pub use registry::RegistryServer;
pub use wait::{PATIENCE, eventually};
pub use zookeeper::ZookeeperServer;
