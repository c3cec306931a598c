//! The hub in front of an API server of these tests, which does what they say.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod busy;
mod clients;
mod disk;
mod faults;
mod healing;
mod herd;
mod hub;
mod kinds;
mod labels;
mod line;
mod links;
mod outbox;
mod pool;
mod sharing;
mod transparent;
mod twin;
mod upstream;
