//! The binary's parts, as a library for its tests.
#![forbid(unsafe_code)]

pub mod cli;
pub mod echo;
pub mod plugin;
pub mod run;
