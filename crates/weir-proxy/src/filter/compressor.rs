//! Compresses responses (Envoy's filter `compressor`): which ones, with which encoding, and what that changes of their heads.
pub mod accept_encoding;
pub mod encoder;

use super::{FilterContext, Flow};
use crate::{
    detail::Detail,
    info::Flags,
    reply::Reply,
    stats::{CompressorStats, CompressorsStats},
    stream::Direction,
};
use accept_encoding::{Choice, choose};
use encoder::Encoder;
use std::sync::Arc;
use weir_config::model::{Compression, Compressor, CompressorLibrary};
use weir_net::http::{Known, ResponseHead};

/// The compressor of one stream.
pub struct CompressorFilter {
    config: Arc<Compressor>,
    /// Of the request, as the client sent it; `None` where it sent none.
    accept_encoding: Option<Vec<u8>>,
    /// What answers the request is no response with a body, but a tunnel.
    tunnels: bool,
    state: State,
}

enum State {
    Pass,
    Compress(Compression, Encoder),
    /// The last byte has gone.
    Ended,
}

impl CompressorFilter {
    pub fn new(config: Arc<Compressor>) -> CompressorFilter {
        CompressorFilter { config, accept_encoding: None, tunnels: false, state: State::Pass }
    }

    pub fn is_compressing(&self) -> bool {
        !matches!(self.state, State::Pass)
    }

    pub fn decode_headers(&mut self, cx: &FilterContext) -> Flow {
        let request = cx.stream.req.borrow();
        self.tunnels = request.method_text() == b"CONNECT" || request.headers.has(Known::Upgrade);
        let lines: Vec<&[u8]> = request.headers.all(Known::AcceptEncoding).collect();
        self.accept_encoding = (!lines.is_empty()).then(|| lines.join(&b','));
        Flow::Continue
    }

    pub fn encode_headers(&mut self, cx: &FilterContext, end: bool) -> Flow {
        self.state = State::Pass;
        if !self.tunnels {
            let mut head = cx.stream.resp.borrow_mut();
            let chosen = on_response(&self.config, self.accept_encoding.as_deref(), &mut head, end, &cx.stats.compressors);
            if let Some(library) = chosen {
                self.state = State::Compress(*library, Encoder::new(library));
            }
        }
        Flow::Continue
    }

    /// Replaces what has come by what it is compressed to. Each piece is complete in itself: nothing waits here for more.
    pub fn encode_data(&mut self, cx: &FilterContext, position: usize, end: bool) -> Flow {
        let mut held = cx.stream.held[Direction::Response as usize].borrow_mut();
        let data = std::mem::take(&mut held[position]);
        let State::Compress(library, encoder) = &mut self.state else { return Flow::Continue };
        if data.is_empty() && !end {
            return Flow::Continue;
        }
        if let Err(e) = encoder.encode(&data, end, &mut held[position]) {
            let reply = Reply::new(500, Detail::Other(format!("compressor_failed{{{e}}}").into()));
            return Flow::Reply(Box::new(reply), Flags::LOCAL_RESET);
        }
        let stats = cx.stats.compressors.of(library);
        stats.total_uncompressed_bytes.add(data.len() as u64);
        stats.total_compressed_bytes.add(held[position].len() as u64);
        if end {
            self.state = State::Ended;
        }
        Flow::Continue
    }
}

/// Looks at the head of a response, and changes it where the body is to be compressed. `accept_encoding` is the request's; `ends`: there is
/// no body. Returns what to compress it with.
pub fn on_response<'a>(
    compressor: &'a Compressor,
    accept_encoding: Option<&[u8]>,
    head: &mut ResponseHead,
    ends: bool,
    stats: &CompressorsStats,
) -> Option<&'a Compression> {
    let libraries = &compressor.libraries;
    let open = is_open(head);
    // As in Envoy, only encodings for this type of content take part in the choice.
    let listed: Vec<usize> = (0..libraries.len()).filter(|at| is_for_type(&libraries[*at], head)).collect();
    let encodings: Vec<&str> = listed.iter().map(|at| libraries[*at].compressor_library.content_encoding()).collect();
    let choice = accept_encoding.map(|header| match choose(header, &encodings) {
        Choice::Named(at) => Choice::Named(listed[at]),
        Choice::Wildcard(at) => Choice::Wildcard(listed[at]),
        other => other,
    });
    let (mut chosen, mut varies) = (None, false);
    for (at, library) in libraries.iter().enumerate() {
        let stats = stats.of(&library.compressor_library);
        let long = is_long_enough(library, head, stats);
        let compressible = open && long && allows_etag(library, head, stats) && listed.contains(&at);
        varies |= compressible;
        if compressible && !ends && is_chosen(choice, at, stats) {
            stats.compressed.inc();
            chosen = Some(&library.compressor_library);
        } else {
            stats.not_compressed.inc();
        }
    }
    if let Some(library) = chosen {
        head.headers.remove(Known::ContentLength);
        head.headers.set(Known::ContentEncoding, &[library.content_encoding().as_bytes()]);
        // A strong ETag stands for the bytes as they were, and so do ranges.
        head.headers.remove(Known::AcceptRanges);
        if head.headers.get(Known::Etag).is_some_and(|etag| !is_weak(etag)) {
            head.headers.remove(Known::Etag);
        }
    }
    if varies {
        // For caches: the same URL may be answered in another encoding.
        add_vary(head);
    }
    chosen
}

fn is_for_type(library: &CompressorLibrary, head: &ResponseHead) -> bool {
    let Some(value) = head.headers.get(Known::ContentType) else { return true };
    let media_type = value.split(|c| *c == b';').next().unwrap_or_default().trim_ascii();
    // gRPC compresses by itself, message by message.
    let grpc = media_type.get(..16).is_some_and(|start| start.eq_ignore_ascii_case(b"application/grpc"));
    !grpc && library.content_type.iter().any(|t| t.as_bytes().eq_ignore_ascii_case(media_type))
}

fn is_long_enough(library: &CompressorLibrary, head: &ResponseHead, stats: &CompressorStats) -> bool {
    let length = head.headers.get(Known::ContentLength).and_then(|text| std::str::from_utf8(text).ok()?.trim().parse::<u64>().ok());
    let short = length.is_some_and(|length| length < library.min_content_length.into());
    if short {
        stats.content_length_too_small.inc();
    }
    !short
}

fn allows_etag(library: &CompressorLibrary, head: &ResponseHead, stats: &CompressorStats) -> bool {
    let refused = library.disable_on_etag_header && head.headers.has(Known::Etag);
    if refused {
        stats.not_compressed_etag.inc();
    }
    !refused
}

/// Whether the response may be compressed at all: it has a body of its own, whole, and not encoded.
fn is_open(head: &ResponseHead) -> bool {
    let partial = head.status == 206 || head.headers.get_named(b"content-range").is_some();
    let encoded = head.headers.has(Known::ContentEncoding);
    let bodiless = head.status < 200 || matches!(head.status, 204 | 304);
    let fixed = head.headers.all(Known::CacheControl).any(|value| has_token(value, b"no-transform"));
    !(partial || encoded || bodiless || fixed)
}

/// Whether the client wants the encoding at `at`, counted as Envoy counts it.
fn is_chosen(choice: Option<Choice>, at: usize, stats: &CompressorStats) -> bool {
    let (counter, chosen) = match choice {
        None => (&stats.no_accept_header, false),
        Some(Choice::Identity) => (&stats.header_identity, false),
        Some(Choice::NotValid) => (&stats.header_not_valid, false),
        Some(Choice::Named(best)) if best == at => (&stats.header_compressor_used, true),
        Some(Choice::Wildcard(best)) if best == at => (&stats.header_wildcard, true),
        Some(Choice::Named(_) | Choice::Wildcard(_)) => (&stats.header_compressor_overshadowed, false),
    };
    counter.inc();
    chosen
}

fn is_weak(etag: &[u8]) -> bool {
    etag.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(b"w/"))
}

fn has_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|c| *c == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
}

fn add_vary(head: &mut ResponseHead) {
    let there = head.headers.all(Known::Vary).any(|value| has_token(value, b"accept-encoding") || has_token(value, b"*"));
    if !there {
        head.headers.add(Known::Vary, &[b"Accept-Encoding"]);
    }
}

#[cfg(test)]
mod tests;
