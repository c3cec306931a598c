//! A YAML text within a value of another: read with the places of the file that holds both.
use std::sync::Arc;
use weir_config::{
    diagnostic::Diagnostic,
    node,
    reader::{Field, Object, Reader},
    source::Source,
};

/// Reads the object that the text at `data.KEY` holds.
pub fn read(field: &Field<'_>, key: &str, with: impl FnOnce(&Object<'_>)) {
    let Some(text) = field.str() else { return };
    let source = Arc::new(source_of(field, text));
    let documents = match node::parse(&source) {
        Ok(documents) => documents,
        Err(e) => return report(field, key, [e]),
    };
    let Some(root) = documents.first() else { return };
    let reader = Reader::new(source);
    if let Some(object) = reader.root(root).object() {
        with(&object);
    }
    report(field, key, reader.take());
}

fn report(field: &Field<'_>, key: &str, found: impl IntoIterator<Item = Diagnostic>) {
    for mut d in found {
        d.field = format!("data.{key}{}{}", if d.field.is_empty() { "" } else { "." }, d.field);
        field.reader().report(d);
    }
}

/// The lines of a block (`key: |`) as they stand in the file, so that every place is that of the file; else the text alone.
fn source_of(field: &Field<'_>, text: &str) -> Source {
    let outer = field.reader().source();
    let line = field.line();
    let within = line.saturating_sub(outer.first_line) as usize;
    // Depending on the style, the value begins on the line of its key or below it.
    for skip in [0, 1] {
        let block: String = outer.text.split_inclusive('\n').skip(within + skip).take(text.lines().count()).collect();
        let same = block.lines().map(str::trim_start).eq(text.lines().map(str::trim_start));
        if same && !text.is_empty() {
            return Source::new(outer.name.clone(), block, line + skip as u32);
        }
    }
    Source::new(outer.name.clone(), text, line)
}
