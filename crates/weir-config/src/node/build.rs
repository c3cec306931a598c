//! From the parser's events to nodes: aliases, merge keys and limits.
use super::{Chars, Key, Node, Value, explain, flow};
use crate::diagnostic::Diagnostic;
use crate::source::Source;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// Nodes of one document, aliases counted each time they are used: keeps a small text from becoming a large tree.
const MAX_NODES: usize = 1_000_000;
const MAX_DEPTH: usize = 100;
/// Maps with more keys than this look for duplicates in a set.
const FEW_KEYS: usize = 16;

/// Reads the documents of a text; an empty document is left out. Stops at the first error of syntax, as what follows
/// one cannot be trusted.
pub fn parse(source: &Arc<Source>) -> Result<Vec<Node>, Diagnostic> {
    let mut failure = match build(source, &source.text, &flow::Padding::default()) {
        Ok(documents) => return Ok(documents),
        Err(failure) => failure,
    };
    let mut repair = flow::Repair::new(&source.text);
    while let Some(text) = failure.indentation.and_then(|line| repair.pad(line)) {
        match build(source, &text, repair.padding()) {
            Ok(documents) => return Ok(documents),
            Err(next) => failure = next,
        }
    }
    Err(explain::explain(source, *failure.diagnostic))
}

/// Why a text is not read.
struct Failure {
    diagnostic: Box<Diagnostic>,
    /// The line whose indentation the parser does not take.
    indentation: Option<usize>,
}

impl From<Diagnostic> for Failure {
    fn from(diagnostic: Diagnostic) -> Failure {
        Failure { diagnostic: Box::new(diagnostic), indentation: None }
    }
}

/// `text` is the source's, with `padding`.
fn build(source: &Arc<Source>, text: &str, padding: &flow::Padding) -> Result<Vec<Node>, Failure> {
    let mut builder = Builder { source, padding, stack: Vec::new(), anchors: HashMap::new(), documents: Vec::new(), nodes: 0 };
    for event in Parser::new_from_str(text) {
        match event {
            Ok((event, span)) => builder.event(event, &span)?,
            Err(e) => {
                let mark = *e.marker();
                let diagnostic = Box::new(builder.refuse(&Span::new(mark, mark), e.info()));
                let indentation = flow::is_about_indentation(e.info()).then(|| mark.line());
                return Err(Failure { diagnostic, indentation });
            }
        }
    }
    Ok(builder.documents)
}

/// A list or map under construction.
enum Open {
    List(Vec<Node>, Span, usize),
    Map(Box<OpenMap>, Span, usize),
}

#[derive(Default)]
struct OpenMap {
    entries: Vec<(Key, Node)>,
    /// The keys, once there are many.
    seen: HashSet<Box<str>>,
    /// What the next value belongs to.
    key: Option<MapKey>,
    /// The value of the merge key.
    merge: Option<Node>,
}

enum MapKey {
    Named(Key),
    /// `<<`, whose value's entries are added to those of the map (YAML 1.1).
    Merge,
}

impl OpenMap {
    fn has(&self, text: &str) -> bool {
        if self.seen.is_empty() { self.entries.iter().any(|(k, _)| *k.text == *text) } else { self.seen.contains(text) }
    }

    fn push(&mut self, key: Key, node: Node) {
        if !self.seen.is_empty() {
            self.seen.insert(key.text.clone());
        }
        self.entries.push((key, node));
        if self.seen.is_empty() && self.entries.len() > FEW_KEYS {
            self.seen = self.entries.iter().map(|(k, _)| k.text.clone()).collect();
        }
    }

    /// The entries, with those merged in that are not there; of several merged maps the first with a key has it.
    fn finish(mut self) -> Vec<(Key, Node)> {
        let merged = match self.merge.take().map(|node| node.value) {
            Some(Value::Map(entries)) => entries,
            Some(Value::List(maps)) => {
                let entries = maps.into_iter().map(|node| match node.value {
                    Value::Map(entries) => entries,
                    _ => Vec::new(),
                });
                entries.flatten().collect()
            }
            _ => return self.entries,
        };
        for (key, node) in merged {
            if !self.has(&key.text) {
                self.push(key, node);
            }
        }
        self.entries
    }
}

fn is_mergeable(node: &Node) -> bool {
    match &node.value {
        Value::Map(_) => true,
        Value::List(items) => items.iter().all(|item| matches!(item.value, Value::Map(_))),
        _ => false,
    }
}

struct Builder<'a> {
    source: &'a Arc<Source>,
    padding: &'a flow::Padding,
    stack: Vec<Open>,
    anchors: HashMap<usize, Node>,
    documents: Vec<Node>,
    nodes: usize,
}

impl Builder<'_> {
    fn chars(&self, span: &Span) -> Chars {
        let index = |mark: Marker| self.padding.without(mark.line(), mark.col(), mark.index()) as u32;
        Chars { start: index(span.start), end: index(span.end) }
    }

    fn refuse(&self, span: &Span, message: &str) -> Diagnostic {
        Diagnostic::error("InvalidYAML", message).at(&self.chars(span).place(self.source), "")
    }

    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<(), Diagnostic> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none_or(|t| t.suffix != "str");
                let value = if plain { resolve(&text) } else { Value::String(text.into()) };
                self.add(Node { value, span: self.chars(span) }, anchor, span, plain)
            }
            Event::SequenceStart(anchor, _) => self.open(Open::List(Vec::new(), *span, anchor), span),
            Event::MappingStart(anchor, _) => self.open(Open::Map(Box::default(), *span, anchor), span),
            Event::SequenceEnd | Event::MappingEnd => {
                let (value, start, anchor) = match self.stack.pop() {
                    Some(Open::List(items, start, anchor)) => (Value::List(items), start, anchor),
                    Some(Open::Map(map, start, anchor)) => (Value::Map(map.finish()), start, anchor),
                    None => return Err(self.refuse(span, "an end without a start")),
                };
                let chars = self.chars(&Span::new(start.start, start.end));
                self.add(Node { value, span: chars }, anchor, span, false)
            }
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id).cloned() else {
                    return Err(self.refuse(span, "an alias to an anchor that is not complete here"));
                };
                self.nodes += count(&node);
                self.add(node, 0, span, false)
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

    /// `plain` is a text without quotes, which may be a merge key.
    fn add(&mut self, node: Node, anchor: usize, span: &Span, plain: bool) -> Result<(), Diagnostic> {
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
            Some(Open::Map(map, ..)) => match map.key.take() {
                Some(MapKey::Named(key)) => map.push(key, node),
                Some(MapKey::Merge) if is_mergeable(&node) => map.merge = Some(node),
                Some(MapKey::Merge) => return Err(self.refuse(span, "the value of the merge key << is not a map or a list of maps")),
                None => return self.add_key(node, span, plain),
            },
        }
        Ok(())
    }

    fn add_key(&mut self, node: Node, span: &Span, plain: bool) -> Result<(), Diagnostic> {
        let text: Box<str> = match node.value {
            Value::String(s) => s,
            Value::Int(i) => i.to_string().into(),
            Value::Bool(b) => b.to_string().into(),
            Value::Float(f) => f.to_string().into(),
            Value::Null => "null".into(),
            Value::List(_) | Value::Map(_) => return Err(self.refuse(span, "a key must be a string")),
        };
        let Some(Open::Map(map, ..)) = self.stack.last_mut() else { return Ok(()) };
        let merge = plain && *text == *"<<";
        if if merge { map.merge.is_some() } else { map.has(&text) } {
            return Err(self.refuse(span, &format!("duplicate key \"{text}\"")));
        }
        map.key = Some(if merge { MapKey::Merge } else { MapKey::Named(Key { text, span: node.span }) });
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
        Arc::new(Source::new("t.yaml", text, 1))
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
            [("a: 1\na: 2\n", 2, "duplicate key"), ("a: [1\nb: 2\n", 2, ""), ("a:\n\t- 1\n", 2, ""), ("? [1]\n: 2\n", 1, "key")]
        {
            let e = parse(&source(text)).unwrap_err();
            assert_eq!(e.place.as_ref().unwrap().line, line, "{text:?}: {e:?}");
            assert!(e.message.contains(words), "{e:?}");
        }
    }

    fn json(text: &str) -> serde_json::Value {
        parse(&source(text)).unwrap_or_else(|e| panic!("{text}: {}", e.line()))[0].to_json()
    }

    #[test]
    fn merge_keys_add_what_is_not_there() {
        for (text, want) in [
            ("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", r#"{"a":{"x":1,"y":2},"b":{"x":1,"y":3}}"#),
            ("a: &a {x: 1}\nb:\n  y: 3\n  <<: *a\n", r#"{"a":{"x":1},"b":{"x":1,"y":3}}"#),
            ("a: [&a {x: 1}, &b {x: 2, y: 2}]\nb: {<<: [*a, *b]}", r#"{"a":[{"x":1},{"x":2,"y":2}],"b":{"x":1,"y":2}}"#),
            ("a: &a {x: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b}", r#"{"a":{"x":1},"b":{"x":1,"y":2},"c":{"x":1,"y":2}}"#),
            ("b: {<<: {x: 1}}", r#"{"b":{"x":1}}"#),
            ("b: {'<<': {x: 1}}", r#"{"b":{"<<":{"x":1}}}"#),
        ] {
            assert_eq!(json(text), serde_json::from_str::<serde_json::Value>(want).unwrap(), "{text}");
        }
        for (text, words) in [
            ("a: {<<: 1}", "merge key"),
            ("a: {<<: [1]}", "merge key"),
            ("a: {<<: {x: 1}, <<: {y: 1}}", "duplicate key"),
            ("a: {<<: *x}", "unknown anchor"),
        ] {
            let e = parse(&source(text)).unwrap_err();
            assert!(e.message.contains(words), "{text}: {}", e.message);
        }
        // Bounded as aliases are: what is merged counts each time.
        let mut bomb = "a0: &a0 {k: [x, x, x, x, x, x, x, x, x, x]}\n".to_string();
        for i in 1..9 {
            let list = format!("*a{}, ", i - 1).repeat(10);
            bomb += &format!("a{i}: &a{i} {{<<: *a{}, k: [{}]}}\n", i - 1, list.trim_end_matches(", "));
        }
        let e = parse(&source(&bomb)).unwrap_err();
        assert!(e.message.contains("1,000,000"), "{}", e.message);
    }

    #[test]
    fn many_keys_are_read_in_linear_time() {
        let keys = |n: usize| (0..n).map(|i| format!("k{i}: 1\n")).collect::<String>();
        assert_eq!(parse(&source(&keys(200_000))).unwrap().len(), 1);
        let twice = keys(50) + "k7: 2\n";
        assert_eq!(parse(&source(&twice)).unwrap_err().place.unwrap().line, 51);
    }

    #[test]
    fn flow_brackets_may_stand_below_their_key() {
        let text = "spec:\n  servers:\n  - port: {number: 1}\n    hosts: [\n      \"*\", # any\n    b\n    ]\n    tls: {\n  a: é,\n    b: 2\n  }\n  x: y\n";
        let s = source(text);
        let doc = &parse(&s).unwrap()[0];
        let want = r#"{"spec":{"servers":[{"hosts":["*","b"],"port":{"number":1},"tls":{"a":"é","b":2}}],"x":"y"}}"#;
        assert_eq!(doc.to_json(), serde_json::from_str::<serde_json::Value>(want).unwrap());
        // Places are those of the text.
        let server = doc.get("spec").unwrap().get("servers").unwrap();
        let Value::List(items) = &server.value else { panic!() };
        let tls = items[0].get("tls").unwrap();
        for (node, line, column, text) in [
            (tls.get("a").unwrap(), 9, 6, "é"),
            (tls.get("b").unwrap(), 10, 8, "2"),
            (doc.get("spec").unwrap().get("x").unwrap(), 12, 6, "y"),
        ] {
            let place = node.span.place(&s);
            assert_eq!((place.line, place.column, &s.text[place.bytes]), (line, column, text));
        }
        // An error stays an error, and is reported where it was.
        let e = parse(&source("a: [\n]\nb: [\n  x\nc: d\n")).unwrap_err();
        assert!(e.place.unwrap().line >= 3);
    }

    #[test]
    fn texts_of_other_programs_are_named() {
        for (text, line, message, help) in [
            ("a: 1\nb: {{ .Values.x }}\n", 2, "template", "helm template"),
            ("{{- if .Values.x }}\na: 1\n{{- end }}\n", 1, "template", "helm template"),
            ("a: 1\nb: { c: ${PORT} }\n", 2, "variable", "envsubst"),
            ("a:\n<<<<<<< HEAD\n  b: 1\n=======\n  b: 2\n>>>>>>> other\n", 2, "conflict", "resolve"),
            ("# one\nserver {\n  listen 80;\n  # all\n  location / { proxy_pass http://a: 80; }\n}\n", 5, "", "nginx"),
        ] {
            let e = parse(&source(text)).unwrap_err();
            assert_eq!(e.place.as_ref().unwrap().line, line, "{text}: {}", e.line());
            assert!(e.message.contains(message) && e.help.as_deref().unwrap_or_default().contains(help), "{text}: {}", e.line());
        }
    }

    #[test]
    fn any_text_is_read_or_refused_with_a_place_in_it() {
        const PARTS: [&str; 24] = [
            "a", "é", ": ", "- ", "[", "]", "{", "}", ", ", "\n", "\n  ", "\n    ", "\r", "\r\n", "#", "\"", "'", "&x ", "*x", "<<: ",
            "---\n", "|\n", "{{", "${",
        ];
        let mut seed = 1_u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..20 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text += PARTS[(seed >> 33) as usize % PARTS.len()];
            }
            if let Err(d) = parse(&source(&text)) {
                let place = d.place.as_deref().unwrap_or_else(|| panic!("{text:?}"));
                assert!(
                    text.is_char_boundary(place.bytes.start) && place.line as usize <= text.lines().count().max(1) + 1,
                    "{text:?} {d:?}"
                );
                assert!(!d.snippet(false).is_empty());
            }
        }
    }
}
