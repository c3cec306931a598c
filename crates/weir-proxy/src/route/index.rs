//! Finds the first route of a list whose path matches, without walking the list: each kind of path has an index from
//! text to the routes' numbers, and a candidate is only looked at while it can still be the first.
use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};
use weir_config::model::{PathMatch, RouteMatch};

/// A multiplying hash, eight bytes at a time. The tables are built from the configuration, so nobody can fill them with
/// colliding keys, and a request can only look one up.
#[derive(Default)]
pub struct Fast(u64);

impl Hasher for Fast {
    fn write(&mut self, bytes: &[u8]) {
        for c in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..c.len()].copy_from_slice(c);
            self.0 = (self.0.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }
    fn write_u8(&mut self, _: u8) {}
    fn write_usize(&mut self, n: usize) {
        self.0 = self.0.rotate_left(5) ^ n as u64;
    }
    fn finish(&self) -> u64 {
        // The map takes its bucket from the low bits and its tag from the high ones.
        self.0 ^ self.0 >> 32
    }
}

/// A map whose keys come from the configuration.
type Map<V> = HashMap<Box<[u8]>, V, BuildHasherDefault<Fast>>;

/// Route numbers, ascending.
type Numbers = Box<[u32]>;

/// Small while there are few routes: most hosts have one.
#[derive(Default)]
pub struct PathIndex {
    exact: Option<Box<Map<Numbers>>>,
    /// Whole segments, without a slash at the end.
    segments: Option<Box<Map<Numbers>>>,
    longest_segments: usize,
    texts: Texts,
    /// Those that ignore case.
    others: Numbers,
}

impl PathIndex {
    pub fn build<'a>(matches: impl Iterator<Item = &'a RouteMatch>) -> PathIndex {
        type Growing = HashMap<Box<[u8]>, Vec<u32>>;
        let (mut exact, mut segments, mut texts) = (Growing::new(), Growing::new(), Growing::new());
        let (mut longest_segments, mut others) = (0, Vec::new());
        for (n, m) in matches.enumerate() {
            let n = n as u32;
            if m.ignore_case {
                others.push(n);
                continue;
            }
            match &m.path {
                PathMatch::Exact(p) => exact.entry(p.as_bytes().into()).or_default().push(n),
                PathMatch::PathSeparatedPrefix(p) => {
                    let p = p.trim_end_matches('/').as_bytes();
                    longest_segments = longest_segments.max(p.len());
                    segments.entry(p.into()).or_default().push(n);
                }
                PathMatch::Prefix(p) => texts.entry(p.as_bytes().into()).or_default().push(n),
                PathMatch::Regex(p) => texts.entry(literal_prefix(p).into()).or_default().push(n),
            }
        }
        let map = |of: Growing| -> Option<Box<Map<Numbers>>> {
            (!of.is_empty()).then(|| Box::new(of.into_iter().map(|(text, numbers)| (text, numbers.into())).collect()))
        };
        let (exact, segments, texts) = (map(exact), map(segments), Texts::build(texts));
        PathIndex { exact, segments, longest_segments, texts, others: others.into() }
    }

    /// The lowest number that `accept` takes among the routes whose path can match. `accept` must look at the path again
    /// for regular expressions and for routes that ignore case.
    pub fn first(&self, path: &[u8], mut accept: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut best = u32::MAX;
        let mut look = |numbers: &Numbers| {
            for n in numbers.iter() {
                if *n >= best {
                    break;
                }
                if accept(*n) {
                    best = *n;
                    break;
                }
            }
        };
        if let Some(numbers) = self.exact.as_ref().and_then(|exact| exact.get(path)) {
            look(numbers);
        }
        if let Some(segments) = &self.segments {
            // Every position where a segment ends, from the longest that is in the map.
            let mut end = path.len();
            loop {
                if let Some(numbers) = (end <= self.longest_segments).then(|| segments.get(&path[..end])).flatten() {
                    look(numbers);
                }
                match memchr::memrchr(b'/', &path[..end]) {
                    Some(at) => end = at,
                    None => break,
                }
            }
        }
        self.texts.each(path, look_at(&mut look));
        look(&self.others);
        (best != u32::MAX).then_some(best)
    }
}

fn look_at<'a>(look: &'a mut impl FnMut(&Numbers)) -> impl FnMut(&Numbers) + 'a {
    move |n| look(n)
}

/// Texts in order, each with the longest other one that it begins with: all texts that a path begins with are found by
/// one binary search and a walk up.
#[derive(Default)]
struct Texts {
    entries: Box<[Entry]>,
}

struct Entry {
    text: Box<[u8]>,
    parent: Option<u32>,
    numbers: Numbers,
}

impl Texts {
    fn build(of: HashMap<Box<[u8]>, Vec<u32>>) -> Texts {
        let mut sorted: Vec<_> = of.into_iter().collect();
        sorted.sort();
        let (mut entries, mut open) = (Vec::<Entry>::with_capacity(sorted.len()), Vec::<u32>::new());
        for (text, numbers) in sorted {
            while open.last().is_some_and(|p| !text.starts_with(&entries[*p as usize].text)) {
                open.pop();
            }
            let parent = open.last().copied();
            open.push(entries.len() as u32);
            entries.push(Entry { text, parent, numbers: numbers.into() });
        }
        Texts { entries: entries.into() }
    }

    fn each(&self, path: &[u8], mut with: impl FnMut(&Numbers)) {
        let mut at = self.entries.partition_point(|e| &e.text[..] <= path).checked_sub(1).map(|i| i as u32);
        // The longest text that the path begins with is the last one not after the path, or one above it.
        while let Some(entry) = at.map(|i| &self.entries[i as usize]) {
            if path.starts_with(&entry.text) {
                with(&entry.numbers);
            }
            at = entry.parent;
        }
    }
}

/// What every text that the pattern matches begins with.
fn literal_prefix(pattern: &str) -> Vec<u8> {
    fn walk(hir: &regex_syntax::hir::Hir, out: &mut Vec<u8>) -> bool {
        use regex_syntax::hir::HirKind;
        match hir.kind() {
            HirKind::Empty => true,
            HirKind::Look(regex_syntax::hir::Look::Start) => out.is_empty(),
            HirKind::Literal(l) => {
                out.extend_from_slice(&l.0);
                true
            }
            HirKind::Capture(c) => walk(&c.sub, out),
            HirKind::Concat(parts) => parts.iter().all(|p| walk(p, out)),
            _ => false,
        }
    }
    let mut out = Vec::new();
    if let Ok(hir) = regex_syntax::Parser::new().parse(pattern) {
        walk(&hir, &mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_prefixes_of_patterns() {
        let table = [
            ("/users/[0-9]+", "/users/"),
            ("/a\\.b(c|d)", "/a.b"),
            (".*\\.png", ""),
            ("(?i)/abc", "/"),
            ("^/v1/(x)y?", "/v1/x"),
            ("/a|/b", ""),
            ("/items(/.*)?", "/items"),
            ("", ""),
            ("/ab*", "/a"),
        ];
        for (pattern, prefix) in table {
            assert_eq!(literal_prefix(pattern), prefix.as_bytes(), "{pattern}");
        }
    }
}
