//! A file of many documents of which few changed: the work of those, and a look at the others' hashes.
use super::document::{Chunk, Doc, follow};
use crate::object::{Key, Object};
use std::{collections::HashSet, ops::Range, sync::Arc};
use weir_config::model::FileId;

/// What a revision of a file came to.
pub struct Revision {
    pub gone: Vec<Arc<Object>>,
    /// New ones, and new versions of such that are `gone`.
    pub come: Vec<Arc<Object>>,
}

/// More documents than this between the first and the last change, where their number changed too, are not looked through.
const MOST: usize = 256;

/// Changes `docs` and `objects` (in the order of their keys) to what `chunks` say. `None`, with nothing changed, where the
/// changes are too many to tell apart, or where a changed document is wrong or repeats an object.
pub fn revise(file: &Arc<FileId>, chunks: &[Chunk<'_>], docs: &mut Vec<Doc>, objects: &mut Vec<Arc<Object>>) -> Option<Revision> {
    let hashes: Vec<u64> = chunks.iter().map(Chunk::hash).collect();
    let changes = changes(docs, &hashes)?;
    let read = |range: &Range<usize>| chunks[range.clone()].iter().map(|c| Doc::read(file, c)).collect::<Vec<Doc>>();
    let mut new: Vec<Vec<Doc>> = changes.iter().map(|(_, range)| read(range)).collect();
    let gone: Vec<Arc<Object>> = changes.iter().flat_map(|(range, _)| &docs[range.clone()]).flat_map(Doc::objects).cloned().collect();
    if !new.iter().flatten().all(Doc::is_plain) || repeats(&gone, new.iter().flatten().flat_map(Doc::objects), objects) {
        return None;
    }
    follow(new.iter_mut().flatten(), gone.iter());
    let come: Vec<Arc<Object>> = new.iter().flatten().flat_map(Doc::objects).cloned().collect();
    // From the last, so that places stay what they were.
    for ((old, _), new) in changes.iter().zip(new).rev() {
        docs.splice(old.clone(), new);
    }
    for (doc, chunk) in docs.iter().zip(chunks) {
        doc.document().move_to(chunk.first_line);
    }
    for object in &gone {
        if let Ok(at) = place(objects, &object.key) {
            objects.remove(at);
        }
    }
    for object in &come {
        match place(objects, &object.key) {
            Ok(at) => objects[at] = object.clone(),
            Err(at) => objects.insert(at, object.clone()),
        }
    }
    Some(Revision { gone, come })
}

fn place(objects: &[Arc<Object>], key: &Key) -> Result<usize, usize> {
    objects.binary_search_by(|o| o.key.cmp(key))
}

/// Whether one of the new objects would stand twice in the file.
fn repeats<'a>(gone: &[Arc<Object>], mut come: impl Iterator<Item = &'a Arc<Object>>, objects: &[Arc<Object>]) -> bool {
    let mut seen: HashSet<&Key> = HashSet::new();
    come.any(|object| {
        let replaces = gone.iter().any(|g| g.key == object.key);
        !seen.insert(&object.key) || (!replaces && place(objects, &object.key).is_ok())
    })
}

/// Ranges of documents with the ranges of chunks that take their place, in order.
fn changes(docs: &[Doc], hashes: &[u64]) -> Option<Vec<(Range<usize>, Range<usize>)>> {
    let same = |doc: usize, chunk: usize| docs[doc].document().hash == hashes[chunk];
    if docs.len() == hashes.len() {
        let changed: Vec<_> = (0..docs.len()).filter(|i| !same(*i, *i)).map(|i| (i..i + 1, i..i + 1)).collect();
        return (changed.len() <= MOST).then_some(changed);
    }
    let shorter = docs.len().min(hashes.len());
    let before = (0..shorter).take_while(|i| same(*i, *i)).count();
    let after = (0..shorter - before).take_while(|i| same(docs.len() - 1 - i, hashes.len() - 1 - i)).count();
    let (old, new) = (before..docs.len() - after, before..hashes.len() - after);
    (old.len().max(new.len()) <= MOST).then(|| vec![(old, new)])
}
