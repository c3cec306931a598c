//! The host against guests written by hand: what the ABI says, and what a hostile or broken guest may try.
const COMPILER: weir_wasm::Compiler = weir_wasm::Compiler::Cranelift;

mod actions;
mod guests;
mod limits;
mod maps;
mod shared;
mod start;
