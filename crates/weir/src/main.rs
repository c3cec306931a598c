//! `weir`: a gateway from a folder of YAML. See `weir --help`.
#![forbid(unsafe_code)]

use clap::Parser;
use std::process::ExitCode;
use weir::cli;

// Better throughput and return of memory than the system's, under many small allocations from many threads.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // What load leaves behind is given back even when nothing follows it. Without this thread it would wait for more work.
    let _ = tikv_jemalloc_ctl::background_thread::write(true);
    match cli::run(cli::Cli::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
