//! What the hub does in place of the API server: answers, writes that wait, and their replay.
pub mod collect;
pub mod local;
pub mod outbox;
pub mod replay;
pub mod replies;
pub mod writes;
