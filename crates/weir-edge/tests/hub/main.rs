//! The hub in front of an API server of these tests, which does what they say.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]
#![allow(dead_code, reason = "the API server does what tests that follow need")]

mod clients;
mod healing;
mod hub;
mod links;
mod outbox;
mod sharing;
mod upstream;
