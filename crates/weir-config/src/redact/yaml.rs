//! Secrets in a text of YAML or JSON, by the keys that they are under.
use super::{
    MEMBERS, credentials,
    cut::{Cut, REDACTED},
    is_secret_name, matches, may_name_secrets, sorted, without,
};
use crate::{
    node::{self, Node, Value},
    source::{Place, Source},
};
use std::{borrow::Cow, ops::Range, sync::Arc};

/// Of longer lines so much is shown on both sides of the place, in bytes.
const WINDOW: usize = 200;
/// In place of the rest.
const CUT: &str = "…";
/// For what is written without quotes: brackets alone would be a list.
const QUOTED: &str = "\"[redacted]\"";
/// Keys of a pair whose other member is its value.
const NAMES: [&str; 4] = ["name", "key", "header", "headerName"];

/// A whole text, such as the configuration of a plugin.
pub fn source(text: &str) -> Cow<'_, str> {
    without(text, 0, &secrets(&Arc::new(Source::new("", text, 1))))
}

/// The lines around a place as they may be shown, and where in them the place is; and the secrets in the place itself.
pub(crate) fn shown(place: &Place) -> (Cow<'_, str>, Range<usize>, Vec<&str>) {
    let text = &*place.source.text;
    let start = place.bytes.start.min(text.len());
    let end = place.bytes.end.clamp(start, text.len());
    let before = text.floor_char_boundary(start.saturating_sub(WINDOW));
    let after = text.ceil_char_boundary(end.saturating_add(WINDOW));
    let from = text[before..start].rfind('\n').map_or(before, |i| before + i + 1);
    let to = text[end..after].find('\n').map_or(after, |i| end + i);
    let all = place.source.secrets.get_or_init(|| secrets(&place.source).into());
    let first = all.partition_point(|c| c.bytes.end <= from);
    let last = all.partition_point(|c| c.bytes.start < to);
    let whole = all.get(first..last).unwrap_or_default();
    let mut within: Vec<Cut> = whole.to_vec();
    within.iter_mut().for_each(|c| c.bytes = c.bytes.start.max(from)..c.bytes.end.min(to));
    let moved = |at: usize, ends: bool| {
        let (mut out, mut done) = (0, from);
        for cut in &within {
            if at <= cut.bytes.start {
                break;
            }
            if at < cut.bytes.end && !ends {
                return out + cut.bytes.start - done;
            }
            out += cut.bytes.start - done + cut.shown.len();
            done = cut.bytes.end;
        }
        out + at.saturating_sub(done)
    };
    let mut span = moved(start, false)..moved(end, true);
    let mut lines = without(&text[from..to], from, &within);
    if from > 0 && !text[..from].ends_with('\n') {
        lines = format!("{CUT}{lines}").into();
        span = span.start + CUT.len()..span.end + CUT.len();
    }
    if to < text.len() && !text[to..].starts_with('\n') {
        lines = format!("{lines}{CUT}").into();
    }
    // Whole ones, and what of them is in these lines.
    let secrets = whole.iter().chain(&within).filter(|c| c.bytes.start < end && c.bytes.end > start);
    let secrets = secrets.map(|c| text[c.bytes.clone()].trim_matches(['"', '\''])).filter(|s| s.len() > 2).collect();
    (lines, span, secrets)
}

/// All of a source, in their order.
fn secrets(source: &Arc<Source>) -> Vec<Cut> {
    let text = &*source.text;
    let mut all = credentials(text);
    // Most texts name none: they are not parsed for that.
    if !may_name_secrets(text) {
        return sorted(all);
    }
    match node::parse(source) {
        Ok(documents) => {
            let mut found = Found { text, at: Bytes::of(text), cuts: &mut all };
            documents.iter().for_each(|document| found.node(document, false, false));
        }
        // Not to be parsed, and shown all the same.
        Err(_) => all.extend(in_lines(text, 0).into_iter().chain(matches(text, &MEMBERS))),
    }
    sorted(all)
}

/// Bytes of characters.
struct Bytes(Option<Vec<u32>>);

impl Bytes {
    fn of(text: &str) -> Bytes {
        Bytes((!text.is_ascii()).then(|| text.char_indices().map(|(i, _)| i as u32).chain([text.len() as u32]).collect()))
    }
    fn at(&self, character: u32) -> usize {
        let Some(table) = &self.0 else { return character as usize };
        table.get(character as usize).or(table.last()).map_or(0, |b| *b as usize)
    }
}

struct Found<'a> {
    text: &'a str,
    at: Bytes,
    cuts: &'a mut Vec<Cut>,
}

impl Found<'_> {
    /// `environment`: values of pairs are secret, whatever their names are.
    fn node(&mut self, node: &Node, secret: bool, environment: bool) {
        match &node.value {
            Value::Null | Value::Bool(_) => {}
            Value::List(items) => items.iter().for_each(|item| self.node(item, secret, environment)),
            Value::Map(entries) => {
                let is_value = |key: &str| key.to_ascii_lowercase().ends_with("value") || key.to_ascii_lowercase().ends_with("values");
                let pair = entries.iter().any(|(key, _)| is_value(&key.text));
                let names = || entries.iter().filter(|(key, _)| NAMES.contains(&&*key.text)).filter_map(|(_, n)| n.as_str());
                let secret_pair = environment || names().any(is_secret_name);
                let of_secret = node.get("kind").and_then(Node::as_str) == Some("Secret");
                for (key, value) in entries {
                    let key = &*key.text;
                    let by_name = match () {
                        () if pair && is_value(key) => secret_pair,
                        () if pair && NAMES.contains(&key) => false,
                        () if of_secret => matches!(key, "data" | "stringData") || is_secret_name(key),
                        // Istio's `httpCookie: { name, ttl }` describes one.
                        () if matches!(value.value, Value::Map(_)) && key.to_ascii_lowercase().ends_with("cookie") => false,
                        () => is_secret_name(key),
                    };
                    let applied = of_secret && key == "metadata";
                    self.node(value, secret || by_name, environment || key == "env");
                    if applied && let Some(copy) = last_applied(value) {
                        self.scalar(copy);
                    }
                }
            }
            Value::Int(_) | Value::Float(_) if secret => self.scalar(node),
            Value::String(text) if secret && !is_file(text) => self.scalar(node),
            Value::String(text) => {
                let bytes = self.bytes(node);
                let inner = &self.text[bytes.clone()];
                let moved = |c: Cut| Cut { bytes: c.bytes.start + bytes.start..c.bytes.end + bytes.start, ..c };
                self.cuts.extend(matches(inner, &MEMBERS).map(moved));
                if text.contains('\n') {
                    self.cuts.extend(in_lines(inner, bytes.start));
                }
            }
            Value::Int(_) | Value::Float(_) => {}
        }
    }
    fn bytes(&self, node: &Node) -> Range<usize> {
        let (start, end) = node.span.range();
        let start = self.at.at(start).min(self.text.len());
        start..self.at.at(end).clamp(start, self.text.len())
    }
    fn scalar(&mut self, node: &Node) {
        let bytes = self.bytes(node);
        let text = &self.text[bytes.clone()];
        let quoted = text.len() >= 2 && text.starts_with(['"', '\'']) && text.ends_with(['"', '\'']);
        let (bytes, shown) = if quoted { (bytes.start + 1..bytes.end - 1, REDACTED) } else { (bytes, QUOTED) };
        // The line feeds behind a block of lines are not part of the secret.
        let end = bytes.start + self.text[bytes.clone()].trim_end_matches(['\n', '\r', ' ']).len();
        self.cuts.push(Cut { bytes: bytes.start..end, shown });
    }
}

/// The place of a key is none.
fn is_file(text: &str) -> bool {
    [".pem", ".key", ".crt"].iter().any(|end| text.ends_with(end))
}

/// The copy of the whole object that kubectl keeps in its annotations.
fn last_applied(metadata: &Node) -> Option<&Node> {
    metadata.get("annotations")?.get("kubectl.kubernetes.io/last-applied-configuration")
}

/// In a text that cannot be parsed: the rest of a line behind a secret key, and the deeper lines after it.
fn in_lines(text: &str, offset: usize) -> Vec<Cut> {
    let of_secret = text.lines().any(|l| l.trim_end() == "kind: Secret");
    let is_secret = |name: &str| is_secret_name(name) || (of_secret && matches!(name, "data" | "stringData"));
    let (mut cuts, mut start, mut deeper_than) = (Vec::new(), 0, None::<usize>);
    for line in text.split_inclusive('\n') {
        let whole = line.trim_end();
        let indent = whole.len() - whole.trim_start().len();
        let item = whole.trim_start().starts_with("- ");
        let below = |key: usize| indent > key || (indent == key && item);
        if deeper_than.is_some_and(|key| !whole.is_empty() && !below(key)) {
            deeper_than = None;
        }
        let value = match deeper_than {
            Some(_) => Some(indent),
            None => secret_value(whole, &is_secret),
        };
        if let Some(value) = value {
            let rest = whole[value..].trim_start();
            if deeper_than.is_none() && (rest.is_empty() || rest.starts_with(['|', '>'])) {
                deeper_than = Some(if item { indent + 2 } else { indent });
            } else if !rest.is_empty() {
                cuts.push(Cut::of(offset + start + whole.len() - rest.len()..offset + start + whole.len()));
            }
        }
        start += line.len();
    }
    cuts
}

/// Where the value of the first secret key of a line begins.
fn secret_value(line: &str, is_secret: &dyn Fn(&str) -> bool) -> Option<usize> {
    line.match_indices(':').map(|(i, _)| i).find_map(|colon| {
        let before = line[..colon].trim_end().trim_end_matches(['"', '\'']);
        let in_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
        let begin = before.char_indices().rev().find(|(_, c)| !in_name(*c)).map_or(0, |(i, c)| i + c.len_utf8());
        // What follows a key is a blank, or stands in quotes in JSON.
        let rest = &line[colon + 1..];
        let ends = rest.is_empty() || rest.starts_with([' ', '\t', '"', '\'', '[', '{']);
        // `- key` begins with the dash of its item.
        (ends && is_secret(before[begin..].trim_start_matches('-'))).then_some(colon + 1)
    })
}
