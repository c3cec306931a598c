//! The annotations as they were written, and reading their values.
use std::{cell::RefCell, time::Duration};
use weir_config::reader::{Field, Object};

/// In the order in which they count.
pub const PREFIXES: [&str; 2] = ["nginx.ingress.kubernetes.io/", "higress.io/"];

/// The name of an annotation for an ingress controller, and whether its prefix is one of those that are read.
pub fn named(key: &str) -> Option<(&str, bool)> {
    let read = PREFIXES.iter().find_map(|prefix| key.strip_prefix(prefix)).map(|name| (name, true));
    let others = || key.split_once('/').filter(|(domain, _)| domain.ends_with("ingress.kubernetes.io")).map(|(_, name)| (name, false));
    read.or_else(others)
}

/// One annotation.
pub struct Item<'a> {
    /// With its prefix.
    pub key: &'a str,
    /// Without it.
    pub name: &'a str,
    /// Whether its prefix is one of those that are read.
    pub known: bool,
    pub field: Field<'a>,
}

impl Item<'_> {
    pub fn text(&self) -> &str {
        self.field.node().as_str().unwrap_or_default()
    }
}

/// Those for an ingress controller. Unread ones are left at the end.
pub struct Given<'a> {
    items: Vec<Item<'a>>,
    /// Names of those whose value is not a text.
    wrong: Vec<&'a str>,
    asked: RefCell<Vec<&'a str>>,
    /// The annotations, to tell what is read of them.
    all: Option<Field<'a>>,
}

impl<'a> Given<'a> {
    pub fn new(meta: &Object<'a>) -> Given<'a> {
        let mut items: Vec<(usize, Item<'a>)> = Vec::new();
        let mut wrong = Vec::new();
        for (key, field) in meta.entries("annotations") {
            let Some((name, known)) = named(key) else { continue };
            let rank = PREFIXES.iter().position(|prefix| key.starts_with(prefix)).unwrap_or(PREFIXES.len());
            // A wrong type is reported where all metadata is read.
            if field.node().as_str().is_none() {
                wrong.push(name);
                continue;
            }
            items.push((rank, Item { key, name, known, field }));
        }
        items.sort_by_key(|(rank, _)| *rank);
        Given { items: items.into_iter().map(|(_, item)| item).collect(), wrong, asked: RefCell::default(), all: meta.get("annotations") }
    }
    fn asks_for(&self, name: &str, words: &[&str]) {
        if let Some(all) = &self.all {
            all.asks_for(&format!("{}{name}", PREFIXES[0]), words);
        }
    }
    pub fn is_empty(&self) -> bool {
        self.items.is_empty() && self.wrong.is_empty()
    }
    /// Names of those whose value is not a text.
    pub fn wrong(&self) -> impl Iterator<Item = &'a str> {
        self.wrong.iter().copied()
    }
    pub fn items(&self) -> impl Iterator<Item = &Item<'a>> {
        self.items.iter()
    }
    /// Those that are not read.
    pub fn rest(&self) -> impl Iterator<Item = &Item<'a>> {
        let asked = self.asked.borrow().clone();
        self.items.iter().filter(move |item| !item.known || !asked.contains(&item.key))
    }
    /// Every annotation that begins with `start`, without it.
    pub fn all(&self, start: &str) -> Vec<(&'a str, &Field<'a>)> {
        self.asks_for(&format!("{start}NAME"), &[]);
        let found = self.items.iter().filter(|i| i.known).filter_map(|i| Some((i, i.name.strip_prefix(start)?)));
        found
            .map(|(item, rest)| {
                self.asked.borrow_mut().push(item.key);
                (rest, &item.field)
            })
            .collect()
    }

    /// As it is written.
    pub fn get(&self, name: &str) -> Option<&Field<'a>> {
        self.asks_for(name, &[]);
        let mut found = None;
        for item in self.items.iter().filter(|i| i.known && i.name == name) {
            self.asked.borrow_mut().push(item.key);
            found = found.or(Some(&item.field));
        }
        found
    }
    /// A text without white space around it. An empty one says nothing.
    pub fn text(&self, name: &str) -> Option<(&Field<'a>, &'a str)> {
        let field = self.get(name)?;
        let text = field.node().as_str()?.trim();
        if text.is_empty() {
            field.warning("EmptyValue", "is empty and has no effect", "remove it, or give it a value");
            return None;
        }
        Some((field, text))
    }
    pub fn bool(&self, name: &str) -> Option<bool> {
        self.asks_for(name, &["true", "false"]);
        let (field, text) = self.text(name)?;
        match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
            _ => {
                field.invalid(format!("\"{text}\" is not a boolean"), "\"true\" or \"false\"");
                None
            }
        }
    }
    /// A switch that is off unless it is there and true.
    pub fn is_on(&self, name: &str) -> bool {
        self.bool(name).unwrap_or(false)
    }
    /// A whole number from `least` up.
    pub fn number(&self, name: &str, least: u32) -> Option<u32> {
        let (field, text) = self.text(name)?;
        let found = text.parse().ok().filter(|n| *n >= least);
        if found.is_none() {
            field.invalid(format!("\"{text}\" is not a number that is accepted"), format!("a whole number from {least} up, in quotes"));
        }
        found
    }
    /// A number that keeps requests out: an empty one must not let everybody in.
    pub fn limit(&self, name: &str) -> Option<u32> {
        let field = self.get(name)?;
        if field.node().as_str().is_some_and(|text| text.trim().is_empty()) {
            field.invalid("is empty", "a whole number from 1 up, in quotes");
            return None;
        }
        self.number(name, 1)
    }
    /// A whole number of seconds, as nginx takes it with a unit or without; 0 says nothing.
    pub fn seconds(&self, name: &str) -> Option<Duration> {
        let (field, text) = self.text(name)?;
        // 100 years, as all durations.
        let found = text.strip_suffix('s').unwrap_or(text).parse().ok().filter(|n| *n <= 100 * 365 * 24 * 3600);
        if found.is_none() {
            field.invalid(format!("\"{text}\" is not a number of seconds"), "a whole number of seconds, in quotes");
        }
        found.filter(|n| *n > 0).map(Duration::from_secs)
    }
    /// One of some words, in whatever case.
    pub fn choice<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Option<T> {
        self.asks_for(name, &words.iter().map(|(word, _)| *word).collect::<Vec<_>>());
        let (field, text) = self.text(name)?;
        let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, value)| *value);
        if found.is_none() {
            let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            field.invalid(format!("\"{text}\" is not accepted here"), format!("one of {}", list.join(", ")));
        }
        found
    }
}

/// The items of a list with commas between, without white space around them and without empty ones.
pub fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}
