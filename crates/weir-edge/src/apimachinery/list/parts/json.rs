//! The text of a list in JSON: an object, and in it an array of objects.
use super::Step;
use crate::apimachinery::{
    json::{JsonError, Nesting, TooDeep},
    list::ListError,
};

/// The fields that hold items: of a list, and of a Table.
const ITEMS: [&[u8]; 2] = [b"items", b"rows"];
/// Longer names are of no interest.
const MAX_NAME: usize = 8;

#[derive(Debug, Default)]
enum State {
    #[default]
    Start,
    /// Before the name of a field, or behind its value.
    Field,
    Name {
        escaped: bool,
    },
    Colon,
    Value,
    /// In the value of a field that is no list of items.
    Nested(Nesting),
    Text {
        escaped: bool,
    },
    Word,
    /// In the array, before or behind an item.
    Between,
    Item(Nesting),
    End,
}

#[derive(Debug, Default)]
pub(super) struct Scanner {
    state: State,
    /// The name of the field.
    name: Vec<u8>,
    /// The array of items has begun.
    seen: bool,
    /// What the array has had so far.
    items: usize,
    commas: usize,
}

impl Scanner {
    pub(super) fn is_finished(&self) -> bool {
        matches!(self.state, State::End)
    }

    /// What closes the text as far as it has come.
    pub(super) fn unfinished(&self) -> &'static [u8] {
        match self.state {
            State::Between | State::Item(_) => b"]}",
            _ => b"",
        }
    }

    /// `at`: the byte of the body with which the piece begins.
    pub(super) fn scan(&mut self, piece: &[u8], at: usize) -> Result<Step, ListError> {
        match &mut self.state {
            State::Item(nesting) => {
                let end = nesting.scan(piece).map_err(|TooDeep(offset)| JsonError::TooDeep { at: at + offset })?;
                if end.is_some() {
                    (self.state, self.items, self.commas) = (State::Between, self.items + 1, 0);
                }
                Ok(Step::Item { length: end.unwrap_or(piece.len()), last: end.is_some() })
            }
            State::Between => self.between(piece, at),
            _ => self.rest(piece, at),
        }
    }

    fn between(&mut self, piece: &[u8], at: usize) -> Result<Step, ListError> {
        for (offset, byte) in piece.iter().enumerate() {
            match byte {
                b' ' | b'\n' | b'\r' | b'\t' => {}
                b',' => self.commas += 1,
                b'{' if self.commas == usize::from(self.items > 0) => {
                    self.state = State::Item(Nesting::default());
                    // What stands before the first item belongs to the bracket.
                    return match offset {
                        0 if self.items == 0 => self.scan(piece, at),
                        _ if self.items == 0 => Ok(Step::Rest(offset)),
                        // It may have come all with the piece before.
                        _ => Ok(Step::Separator { length: offset, last: true }),
                    };
                }
                b']' if self.commas == 0 => {
                    self.state = State::Field;
                    return self.rest(piece, at);
                }
                _ => return Err(JsonError::Expected { at: at + offset, expected: "an object, or the end of the array" }.into()),
            }
        }
        match self.items {
            0 => Ok(Step::Rest(piece.len())),
            _ => Ok(Step::Separator { length: piece.len(), last: false }),
        }
    }

    /// Up to the array of items, and behind it.
    fn rest(&mut self, piece: &[u8], at: usize) -> Result<Step, ListError> {
        let mut offset = 0;
        while let Some(&byte) = piece.get(offset) {
            let expected = |expected| Err(JsonError::Expected { at: at + offset, expected }.into());
            let space = matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
            let next = match &mut self.state {
                State::Start if space => None,
                State::Start if byte == b'{' => Some(State::Field),
                State::Start => return expected("an object"),
                State::Field => match byte {
                    b'"' => {
                        self.name.clear();
                        Some(State::Name { escaped: false })
                    }
                    b'}' => Some(State::End),
                    // The array of items ends here.
                    b']' | b',' => None,
                    _ if space => None,
                    _ => return expected("a field, or the end of the object"),
                },
                State::Name { escaped } => match (std::mem::take(escaped), byte) {
                    (false, b'"') => Some(State::Colon),
                    (false, b'\\') => Some(State::Name { escaped: true }),
                    _ => {
                        if self.name.len() < MAX_NAME {
                            self.name.push(byte);
                        }
                        None
                    }
                },
                State::Colon if space => None,
                State::Colon if byte == b':' => Some(State::Value),
                State::Colon => return expected("a colon"),
                State::Value => match byte {
                    _ if space => None,
                    b'[' if ITEMS.contains(&self.name.as_slice()) => {
                        if std::mem::replace(&mut self.seen, true) {
                            return Err(JsonError::Duplicate { at: at + offset }.into());
                        }
                        self.state = State::Between;
                        return Ok(Step::Rest(offset + 1));
                    }
                    b'{' | b'[' => {
                        self.state = State::Nested(Nesting::default());
                        continue;
                    }
                    b'"' => Some(State::Text { escaped: false }),
                    _ => Some(State::Word),
                },
                State::Nested(nesting) => {
                    let end = nesting.scan(&piece[offset..]).map_err(|TooDeep(deep)| JsonError::TooDeep { at: at + offset + deep })?;
                    let Some(length) = end else { return Ok(Step::Rest(piece.len())) };
                    offset += length;
                    self.state = State::Field;
                    continue;
                }
                State::Text { escaped } => match (std::mem::take(escaped), byte) {
                    (false, b'"') => Some(State::Field),
                    (false, b'\\') => Some(State::Text { escaped: true }),
                    _ => None,
                },
                State::Word if space || byte == b',' => Some(State::Field),
                State::Word if byte == b'}' => Some(State::End),
                State::Word => None,
                State::End if space => None,
                State::End => return expected("the end of the text"),
                State::Between | State::Item(_) => return Ok(Step::Rest(offset)),
            };
            if let Some(next) = next {
                self.state = next;
            }
            offset += 1;
        }
        Ok(Step::Rest(piece.len()))
    }
}
