//! The host against guests written by hand: what the ABI says, and what a hostile or broken guest may try.
mod actions;
mod guests;
mod limits;
mod maps;
mod shared;
mod start;
