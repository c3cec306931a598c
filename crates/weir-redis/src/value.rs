//! What a key holds.
use crate::{dict::Dict, weigh::Weigh};
use bytes::Bytes;
use std::{
    cmp::Ordering,
    collections::{BTreeSet, VecDeque},
};

pub type Hash = Dict<Bytes>;
pub type Set = Dict<()>;

#[derive(Clone, Debug)]
pub enum Value {
    String(Bytes),
    List(List),
    Hash(Hash),
    Set(Set),
    SortedSet(SortedSet),
}

impl Value {
    /// As `TYPE` answers.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::String(_) => "string",
            Value::List(_) => "list",
            Value::Hash(_) => "hash",
            Value::Set(_) => "set",
            Value::SortedSet(_) => "zset",
        }
    }
}

impl Weigh for Value {
    fn weight(&self) -> usize {
        match self {
            Value::String(v) => v.weight(),
            Value::List(v) => v.weight(),
            Value::Hash(v) => v.weight(),
            Value::Set(v) => v.weight(),
            Value::SortedSet(v) => v.weight(),
        }
    }
}

/// One of the types that a key may hold.
pub trait Kind: Default {
    fn of(value: &Value) -> Option<&Self>;
    fn of_mut(value: &mut Value) -> Option<&mut Self>;
    fn wrap(self) -> Value;
    /// Redis has no empty collections: the key goes with the last element.
    fn is_gone(&self) -> bool;
}

macro_rules! kind {
    ($type:ty, $variant:ident, |$v:ident| $gone:expr) => {
        impl Kind for $type {
            fn of(value: &Value) -> Option<&Self> {
                if let Value::$variant(v) = value { Some(v) } else { None }
            }
            fn of_mut(value: &mut Value) -> Option<&mut Self> {
                if let Value::$variant(v) = value { Some(v) } else { None }
            }
            fn wrap(self) -> Value {
                Value::$variant(self)
            }
            fn is_gone(&self) -> bool {
                let $v = self;
                $gone
            }
        }
    };
}

kind!(Bytes, String, |_v| false);
kind!(List, List, |v| v.items.is_empty());
kind!(Hash, Hash, |v| v.is_empty());
kind!(Set, Set, |v| v.is_empty());
kind!(SortedSet, SortedSet, |v| v.is_empty());

#[derive(Clone, Debug, Default)]
pub struct List {
    items: VecDeque<Bytes>,
    bytes: usize,
}

const ITEM: usize = 32;

impl List {
    pub fn items(&self) -> &VecDeque<Bytes> {
        &self.items
    }

    pub fn push(&mut self, front: bool, item: Bytes) {
        self.bytes += ITEM + item.len();
        if front { self.items.push_front(item) } else { self.items.push_back(item) }
    }

    pub fn pop(&mut self, front: bool) -> Option<Bytes> {
        let item = if front { self.items.pop_front() } else { self.items.pop_back() }?;
        self.bytes -= ITEM + item.len();
        Some(item)
    }

    pub fn set(&mut self, at: usize, item: Bytes) -> Option<()> {
        let known = self.items.get_mut(at)?;
        self.bytes = self.bytes - known.len() + item.len();
        *known = item;
        Some(())
    }

    pub fn insert(&mut self, at: usize, item: Bytes) {
        self.bytes += ITEM + item.len();
        self.items.insert(at, item);
    }

    /// Keeps what `keep` says, by place and item.
    pub fn retain(&mut self, mut keep: impl FnMut(usize, &Bytes) -> bool) {
        let mut at = 0;
        self.items.retain(|item| {
            at += 1;
            keep(at - 1, item)
        });
        self.bytes = self.items.iter().map(|i| ITEM + i.len()).sum();
    }
}

impl Weigh for List {
    fn weight(&self) -> usize {
        self.bytes
    }
}

/// A score that can be ordered: there is no NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score(pub f64);

impl Eq for Score {}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Score) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Score) -> Ordering {
        // -0 and 0 are one score.
        self.0.partial_cmp(&other.0).unwrap_or(Ordering::Equal)
    }
}

#[derive(Clone, Debug, Default)]
pub struct SortedSet {
    members: Dict<f64>,
    order: BTreeSet<(Score, Bytes)>,
}

impl SortedSet {
    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn score(&self, member: &[u8]) -> Option<f64> {
        self.members.get(member).copied()
    }

    /// By score, then by member.
    pub fn order(&self) -> &BTreeSet<(Score, Bytes)> {
        &self.order
    }

    pub fn members(&self) -> &Dict<f64> {
        &self.members
    }

    pub fn insert(&mut self, member: Bytes, score: f64) {
        if let Some(before) = self.members.insert(member.clone(), score) {
            self.order.remove(&(Score(before), member.clone()));
        }
        self.order.insert((Score(score), member));
    }

    pub fn remove(&mut self, member: &Bytes) -> Option<f64> {
        let score = self.members.remove(member)?;
        self.order.remove(&(Score(score), member.clone()));
        Some(score)
    }
}

impl Weigh for SortedSet {
    fn weight(&self) -> usize {
        self.members.weight() + self.members.len() * 64
    }
}
