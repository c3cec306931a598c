//! A YAML (or JSON) document as a tree that remembers where everything stood.
use crate::diagnostic::{Diagnostic, Place, Source};
use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use std::{collections::HashMap, sync::Arc};

/// Nodes of one document, aliases counted each time they are used: keeps a small text from becoming a large tree.
const MAX_NODES: usize = 1_000_000;
const MAX_DEPTH: usize = 100;

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub value: Value,
    pub span: Chars,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    String(Box<str>),
    List(Vec<Node>),
    /// In the order of the text; no key stands twice.
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    pub text: Box<str>,
    pub span: Chars,
}

/// A range of characters in a source text, with the one-based line in that text and the one-based column of its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chars {
    start: u32,
    end: u32,
    line: u32,
    column: u32,
}

impl Chars {
    fn of(span: &Span) -> Chars {
        let (start, end) = (span.start.index() as u32, span.end.index() as u32);
        Chars { start, end, line: span.start.line() as u32, column: span.start.col() as u32 + 1 }
    }

    /// The one-based line in the source's text.
    pub fn line(self) -> u32 {
        self.line
    }

    /// The place in `source`, from which the node was read.
    pub fn place(self, source: &Arc<Source>) -> Place {
        let byte = |n: u32| source.text.char_indices().nth(n as usize).map_or(source.text.len(), |(i, _)| i);
        let bytes = if source.text.is_ascii() { self.start as usize..self.end as usize } else { byte(self.start)..byte(self.end) };
        Place { line: source.first_line + self.line.saturating_sub(1), column: self.column, bytes, source: source.clone() }
    }
}

impl Node {
    pub fn null() -> Node {
        Node { value: Value::Null, span: Chars::default() }
    }

    /// The value of a key of a map.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| &*k.text == key).map(|(_, n)| n),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(s) => Some(s),
            _ => None,
        }
    }

    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::String(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "an object",
        }
    }

    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(i) => Json::from(*i),
            Value::Float(f) => serde_json::Number::from_f64(*f).map_or(Json::Null, Json::Number),
            Value::String(s) => Json::String(s.to_string()),
            Value::List(items) => Json::Array(items.iter().map(Node::to_json).collect()),
            Value::Map(entries) => Json::Object(entries.iter().map(|(k, v)| (k.text.to_string(), v.to_json())).collect()),
        }
    }

    /// From JSON that came without a text, as from an API server; it has no places.
    pub fn from_json(json: &serde_json::Value) -> Node {
        use serde_json::Value as Json;
        let value = match json {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => n.as_i64().map_or_else(|| Value::Float(n.as_f64().unwrap_or_default()), Value::Int),
            Json::String(s) => Value::String(s.as_str().into()),
            Json::Array(items) => Value::List(items.iter().map(Node::from_json).collect()),
            Json::Object(map) => {
                let entry = |(k, v): (&String, &Json)| (Key { text: k.as_str().into(), span: Chars::default() }, Node::from_json(v));
                Value::Map(map.iter().map(entry).collect())
            }
        };
        Node { value, span: Chars::default() }
    }
}

/// Reads the documents of a text; an empty document is left out. Stops at the first error of syntax, as what follows
/// one cannot be trusted.
pub fn parse(source: &Arc<Source>) -> Result<Vec<Node>, Diagnostic> {
    let mut builder = Builder { source, stack: Vec::new(), anchors: HashMap::new(), documents: Vec::new(), nodes: 0 };
    for event in Parser::new_from_str(&source.text) {
        match event {
            Ok((event, span)) => builder.event(event, &span)?,
            Err(e) => {
                let at = Span::new(*e.marker(), *e.marker());
                return Err(Diagnostic::error("InvalidYAML", e.info()).at(&Chars::of(&at).place(source), ""));
            }
        }
    }
    Ok(builder.documents)
}

/// A list or map under construction.
enum Open {
    List(Vec<Node>, Span, usize),
    Map(Vec<(Key, Node)>, Option<Key>, Span, usize),
}

struct Builder<'a> {
    source: &'a Arc<Source>,
    stack: Vec<Open>,
    anchors: HashMap<usize, Node>,
    documents: Vec<Node>,
    nodes: usize,
}

impl Builder<'_> {
    fn refuse(&self, span: &Span, message: &str) -> Diagnostic {
        Diagnostic::error("InvalidYAML", message).at(&Chars::of(span).place(self.source), "")
    }

    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<(), Diagnostic> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none_or(|t| t.suffix != "str");
                let value = if plain { resolve(&text) } else { Value::String(text.into()) };
                self.add(Node { value, span: Chars::of(span) }, anchor, span)
            }
            Event::SequenceStart(anchor, _) => self.open(Open::List(Vec::new(), *span, anchor), span),
            Event::MappingStart(anchor, _) => self.open(Open::Map(Vec::new(), None, *span, anchor), span),
            Event::SequenceEnd | Event::MappingEnd => {
                let (value, start, anchor) = match self.stack.pop() {
                    Some(Open::List(items, start, anchor)) => (Value::List(items), start, anchor),
                    Some(Open::Map(entries, _, start, anchor)) => (Value::Map(entries), start, anchor),
                    None => return Err(self.refuse(span, "an end without a start")),
                };
                self.add(Node { value, span: Chars::of(&Span::new(start.start, start.end)) }, anchor, span)
            }
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id).cloned() else {
                    return Err(self.refuse(span, "an alias to an anchor that is not complete here"));
                };
                self.nodes += count(&node);
                self.add(node, 0, span)
            }
            Event::DocumentEnd => {
                self.anchors.clear();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, open: Open, span: &Span) -> Result<(), Diagnostic> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(self.refuse(span, "nested deeper than 100 levels"));
        }
        self.stack.push(open);
        Ok(())
    }

    fn add(&mut self, node: Node, anchor: usize, span: &Span) -> Result<(), Diagnostic> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(self.refuse(span, "more than 1,000,000 values in one text"));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.stack.last_mut() {
            None if node.value == Value::Null => {}
            None => self.documents.push(node),
            Some(Open::List(items, ..)) => items.push(node),
            Some(Open::Map(entries, key, ..)) => match key.take() {
                Some(k) => entries.push((k, node)),
                None => {
                    let text: Box<str> = match node.value {
                        Value::String(s) => s,
                        Value::Int(i) => i.to_string().into(),
                        Value::Bool(b) => b.to_string().into(),
                        Value::Float(f) => f.to_string().into(),
                        Value::Null => "null".into(),
                        Value::List(_) | Value::Map(_) => return Err(self.refuse(span, "a key must be a text")),
                    };
                    if entries.iter().any(|(k, _)| k.text == text) {
                        return Err(self.refuse(span, &format!("the key \"{text}\" stands here twice")));
                    }
                    *key = Some(Key { text, span: node.span });
                }
            },
        }
        Ok(())
    }
}

fn count(node: &Node) -> usize {
    match &node.value {
        Value::List(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Map(entries) => 1 + entries.iter().map(|(_, n)| count(n)).sum::<usize>(),
        _ => 1,
    }
}

/// What a plain scalar means (YAML 1.2 core schema, as Kubernetes reads it).
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let first = text.as_bytes()[0];
    if !first.is_ascii_digit() && !matches!(first, b'-' | b'+' | b'.') {
        return Value::String(text.into());
    }
    let hex = text.strip_prefix("0x").and_then(|d| i64::from_str_radix(d, 16).ok());
    let octal = text.strip_prefix("0o").and_then(|d| i64::from_str_radix(d, 8).ok());
    if let Some(n) = text.parse().ok().or(hex).or(octal) {
        return Value::Int(n);
    }
    let digits = text.bytes().all(|c| c.is_ascii_digit() || matches!(c, b'.' | b'-' | b'+' | b'e' | b'E'));
    match text.parse() {
        Ok(f) if digits => Value::Float(f),
        _ => Value::String(text.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn source(text: &str) -> Arc<Source> {
        Arc::new(Source { name: "t.yaml".into(), text: text.into(), first_line: 1 })
    }

    #[test]
    fn scalars_are_read_as_kubernetes_reads_them() {
        let doc = &parse(&source("[1, -2, 0x10, 1.5, yes, true, ~, '1', 1.2.3, 10.0.0.1, 5s, '', !!str 7]")).unwrap()[0];
        let Value::List(items) = &doc.value else { panic!("{doc:?}") };
        let got: Vec<String> = items.iter().map(|n| n.to_json().to_string()).collect();
        let want = ["1", "-2", "16", "1.5", "\"yes\"", "true", "null", "\"1\"", "\"1.2.3\"", "\"10.0.0.1\"", "\"5s\"", "\"\"", "\"7\""];
        assert_eq!(got, want);
    }

    #[test]
    fn documents_have_places_and_aliases_are_bounded() {
        let s = source("a: é\nb: &x [1]\nc: *x\n---\n---\nd:\n  e: 7\n");
        let docs = parse(&s).unwrap();
        assert_eq!(docs.len(), 2);
        assert_eq!(docs[0].get("c").unwrap().to_json().to_string(), "[1]");
        let place = docs[1].get("d").unwrap().get("e").unwrap().span.place(&s);
        assert_eq!((place.line, place.column, &s.text[place.bytes]), (7, 6, "7"));
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
        assert!(parse(&source(bomb)).unwrap_err().message.contains("1,000,000"));
    }

    #[test]
    fn bad_texts_are_refused_with_a_place() {
        for (text, line, words) in
            [("a: 1\na: 2\n", 2, "twice"), ("a: [1\nb: 2\n", 2, ""), ("a:\n\t- 1\n", 2, ""), ("? [1]\n: 2\n", 1, "key")]
        {
            let e = parse(&source(text)).unwrap_err();
            assert_eq!(e.place.as_ref().unwrap().line, line, "{text:?}: {e:?}");
            assert!(e.message.contains(words), "{e:?}");
        }
    }
}
