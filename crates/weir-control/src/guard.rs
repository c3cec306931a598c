//! Keeps a bug in the reading or translation of one object from ending the whole control plane.
use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};
use weir_config::diagnostic::Diagnostic;

/// What a panic said.
#[derive(Debug)]
pub struct Panic(String);

impl Panic {
    /// `doing` is what was being done.
    pub fn finding(&self, doing: &str) -> Diagnostic {
        let message = format!("internal error while {doing}: {}", self.0);
        Diagnostic::error("InternalError", message).help("this is a bug in Weir: please report it; the last good version keeps serving")
    }
}

impl From<Box<dyn Any + Send>> for Panic {
    fn from(payload: Box<dyn Any + Send>) -> Panic {
        let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
        Panic(text.unwrap_or("panic").to_string())
    }
}

/// Runs `f`, which leaves nothing half changed that outlives it.
pub fn guarded<T>(f: impl FnOnce() -> T) -> Result<T, Panic> {
    catch_unwind(AssertUnwindSafe(f)).map_err(Panic::from)
}
