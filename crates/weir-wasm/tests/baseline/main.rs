//! The conformance tests once more, for code of the baseline compiler, and what only that one can do.
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#![allow(clippy::unwrap_used)]
const COMPILER: Compiler = Compiler::Winch;

#[path = "../conformance/actions.rs"]
mod actions;
#[path = "../conformance/guests.rs"]
mod guests;
#[path = "../conformance/limits.rs"]
mod limits;
#[path = "../conformance/maps.rs"]
mod maps;
#[path = "../conformance/shared.rs"]
mod shared;
#[path = "../conformance/start.rs"]
mod start;

use guests::{engine, guest};
use weir_wasm::{Compiler, Module};

#[test]
fn code_that_it_refuses_is_left_to_the_optimizing_compiler() {
    let module = guest("0.2.1", "(func $f (result i32) (return_call $f))");
    assert!(Module::compile_baseline(engine(), &module).is_none(), "it knows tail calls: choose something else");
    assert_eq!(Module::compile(engine(), &module).unwrap().compiler(), Compiler::Cranelift);
    assert!(Module::compile_baseline(engine(), b"not wasm").is_none());
}
