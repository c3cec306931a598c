//! Waiting for something to happen, with a deadline that only a fault reaches.
use std::time::{Duration, Instant};

/// Long enough for a busy machine. A test that passes never waits this long.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Calls `f` until it returns something. Fails the test after [`PATIENCE`].
#[track_caller]
pub fn eventually<T>(what: &str, mut f: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = f() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
