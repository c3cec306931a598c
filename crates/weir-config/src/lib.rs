//! The model of a gateway's configuration, and how it is read and judged.
//!
//! Every source (files, Kubernetes, xDS) ends in one [`model::Config`]; every finding is one
//! [`diagnostic::Diagnostic`]. This crate knows no runtime, no socket and no protocol buffer.
#![forbid(unsafe_code)]

pub mod delta;
pub mod diagnostic;
pub mod model;
pub mod node;
pub mod reader;
pub mod recent;
pub mod redact;
pub mod schema;
pub mod source;
pub mod text;
