//! The tools of those who write plugins: start one, build it, look into it, test it.
pub mod build;
pub mod create;
pub mod inspect;
pub mod test;

/// What a built plugin is called, beside its sources.
pub const BUILT: &str = "plugin.wasm";
