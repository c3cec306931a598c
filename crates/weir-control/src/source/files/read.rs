//! The documents of a file, with what an earlier reading of it holds already.
use crate::{
    object::{Key, Object},
    source::document::{Doc, follow, split},
};
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};
use weir_config::model::FileId;

/// Reads the documents of a text; those that an earlier reading holds already are taken from there. What is broken keeps
/// the last good versions: of the objects that it names, or, where it does not even name them, of all that went missing.
pub fn read_docs(file: &Arc<FileId>, text: &str, old: Vec<Doc>) -> Vec<Doc> {
    let mut old = Old::new(old);
    let mut docs: Vec<Doc> = Vec::new();
    // Places of those that were read now.
    let mut new = Vec::new();
    for chunk in split(text) {
        let same = old.take(chunk.hash());
        docs.push(match same {
            // Places of findings are fixed: read it again for those.
            Some(doc) if doc.document().first_line() != chunk.first_line && !doc.trouble().findings.is_empty() => {
                let mut again = Doc::read(file, &chunk);
                again.follow(doc.document());
                if let Some(trouble) = again.trouble_mut() {
                    trouble.kept.clone_from(&doc.trouble().kept);
                }
                again
            }
            Some(doc) => {
                doc.document().move_to(chunk.first_line);
                doc
            }
            None => {
                new.push(docs.len());
                Doc::read(file, &chunk)
            }
        });
    }
    let changed = old.docs.iter().flatten().flat_map(Doc::objects);
    let mut new = new.into_iter().peekable();
    follow(docs.iter_mut().enumerate().filter(|(at, _)| new.next_if_eq(at).is_some()).map(|(_, doc)| doc), changed);
    if docs.iter().all(|d| d.trouble().broken.is_empty() && !d.trouble().unnamed) {
        return docs;
    }
    let present: HashSet<&Key> = docs.iter().flat_map(Doc::objects).map(|o| &o.key).collect();
    let lost = old.docs.iter().flatten().flat_map(|d| d.objects().iter().chain(&d.trouble().kept));
    let lost = lost.filter(|o| !present.contains(&o.key) && !o.is_stand_in());
    let mut lost: BTreeMap<Key, Arc<Object>> = lost.map(|o| (o.key.clone(), o.clone())).collect();
    let mut troubles: Vec<_> = docs.iter_mut().filter(|d| !d.is_plain()).filter_map(Doc::trouble_mut).collect();
    for trouble in &mut troubles {
        let named: Vec<Arc<Object>> = trouble.broken.iter().filter_map(|key| lost.remove(key)).collect();
        trouble.kept.retain(|k| !named.iter().any(|n| n.key == k.key));
        trouble.kept.extend(named);
    }
    if let Some(trouble) = troubles.iter_mut().find(|t| t.unnamed) {
        trouble.kept.extend(lost.into_values());
    }
    for trouble in troubles {
        let kept = &mut trouble.kept;
        for stand_in in trouble.stand_ins.drain(..) {
            if !kept.iter().any(|k| k.key == stand_in.key) {
                kept.push(stand_in);
            }
        }
    }
    docs
}

/// What a file held before, to be taken from: mostly in the same order.
struct Old {
    docs: Vec<Option<Doc>>,
    next: usize,
    /// Hashes with their places, in order; made once one is not where it is looked for.
    by_hash: Option<Vec<(u64, usize)>>,
}

impl Old {
    fn new(docs: Vec<Doc>) -> Old {
        Old { docs: docs.into_iter().map(Some).collect(), next: 0, by_hash: None }
    }

    fn take(&mut self, hash: u64) -> Option<Doc> {
        // The one after the last that was taken, or, where that was edited, the one behind it.
        let near = (self.next..self.next + 2).find(|at| self.is(*at, hash));
        let at = near.or_else(|| self.find(hash))?;
        self.next = at + 1;
        self.docs[at].take()
    }

    fn is(&self, at: usize, hash: u64) -> bool {
        self.docs.get(at).and_then(Option::as_ref).is_some_and(|d| d.document().hash == hash)
    }

    fn find(&mut self, hash: u64) -> Option<usize> {
        let docs = &self.docs;
        let places = self.by_hash.get_or_insert_with(|| {
            let mut all: Vec<(u64, usize)> =
                docs.iter().enumerate().filter_map(|(at, doc)| Some((doc.as_ref()?.document().hash, at))).collect();
            all.sort_unstable();
            all
        });
        let first = places.partition_point(|(h, _)| *h < hash);
        places[first..].iter().take_while(|(h, _)| *h == hash).map(|(_, at)| *at).find(|at| docs[*at].is_some())
    }
}
