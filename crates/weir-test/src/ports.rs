//! Free ports for programs that must be told one.
use std::{
    hash::{BuildHasher, RandomState},
    net::TcpListener,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

/// A port that is free and stays so: below those that the kernel lends to connections, where the port that a test was told could be
/// taken by any client before its program binds it, and never the same twice in a process.
pub fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    static NEXT: OnceLock<AtomicU32> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicU32::new((RandomState::new().hash_one(std::process::id()) % u64::from(COUNT)) as u32));
    loop {
        let port = (FIRST + next.fetch_add(1, Ordering::Relaxed) % COUNT) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
