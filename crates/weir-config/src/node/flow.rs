//! Lines within `[…]` and `{…}` may be indented as little as one likes for libyaml, which Kubernetes' tools read with, but not for
//! this parser. Such lines are padded until it takes them; reported places do not count the padding.

/// Bytes that are parsed again at most for one text.
const MAX_WORK: usize = 16 << 20;
/// Indentation that is looked at.
const MAX_INDENT: usize = 1000;

/// Whether an error of the parser is one that more indentation may help against.
pub fn is_about_indentation(info: &str) -> bool {
    matches!(info, "invalid indentation" | "invalid indentation in flow construct")
}

/// The lines (one-based, in order) that have `width` blanks more at their start.
#[derive(Default)]
pub struct Padding {
    lines: Vec<usize>,
    width: usize,
}

impl Padding {
    /// The index that a character of the padded text has in the text itself.
    pub fn without(&self, line: usize, column: usize, index: usize) -> usize {
        let before = self.lines.partition_point(|l| *l < line);
        let here = if self.lines.get(before) == Some(&line) { self.width.min(column) } else { 0 };
        // The parser counts more characters as the end of a line than are padded after.
        index.saturating_sub(before * self.width + here)
    }
}

/// A text with the padding that was found to be needed so far.
pub struct Repair<'a> {
    text: &'a str,
    padding: Padding,
    work: usize,
}

impl<'a> Repair<'a> {
    pub fn new(text: &'a str) -> Repair<'a> {
        let blanks = |line: &str| line.len() - line.trim_start_matches(' ').len();
        let width = text.lines().map(blanks).filter(|n| *n <= MAX_INDENT).max().unwrap_or_default() + 1;
        Repair { text, padding: Padding { lines: Vec::new(), width }, work: 0 }
    }

    pub fn padding(&self) -> &Padding {
        &self.padding
    }

    /// The text with one more line padded; `None` where that was tried, or is too much work.
    pub fn pad(&mut self, line: usize) -> Option<String> {
        let at = self.padding.lines.binary_search(&line).err()?;
        self.padding.lines.insert(at, line);
        let length = self.text.len() + self.padding.lines.len() * self.padding.width;
        self.work += length;
        if self.work > MAX_WORK {
            return None;
        }
        let mut padded = String::with_capacity(length);
        let mut next = self.padding.lines.iter().peekable();
        for (i, line) in self.text.split_inclusive('\n').enumerate() {
            if next.next_if(|n| **n == i + 1).is_some() {
                padded.extend(std::iter::repeat_n(' ', self.padding.width));
            }
            padded.push_str(line);
        }
        Some(padded)
    }
}
