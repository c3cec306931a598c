//! Work that may take its time: optimizing code that already serves.
use std::{io, thread};

/// Added to the niceness of its threads, so that they yield to those that serve.
const NICE: i32 = 5;

/// Runs work on threads of low priority, at most half of the CPUs. Compilation within it runs on the same threads. Nothing waits for them
/// when the process ends.
pub fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let threads = thread::available_parallelism().map_or(1, usize::from).div_euclid(2).max(1);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|_| "wasm-optimize".into()).start_handler(|_| {
        // Linux has a niceness for each thread. Without it the work is as fair as any.
        let _ = rustix::process::nice(NICE);
    });
    // The threads end after this work: their pool is dropped here.
    pool.build().map_err(io::Error::other)?.spawn(work);
    Ok(())
}
