//! Texts that were read, and places in them.
use crate::redact::cut::Cut;
use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

/// A text that was read, with the name to call it by.
#[derive(Debug)]
pub struct Source {
    pub name: Arc<str>,
    pub text: String,
    /// The line of `text` 1 within the named file: a document of a file of many is a source of its own.
    pub first_line: u32,
    /// Made when it is first asked for.
    lines: OnceLock<Lines>,
    /// The parts of it that must not be shown.
    pub(crate) secrets: OnceLock<Box<[Cut]>>,
}

/// Places in characters and in bytes.
#[derive(Debug)]
struct Lines {
    /// Where each line starts.
    starts: Box<[(u32, u32)]>,
    /// These, and a place in each [`STEP`] bytes of long lines: a JSON text may be one line of megabytes.
    marks: Box<[(u32, u32)]>,
}

const STEP: usize = 512;

impl Lines {
    fn of(text: &str) -> Lines {
        let (mut starts, mut marks) = (Vec::new(), Vec::new());
        let (mut chars, mut bytes) = (0, 0);
        for line in text.split_inclusive('\n') {
            starts.push((chars, bytes as u32));
            let mut rest = line;
            while !rest.is_empty() {
                marks.push((chars, bytes as u32));
                let step = rest.ceil_char_boundary(STEP);
                chars += rest[..step].chars().count() as u32;
                bytes += step;
                rest = &rest[step..];
            }
        }
        Lines { starts: starts.into(), marks: marks.into() }
    }

    /// The byte at which a character of `text` starts.
    fn byte(&self, text: &str, char: u32) -> usize {
        let mark = self.marks.partition_point(|(chars, _)| *chars <= char).saturating_sub(1);
        let (chars, bytes) = self.marks.get(mark).copied().unwrap_or_default();
        let rest = text.get(bytes as usize..).unwrap_or_default();
        bytes as usize + rest.char_indices().nth((char - chars) as usize).map_or(rest.len(), |(i, _)| i)
    }
}

impl PartialEq for Source {
    fn eq(&self, other: &Source) -> bool {
        (&self.name, self.first_line, &self.text) == (&other.name, other.first_line, &other.text)
    }
}

impl Eq for Source {}

impl Source {
    pub fn new(name: impl Into<Arc<str>>, text: impl Into<String>, first_line: u32) -> Source {
        Source { name: name.into(), text: text.into(), first_line, lines: OnceLock::new(), secrets: OnceLock::new() }
    }

    /// The place of a range of characters.
    pub fn place(self: &Arc<Self>, start: u32, end: u32) -> Place {
        let lines = self.lines.get_or_init(|| Lines::of(&self.text));
        let line = lines.starts.partition_point(|(chars, _)| *chars <= start).saturating_sub(1);
        let (chars, _) = lines.starts.get(line).copied().unwrap_or_default();
        let bytes = lines.byte(&self.text, start)..lines.byte(&self.text, end.max(start));
        Place { source: self.clone(), line: self.first_line + line as u32, column: start.saturating_sub(chars).saturating_add(1), bytes }
    }
}

/// A place in a [`Source`]. Lines and columns are one-based; columns count characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub source: Arc<Source>,
    pub line: u32,
    pub column: u32,
    /// Bytes of `source.text`.
    pub bytes: Range<usize>,
}
