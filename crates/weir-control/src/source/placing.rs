//! Findings made after reading get their line of source text: each file is read at most once for all of its findings, and
//! what was read is kept for as long as there are findings of it.
use super::{document::split, text};
use crate::object::{Document, Finding};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use weir_config::{diagnostic::Diagnostic, model::Name, source::Source};

/// Texts of documents that have findings, by file and hash.
#[derive(Default)]
pub struct Sources(HashMap<Name, HashMap<u64, Arc<Source>>>);

impl Sources {
    /// The findings with their places, in their order.
    pub fn place<'a>(&mut self, findings: impl Iterator<Item = &'a Finding>) -> Vec<Diagnostic> {
        let findings: Vec<&Finding> = findings.collect();
        let mut wanted: HashMap<&Name, HashSet<u64>> = HashMap::new();
        for Finding { document, .. } in &findings {
            if let Some(file) = &document.file {
                wanted.entry(file).or_default().insert(document.hash);
            }
        }
        self.0.retain(|file, _| wanted.contains_key(file));
        for (file, hashes) in wanted {
            let known = self.0.entry(file.clone()).or_default();
            known.retain(|hash, _| hashes.contains(hash));
            if known.len() < hashes.len() {
                add(file, &hashes, known);
            }
        }
        findings.into_iter().map(|finding| self.one(finding)).collect()
    }

    fn one(&mut self, finding: &Finding) -> Diagnostic {
        let Document { file, hash, .. } = &*finding.document;
        let line = finding.document.first_line();
        let mut found = finding.diagnostic.clone();
        let Some(file) = file else { return found };
        if let Some(source) = self.0.get_mut(file).and_then(|of| of.get_mut(hash)) {
            // It moved within its file.
            if source.first_line != line {
                *source = Arc::new(Source::new(source.name.clone(), source.text.clone(), line));
            }
            found.place = Some(Box::new(finding.span.place(source)));
        }
        found
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::{Control, Options};
    use std::{fs, sync::Arc};
    use weir_config::diagnostic::Diagnostic;

    #[test]
    fn findings_that_stay_are_not_read_for_again() {
        let route = |name: &str| {
            format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {name} }}\nspec: {{ parentRefs: [{{ name: nothing }}] }}\n"
            )
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        fs::write(&path, format!("{}---\n{}", route("a"), route("b"))).unwrap();
        let mut control = Control::new(Options::default());
        let lines = |found: &[Arc<Diagnostic>]| -> Vec<(u32, bool)> {
            let place = |d: &Arc<Diagnostic>| d.place.as_ref().map(|p| (p.line, d.snippet(false).contains("nothing }")));
            found.iter().filter_map(place).collect()
        };
        control.load(&[dir.path().into()]);
        assert_eq!(lines(&control.findings()), [(4, true), (9, true)]);
        // Another text under the same name, without findings: skip it.
        fs::write(&path, "x: y\n").unwrap();
        assert_eq!(lines(&control.findings()), [(4, true), (9, true)]);
    }
}
