//! `weir`: a gateway from a folder of YAML. See `weir --help`.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use weir::cli;

// Better throughput and return of memory than the system's, under many small allocations from many threads.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match cli::run(cli::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
