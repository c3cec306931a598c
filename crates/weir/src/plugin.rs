//! The tools of those who write and run plugins: start one, build it, look into it, test it, see how it does.
pub mod build;
pub mod create;
pub mod image;
pub mod inspect;
pub mod status;
pub mod test;

/// What a built plugin is called, beside its sources.
pub const BUILT: &str = "plugin.wasm";
