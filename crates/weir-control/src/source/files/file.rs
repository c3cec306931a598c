//! What one file holds.
use super::stamp::Stamp;
use crate::{
    object::{Key, Object},
    source::{
        document::{Doc, split},
        revise::{Revision, revise},
        text::Unreadable,
    },
};
use std::{collections::BTreeSet, sync::Arc};
use weir_config::{diagnostic::Diagnostic, model::FileId};

/// There are as many of these as there are files, and most hold a few objects and nothing wrong.
#[derive(Default)]
pub struct File {
    pub stamp: Option<Stamp>,
    docs: Box<[Doc]>,
    /// By key, the first of equals; kept ones where there is no other. Empty where it `is_short`: there the documents have them.
    index: Box<[Arc<Object>]>,
    /// `None` for a file of which there is nothing to say, and in which every object stands once.
    trouble: Option<Box<Trouble>>,
}

/// What only few files have.
#[derive(Default)]
struct Trouble {
    /// It could not be read.
    failure: Option<Diagnostic>,
    /// Objects that stand here a second time.
    twice: Vec<(Arc<Object>, Arc<Object>)>,
    /// Those of the objects that are last good versions of what is in error now: another file's count before them.
    kept: BTreeSet<Key>,
}

/// So few documents are looked through.
const FEW: usize = 8;

impl File {
    pub fn of(stamp: Option<Stamp>, docs: Vec<Doc>) -> File {
        let mut trouble = Trouble::default();
        let real = docs.iter().flat_map(Doc::objects);
        let kept = docs.iter().flat_map(|d| &d.trouble().kept);
        // A stable sort: the first of equals stays first, and what is kept comes after what is there.
        let mut objects: Vec<(bool, Arc<Object>)> =
            real.map(|o| (true, o)).chain(kept.map(|o| (false, o))).map(|(r, o)| (r, o.clone())).collect();
        objects.sort_by(|(_, a), (_, b)| a.key.cmp(&b.key));
        objects.dedup_by(|(real, object), (_, first)| {
            let same = object.key == first.key;
            if same && *real {
                trouble.twice.push((object.clone(), first.clone()));
            }
            same
        });
        trouble.kept = objects.iter().filter(|(real, _)| !real).map(|(_, o)| o.key.clone()).collect();
        let plain = trouble.twice.is_empty() && docs.iter().all(Doc::is_plain);
        let mut file = File { stamp, docs: docs.into(), index: Box::default(), trouble: (!plain).then(|| Box::new(trouble)) };
        if !file.is_short() {
            file.index = objects.into_iter().map(|(_, o)| o).collect();
        }
        file
    }

    fn is_short(&self) -> bool {
        let stands_twice = self.trouble.as_ref().is_some_and(|trouble| !trouble.twice.is_empty());
        self.docs.len() <= FEW && self.docs.iter().all(|doc| matches!(doc, Doc::One(_))) && !stands_twice
    }

    pub fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        match self.is_short() {
            true => self.docs.iter().flat_map(Doc::objects).find(|o| o.key == *key),
            false => self.index.binary_search_by(|o| o.key.cmp(key)).ok().map(|at| &self.index[at]),
        }
    }

    /// Its objects in the order of their keys.
    pub fn objects(&self) -> Vec<&Arc<Object>> {
        match self.is_short() {
            true => {
                let mut objects: Vec<_> = self.docs.iter().flat_map(Doc::objects).collect();
                objects.sort_by(|a, b| a.key.cmp(&b.key));
                objects
            }
            false => self.index.iter().collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.index.is_empty() && self.docs.iter().all(|doc| doc.objects().is_empty())
    }

    /// Whether nothing was found in it.
    pub fn is_plain(&self) -> bool {
        self.trouble.is_none()
    }

    pub fn findings(&self) -> Vec<Diagnostic> {
        let failure = self.trouble.iter().filter_map(|trouble| trouble.failure.clone());
        let of_docs = self.docs.iter().flat_map(|d| &d.trouble().findings).cloned();
        let twice = self.trouble.iter().flat_map(|t| &t.twice).map(|(object, first)| stands_twice(object, first));
        failure.chain(of_docs).chain(twice).collect()
    }

    /// Whether an object is the last good version of one that is in error now.
    pub fn keeps(&self, key: &Key) -> bool {
        self.trouble.as_ref().is_some_and(|t| t.kept.contains(key))
    }

    /// The objects that are such versions.
    pub fn kept(&self) -> impl Iterator<Item = &Key> {
        self.trouble.iter().flat_map(|trouble| &trouble.kept)
    }

    /// It cannot be read: what was read of it before stays.
    pub fn fail(&mut self, name: &str, why: &Unreadable, stamp: Option<Stamp>) {
        self.trouble.get_or_insert_default().failure = Some(why.diagnostic(name));
        self.stamp = stamp;
    }

    pub fn into_docs(self) -> Vec<Doc> {
        self.docs.into()
    }

    /// Takes over a text that changed in few places; what it cannot do so is left as it is, for a reading of the whole.
    pub fn revise(&mut self, id: &Arc<FileId>, text: &str, stamp: Option<Stamp>) -> Option<Revision> {
        if self.trouble.is_some() || self.is_short() {
            return None;
        }
        let mut index = std::mem::take(&mut self.index).into_vec();
        let mut docs = std::mem::take(&mut self.docs).into_vec();
        let revision = revise(id, &split(text), &mut docs, &mut index);
        (self.docs, self.index) = (docs.into(), index.into());
        if revision.is_some() {
            self.stamp = stamp;
            if self.is_short() {
                self.index = Box::default();
            }
        }
        revision
    }
}

pub fn stands_twice(object: &Object, first: &Object) -> Diagnostic {
    let origin = first.origin();
    let file = origin.file().map_or("", |file| &**file);
    Diagnostic::error("DuplicateObject", format!("duplicate {}: the one at {file}:{} is used", object.title(), origin.line.get()))
        .help("remove one of them, or rename it")
        .from_origin(&object.origin())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_small() {
        assert!(size_of::<File>() <= 48, "{}", size_of::<File>());
    }
}
