//! What a module is, without running or compiling it: for `weir plugin inspect` and messages.
use crate::{
    declared::{Abi, Callbacks, ModuleError},
    module::host_functions,
};
use serde::Serialize;
use std::{collections::BTreeSet, sync::OnceLock};
use wasmparser::{ExternalKind, Parser, Payload, TypeRef, Validator};

/// The facts of one module.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Facts {
    /// Bytes of the file.
    pub size: usize,
    /// `None` when the module exports no known marker.
    pub abi: Option<Abi>,
    pub imports: Vec<Import>,
    /// Names of exported functions, in order.
    pub exports: Vec<String>,
    pub callbacks: Callbacks,
    pub memory: Option<MemoryFacts>,
    /// `malloc` or `proxy_on_memory_allocate`.
    pub allocator: Option<&'static str>,
    /// Names of functions are in the file, so that traps show them.
    pub has_names: bool,
    /// `.debug_…` sections: bytes that could be stripped.
    pub debug_bytes: usize,
    /// Toolchains that the `producers` section names, e.g. `Go 1.26`.
    pub producers: Vec<String>,
    /// Every reason why this host would refuse the module; empty for one that loads.
    pub missing: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Import {
    pub module: String,
    pub name: String,
    /// Whether this host has it.
    pub known: bool,
}

/// In pages of 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryFacts {
    pub pages: u64,
    pub max_pages: Option<u64>,
}

/// Validates a module and collects its facts. Fails only for bytes that are no module at all.
pub fn inspect(wasm: &[u8]) -> Result<Facts, ModuleError> {
    let invalid = |e: wasmparser::BinaryReaderError| ModuleError::Invalid(e.to_string());
    crate::module::begins_as_module(wasm)?;
    Validator::new().validate_all(wasm).map_err(invalid)?;
    let mut facts = Facts {
        size: wasm.len(),
        abi: None,
        imports: Vec::new(),
        exports: Vec::new(),
        callbacks: Callbacks::default(),
        memory: None,
        allocator: None,
        has_names: false,
        debug_bytes: 0,
        producers: Vec::new(),
        missing: Vec::new(),
    };
    let (mut memories, mut memory_export) = (Vec::new(), None);
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(invalid)? {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import.map_err(invalid)?;
                    let is_function = matches!(import.ty, TypeRef::Func(_));
                    let known = is_function && known_imports().iter().any(|k| *k == (import.module, import.name));
                    if let TypeRef::Memory(memory) = import.ty {
                        memories.push(memory);
                    }
                    facts.imports.push(Import { module: import.module.into(), name: import.name.into(), known });
                }
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    memories.push(memory.map_err(invalid)?);
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export.map_err(invalid)?;
                    match export.kind {
                        ExternalKind::Func => facts.exports.push(export.name.into()),
                        ExternalKind::Memory if export.name == "memory" => memory_export = Some(export.index),
                        _ => {}
                    }
                }
            }
            Payload::CustomSection(section) => match section.name() {
                "name" => facts.has_names = true,
                "producers" => facts.producers = producers(section.data(), section.data_offset()),
                name if name.starts_with(".debug_") => facts.debug_bytes += section.data().len(),
                _ => {}
            },
            _ => {}
        }
    }
    let memory = memory_export.and_then(|i| memories.get(usize::try_from(i).ok()?));
    facts.memory = memory.map(|m| MemoryFacts { pages: m.initial, max_pages: m.maximum });
    judge(&mut facts);
    Ok(facts)
}

fn judge(facts: &mut Facts) {
    let has = |name: &&str| facts.exports.iter().any(|e| e == name);
    facts.allocator = ["malloc", "proxy_on_memory_allocate"].into_iter().find(has);
    facts.callbacks = Callbacks::of_exports(facts.exports.iter().map(String::as_str));
    match Abi::of_exports(facts.exports.iter().map(String::as_str)) {
        Ok(abi) => facts.abi = Some(abi),
        Err(error) => facts.missing.push(error.to_string()),
    }
    if facts.abi.is_none() && facts.exports.iter().any(|e| e == "_start") && facts.producers.iter().any(|p| p.starts_with("Go ")) {
        facts
            .missing
            .push("it is a program of Go's, not a library: plugins are built with -buildmode=c-shared, as weir plugin build does".into());
    }
    let unknown = facts.imports.iter().filter(|i| !i.known);
    facts.missing.extend(unknown.map(|i| ModuleError::MissingImport { module: i.module.clone(), name: i.name.clone() }.to_string()));
    if facts.memory.is_none() {
        facts.missing.push(ModuleError::NoMemory.to_string());
    }
    if facts.allocator.is_none() {
        facts.missing.push(ModuleError::NoAllocator.to_string());
    }
}

/// Languages and tools, `name version`; what cannot be read is left out.
fn producers(data: &[u8], offset: usize) -> Vec<String> {
    let reader = wasmparser::BinaryReader::new(data, offset);
    let Ok(section) = wasmparser::ProducersSectionReader::new(reader) else { return Vec::new() };
    let values = section.into_iter().flatten().flat_map(|field| field.values.into_iter().flatten());
    values.map(|v| format!("{} {}", v.name, v.version).trim_end().to_owned()).collect()
}

/// Every function that a module may import, by module and name.
pub fn known_imports() -> &'static BTreeSet<(&'static str, &'static str)> {
    static KNOWN: OnceLock<BTreeSet<(&'static str, &'static str)>> = OnceLock::new();
    KNOWN.get_or_init(|| host_functions(&wasmtime::Engine::default()).rows().into_iter().map(|(module, row)| (module, row.name)).collect())
}
