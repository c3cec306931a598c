//! The host functions of a linker, as they are added.
use crate::{row::Row, state::Host};
use wasmtime::{IntoFunc, Linker};

pub(crate) struct Functions {
    linker: Linker<Host>,
    rows: Vec<(&'static str, Row)>,
}

impl Functions {
    pub(crate) fn new(engine: &wasmtime::Engine) -> Functions {
        Functions { linker: Linker::new(engine), rows: Vec::new() }
    }

    /// Panics when a name is declared twice, which every test would show.
    pub(crate) fn add<P, R>(&mut self, module: &'static str, row: Row, function: impl IntoFunc<Host, P, R>) {
        self.linker.func_wrap(module, row.name, function).expect("two host functions of one name");
        self.rows.push((module, row));
    }

    pub(crate) fn linker(&self) -> &Linker<Host> {
        &self.linker
    }

    pub(crate) fn rows(self) -> Vec<(&'static str, Row)> {
        self.rows
    }
}
