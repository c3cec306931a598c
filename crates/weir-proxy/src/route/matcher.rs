//! Compiled conditions on text: header fields, pseudo-headers and query parameters.
use crate::{
    filter::headers::Edits,
    head_access::{RequestView, query_parameter},
};
use regex::bytes::Regex;
use std::{collections::HashMap, sync::Arc};
use weir_config::{
    diagnostic::Diagnostic,
    model::{HeaderEdits, HeaderMatch, Name, QueryMatch, StringMatch, ValueMatch},
};

/// Why a part of a configuration cannot be compiled.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Invalid {
    #[error("{0}")]
    Syntax(Box<regex_syntax::Error>),
    /// Its syntax is good, but it is too large when it is compiled.
    #[error("{0}")]
    Regex(regex::Error),
    #[error("the substitution names group {named}, and the pattern has {groups}")]
    Group { named: usize, groups: usize },
    #[error("filter `{name}`: {why}")]
    Filter { name: Name, why: Box<Invalid> },
}

/// What many routes of one change have in common is compiled once, and shared.
#[derive(Default)]
pub struct Patterns {
    /// By their pattern.
    regular_expressions: HashMap<String, Result<Regex, Invalid>>,
    header_edits: HashMap<HeaderEdits, Arc<Edits>>,
}

impl Patterns {
    /// `pattern` as one that must match the whole text.
    pub fn whole(&mut self, pattern: &str, ignore_case: bool) -> Result<Regex, Invalid> {
        let flag = if ignore_case { "(?i)" } else { "" };
        // Not a raw `^(?:…)$` around the text alone: `a)|(b` must not become valid by it.
        if let Err(e) = regex_syntax::Parser::new().parse(pattern) {
            return Err(Invalid::Syntax(Box::new(e)));
        }
        self.compile(format!("{flag}^(?:{pattern})$"))
    }
    /// `pattern` as it stands, found anywhere.
    pub fn anywhere(&mut self, pattern: &str) -> Result<Regex, Invalid> {
        self.compile(pattern.to_string())
    }
    fn compile(&mut self, pattern: String) -> Result<Regex, Invalid> {
        if let Some(known) = self.regular_expressions.get(&pattern) {
            return known.clone();
        }
        let made = Regex::new(&pattern).map_err(Invalid::Regex);
        self.regular_expressions.insert(pattern, made.clone());
        made
    }
    /// `None` where there is nothing to edit. Edits with findings are compiled for each of their routes, which report them.
    pub fn edits(&mut self, of: &HeaderEdits, findings: &mut Vec<Diagnostic>) -> Option<Arc<Edits>> {
        if of.is_empty() {
            return None;
        }
        if let Some(known) = self.header_edits.get(of) {
            return Some(known.clone());
        }
        let before = findings.len();
        let made = Arc::new(Edits::compile(of, findings)?);
        if findings.len() == before {
            self.header_edits.insert(of.clone(), made.clone());
        }
        Some(made)
    }
}

/// A compiled [`StringMatch`].
#[derive(Debug)]
pub enum Text {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Suffix(Box<[u8]>),
    Contains(Box<[u8]>),
    Regex(Regex),
}

impl Text {
    /// The error is about a regular expression.
    pub fn compile(of: &StringMatch, ignore_case: bool, patterns: &mut Patterns) -> Result<Text, Invalid> {
        let bytes = |s: &str| Box::from(s.as_bytes());
        Ok(match of {
            StringMatch::Exact(s) => Text::Exact(bytes(s)),
            StringMatch::Prefix(s) => Text::Prefix(bytes(s)),
            StringMatch::Suffix(s) => Text::Suffix(bytes(s)),
            StringMatch::Contains(s) => Text::Contains(bytes(s)),
            StringMatch::Regex(s) => Text::Regex(patterns.whole(s, ignore_case)?),
        })
    }
    pub fn matches(&self, value: &[u8], ignore_case: bool) -> bool {
        let same = |a: &[u8], b: &[u8]| if ignore_case { a.eq_ignore_ascii_case(b) } else { a == b };
        match self {
            Text::Exact(s) => same(value, s),
            Text::Prefix(s) => value.get(..s.len()).is_some_and(|v| same(v, s)),
            Text::Suffix(s) => value.len().checked_sub(s.len()).is_some_and(|at| same(&value[at..], s)),
            Text::Contains(s) if !ignore_case => memchr::memmem::find(value, s).is_some(),
            Text::Contains(s) => s.is_empty() || value.windows(s.len()).any(|w| w.eq_ignore_ascii_case(s)),
            Text::Regex(r) => r.is_match(value),
        }
    }
}

#[derive(Debug)]
enum Value {
    Present,
    Text(Text),
    Range(i64, i64),
}

impl Value {
    fn compile(of: &ValueMatch, ignore_case: bool, patterns: &mut Patterns) -> Result<Value, Invalid> {
        Ok(match of {
            ValueMatch::Present => Value::Present,
            ValueMatch::Text(t) => Value::Text(Text::compile(t, ignore_case, patterns)?),
            ValueMatch::Range { start, end } => Value::Range(*start, *end),
        })
    }
    fn matches(&self, value: &[u8], ignore_case: bool) -> bool {
        match self {
            Value::Present => true,
            Value::Text(t) => t.matches(value, ignore_case),
            Value::Range(start, end) => {
                std::str::from_utf8(value).ok().and_then(|v| v.trim().parse::<i64>().ok()).is_some_and(|n| n >= *start && n < *end)
            }
        }
    }
}

#[derive(Debug)]
enum Of {
    Method,
    Authority,
    Scheme,
    Path,
    Field(Box<str>),
}

/// A condition on one header.
#[derive(Debug)]
pub struct Header {
    of: Of,
    value: Value,
    invert: bool,
    ignore_case: bool,
}

impl Header {
    pub fn compile(of: &HeaderMatch, patterns: &mut Patterns) -> Result<Header, Invalid> {
        let value = Value::compile(&of.value, of.ignore_case, patterns)?;
        let name = match of.name.as_str() {
            ":method" => Of::Method,
            ":authority" | "host" => Of::Authority,
            ":scheme" => Of::Scheme,
            ":path" => Of::Path,
            name => Of::Field(name.to_ascii_lowercase().into()),
        };
        Ok(Header { of: name, value, invert: of.invert, ignore_case: of.ignore_case })
    }
    /// Several fields of one name are checked one by one, and one match is enough; an inverted condition requires that none
    /// matches. A missing header matches only an inverted condition.
    pub fn matches(&self, request: &dyn RequestView) -> bool {
        let fits = |v: &[u8]| self.value.matches(v, self.ignore_case);
        let found = match &self.of {
            Of::Method => fits(request.method()),
            Of::Authority => fits(request.authority()),
            Of::Scheme => fits(request.scheme()),
            Of::Path => match request.query() {
                None => fits(request.path()),
                Some(q) => fits(&[request.path(), b"?", q].concat()),
            },
            Of::Field(name) => self.field(name, request),
        };
        found != self.invert
    }
    fn field(&self, name: &str, request: &dyn RequestView) -> bool {
        let mut found = false;
        request.each(name, &mut |value| found = found || self.value.matches(value, self.ignore_case));
        found
    }
}

/// A condition on one query parameter.
#[derive(Debug)]
pub struct Query {
    name: Box<[u8]>,
    value: Value,
}

impl Query {
    pub fn compile(of: &QueryMatch, patterns: &mut Patterns) -> Result<Query, Invalid> {
        Ok(Query { name: of.name.as_bytes().into(), value: Value::compile(&of.value, false, patterns)? })
    }
    /// Matches the first parameter of the name, percent-decoded where it is encoded.
    pub fn matches(&self, query: Option<&[u8]>) -> bool {
        let Some(value) = query.and_then(|q| query_parameter(q, &self.name)) else { return false };
        if matches!(self.value, Value::Present) || memchr::memchr2(b'%', b'+', value).is_none() {
            return self.value.matches(value, false);
        }
        self.value.matches(&decoded(value), false)
    }
}

fn decoded(value: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::with_capacity(value.len()), value);
    while let Some((c, tail)) = rest.split_first() {
        let byte = tail.get(..2).and_then(|h| u8::from_str_radix(std::str::from_utf8(h).ok()?, 16).ok());
        match (c, byte) {
            (b'%', Some(byte)) => {
                out.push(byte);
                rest = &tail[2..];
                continue;
            }
            (b'+', _) => out.push(b' '),
            _ => out.push(*c),
        }
        rest = tail;
    }
    out
}
