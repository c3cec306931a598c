//! What this host does for each name of the ABI, from the rows beside the code.
pub use crate::{
    abi::{ABSENT_FOREIGN_FUNCTIONS, FOREIGN_FUNCTIONS, OWN_PROPERTIES, OWN_SPECIAL_KEYS},
    instance::{ABSENT_CALLBACKS, CALLBACKS},
    row::Row,
};

/// The functions that a module may import, with the module they come from.
pub fn host_calls() -> Vec<(&'static str, Row)> {
    crate::module::host_functions(&wasmtime::Engine::default()).rows()
}
