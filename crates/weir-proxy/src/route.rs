//! Route configurations at run time: the virtual host by the request's host, then its first route that matches.
//! [`RouteConfigRt`] changes them host by host; within a changed host, a route whose `Arc` is the same is taken over.
mod action;
mod edit;
mod host;
mod index;
pub mod matcher;
pub mod rewrite;
mod sharded;
mod table;

pub use action::{ActionRt, ErrorBackendRt, ForwardRt, MirrorRt, RouteRt, Target};
pub use edit::RouteConfigRt;
pub use host::HostRt;
pub use table::RouteTable;

#[cfg(test)]
mod tests;
