//! What a decoder asks of a document: which fields, of which types, and what it does with them.
use std::collections::{BTreeMap, BTreeSet};

/// The way from a document to a value.
pub type Steps = Vec<Step>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Field(Box<str>),
    Index(usize),
}

/// As what a value was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Type {
    Text,
    Boolean,
    Integer,
    Number,
    Duration,
    Object,
    List,
    /// With free keys.
    Map,
}

/// A field that has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoEffect {
    /// Rightly so.
    Ignored,
    /// Not yet: it is a warning.
    Unsupported,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    pub types: BTreeSet<Type>,
    pub required: bool,
    pub no_effect: Option<NoEffect>,
    /// The words that are accepted, where there is a list of them.
    pub words: Vec<String>,
    pub bounds: Option<(i64, i64)>,
}

impl Asked {
    pub fn add(&mut self, other: Asked) {
        // Required is what always is, not only under some condition.
        self.required = other.required && (self.required || *self == Asked::default());
        self.types.extend(other.types);
        self.no_effect = self.no_effect.or(other.no_effect);
        self.bounds = self.bounds.or(other.bounds);
        for word in other.words {
            if !self.words.contains(&word) {
                self.words.push(word);
            }
        }
    }
}

pub type Record = BTreeMap<Steps, Asked>;

/// What the reference says of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// What holds where the field is left out; empty if nothing does.
    pub default: &'static str,
    pub text: &'static str,
}

pub type Descriptions = BTreeMap<Steps, Description>;
