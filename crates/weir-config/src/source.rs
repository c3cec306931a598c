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
    /// Where each line starts, in characters and in bytes; made when it is first asked for.
    lines: OnceLock<Box<[(u32, u32)]>>,
    /// The parts of it that must not be shown.
    pub(crate) secrets: OnceLock<Box<[Cut]>>,
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

    fn lines(&self) -> &[(u32, u32)] {
        self.lines.get_or_init(|| {
            let (mut chars, mut bytes) = (0, 0);
            let starts = self.text.split_inclusive('\n').map(|line| {
                let at = (chars, bytes);
                chars += line.chars().count() as u32;
                bytes += line.len() as u32;
                at
            });
            starts.collect()
        })
    }

    /// The place of a range of characters.
    pub fn place(self: &Arc<Self>, start: u32, end: u32) -> Place {
        let lines = self.lines();
        let line = lines.partition_point(|(chars, _)| *chars <= start).saturating_sub(1);
        let (chars, bytes) = lines.get(line).copied().unwrap_or_default();
        let after = |from: usize, chars: u32| {
            let rest = self.text.get(from..).unwrap_or_default();
            from + rest.char_indices().nth(chars as usize).map_or(rest.len(), |(i, _)| i)
        };
        let column = start.saturating_sub(chars);
        let start_byte = after(bytes as usize, column);
        let bytes = start_byte..after(start_byte, end.saturating_sub(start));
        Place { source: self.clone(), line: self.first_line + line as u32, column: column + 1, bytes }
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
