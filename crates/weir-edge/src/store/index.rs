//! What the store knows in memory: the sets, and where the values of their objects lie. Recovery and writing change it by the same
//! function, so that a store that was opened again knows what it knew.
use super::{
    digest::{self, Digest},
    record::Meta,
    segment::{RollCall, Segment},
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loc {
    pub segment: u32,
    pub offset: u32,
    pub len: u32,
    /// Of its value, if this process has written it.
    pub digest: Digest,
}

impl Loc {
    /// Of a value that is known to be lost.
    pub const LOST: Loc = Loc { segment: 0, offset: 0, len: 0, digest: digest::UNKNOWN };

    pub fn is_at(&self, other: &Loc) -> bool {
        (self.segment, self.offset) == (other.segment, other.offset)
    }
}

/// What is known of records that a set may have lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    Whole,
    /// Records are missing that cannot be attributed: the set is whole if its next record follows its last one.
    Suspect,
    Lost,
}

pub type Objects = BTreeMap<Box<str>, Loc>;

#[derive(Debug)]
pub struct SetState {
    /// `None` while recovery has not come to the record with the name.
    pub name: Option<Box<str>>,
    pub head: Bytes,
    /// A complete list was committed.
    pub whole: bool,
    pub loss: Loss,
    pub objects: Objects,
    /// Stored bytes of the objects' records.
    pub bytes: u64,
    /// The segment of the newest record with the name; with it cleaning moves the name, the head and the flags.
    pub defined: u32,
    /// The sequence number of the newest record.
    pub last: u64,
}

impl SetState {
    fn new(last: u64) -> SetState {
        let objects = BTreeMap::new();
        SetState { name: None, head: Bytes::new(), whole: false, loss: Loss::Whole, objects, bytes: 0, defined: 0, last }
    }
    pub fn readable(&self) -> bool {
        self.loss == Loss::Whole
    }
    /// Begun, but nothing was written to it.
    pub fn bare(&self) -> bool {
        self.readable() && !self.whole && self.head.is_empty() && self.objects.is_empty()
    }
}

/// A list that has not been committed.
#[derive(Debug, Default)]
pub struct Pending {
    pub set: u32,
    pub objects: Objects,
    /// All of its records are known, from the first one.
    intact: bool,
}

#[derive(Debug)]
pub struct SegmentInfo {
    pub file: Arc<Segment>,
    /// Where its records begin and end.
    pub start: u32,
    pub end: u32,
    /// Bytes of records that hold a current value.
    pub live: u64,
    /// Its hint is written.
    pub hinted: bool,
}

#[derive(Debug, Default)]
pub struct Index {
    pub sets: BTreeMap<u32, SetState>,
    names: HashMap<Box<str>, u32>,
    /// By the sequence number of the record that began it.
    pub pending: HashMap<u64, Pending>,
    pub segments: BTreeMap<u32, SegmentInfo>,
}

impl Index {
    pub fn id(&self, name: &str) -> Option<u32> {
        self.names.get(name).copied()
    }
    pub fn set(&self, name: &str) -> Option<&SetState> {
        self.sets.get(&self.id(name)?)
    }
    /// The value of an object is not what was written.
    pub fn doubt(&mut self, set: &str, key: &str) {
        let id = self.id(set);
        let found = id.and_then(|id| self.sets.get_mut(&id)?.objects.get_mut(key));
        found.into_iter().for_each(|loc| loc.digest = digest::UNKNOWN);
    }

    /// All bytes of the log.
    pub fn total(&self) -> u64 {
        self.segments.values().map(|segment| u64::from(segment.end)).sum()
    }
    pub fn live(&self) -> u64 {
        self.segments.values().map(|segment| segment.live).sum()
    }

    pub fn add_segment(&mut self, file: Arc<Segment>, start: u32) {
        self.segments.insert(file.id, SegmentInfo { file, start, end: start, live: 0, hinted: false });
    }

    /// Takes over one record of a set.
    pub fn apply(&mut self, id: u32, seq: u64, prev: u64, meta: Meta, loc: Loc) {
        if id == 0 {
            return;
        }
        let set = self.sets.entry(id).or_insert_with(|| SetState::new(0));
        if set.last == prev {
            set.loss = if set.loss == Loss::Suspect { Loss::Whole } else { set.loss };
        } else {
            self.lose(id);
        }
        let Some(set) = self.sets.get_mut(&id) else { return };
        set.last = seq;
        match meta {
            Meta::Set { name, head, whole, lost } => {
                (set.head, set.whole, set.defined) = (head, whole, loc.segment);
                if lost {
                    set.loss = Loss::Lost;
                }
                set.name = Some(name.clone());
                // Another set of this name was dropped by a record that is missing.
                if let Some(other) = self.names.insert(name, id).filter(|other| *other != id) {
                    self.forget(other);
                }
            }
            Meta::Put { key, head } => {
                set.head = head;
                self.place(id, key, loc);
            }
            Meta::Moved { key } => self.place(id, key, loc),
            Meta::Remove { key, head } => {
                set.head = head;
                if let Some(old) = set.objects.remove(&key) {
                    set.bytes -= u64::from(old.len);
                    self.dead(old);
                }
            }
            Meta::Head { head } => set.head = head,
            Meta::Begin => {
                self.pending.insert(seq, Pending { set: id, objects: BTreeMap::new(), intact: true });
            }
            Meta::Item { begin, key } => self.pend(id, begin, key, loc),
            Meta::Commit { begin, count, head } => self.commit(id, begin, count, head),
            Meta::Drop => {
                self.forget(id);
            }
            Meta::Damaged { key: None, .. } => self.lose(id),
            Meta::Damaged { key: Some(key), begin: None } => self.place(id, key, Loc::LOST),
            Meta::Damaged { key: Some(key), begin: Some(begin) } => self.pend(id, begin, key, Loc::LOST),
            Meta::Mark { .. } | Meta::Unknown => {}
        }
    }

    fn place(&mut self, id: u32, key: Box<str>, loc: Loc) {
        let Some(set) = self.sets.get_mut(&id) else { return };
        set.bytes += u64::from(loc.len);
        let old = set.objects.insert(key, loc);
        set.bytes -= old.map_or(0, |old| u64::from(old.len));
        self.alive(loc);
        old.into_iter().for_each(|old| self.dead(old));
    }

    fn pend(&mut self, id: u32, begin: u64, key: Box<str>, loc: Loc) {
        // The record that began it may lie in a segment that is gone.
        let pending = self.pending.entry(begin).or_insert_with(|| Pending { set: id, ..Pending::default() });
        let old = pending.objects.insert(key, loc);
        self.alive(loc);
        old.into_iter().for_each(|old| self.dead(old));
    }

    fn commit(&mut self, id: u32, begin: u64, count: u64, head: Bytes) {
        // Of a list that began in a segment that is gone some objects were moved behind this record; the chain of the set's records
        // says whether all are there. A list that is known from its beginning makes the set whole whatever was lost before.
        let Pending { objects, intact, .. } = self.pending.remove(&begin).unwrap_or_default();
        let Some(set) = self.sets.get_mut(&id) else { return };
        if intact {
            set.loss = if objects.len() as u64 == count { Loss::Whole } else { Loss::Lost };
        }
        (set.head, set.whole) = (head, true);
        set.bytes = objects.values().map(|loc| u64::from(loc.len)).sum();
        let old = std::mem::replace(&mut set.objects, objects);
        old.into_values().for_each(|loc| self.dead(loc));
    }

    /// Forgets a set and the lists that were being written for it.
    fn forget(&mut self, id: u32) {
        let gone: Vec<u64> = self.pending.iter().filter(|(_, pending)| pending.set == id).map(|(begin, _)| *begin).collect();
        gone.into_iter().for_each(|begin| self.abandon(begin));
        let Some(set) = self.sets.remove(&id) else { return };
        if let Some(name) = set.name
            && self.names.get(&name) == Some(&id)
        {
            self.names.remove(&name);
        }
        set.objects.into_values().for_each(|loc| self.dead(loc));
    }

    /// Forgets a list that will not be committed.
    pub fn abandon(&mut self, begin: u64) {
        let pending = self.pending.remove(&begin).unwrap_or_default();
        pending.objects.into_values().for_each(|loc| self.dead(loc));
    }

    fn lose(&mut self, id: u32) {
        if let Some(set) = self.sets.get_mut(&id) {
            set.loss = Loss::Lost;
        }
        self.pending.values_mut().filter(|pending| pending.set == id).for_each(|pending| pending.intact = false);
    }

    fn alive(&mut self, loc: Loc) {
        if let Some(segment) = self.segments.get_mut(&loc.segment) {
            segment.live += u64::from(loc.len);
        }
    }
    fn dead(&mut self, loc: Loc) {
        if let Some(segment) = self.segments.get_mut(&loc.segment) {
            segment.live -= u64::from(loc.len);
        }
    }

    /// Records are missing here. `of`: the one set that they belong to, if that is known; 0: no set.
    pub fn gap(&mut self, of: Option<u32>) {
        match of {
            Some(id) => self.lose(id),
            None => self.sets.values_mut().filter(|set| set.loss == Loss::Whole).for_each(|set| set.loss = Loss::Suspect),
        }
    }

    /// Compares with how far the sets had come when a segment began. `first`: nothing was read before.
    pub fn roll_call(&mut self, calls: &[RollCall], first: bool) {
        for call in calls {
            let set = self.sets.entry(call.set).or_insert_with(|| SetState::new(if first { call.last } else { 0 }));
            let missing = set.last != call.last;
            set.last = call.last;
            match set.loss {
                _ if missing => self.lose(call.set),
                // A list that is being written may make it whole.
                _ if call.lost => set.loss = Loss::Lost,
                Loss::Suspect => set.loss = Loss::Whole,
                Loss::Whole | Loss::Lost => {}
            }
        }
        // What is not called was dropped by a record that is missing.
        let known: std::collections::HashSet<u32> = calls.iter().map(|call| call.set).collect();
        let gone: Vec<u32> = self.sets.keys().filter(|id| !known.contains(id)).copied().collect();
        gone.into_iter().for_each(|id| self.forget(id));
    }

    pub fn calls(&self) -> Vec<RollCall> {
        self.sets.iter().map(|(id, set)| RollCall { set: *id, last: set.last, lost: !set.readable() }).collect()
    }

    /// Ends recovery: lists without commit and sets without a name are nothing.
    pub fn settle(&mut self) {
        let begun: Vec<u64> = self.pending.keys().copied().collect();
        begun.into_iter().for_each(|begin| self.abandon(begin));
        let unnamed: Vec<u32> = self.sets.iter().filter(|(_, set)| set.name.is_none()).map(|(id, _)| *id).collect();
        unnamed.into_iter().for_each(|id| self.forget(id));
        for set in self.sets.values_mut() {
            if set.loss == Loss::Suspect {
                set.loss = Loss::Lost;
            }
        }
    }
}
