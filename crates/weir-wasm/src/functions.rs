//! The host functions of a linker, as they are added.
use crate::state::Host;
use wasmtime::{IntoFunc, Linker};

pub(crate) struct Functions {
    linker: Linker<Host>,
    names: Vec<(&'static str, &'static str)>,
}

impl Functions {
    pub(crate) fn new(engine: &wasmtime::Engine) -> Functions {
        Functions { linker: Linker::new(engine), names: Vec::new() }
    }

    /// Panics when a name is declared twice, which every test would show.
    pub(crate) fn add<P, R>(&mut self, module: &'static str, name: &'static str, function: impl IntoFunc<Host, P, R>) {
        self.linker.func_wrap(module, name, function).expect("two host functions of one name");
        self.names.push((module, name));
    }

    pub(crate) fn linker(&self) -> &Linker<Host> {
        &self.linker
    }

    pub(crate) fn names(self) -> Vec<(&'static str, &'static str)> {
        self.names
    }
}
