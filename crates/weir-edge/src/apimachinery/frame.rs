//! Cuts the body of a watch into its frames, in whatever pieces it arrives.
mod json;
mod protobuf;

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

use crate::apimachinery::json::MAX_DEPTH;
use crate::apimachinery::media::Encoding;

/// Largest frame by default: ten times the largest object that etcd stores by default.
pub const MAX_FRAME: usize = 16 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    #[error("the frames of a watch in {0} cannot be told apart")]
    Encoding(Encoding),
    #[error("byte {at} of the watch: a frame of more than {max} bytes")]
    TooLong { at: u64, max: usize },
    #[error("byte {at} of the watch: expected a JSON object")]
    NotAnObject { at: u64 },
    #[error("byte {at} of the watch: an object nested deeper than {MAX_DEPTH}")]
    TooDeep { at: u64 },
    #[error("byte {at} of the watch: an empty frame")]
    Empty { at: u64 },
    #[error("byte {at} of the watch: it ends after {pending} bytes of a frame")]
    Truncated { at: u64, pending: u64 },
}

/// Cuts a body into frames. A frame that lies in one piece is not copied. After an error there are no more frames.
#[derive(Debug)]
pub struct Splitter {
    framing: Framing,
    max: usize,
    /// Pieces that were not looked at yet.
    pieces: VecDeque<Bytes>,
    /// The beginning of a frame that continues in a later piece.
    partial: BytesMut,
    pushed: u64,
    scanned: u64,
    complete: u64,
    failed: Option<FrameError>,
}

#[derive(Debug)]
enum Framing {
    Json(json::Scanner),
    Protobuf(protobuf::Scanner),
}

/// What a piece of a body begins with.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// So many bytes between two frames.
    Between(usize),
    /// So many bytes that say how long the next frame is.
    Header(usize),
    /// So many bytes of a frame.
    Content { length: usize, last: bool },
}

#[derive(Debug, PartialEq, Eq)]
enum Problem {
    NotAnObject,
    /// The byte of the piece where it is.
    TooDeep(usize),
    Empty,
    TooLong,
}

impl Splitter {
    /// `max`: bytes of the largest frame.
    pub fn new(encoding: Encoding, max: usize) -> Result<Splitter, FrameError> {
        let framing = match encoding {
            Encoding::Json => Framing::Json(json::Scanner::default()),
            Encoding::Protobuf => Framing::Protobuf(protobuf::Scanner::default()),
            Encoding::Cbor | Encoding::Yaml => return Err(FrameError::Encoding(encoding)),
        };
        let (pieces, partial) = (VecDeque::new(), BytesMut::new());
        Ok(Splitter { framing, max, pieces, partial, pushed: 0, scanned: 0, complete: 0, failed: None })
    }

    /// The next piece of the body.
    pub fn push(&mut self, piece: Bytes) {
        self.pushed += piece.len() as u64;
        if self.failed.is_none() && !piece.is_empty() {
            self.pieces.push_back(piece);
        }
    }

    /// The next frame: an event without the line break or the length that it has on the wire. `None`: it has not arrived yet.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None => self.scan().inspect_err(|error| {
                self.failed = Some(error.clone());
                self.pieces.clear();
                self.partial = BytesMut::new();
            }),
        }
    }

    /// Bytes of the body up to the end of the last frame that [`Splitter::next`] found, with the line break behind it. A client that
    /// gets no more than these never sees a part of an event.
    pub fn complete(&self) -> u64 {
        self.complete
    }

    /// Bytes after [`Splitter::complete`].
    pub fn pending(&self) -> u64 {
        self.pushed - self.complete
    }

    /// The body has ended: in the middle of a frame that is an error.
    pub fn finish(&mut self) -> Result<(), FrameError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.pending() > 0 => Err(FrameError::Truncated { at: self.pushed, pending: self.pending() }),
            None => Ok(()),
        }
    }

    fn scan(&mut self) -> Result<Option<Bytes>, FrameError> {
        while let Some(piece) = self.pieces.front_mut() {
            let step = match &mut self.framing {
                Framing::Json(scanner) => scanner.scan(piece),
                Framing::Protobuf(scanner) => scanner.scan(piece, self.max),
            };
            let (at, start) = (self.scanned, self.complete);
            let step = step.map_err(|problem| match problem {
                Problem::NotAnObject => FrameError::NotAnObject { at },
                Problem::TooDeep(offset) => FrameError::TooDeep { at: at + offset as u64 },
                Problem::Empty => FrameError::Empty { at: start },
                Problem::TooLong => FrameError::TooLong { at: start, max: self.max },
            })?;
            let mut frame = None;
            match step {
                Step::Between(length) => {
                    piece.advance(length);
                    self.scanned += length as u64;
                    self.complete = self.scanned;
                }
                Step::Header(length) => {
                    piece.advance(length);
                    self.scanned += length as u64;
                }
                Step::Content { length, last } => {
                    if self.partial.len() + length > self.max {
                        return Err(FrameError::TooLong { at: start, max: self.max });
                    }
                    let content = piece.split_to(length);
                    self.scanned += length as u64;
                    if !self.partial.is_empty() || !last {
                        self.partial.extend_from_slice(&content);
                    }
                    if last {
                        let whole = std::mem::take(&mut self.partial);
                        frame = Some(if whole.is_empty() { content } else { whole.freeze() });
                        self.complete = self.scanned;
                    }
                }
            }
            if piece.is_empty() {
                self.pieces.pop_front();
            }
            if frame.is_some() {
                self.skip_between();
                return Ok(frame);
            }
        }
        Ok(None)
    }

    /// Counts the line break behind a frame as complete together with the frame.
    fn skip_between(&mut self) {
        if let (Framing::Json(_), Some(piece)) = (&self.framing, self.pieces.front_mut()) {
            let length = json::whitespace(piece);
            piece.advance(length);
            self.scanned += length as u64;
            self.complete = self.scanned;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests;
