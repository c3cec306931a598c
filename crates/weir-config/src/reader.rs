//! Typed reading of [`Node`]s. A field is either read or reported: when an [`Object`] is dropped, each field that nobody asked
//! for is an error, with the nearest name that was asked for, and each that is known but not supported is a warning. All
//! findings are collected, never just the first.
pub mod record;

use crate::{
    diagnostic::{Diagnostic, Severity},
    node::{Chars, Node, Value},
    source::Source,
    text::placeholder,
};
use record::{Asked, Description, Descriptions, NoEffect, Record, Step, Steps, Type};
use std::{
    cell::{Cell, RefCell},
    fmt::Display,
    ops::RangeInclusive,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

/// What all readers of one document share.
pub struct Reader {
    source: Arc<Source>,
    object: RefCell<Option<Arc<str>>>,
    found: RefCell<Vec<Diagnostic>>,
    /// Errors after which a decoder may have turned back: all but unknown fields.
    errors: Cell<usize>,
    /// What is asked, where somebody wants to know.
    record: Option<RefCell<Record>>,
    descriptions: RefCell<Descriptions>,
}

/// The reason of a field that the API does not have.
const UNKNOWN_FIELD: &str = "UnknownField";
const DURATION: &str = "a number with a unit h, m, s or ms, as 1h30m, 1.5s or 250ms";
/// What durations are bounded by: so that sums and small multiples of them fit every clock.
const MAX_DURATION: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The way to a value, as a list towards the root.
#[derive(Clone)]
struct Path(Option<Rc<(Path, Segment)>>);

enum Segment {
    Field(Box<str>),
    Index(usize),
}

/// A value that can be asked what it is; a wrong type is reported and read as `None`.
#[derive(Clone)]
pub struct Field<'a> {
    node: &'a Node,
    path: Path,
    reader: &'a Reader,
}

/// A map whose fields are read by name.
pub struct Object<'a> {
    field: Field<'a>,
    entries: &'a [(crate::node::Key, Node)],
    asked: RefCell<Vec<&'static str>>,
    /// Names that the API has and this program does not honour yet.
    unsupported: RefCell<Vec<&'static str>>,
    quiet: Cell<bool>,
    /// Errors that were known when this was opened.
    errors: usize,
}

impl Reader {
    pub fn new(source: Arc<Source>) -> Reader {
        Reader {
            source,
            object: RefCell::default(),
            found: RefCell::default(),
            errors: Cell::default(),
            record: None,
            descriptions: RefCell::default(),
        }
    }
    /// Also records what it is asked; see [`Reader::recorded`].
    pub fn recording(source: Arc<Source>) -> Reader {
        Reader { record: Some(RefCell::default()), ..Reader::new(source) }
    }
    pub fn recorded(&self) -> Record {
        self.record.as_ref().map(|record| record.take()).unwrap_or_default()
    }
    /// What was said of fields by [`Object::describe`].
    pub fn described(&self) -> Descriptions {
        self.descriptions.take()
    }
    fn note(&self, path: &Path, add: impl FnOnce(&mut Asked)) {
        if let Some(record) = &self.record {
            add(record.borrow_mut().entry(path.steps()).or_default());
        }
    }
    /// Names the object that further findings belong to.
    pub fn set_object(&self, object: Arc<str>) {
        *self.object.borrow_mut() = Some(object);
    }
    pub fn root<'a>(&'a self, node: &'a Node) -> Field<'a> {
        Field { node, path: Path(None), reader: self }
    }
    pub fn report(&self, mut d: Diagnostic) {
        if d.object.is_none() {
            d.object.clone_from(&self.object.borrow());
        }
        if d.severity == Severity::Error && d.reason != UNKNOWN_FIELD {
            self.errors.set(self.errors.get() + 1);
        }
        self.found.borrow_mut().push(d);
    }
    pub fn has_errors(&self) -> bool {
        self.found.borrow().iter().any(|d| d.severity == Severity::Error)
    }
    /// The message of the first error so far.
    pub fn first_error(&self) -> Option<String> {
        self.found.borrow().iter().find(|d| d.severity == Severity::Error).map(|d| d.message.clone())
    }
    /// The fields that errors were found at.
    pub fn errors<T>(&self, take: impl FnOnce(&mut dyn Iterator<Item = &str>) -> T) -> T {
        let found = self.found.borrow();
        take(&mut found.iter().filter(|d| d.severity == Severity::Error).map(|d| &*d.field))
    }
    /// Takes what was found so far.
    pub fn take(&self) -> Vec<Diagnostic> {
        self.found.take()
    }
    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }
}

impl Path {
    fn then(&self, segment: Segment) -> Path {
        Path(Some(Rc::new((self.clone(), segment))))
    }
    fn steps(&self) -> Steps {
        let Some((parent, segment)) = self.0.as_deref() else { return Vec::new() };
        let mut steps = parent.steps();
        steps.push(match segment {
            Segment::Field(name) => Step::Field(name.clone()),
            Segment::Index(i) => Step::Index(*i),
        });
        steps
    }
}

impl Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some((parent, segment)) = self.0.as_deref() else { return Ok(()) };
        parent.fmt(f)?;
        match segment {
            Segment::Field(name) if parent.0.is_none() => f.write_str(name),
            Segment::Field(name) if name.contains(['.', '/', ' ']) => write!(f, "[\"{name}\"]"),
            Segment::Field(name) => write!(f, ".{name}"),
            Segment::Index(i) => write!(f, "[{i}]"),
        }
    }
}

impl<'a> Field<'a> {
    pub fn node(&self) -> &'a Node {
        self.node
    }
    /// `spec.rules[0].matches`
    pub fn path(&self) -> String {
        self.path.to_string()
    }
    /// The one-based line in the file.
    pub fn line(&self) -> u32 {
        self.node.span.place(&self.reader.source).line
    }
    /// The one-based line in the document.
    pub fn document_line(&self) -> u32 {
        self.line() + 1 - self.reader.source.first_line
    }
    pub fn reader(&self) -> &'a Reader {
        self.reader
    }

    fn report(&self, span: Chars, d: Diagnostic) {
        let d = if span == Chars::default() {
            Diagnostic { field: self.path(), ..d }
        } else {
            d.at(&span.place(&self.reader.source), self.path())
        };
        self.reader.report(d);
    }
    /// Reports an error at this value; `help` says what is accepted.
    pub fn error(&self, reason: &'static str, message: impl Into<String>, help: impl Into<String>) {
        let mut help: String = help.into();
        if let Some(hint) = self.node.as_str().and_then(placeholder) {
            help = format!("{help}; {hint}");
        }
        self.report(self.node.span, Diagnostic::error(reason, message).help(help));
    }
    pub fn warning(&self, reason: &'static str, message: impl Into<String>, help: impl Into<String>) {
        self.report(self.node.span, Diagnostic::warning(reason, message).help(help));
    }
    pub fn invalid(&self, message: impl Into<String>, help: impl Into<String>) {
        self.error("InvalidValue", message, help);
    }
    /// A warning that this value is understood by the API and not honoured here yet.
    pub fn unsupported(&self) {
        self.report(self.node.span, Diagnostic::warning("UnsupportedField", "is not supported yet: Weir ignores it"));
    }
    fn wrong_type(&self, wanted: &str) {
        let help = match (&self.node.value, wanted) {
            (Value::Int(n), "a string") => format!("write {wanted}: \"{n}\""),
            (Value::Float(n), "a string") => format!("write {wanted}: \"{n}\""),
            (Value::Bool(b), "a string") => format!("write {wanted}: \"{b}\""),
            (Value::String(text), "a whole number" | "a number") if text.parse::<f64>().is_ok() => {
                format!("write {wanted}: {text} without quotes")
            }
            (Value::String(text), "true or false") if matches!(&**text, "true" | "false") => format!("write {wanted} without quotes"),
            _ => format!("write {wanted}"),
        };
        self.error("InvalidType", format!("expected {wanted}, found {}", self.node.kind()), help);
    }

    fn note(&self, kind: Type) {
        self.reader.note(&self.path, |asked| _ = asked.types.insert(kind));
    }

    pub fn str(&self) -> Option<&'a str> {
        self.note(Type::Text);
        let s = self.node.as_str();
        if s.is_none() {
            self.wrong_type("a string");
        }
        s
    }
    pub fn bool(&self) -> Option<bool> {
        self.note(Type::Boolean);
        match self.node.value {
            Value::Bool(b) => Some(b),
            _ => {
                self.wrong_type("true or false");
                None
            }
        }
    }
    /// A whole number within bounds.
    pub fn int(&self, bounds: RangeInclusive<i64>) -> Option<i64> {
        self.note(Type::Integer);
        self.reader.note(&self.path, |asked| asked.bounds = Some((*bounds.start(), *bounds.end())));
        let Value::Int(n) = self.node.value else {
            self.wrong_type("a whole number");
            return None;
        };
        if !bounds.contains(&n) {
            self.invalid(format!("{n} is out of bounds"), format!("a whole number from {} to {}", bounds.start(), bounds.end()));
            return None;
        }
        Some(n)
    }
    pub fn number(&self) -> Option<f64> {
        self.note(Type::Number);
        match self.node.value {
            Value::Int(n) => Some(n as f64),
            Value::Float(f) => Some(f),
            _ => {
                self.wrong_type("a number");
                None
            }
        }
    }
    pub fn port(&self) -> Option<u16> {
        self.int(1..=65535).and_then(|n| u16::try_from(n).ok())
    }
    /// `1h30m`, `1.5s`, `250ms`: Go's and Gateway API's form, which protobuf's JSON form is a part of.
    pub fn duration(&self) -> Option<Duration> {
        self.note(Type::Duration);
        if let Value::Int(n @ 0..) = self.node.value {
            self.error("InvalidType", "a duration needs a unit", format!("write {n}s"));
            return None;
        }
        let Some(text) = self.node.as_str() else {
            self.wrong_type("a string");
            return None;
        };
        match parse_duration(text) {
            Ok(d) => return Some(d),
            Err(NotDuration::Syntax) => self.invalid(format!("\"{text}\" is not a duration"), DURATION),
            Err(NotDuration::TooLong) => self.invalid(format!("{text} is too long"), "at most 100 years (876000h)"),
        }
        None
    }
    /// One of a list of words.
    pub fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        self.reader.note(&self.path, |asked| asked.words = words.iter().map(|(word, _)| word.to_string()).collect());
        let text = self.str()?;
        let found = words.iter().find(|(w, _)| *w == text).map(|(_, t)| *t);
        if found.is_none() {
            let list: Vec<&str> = words.iter().map(|(w, _)| *w).collect();
            self.unknown_value(text, format!("one of {}", list.join(", ")));
        }
        found
    }
    /// Reports a word that is none of those that are accepted.
    pub fn unknown_value(&self, text: &str, help: impl Into<String>) {
        self.invalid(format!("unknown value \"{text}\""), help);
    }
    pub fn object(&self) -> Option<Object<'a>> {
        self.note(Type::Object);
        match &self.node.value {
            Value::Map(entries) => Some(Object {
                field: self.clone(),
                entries,
                asked: RefCell::default(),
                unsupported: RefCell::default(),
                quiet: false.into(),
                errors: self.reader.errors.get(),
            }),
            _ => {
                self.wrong_type("an object");
                None
            }
        }
    }
    pub fn list(&self) -> Vec<Field<'a>> {
        self.note(Type::List);
        match &self.node.value {
            Value::List(items) => {
                let item = |(i, node)| Field { node, path: self.path.then(Segment::Index(i)), reader: self.reader };
                items.iter().enumerate().map(item).collect()
            }
            _ => {
                self.wrong_type("a list");
                Vec::new()
            }
        }
    }
    /// Records that the entry `key` of this map with free keys is read as a text: one of `words`, where there are some.
    pub fn asks_for(&self, key: &str, words: &[&str]) {
        if self.reader.record.is_some() {
            self.reader.note(&self.path.then(Segment::Field(key.into())), |asked| {
                asked.types.insert(Type::Text);
                if !words.is_empty() {
                    asked.words = words.iter().map(|word| word.to_string()).collect();
                }
            });
        }
    }
    /// A map with free keys: (key, value) pairs.
    pub fn entries(&self) -> Vec<(&'a str, Field<'a>)> {
        self.note(Type::Map);
        match &self.node.value {
            Value::Map(entries) => {
                let entry = |(k, node): &'a (crate::node::Key, Node)| {
                    (&*k.text, Field { node, path: self.path.then(Segment::Field(k.text.clone())), reader: self.reader })
                };
                entries.iter().map(entry).collect()
            }
            _ => {
                self.wrong_type("an object");
                Vec::new()
            }
        }
    }
}

impl<'a> Object<'a> {
    pub fn field(&self) -> &Field<'a> {
        &self.field
    }
    /// The value of a field; an explicit null is as good as absent.
    pub fn get(&self, name: &'static str) -> Option<Field<'a>> {
        self.asked.borrow_mut().push(name);
        self.note(name, |_| {});
        let node = self.entries.iter().find(|(k, _)| &*k.text == name).map(|(_, n)| n).filter(|n| n.value != Value::Null)?;
        Some(Field { node, path: self.field.path.then(Segment::Field(name.into())), reader: self.field.reader })
    }
    /// As `get`; its absence is an error.
    pub fn required(&self, name: &'static str) -> Option<Field<'a>> {
        let found = self.get(name);
        self.note(name, |asked| asked.required = true);
        if found.is_none() {
            self.field.error("MissingField", format!("the field {name} is missing"), format!("add {name}"));
        }
        found
    }
    pub fn has(&self, name: &'static str) -> bool {
        self.get(name).is_some()
    }
    pub fn str(&self, name: &'static str) -> Option<&'a str> {
        self.get(name)?.str()
    }
    pub fn bool(&self, name: &'static str) -> Option<bool> {
        self.get(name)?.bool()
    }
    pub fn int(&self, name: &'static str, bounds: RangeInclusive<i64>) -> Option<i64> {
        self.get(name)?.int(bounds)
    }
    pub fn port(&self, name: &'static str) -> Option<u16> {
        self.get(name)?.port()
    }
    pub fn duration(&self, name: &'static str) -> Option<Duration> {
        self.get(name)?.duration()
    }
    pub fn choice<T: Copy>(&self, name: &'static str, words: &[(&str, T)]) -> Option<T> {
        self.get(name)?.choice(words)
    }
    pub fn object(&self, name: &'static str) -> Option<Object<'a>> {
        self.get(name)?.object()
    }
    /// The items of a list; none where the field is absent.
    pub fn list(&self, name: &'static str) -> Vec<Field<'a>> {
        self.get(name).map(|f| f.list()).unwrap_or_default()
    }
    /// As `list`; two items with the same text or number under `key` are an error, at the later one.
    pub fn distinct(&self, name: &'static str, key: &str) -> Vec<Field<'a>> {
        let items = self.list(name);
        let mut seen: Vec<&Value> = Vec::with_capacity(items.len());
        for item in &items {
            let Some(node) = item.node.get(key).filter(|n| matches!(n.value, Value::String(_) | Value::Int(_))) else { continue };
            if seen.contains(&&node.value) {
                item.error("DuplicateValue", format!("another one before has this {key}"), format!("give each a {key} of its own"));
            }
            seen.push(&node.value);
        }
        items
    }
    pub fn strings(&self, name: &'static str) -> Vec<String> {
        self.list(name).iter().filter_map(|f| f.str()).map(str::to_string).collect()
    }
    /// The entries of a map with free keys; none where the field is absent.
    pub fn entries(&self, name: &'static str) -> Vec<(&'a str, Field<'a>)> {
        self.get(name).map(|f| f.entries()).unwrap_or_default()
    }
    /// Fields that the API has and this program does not honour yet: named as such where they occur.
    pub fn unsupported(&self, names: &[&'static str]) {
        self.unsupported.borrow_mut().extend(names);
        names.iter().for_each(|name| self.note(name, |asked| asked.no_effect = Some(NoEffect::Unsupported)));
    }
    /// Fields that are right to have no effect here.
    pub fn ignore(&self, names: &[&'static str]) {
        self.asked.borrow_mut().extend(names);
        names.iter().for_each(|name| self.note(name, |asked| asked.no_effect = Some(NoEffect::Ignored)));
    }
    /// What the reference says of fields: the name, the default (empty for none) and a short description.
    pub fn describe(&self, fields: &[(&'static str, &'static str, &'static str)]) {
        if self.field.reader.record.is_none() {
            return;
        }
        let mut descriptions = self.field.reader.descriptions.borrow_mut();
        for (name, default, text) in fields {
            let path = self.field.path.then(Segment::Field((*name).into()));
            descriptions.insert(path.steps(), Description { default, text });
        }
    }
    fn note(&self, name: &str, add: impl FnOnce(&mut Asked)) {
        if self.field.reader.record.is_some() {
            self.field.reader.note(&self.field.path.then(Segment::Field(name.into())), add);
        }
    }
    /// Nothing that is unread is worth a word.
    pub fn ignore_rest(&self) {
        self.quiet.set(true);
    }
}

impl Drop for Object<'_> {
    fn drop(&mut self) {
        if self.quiet.get() || std::thread::panicking() {
            return;
        }
        let (asked, unsupported) = (self.asked.borrow(), self.unsupported.borrow());
        // After an error its reader may have turned back before it asked for everything.
        let partial = self.field.reader.errors.get() > self.errors;
        for (key, node) in self.entries.iter().filter(|(k, _)| !asked.iter().any(|a| **a == *k.text)) {
            let path = self.field.path.then(Segment::Field(key.text.clone()));
            let field = Field { node, path, reader: self.field.reader };
            let d = if unsupported.iter().any(|u| **u == *key.text) {
                Diagnostic::warning("UnsupportedField", format!("{} is not supported yet: Weir ignores it", key.text))
            } else {
                let far = if partial { 2 } else { 3 };
                let near =
                    asked.iter().chain(unsupported.iter()).min_by_key(|a| distance(a, &key.text)).filter(|a| distance(a, &key.text) <= far);
                let d = Diagnostic::error(UNKNOWN_FIELD, format!("unknown field \"{}\"", key.text));
                match near {
                    Some(name) => d.help(format!("did you mean {name}?")),
                    None if partial => continue,
                    None => {
                        let mut names: Vec<&str> = asked.iter().chain(unsupported.iter()).copied().collect();
                        names.sort_unstable();
                        names.dedup();
                        d.help(format!("one of {}", names.join(", ")))
                    }
                }
            };
            field.report(key.span, d);
        }
    }
}

/// The nearest of some words that is near enough to `word` to be meant by it.
pub fn nearest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let far = if word.len() < 5 { 1 } else { 2 };
    words
        .into_iter()
        .map(|w| (distance(&w.to_ascii_lowercase(), &word.to_ascii_lowercase()), w))
        .filter(|(d, _)| *d <= far)
        .min()
        .map(|(_, w)| w)
}

/// Letters to insert, remove or change to get from one word to the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let up = row[j + 1];
            row[j + 1] = (diagonal + usize::from(ca != *cb)).min(up + 1).min(row[j] + 1);
            diagonal = up;
        }
    }
    row[b.len()]
}

/// Bytes: a Kubernetes quantity of whole numbers, as `64Mi`, `1G` or `1024`.
pub fn quantity(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit: u64 = match &text[digits..] {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(unit)
}

/// `1h30m`, `1.5s`, `250ms`, `0s`; up to 100 years.
pub fn duration(text: &str) -> Option<Duration> {
    parse_duration(text).ok()
}

enum NotDuration {
    Syntax,
    TooLong,
}

fn parse_duration(text: &str) -> Result<Duration, NotDuration> {
    use NotDuration::{Syntax, TooLong};
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(Syntax);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(Syntax)?;
        let number: f64 = rest[..digits].parse().map_err(|_| Syntax)?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(Syntax),
        };
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| TooLong)?;
        total = total.checked_add(part).filter(|d| *d <= MAX_DURATION).ok_or(TooLong)?;
        rest = &rest[unit..];
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str, f: impl FnOnce(&Object<'_>)) -> Vec<Diagnostic> {
        let source = Arc::new(Source::new("conf.d/shop.yaml", text, 11));
        let docs = crate::node::parse(&source).unwrap();
        let reader = Reader::new(source);
        reader.set_object("HTTPRoute/default/shop".into());
        f(&reader.root(&docs[0]).object().unwrap());
        reader.take()
    }

    #[test]
    fn every_field_is_read_or_reported() {
        let text = "spec:\n  hostnmaes: [a]\n  rules:\n  - timeout: 5 s\n    port: 70000\n    kind: Exakt\n  parentRefs: 7\n  extra: {}\n";
        let found = read(text, |root| {
            let spec = root.object("spec").unwrap();
            assert!(spec.strings("hostnames").is_empty());
            for rule in spec.list("rules") {
                let rule = rule.object().unwrap();
                assert_eq!(rule.duration("timeout"), None);
                assert_eq!(rule.port("port"), None);
                assert_eq!(rule.choice("kind", &[("Exact", 1), ("Prefix", 2)]), None);
            }
            assert!(spec.list("parentRefs").is_empty());
            spec.unsupported(&["extra"]);
        });
        let lines: Vec<String> = found.iter().map(Diagnostic::line).collect();
        let want = [
            "error: conf.d/shop.yaml:14:14: spec.rules[0].timeout: \"5 s\" is not a duration; a number with a unit h, m, s or ms, as 1h30m, 1.5s or 250ms",
            "error: conf.d/shop.yaml:15:11: spec.rules[0].port: 70000 is out of bounds; a whole number from 1 to 65535",
            "error: conf.d/shop.yaml:16:11: spec.rules[0].kind: unknown value \"Exakt\"; one of Exact, Prefix",
            "error: conf.d/shop.yaml:17:15: spec.parentRefs: expected a list, found a number; write a list",
            "error: conf.d/shop.yaml:12:3: spec.hostnmaes: unknown field \"hostnmaes\"; did you mean hostnames?",
            "warning: conf.d/shop.yaml:18:3: spec.extra: extra is not supported yet: Weir ignores it",
        ];
        assert_eq!(lines, want);
        let snippet = found[1].snippet(false);
        assert!(snippet.contains("conf.d/shop.yaml:15") && snippet.contains("^^^^^") && snippet.contains("port: 70000"), "{snippet}");
    }

    #[test]
    fn durations() {
        for (text, ms) in [
            ("5s", Some(5000)),
            ("1.5s", Some(1500)),
            ("1h2m3s4ms", Some(3_723_004)),
            ("0s", Some(0)),
            ("5", None),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("5 s", None),
            ("876000h", Some(3_153_600_000_000)),
            ("876001h", None),
            ("2000000000000000h", None),
        ] {
            assert_eq!(duration(text).map(|d| d.as_millis()), ms, "{text}");
        }
    }
}
