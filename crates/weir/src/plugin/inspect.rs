//! `weir plugin inspect`: what a module is, and whether it would run here.
use super::BUILT;
use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use std::{
    fs,
    io::{self, Write},
    path::Path,
};
use weir_proxy::plugin::code;
pub use weir_wasm::inspect::{Facts, inspect};

/// The module in a file, binary, text or packed, or the one that was built in a folder.
pub fn module(file: &Path) -> Result<Bytes> {
    let built = file.join(BUILT);
    let file = if file.is_dir() { &built } else { file };
    let bytes = fs::read(file).with_context(|| file.display().to_string())?;
    if file.extension().is_some_and(|e| e == "wat") {
        return Ok(code::assemble(file, &bytes).map_err(|e| anyhow!(e))?.into());
    }
    match code::is_packed(&bytes) {
        true => code::unpack(bytes.into(), code::MAX_BYTES).map_err(|e| anyhow!("{}: {e}", file.display())),
        false => Ok(bytes.into()),
    }
}

/// The facts of a module as [`module`] finds it.
pub fn facts(file: &Path) -> Result<Facts> {
    inspect(&module(file)?).with_context(|| file.display().to_string())
}

/// For people.
pub fn print(facts: &Facts, out: &mut impl Write) -> io::Result<()> {
    let abi = facts.abi.map_or_else(|| "none".to_string(), |abi| abi.to_string());
    let size = facts.size as f64 / 1e6;
    writeln!(out, "abi        {abi}")?;
    match facts.debug_bytes {
        0 => writeln!(out, "size       {size:.2} MB")?,
        debug => writeln!(out, "size       {size:.2} MB, {:.2} of them debug information", debug as f64 / 1e6)?,
    }
    if !facts.producers.is_empty() {
        writeln!(out, "made by    {}", facts.producers.join(", "))?;
    }
    if let Some(memory) = facts.memory {
        let max = memory.max_pages.map_or_else(|| "no maximum of its own".into(), |m| format!("at most {} KiB", m * 64));
        writeln!(out, "memory     {} KiB at the start, {max}", memory.pages * 64)?;
    }
    writeln!(out, "allocator  {}", facts.allocator.unwrap_or("none"))?;
    let callbacks = facts.exports.iter().filter_map(|e| e.strip_prefix("proxy_")).filter(|e| e.starts_with("on_"));
    writeln!(out, "callbacks  {}", wrapped(callbacks))?;
    let imports = facts.imports.iter().map(|i| i.name.strip_prefix("proxy_").unwrap_or(&i.name));
    writeln!(out, "imports    {}", wrapped(imports))?;
    if !facts.has_names {
        writeln!(out, "note       function names are stripped: a crash will show numbers")?;
    }
    match facts.missing.as_slice() {
        [] => writeln!(out, "It would run here."),
        missing => {
            writeln!(out, "It would not run here:")?;
            missing.iter().try_for_each(|m| writeln!(out, "  {m}"))
        }
    }
}

/// Words in lines of a readable length.
fn wrapped<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let (mut text, mut column) = (String::new(), 0);
    for word in words {
        if column > 0 && column + word.len() > 100 {
            text += "\n           ";
            column = 0;
        } else if column > 0 {
            text.push(' ');
        }
        text += word;
        column += word.len() + 1;
    }
    text
}
