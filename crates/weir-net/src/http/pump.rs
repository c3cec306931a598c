//! The raw pump: moves a body from one HTTP/1 connection to another without looking into it, only at its framing.
use super::{
    body::Framing,
    buf::BufPool,
    chunk,
    head::Headers,
    parse::{self, Bad},
    wire::Wire,
};
use std::task::{Context, Poll, ready};

/// Body bytes up to this many travel in the same write as the head by being copied behind it; more go by `writev`.
pub const COPY_LIMIT: usize = 4096;

/// What happens to the framing on the way.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Coding {
    /// Both sides use the same. Chunks are still rewritten: the sender's chunk sizes and extensions are not passed on.
    Same,
    /// The receiver gets the content without framing.
    Bare,
    /// The receiver gets chunks.
    Chunk,
}

/// Which side a transfer failed on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Broken {
    Source,
    Sink,
    /// The source sent something that is not a body.
    Malformed,
    /// What is to be sent is not as long as its head says.
    Length,
}

impl From<Bad> for Broken {
    fn from(_: Bad) -> Self {
        Broken::Malformed
    }
}

/// One direction of a message: first the bytes in a `lead` buffer (a head), then the body from the source's input.
/// It holds no borrow, so both directions can be driven from one place.
pub struct Pump {
    framing: Framing,
    coding: Coding,
    lead_sent: usize,
    /// Bytes at the front of the source's input that are checked and may be sent.
    ready: usize,
    /// The line break after the chunk in `ready` must still be sent.
    owed: bool,
    ended: bool,
    /// All of it was sent. Only then is the source at the start of its next message.
    pub done: bool,
    /// The sink is gone: nothing more can be sent.
    pub broken: bool,
    /// Body bytes taken from the source.
    pub moved: u64,
    /// Bytes given to the sink, of lead and body.
    pub sent: u64,
    /// Bytes were sent that are no longer in the lead: it cannot be sent again.
    pub spent: bool,
}

impl Pump {
    /// Takes what is already there: small pieces are appended to `lead`, so that head and body leave in one write.
    pub fn new(framing: Framing, coding: Coding, lead: &mut Vec<u8>, src: &mut Wire, pool: &BufPool) -> Result<Pump, Broken> {
        let ended = framing.is_done();
        let mut p = Pump {
            framing,
            coding,
            lead_sent: 0,
            ready: 0,
            owed: false,
            ended,
            done: false,
            broken: false,
            moved: 0,
            sent: 0,
            spent: false,
        };
        if !p.ended && !src.input.is_empty() {
            p.stage(lead, src, pool)?;
        }
        Ok(p)
    }

    /// Gets the next bytes of the input ready to be sent.
    fn stage(&mut self, lead: &mut Vec<u8>, src: &mut Wire, pool: &BufPool) -> Result<(), Broken> {
        if self.coding == Coding::Same && !self.chunks() {
            let (n, done) = self.framing.take(src.input.filled())?;
            self.ended = done;
            self.moved += n as u64;
            if n <= COPY_LIMIT {
                lead.extend_from_slice(&src.input.filled()[..n]);
                src.input.consume(n);
                pool.reclaim(&mut src.input);
            } else {
                self.ready = n;
            }
            return Ok(());
        }
        self.settle(lead);
        while !self.ended && !src.input.is_empty() {
            let filled = src.input.filled();
            let s = self.framing.step(filled)?;
            let len = s.data.len();
            self.moved += len as u64;
            if len > 0 {
                if self.chunks() {
                    chunk::size_line(lead, len);
                    self.owed = true;
                }
                if len > COPY_LIMIT {
                    // Sent from the input buffer, without a copy; nothing else of this step follows it.
                    debug_assert_eq!(s.data.end, s.used);
                    src.input.consume(s.data.start);
                    self.ready = len;
                    return Ok(());
                }
                lead.extend_from_slice(&filled[s.data]);
                self.settle(lead);
            }
            let mut trailers = Headers::default();
            if s.trailers.len() > 2 {
                parse::trailer_fields(&filled[s.trailers], &mut trailers)?;
            }
            src.input.consume(s.used);
            if s.done {
                self.end(lead, &trailers);
            }
            if s.used == 0 {
                break;
            }
        }
        pool.reclaim(&mut src.input);
        Ok(())
    }

    /// Whether the receiver gets chunks.
    fn chunks(&self) -> bool {
        match self.coding {
            Coding::Same => matches!(self.framing, Framing::Chunked(_)),
            Coding::Bare => false,
            Coding::Chunk => true,
        }
    }

    /// Ends the chunk that was begun.
    fn settle(&mut self, lead: &mut Vec<u8>) {
        if std::mem::take(&mut self.owed) {
            lead.extend_from_slice(b"\r\n");
        }
    }

    fn end(&mut self, lead: &mut Vec<u8>, trailers: &Headers) {
        self.settle(lead);
        self.ended = true;
        if self.chunks() {
            lead.extend_from_slice(b"0\r\n");
            trailers.write_to(lead);
        }
    }

    pub fn is_active(&self) -> bool {
        !self.done && !self.broken
    }

    /// Whether the source is at the start of its next message.
    pub fn is_read(&self) -> bool {
        self.ended && self.ready == 0
    }

    /// Sends again from the start of the lead (the body must not be `spent`).
    pub fn rewind(&mut self) {
        (self.lead_sent, self.done, self.broken) = (0, false, false);
    }

    pub fn poll(
        &mut self,
        cx: &mut Context,
        lead: &mut Vec<u8>,
        src: &mut Wire,
        dst: &mut Wire,
        pool: &BufPool,
    ) -> Poll<Result<(), Broken>> {
        loop {
            let rest = &lead[self.lead_sent..];
            if !rest.is_empty() || self.ready > 0 {
                let body = &src.input.filled()[..self.ready];
                let n = ready!(dst.poll_write(cx, [rest, body])).map_err(|_| Broken::Sink)?;
                self.sent += n as u64;
                let of_lead = n.min(rest.len());
                self.lead_sent += of_lead;
                if n > of_lead {
                    self.spent = true;
                    self.ready -= n - of_lead;
                    src.input.consume(n - of_lead);
                    pool.reclaim(&mut src.input);
                }
                continue;
            }
            if self.ended {
                ready!(dst.poll_flush(cx)).map_err(|_| Broken::Sink)?;
                self.done = true;
                return Poll::Ready(Ok(()));
            }
            if self.owed && src.input.is_empty() {
                // The receiver may be waiting for the end of this chunk.
                (self.spent, self.lead_sent) = (true, 0);
                lead.clear();
                self.settle(lead);
                continue;
            }
            if src.input.is_empty() || !self.staged_any(lead, src, pool)? {
                let filled = src.poll_fill(cx, pool);
                if filled.is_pending() {
                    // What was written must not wait with us.
                    if let Poll::Ready(Err(_)) = dst.poll_flush(cx) {
                        return Poll::Ready(Err(Broken::Sink));
                    }
                }
                match ready!(filled) {
                    Ok(0) if src.ends(self.framing) => {
                        (self.spent, self.lead_sent) = (true, 0);
                        lead.clear();
                        self.end(lead, &Headers::default());
                    }
                    Ok(0) => return Poll::Ready(Err(Broken::Source)),
                    Ok(_) => {}
                    Err(_) => return Poll::Ready(Err(Broken::Source)),
                }
            }
        }
    }

    fn staged_any(&mut self, lead: &mut Vec<u8>, src: &mut Wire, pool: &BufPool) -> Result<bool, Broken> {
        (self.spent, self.lead_sent) = (true, 0);
        lead.clear();
        let before = src.input.filled().len();
        self.stage(lead, src, pool)?;
        Ok(self.ended || self.ready > 0 || !lead.is_empty() || src.input.filled().len() < before)
    }
}
