//! Objects from a Kubernetes API: one watch for each kind, decoded as files are.
//!
//! `client` connects, `apply` creates objects, `fetched` reads objects off the wire, `held` is the state machine of one watch, `state` what all
//! of them share with the control plane, `watch` drives them, `gateway_service` keeps a Service for each Gateway, and `cluster` is what the control plane sees.
mod apply;
mod client;
mod cluster;
mod fetched;
mod gateway_service;
mod held;
mod ingresses;
mod own;
mod reach;
mod state;
pub mod stats;
mod status;
mod trouble;
mod watch;

pub use apply::ApplyError;
pub use client::{Access, ConnectError, Connection, ExternalTrafficPolicy, GatewayService, LeaseName, ServiceName, ServiceType};
pub use cluster::{Cluster, Stats};
pub use state::readiness::{Readiness, Waiting};
