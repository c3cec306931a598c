//! How many file descriptors the process may have open.
use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use std::io;

/// The soft limit where the hard limit is "unlimited"; no kernel allows more by default.
const MOST: u64 = 1 << 20;

/// The soft limit.
pub fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(MOST)
}

/// Raises the soft limit to the hard limit and returns it.
///
/// # Errors
/// When the system refuses; the limit stays as it was.
pub fn raise_limit() -> io::Result<u64> {
    let now = getrlimit(Resource::Nofile);
    let wanted = now.maximum.unwrap_or(MOST);
    if now.current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: now.maximum })?;
    }
    Ok(limit())
}

/// Whether the error means that the process or the system has no descriptor left.
pub fn is_exhausted(e: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE].iter().any(|errno| e.raw_os_error() == Some(errno.raw_os_error()))
}
