//! Findings made after reading get their line of source text: each file is read at most once for all of its findings, and
//! what was read is kept for as long as there are findings of it.
use super::{document::split, text};
use crate::object::Finding;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
};
use weir_config::{diagnostic::Diagnostic, model::Name, source::Source};

/// Texts of documents that have findings, by file and hash. The findings hold them.
#[derive(Default)]
pub struct Sources(HashMap<Name, HashMap<u64, Weak<Source>>>);

impl Sources {
    /// The findings with their places, in their order.
    pub fn place<'a>(&mut self, findings: impl Iterator<Item = &'a Finding>) -> Vec<Diagnostic> {
        let findings: Vec<&Finding> = findings.collect();
        let mut wanted: HashMap<&Name, HashSet<u64>> = HashMap::new();
        for Finding { document, .. } in &findings {
            if let Some(file) = document.file() {
                wanted.entry(file).or_default().insert(document.hash);
            }
        }
        // Held until the findings hold them.
        let mut sources: HashMap<&Name, HashMap<u64, Arc<Source>>> = HashMap::new();
        for (file, hashes) in wanted {
            let known = self.0.entry(file.clone()).or_default();
            let mut held: HashMap<u64, Arc<Source>> = hashes.iter().filter_map(|hash| Some((*hash, known.get(hash)?.upgrade()?))).collect();
            if held.len() < hashes.len() {
                add(file, &hashes, &mut held);
            }
            sources.insert(file, held);
        }
        let placed = findings.into_iter().map(|finding| place(finding, &mut sources)).collect();
        for (file, held) in sources {
            let known = self.0.entry(file.clone()).or_default();
            known.extend(held.iter().map(|(hash, source)| (*hash, Arc::downgrade(source))));
        }
        placed
    }

    /// Forgets the texts of a file that no finding holds.
    pub fn sweep(&mut self, file: &Name) {
        let Some(known) = self.0.get_mut(file) else { return };
        known.retain(|_, source| source.strong_count() > 0);
        if known.is_empty() {
            self.0.remove(file);
        }
    }
}

fn place(finding: &Finding, sources: &mut HashMap<&Name, HashMap<u64, Arc<Source>>>) -> Diagnostic {
    let Finding { document, .. } = finding;
    let line = document.first_line();
    let mut found = finding.diagnostic.clone();
    let source = document.file().and_then(|file| sources.get_mut(file)).and_then(|of| of.get_mut(&document.hash));
    if let Some(source) = source {
        // It moved within its file.
        if source.first_line != line {
            *source = Arc::new(Source::new(source.name.clone(), source.text.clone(), line));
        }
        found.place = Some(Box::new(finding.span.place(source)));
    }
    found
}

/// Adds the documents of a file that are wanted; one that is there no more has no text.
fn add(file: &Name, wanted: &HashSet<u64>, into: &mut HashMap<u64, Arc<Source>>) {
    let Ok(text) = text::read_named(file) else { return };
    for chunk in split(&text) {
        let hash = chunk.hash();
        if wanted.contains(&hash) {
            into.entry(hash).or_insert_with(|| Arc::new(Source::new(file.clone(), chunk.text, chunk.first_line)));
        }
    }
}
