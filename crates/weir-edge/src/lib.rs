//! The edge hub: a node's caching gateway of the Kubernetes API. While the link to the API server is up it passes requests on and
//! keeps what passes; without the link it answers from what it has kept.
#![forbid(unsafe_code)]

pub mod admin;
pub mod api;
pub mod asked;
pub mod body;
pub mod bootstrap;
pub mod cache;
pub mod caller;
pub mod certificate;
pub mod connect;
pub mod credentials;
pub mod drain;
pub mod durable;
pub mod event;
pub mod frame;
pub mod handover;
pub mod health;
pub mod hub;
pub mod inspect;
pub mod json;
pub mod key_file;
pub mod kubeconfig;
pub mod list;
pub mod listen;
pub mod local;
pub mod media;
pub mod object;
pub mod outbox;
pub mod patch;
pub mod recent;
pub mod remote;
pub mod replay;
pub mod replies;
pub mod reported;
pub mod request;
pub mod requests;
pub mod run;
pub mod schema;
pub mod serving;
pub mod stamp;
pub mod status;
pub mod store;
pub mod tee;
pub mod wire;
pub mod writes;
