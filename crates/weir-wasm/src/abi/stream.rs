//! Bodies, resume, close and replies of the stream in effect.
use crate::{
    host::{BufferEdit, BufferType, LocalResponse, LogLevel, Status, Stream, StreamType},
    memory::{Call, Guest, check, give_with, view},
    pairs::Pairs,
    state::Host,
};
use bytes::Bytes;
use std::rc::Rc;

enum Buffer {
    OfStream(Rc<dyn Stream>, BufferType),
    Held(Bytes),
    /// Configurations, read on every start only.
    Configuration {
        of_vm: bool,
    },
}

impl Buffer {
    /// `NotFound` when there is no such buffer now.
    fn find(host: &Host, buffer: u32) -> Result<Buffer, Status> {
        let kind = match buffer {
            0 => BufferType::RequestBody,
            1 => BufferType::ResponseBody,
            2 => BufferType::DownstreamData,
            3 => BufferType::UpstreamData,
            4 | 5 | 9 => {
                let held = host.answer.body.as_ref().filter(|(kind, _)| *kind == buffer);
                return held.map(|(_, body)| Buffer::Held(body.clone())).ok_or(Status::NotFound);
            }
            6 | 7 => return Ok(Buffer::Configuration { of_vm: buffer == 6 }),
            _ => return Err(Status::NotFound),
        };
        host.stream().cloned().map(|s| Buffer::OfStream(s, kind)).ok_or(Status::NotFound)
    }

    fn len(&self, host: &Host) -> Result<usize, Status> {
        match self {
            Buffer::OfStream(stream, kind) => stream.buffer_len(*kind).ok_or(Status::NotFound),
            Buffer::Held(bytes) => Ok(bytes.len()),
            Buffer::Configuration { of_vm: true } => Ok(host.spec.vm_configuration.len()),
            Buffer::Configuration { of_vm: false } => Ok(host.spec.configuration.len()),
        }
    }

    /// How many bytes it copied.
    fn read(&self, host: &Host, start: usize, out: &mut [u8]) -> usize {
        let bytes = match self {
            Buffer::OfStream(stream, kind) => return stream.read_buffer(*kind, start, out),
            Buffer::Held(bytes) => bytes,
            Buffer::Configuration { of_vm: true } => &host.spec.vm_configuration[..],
            Buffer::Configuration { of_vm: false } => &host.spec.configuration[..],
        };
        let from = bytes.get(start..).unwrap_or_default();
        let len = from.len().min(out.len());
        out[..len].copy_from_slice(&from[..len]);
        len
    }
}

pub(super) fn get_buffer(guest: &mut Guest<'_>, buffer: u32, start: u32, max: u32, pp: u32, lp: u32) -> Call {
    start.checked_add(max).ok_or(Status::BadArgument)?;
    let host = guest.data();
    let buffer = Buffer::find(host, buffer)?;
    let start = start as usize;
    let len = buffer.len(host)?.saturating_sub(start).min(max as usize);
    give_with(guest, len, pp, lp, |host, out| buffer.read(host, start, out))
}

pub(super) fn buffer_status(guest: &mut Guest<'_>, buffer: u32, len_out: u32, flags_out: u32) -> Call {
    let host = guest.data();
    let len = Buffer::find(host, buffer)?.len(host)?;
    let mut view = view(guest)?;
    view.put_u32(len_out, u32::try_from(len).unwrap_or(u32::MAX))?;
    view.put_u32(flags_out, 0)?;
    Ok(())
}

/// Prepend, replace all, append; nothing in the middle, as Envoy.
pub(super) fn set_buffer(guest: &mut Guest<'_>, buffer: u32, start: u32, len: u32, p: u32, l: u32) -> Call {
    let view = view(guest)?;
    let data = view.bytes(p, l)?;
    let Ok(Buffer::OfStream(stream, kind)) = Buffer::find(view.host, buffer) else { return Err(Status::BadArgument.into()) };
    let size = stream.buffer_len(kind).ok_or(Status::BadArgument)?;
    let edit = match (start as usize, len as usize) {
        (0, 0) => BufferEdit::Prepend,
        (0, len) if len >= size => BufferEdit::Replace,
        (start, _) if start >= size => BufferEdit::Append,
        _ => return Err(Status::BadArgument.into()),
    };
    check(stream.edit_buffer(kind, edit, data))
}

fn stream_type(stream: u32) -> Result<StreamType, Status> {
    Ok(match stream {
        0 => StreamType::Request,
        1 => StreamType::Response,
        2 => StreamType::Downstream,
        3 => StreamType::Upstream,
        _ => return Err(Status::BadArgument),
    })
}

/// Runs `f` on the stream in effect. Without one (a tick, a stream that has ended) it does nothing and returns `Ok` to the guest.
fn with_stream(guest: &Guest<'_>, work: impl FnOnce(&dyn Stream)) -> Call {
    if let Some(stream) = guest.data().stream().cloned() {
        work(&*stream);
    }
    Ok(())
}

pub(super) fn continue_stream(guest: &mut Guest<'_>, stream: u32) -> Call {
    let kind = stream_type(stream)?;
    resume(guest, kind)
}

pub(super) fn continue_request(guest: &mut Guest<'_>) -> Call {
    resume(guest, StreamType::Request)
}

pub(super) fn continue_response(guest: &mut Guest<'_>) -> Call {
    resume(guest, StreamType::Response)
}

fn resume(guest: &mut Guest<'_>, kind: StreamType) -> Call {
    guest.data_mut().resume(kind);
    with_stream(guest, |s| s.continue_stream(kind))
}

pub(super) fn close_stream(guest: &mut Guest<'_>, stream: u32) -> Call {
    let kind = stream_type(stream)?;
    with_stream(guest, |s| s.close_stream(kind))
}

pub(super) fn clear_route_cache(guest: &mut Guest<'_>) -> Call {
    with_stream(guest, |s| s.clear_route_cache())
}

#[allow(clippy::too_many_arguments)] // The ABI's.
pub(super) fn send_local_response(
    guest: &mut Guest<'_>,
    status: u32,
    dp: u32,
    dl: u32,
    bp: u32,
    bl: u32,
    hp: u32,
    hl: u32,
    grpc: i32,
) -> Call {
    let view = view(guest)?;
    let (details, body, headers) = (view.bytes(dp, dl)?, view.bytes(bp, bl)?, view.bytes(hp, hl)?);
    // The guest takes nothing but Ok; better the reply without its headers than none.
    let headers = Pairs::decode(headers).unwrap_or_else(|e| {
        view.host.log(LogLevel::Warn, format!("local response: its headers are dropped: {e}").as_bytes());
        Pairs::EMPTY
    });
    let Some(stream) = view.host.stream() else {
        view.host.log(LogLevel::Warn, b"local response: no stream is in effect");
        return Ok(());
    };
    stream.send_local_response(LocalResponse { status, details, body, headers, grpc_status: (grpc >= 0).then_some(grpc) });
    if view.host.context == view.host.callback_context {
        view.host.replied = true;
    }
    Ok(())
}

pub(super) fn inject_encoded_data(guest: &mut Guest<'_>, p: u32, l: u32, end: u32) -> Call {
    let view = view(guest)?;
    let data = view.bytes(p, l)?;
    let stream = view.host.stream().ok_or(Status::BadArgument)?;
    check(stream.inject_encoded_data(data, end != 0, false))
}

pub(super) fn get_upstream_hosts(guest: &mut Guest<'_>, pp: u32, lp: u32) -> Call {
    let stream = guest.data().stream().cloned().ok_or(Status::NotFound)?;
    let mut writer = std::mem::take(&mut guest.data_mut().pairs);
    writer.clear();
    check(stream.upstream_hosts(&mut |k, v| writer.push(k, v)))?;
    let given = give_with(guest, writer.encoded_len(), pp, lp, |_, out| {
        writer.write_to(out);
        out.len()
    });
    guest.data_mut().pairs = writer;
    given
}

pub(super) fn set_upstream_override_host(guest: &mut Guest<'_>, p: u32, l: u32) -> Call {
    let view = view(guest)?;
    let address = view.text(p, l)?;
    let stream = view.host.stream().ok_or(Status::BadArgument)?;
    check(stream.set_upstream_override_host(address))
}
