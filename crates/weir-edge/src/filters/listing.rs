//! Lists as their clients see them. A list in JSON is changed item by item as it passes. One in protobuf says at its beginning how long it
//! is, so it is held until its last item was seen; what was not changed of it is not copied.
use super::{
    chain::{Chain, ChainOf, Verdict},
    contexts::{Contexts, Published},
    stats::Stats,
};
use crate::{
    apimachinery::{
        gunzip::Gunzip,
        list::parts::{Part, Parts},
        media::Encoding,
        object::Object,
        request::ResourceRequest,
    },
    body::{Body, BodyError, streamed},
};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, BodyStream, StreamBody};
use std::{collections::VecDeque, sync::Arc};

/// Most bytes that one piece of a compressed list may become.
const MAX_PIECE: usize = 64 << 20;

/// What a list is read with.
pub struct Reader {
    parts: Parts,
    gunzip: Option<Gunzip>,
}

/// It cannot be read as a list.
pub struct Unreadable;

impl Reader {
    /// `None`: lists in this encoding are not read.
    pub fn new(encoding: Encoding, gzip: bool) -> Option<Reader> {
        Some(Reader { parts: Parts::new(encoding).ok()?, gunzip: gzip.then(|| Gunzip::new(MAX_PIECE)) })
    }

    /// The next piece of the body: what it is without compression.
    fn push(&mut self, piece: &Bytes) -> Result<Bytes, Unreadable> {
        let plain = match &mut self.gunzip {
            None => piece.clone(),
            Some(gunzip) => {
                gunzip.add(piece).ok_or(Unreadable)?;
                gunzip.take()
            }
        };
        self.parts.push(plain.clone());
        Ok(plain)
    }

    /// The resource version, if it has come.
    fn version(&self) -> Option<u64> {
        let version = self.parts.head().ok()?.resource_version;
        (!version.is_empty()).then(|| version.parse().unwrap_or_default())
    }
}

/// A list that no filter changes passes as it is. Its version is taken note of.
pub fn noted(body: Body, reader: Reader, contexts: Arc<Contexts>) -> Body {
    let frames = futures_util::stream::unfold((body, Some(reader), contexts), |(mut body, mut reader, contexts)| async move {
        let frame = body.frame().await?;
        if let Some(data) = frame.as_ref().ok().and_then(Frame::data_ref)
            && let Some(reading) = &mut reader
            && note(reading, data, &contexts)
        {
            reader = None;
        }
        Some((frame, (body, reader, contexts)))
    });
    streamed(StreamBody::new(frames))
}

/// Whether there is nothing more to know.
fn note(reader: &mut Reader, data: &Bytes, contexts: &Contexts) -> bool {
    if reader.push(data).is_err() {
        return true;
    }
    loop {
        let next = reader.parts.next();
        if let Some(version) = reader.version() {
            contexts.lists(version);
            return true;
        }
        match next {
            Ok(Some(_)) => {}
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

/// Says of the items of a list what the client sees of them.
pub struct Judge {
    pub contexts: Arc<Contexts>,
    pub stats: Arc<Stats>,
    pub chain_of: ChainOf,
    /// Of the items, which do not always say it.
    pub api_version: String,
    pub encoding: Encoding,
    /// The filters and the context of this list, once it has begun.
    begun: Option<(Option<Chain>, Published)>,
    /// The version of the list was not known when it began.
    late: bool,
}

impl Judge {
    pub fn new(contexts: Arc<Contexts>, stats: Arc<Stats>, chain_of: ChainOf, request: &ResourceRequest, encoding: Encoding) -> Judge {
        Judge { contexts, stats, chain_of, api_version: request.resource.api_version(), encoding, begun: None, late: false }
    }

    fn item(&mut self, reader: &Reader, item: &Bytes) -> Verdict {
        if self.begun.is_none() {
            let version = reader.version();
            self.late = version.is_none();
            let context = self.contexts.lists(version.unwrap_or_default());
            let chain = (self.chain_of)(&context).filter(|chain| chain.is_active(&context));
            self.begun = Some((chain, context));
        }
        let Some((Some(chain), context)) = &self.begun else { return Verdict::Keep };
        chain.saw(&self.stats);
        if !chain.may_concern(item) {
            return Verdict::Keep;
        }
        let verdict = Object::read_item(item.clone(), self.encoding, &self.api_version, chain.served.kind).ok().and_then(|object| {
            match chain.concerns(&object) {
                true => chain.count(&object, context, None, &self.stats).ok(),
                false => Some(Verdict::Keep),
            }
        });
        verdict.unwrap_or_else(|| {
            self.stats.unreadable();
            Verdict::Keep
        })
    }

    /// The list has ended.
    fn end(&mut self, reader: &Reader) {
        match (reader.parts.finish(), &self.begun) {
            (Ok(head), begun) => {
                let version = head.resource_version.parse().unwrap_or_default();
                match begun {
                    None => drop(self.contexts.lists(version)),
                    Some((_, context)) if self.late => self.contexts.listed(version, context),
                    Some(_) => {}
                }
            }
            (Err(_), _) => self.stats.unreadable(),
        }
    }
}

/// The pieces of a list that may be sent. Neighbours are one piece again.
#[derive(Default)]
struct Out {
    ready: VecDeque<Bytes>,
    /// The piece of the body that is being read.
    piece: Bytes,
}

impl Out {
    fn add(&mut self, part: Bytes) {
        if part.is_empty() {
            return;
        }
        let place = |part: &Bytes| {
            let start = (part.as_ptr() as usize).checked_sub(self.piece.as_ptr() as usize)?;
            (start + part.len() <= self.piece.len()).then_some(start..start + part.len())
        };
        if let (Some(last), Some(next)) = (self.ready.back().and_then(place), place(&part))
            && last.end == next.start
        {
            let joined = self.piece.slice(last.start..next.end);
            self.ready.pop_back();
            return self.ready.push_back(joined);
        }
        self.ready.push_back(part);
    }
}

/// A list in JSON on its way to the client.
struct Passing {
    body: Body,
    reader: Reader,
    judge: Judge,
    out: Out,
    /// The comma before the next item.
    comma: Bytes,
    shown: usize,
    /// The rest cannot be read, and passes as it is.
    given_up: bool,
    ended: bool,
}

/// A list in JSON as its client sees it.
pub fn streaming(body: Body, reader: Reader, judge: Judge) -> Body {
    let passing = Passing { body, reader, judge, out: Out::default(), comma: Bytes::new(), shown: 0, given_up: false, ended: false };
    let frames = futures_util::stream::unfold(passing, |mut passing| async {
        let next = passing.next().await?;
        Some((next, passing))
    });
    streamed(StreamBody::new(frames))
}

impl Passing {
    async fn next(&mut self) -> Option<Result<Frame<Bytes>, BodyError>> {
        loop {
            if let Some(piece) = self.out.ready.pop_front() {
                return Some(Ok(Frame::data(piece)));
            }
            if self.ended {
                return None;
            }
            match self.body.frame().await {
                None => {
                    self.ended = true;
                    if !self.given_up {
                        self.judge.end(&self.reader);
                        self.give_up();
                    }
                }
                Some(Err(e)) => {
                    self.ended = true;
                    return Some(Err(e));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if self.given_up && self.reader.gunzip.is_none() => return Some(Ok(Frame::data(data))),
                    Ok(data) => {
                        if self.piece(&data).is_err() {
                            // Of what cannot be decompressed nothing can be sent any more.
                            self.ended = true;
                            return Some(Err("the list of the API server is not compressed as it says".into()));
                        }
                    }
                    Err(trailers) => return Some(Ok(trailers)),
                },
            }
        }
    }

    fn piece(&mut self, data: &Bytes) -> Result<(), Unreadable> {
        let plain = self.reader.push(data)?;
        if self.given_up {
            self.give_up();
            return Ok(());
        }
        self.out.piece = plain;
        loop {
            match self.reader.parts.next() {
                Ok(None) => return Ok(()),
                Ok(Some(Part::Rest(part))) => self.out.add(part),
                Ok(Some(Part::Separator(comma))) => self.comma = comma,
                Ok(Some(Part::Item(item))) => {
                    let shown = match self.judge.item(&self.reader, &item) {
                        Verdict::Keep => item,
                        Verdict::Replace(replaced) => replaced.bytes,
                        Verdict::Drop => continue,
                    };
                    let comma = std::mem::take(&mut self.comma);
                    if self.shown > 0 {
                        self.out.add(comma);
                    }
                    self.out.add(shown);
                    self.shown += 1;
                }
                Err(_) => {
                    self.judge.stats.unreadable();
                    self.given_up = true;
                    let comma = std::mem::take(&mut self.comma);
                    self.out.add(comma);
                    self.give_up();
                    return Ok(());
                }
            }
        }
    }

    /// Sends what has come and was not read.
    fn give_up(&mut self) {
        for piece in self.reader.parts.take_unread() {
            self.out.add(piece);
        }
    }
}

/// A list in protobuf, whole.
pub struct Whole {
    /// As it came.
    pub came: Vec<Bytes>,
    /// As the client sees it; `None`: as it came.
    pub shown: Option<Vec<Bytes>>,
}

/// Why a list is not whole.
pub enum NotHeld {
    Broken(BodyError),
    /// It has too many bytes: it passes as it is.
    TooLong(Body),
}

/// Holds a list in protobuf until it is whole.
pub async fn whole(mut body: Body, mut reader: Reader, mut judge: Judge, most: usize) -> Result<Whole, NotHeld> {
    let (mut came, mut length) = (Vec::new(), 0);
    let (mut items, mut changed, mut readable) = (Vec::new(), false, true);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(NotHeld::Broken)?.into_data() else { continue };
        length += data.len();
        readable = readable && reader.push(&data).is_ok();
        came.push(data);
        if length > most {
            judge.stats.unreadable();
            let begun = futures_util::stream::iter(came.into_iter().map(|piece| Ok(Frame::data(piece))));
            let all = futures_util::StreamExt::chain(begun, BodyStream::new(body));
            return Err(NotHeld::TooLong(streamed(StreamBody::new(all))));
        }
        while readable {
            match reader.parts.next() {
                Ok(None) => break,
                Ok(Some(Part::Item(item))) => match judge.item(&reader, &item) {
                    Verdict::Keep => items.push(item),
                    Verdict::Replace(replaced) => {
                        items.push(replaced.bytes);
                        changed = true;
                    }
                    Verdict::Drop => changed = true,
                },
                Ok(Some(Part::Rest(_) | Part::Separator(_))) => {}
                Err(_) => readable = false,
            }
        }
    }
    judge.end(&reader);
    let shown = (changed && readable && reader.parts.finish().is_ok()).then(|| reader.parts.assemble(items));
    Ok(Whole { came, shown })
}
