//! Texts of many documents: found apart by their `---` lines, so that only those that changed are parsed.
use crate::{
    guard::guarded,
    object::{Decoded, Document, Key, Object, decode},
};
use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hasher},
    sync::Arc,
};
use weir_config::{
    diagnostic::{Diagnostic, Severity},
    model::FileId,
    node::{self, Node, Value},
    source::Source,
};

/// One document's text.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// One-based line in the whole text.
    pub first_line: u32,
    pub text: &'a str,
}

impl Chunk<'_> {
    pub fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(self.text.as_bytes());
        hasher.finish()
    }
    fn is_blank(&self) -> bool {
        self.text.lines().all(|l| matches!(l.trim(), "" | "---" | "...") || l.trim_start().starts_with('#'))
    }
}

/// Splits at lines that begin with `---`; YAML has these nowhere else. Blank documents are left out.
pub fn split(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let (mut start, mut first_line) = (0, 1);
    let marks = memchr::memmem::find_iter(text.as_bytes(), "\n---").map(|at| at + 1);
    for at in text.starts_with("---").then_some(0).into_iter().chain(marks) {
        let rest = text[at + 3..].split('\n').next().unwrap_or_default();
        // Directives (`%YAML 1.2`) belong to the document after them, with its mark.
        if !(rest.trim_end().is_empty() || rest.starts_with([' ', '\t'])) || is_directives(&text[start..at]) {
            continue;
        }
        chunks.push(Chunk { first_line, text: &text[start..at] });
        first_line += lines(&text[start..at]);
        start = at;
        // A document may begin on the line of its mark.
        if matches!(rest.trim_start().chars().next(), None | Some('#')) {
            start = (at + 3 + rest.len() + 1).min(text.len());
            first_line += 1;
        }
    }
    chunks.push(Chunk { first_line, text: &text[start..] });
    chunks.retain(|c| !c.is_blank());
    chunks
}

fn lines(text: &str) -> u32 {
    memchr::memchr_iter(b'\n', text.as_bytes()).count() as u32
}

fn is_directives(text: &str) -> bool {
    let bare = |l: &str| l.is_empty() || l.starts_with(['#', '%']) || l == "...";
    text.lines().all(bare) && text.lines().any(|l| l.starts_with('%'))
}

/// A document and what it holds. Most hold one object, with nothing wrong: these take no more room than that.
pub enum Doc {
    One(Arc<Object>),
    Other(Box<Contents>),
}

pub struct Contents {
    document: Document,
    objects: Box<[Arc<Object>]>,
    trouble: Trouble,
}

/// Findings of a document.
#[derive(Default)]
pub struct Trouble {
    /// Named, but with errors.
    pub broken: Vec<Key>,
    /// For those of them that have no last good version.
    pub stand_ins: Vec<Arc<Object>>,
    /// It holds something that cannot even be named: an error of syntax, an object without a name.
    pub unnamed: bool,
    pub findings: Vec<Diagnostic>,
    /// The last good versions of what is broken here.
    pub kept: Vec<Arc<Object>>,
}

/// A document while it is read.
struct Reading {
    document: Document,
    objects: Vec<Arc<Object>>,
    trouble: Trouble,
}

impl Doc {
    pub fn read(file: &Arc<FileId>, chunk: &Chunk<'_>) -> Doc {
        let source = Arc::new(Source::new(file.name().clone(), chunk.text, chunk.first_line));
        let document = Document::new(file.clone(), chunk.hash(), chunk.first_line);
        let mut reading = Reading { document, objects: Vec::new(), trouble: Trouble::default() };
        match node::parse(&source) {
            Ok(nodes) => nodes.iter().for_each(|node| reading.add_all(node, &source)),
            Err(found) => {
                reading.trouble.unnamed = true;
                reading.trouble.findings.push(found);
            }
        }
        let Reading { document, mut objects, trouble } = reading;
        if trouble.is_none()
            && objects.len() == 1
            && let Some(object) = objects.pop()
        {
            return Doc::One(object);
        }
        Doc::Other(Box::new(Contents { document, objects: objects.into(), trouble }))
    }

    pub fn document(&self) -> &Document {
        match self {
            Doc::One(object) => &object.document,
            Doc::Other(contents) => &contents.document,
        }
    }

    /// Lets a document that was just read go on where an earlier version of it was.
    pub fn follow(&mut self, before: &Document) {
        match self {
            Doc::One(object) => Arc::make_mut(object).document.follow(before),
            Doc::Other(contents) => {
                contents.document.follow(before);
                for object in contents.objects.iter_mut().chain(&mut contents.trouble.stand_ins) {
                    Arc::make_mut(object).document = contents.document.clone();
                }
            }
        }
    }

    pub fn objects(&self) -> &[Arc<Object>] {
        match self {
            Doc::One(object) => std::slice::from_ref(object),
            Doc::Other(contents) => &contents.objects,
        }
    }

    /// Nothing was found in it, and it holds nothing but what it says now.
    pub fn is_plain(&self) -> bool {
        matches!(self, Doc::One(_)) || self.trouble().is_none()
    }

    pub fn trouble(&self) -> &Trouble {
        static NONE: Trouble =
            Trouble { broken: Vec::new(), stand_ins: Vec::new(), unnamed: false, findings: Vec::new(), kept: Vec::new() };
        match self {
            Doc::One(_) => &NONE,
            Doc::Other(contents) => &contents.trouble,
        }
    }

    /// `None` for one object with nothing wrong.
    pub fn trouble_mut(&mut self) -> Option<&mut Trouble> {
        match self {
            Doc::One(_) => None,
            Doc::Other(contents) => Some(&mut contents.trouble),
        }
    }
}

impl Trouble {
    fn is_none(&self) -> bool {
        self.findings.is_empty() && self.broken.is_empty() && self.kept.is_empty() && !self.unnamed
    }
}

impl Reading {
    /// An object, or those of a `List` (or `HTTPRouteList`, …), as `kubectl get -o yaml` prints it.
    fn add_all(&mut self, node: &Node, source: &Arc<Source>) {
        let kind = node.get("kind").and_then(Node::as_str).and_then(|kind| kind.strip_suffix("List"));
        let Some((kind, items)) = kind.zip(node.get("items")) else { return self.add(node, source) };
        match &items.value {
            Value::List(items) => items.iter().for_each(|item| match typed(item, node, kind) {
                Some(item) => self.add_all(&item, source),
                None => self.add_all(item, source),
            }),
            // As an API server has it where there are none.
            Value::Null => {}
            _ => {
                let found = format!("items of a List: expected a list, found {}", items.kind());
                let found = Diagnostic::error("InvalidType", found).help("write a list of objects");
                self.trouble.findings.push(found.at(&items.span.place(source), "items"));
                self.trouble.unnamed = true;
            }
        }
    }

    fn add(&mut self, node: &Node, source: &Arc<Source>) {
        let mut found = Vec::new();
        let decoded = guarded(|| decode(node, source, &self.document, &mut found));
        let failed = found.iter().any(|d| d.severity == Severity::Error);
        self.trouble.findings.append(&mut found);
        match decoded {
            Ok(Decoded::Object(object)) => self.objects.push(Arc::from(object)),
            Ok(Decoded::Broken(key, stand_in)) => {
                self.trouble.broken.push(key);
                self.trouble.stand_ins.extend(stand_in.map(Arc::from));
            }
            Ok(Decoded::Ignored) => self.trouble.unnamed |= failed,
            Err(panic) => {
                self.trouble.findings.push(panic.finding("reading this object").at(&node.span.place(source), ""));
                self.trouble.unnamed = true;
            }
        }
    }
}

/// Lets documents that were just read go on where those were that held their objects before.
pub fn follow<'a>(now: impl Iterator<Item = &'a mut Doc>, before: impl Iterator<Item = &'a Arc<Object>>) {
    let mut before: HashMap<&Key, &Document> = before.map(|o| (&o.key, &o.document)).collect();
    // Two that come of one cannot both go on from there.
    let mut taken = HashSet::new();
    for doc in now {
        if let Some(old) = doc.objects().first().and_then(|object| before.remove(&object.key))
            && taken.insert(old.identity())
        {
            doc.follow(old);
        }
    }
}

/// An item of an API server's own list, which says only once of what kind its items are.
fn typed(item: &Node, list: &Node, kind: &str) -> Option<Node> {
    let Value::Map(entries) = &item.value else { return None };
    if kind.is_empty() || item.get("kind").is_some() || item.get("apiVersion").is_some() {
        return None;
    }
    let Value::Map(of_list) = &list.value else { return None };
    let mut entries = entries.clone();
    for (key, node) in of_list {
        match &*key.text {
            "apiVersion" => entries.push((key.clone(), node.clone())),
            "kind" => entries.push((key.clone(), Node { value: Value::String(kind.into()), span: node.span })),
            _ => {}
        }
    }
    Some(Node { value: Value::Map(entries), span: item.span })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There are as many of these as there are objects.
    #[test]
    fn documents_and_objects_are_small() {
        let sizes = [size_of::<Doc>(), size_of::<Object>(), size_of::<Key>()];
        assert!(sizes.iter().zip([16, 80, 8]).all(|(size, most)| *size <= most), "{sizes:?}");
    }

    #[test]
    fn documents_are_split_at_their_marks() {
        let cases: &[(&str, &[(u32, &str)])] = &[
            ("", &[]),
            ("\n# only a remark\n---\n...\n", &[]),
            ("a: 1\n", &[(1, "a: 1\n")]),
            ("---\na: 1\n---\nb: 2", &[(2, "a: 1\n"), (4, "b: 2")]),
            ("--- {a: 1}\n--- |\n  text\n", &[(1, "--- {a: 1}\n"), (2, "--- |\n  text\n")]),
            ("a: 1\n--- # the second\nb: |\n  ---\n  text\n---   \n", &[(1, "a: 1\n"), (3, "b: |\n  ---\n  text\n")]),
            ("%YAML 1.2\n---\na: 1\n", &[(1, "%YAML 1.2\n---\na: 1\n")]),
            ("a: 1\r\n---\r\nb: 2\r\n", &[(1, "a: 1\r\n"), (3, "b: 2\r\n")]),
            ("a: ---b\n---b: 1\n", &[(1, "a: ---b\n---b: 1\n")]),
        ];
        for (text, want) in cases {
            let got: Vec<(u32, &str)> = split(text).iter().map(|c| (c.first_line, c.text)).collect();
            assert_eq!(&got, want, "{text:?}");
        }
    }
}
