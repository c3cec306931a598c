//! `proxy_call_foreign_function`: what needs no proxy is answered here, the rest by [`Services`](crate::Services).
use crate::{
    host::{Status, Stream},
    memory::{Call, Guest, allocate, check, give, view, with_scratch},
    protobuf::{Fields, Value},
};
use flate2::{Compression, read::ZlibDecoder, read::ZlibEncoder};
use std::io::Read;

/// What `compress` and `uncompress` read and return at most: few bytes can become many, and no deadline interrupts the host.
const MAX_RESULT: u64 = 16 << 20;

pub(super) fn call(guest: &mut Guest<'_>, np: u32, nl: u32, ap: u32, al: u32, pp: u32, lp: u32) -> Call {
    with_scratch(guest, |guest, out| {
        let view = view(guest)?;
        let (name, arguments) = (view.text(np, nl).map_err(|_| Status::NotFound)?, view.bytes(ap, al)?);
        let stream = view.host.stream().map(|s| &**s);
        let services = view.host.services();
        match name {
            "get_log_level" => out.extend_from_slice(&(services.log_level() as u32).to_le_bytes()),
            "compress" => read_all(ZlibEncoder::new(bounded(arguments)?, Compression::default()), out)?,
            "uncompress" => read_all(ZlibDecoder::new(bounded(arguments)?), out)?,
            "clear_route_cache" => stream.into_iter().for_each(|s| s.clear_route_cache()),
            "inject_encoded_data_to_filter_chain" => inject(stream, arguments, false)?,
            "inject_encoded_data_to_filter_chain_on_header" => inject(stream, arguments, true)?,
            "set_envoy_filter_state" => set_filter_state(stream, arguments)?,
            // Types of filter state matter to Envoy's CEL only.
            "declare_property" => {}
            _ => check(services.foreign_function(stream, name, arguments, out))?,
        }
        hand_over(guest, out, pp, lp)
    })
}

/// Either result pointer may be null: a guest that wants no result.
fn hand_over(guest: &mut Guest<'_>, out: &[u8], pp: u32, lp: u32) -> Call {
    if pp != 0 && lp != 0 {
        return give(guest, out, pp, lp);
    }
    if pp != 0 {
        let start = if out.is_empty() { 0 } else { allocate(guest, out.len())? };
        let mut view = view(guest)?;
        view.put(start, out)?;
        view.put_u32(pp, start)?;
    }
    if lp != 0 {
        view(guest)?.put_u32(lp, u32::try_from(out.len()).unwrap_or(u32::MAX))?;
    }
    Ok(())
}

fn bounded(arguments: &[u8]) -> Result<&[u8], Status> {
    if arguments.len() as u64 > MAX_RESULT { Err(Status::InternalFailure) } else { Ok(arguments) }
}

fn read_all(from: impl Read, out: &mut Vec<u8>) -> Result<(), Status> {
    let read = from.take(MAX_RESULT + 1).read_to_end(out).map_err(|_| Status::SerializationFailure)?;
    if read as u64 > MAX_RESULT { Err(Status::InternalFailure) } else { Ok(()) }
}

/// `{ bytes body = 1; bool end_stream = 2; }`
fn inject(stream: Option<&dyn Stream>, arguments: &[u8], on_headers: bool) -> Call {
    let (mut body, mut end) = (&[][..], false);
    for field in Fields(arguments) {
        match field? {
            (1, Value::Bytes(bytes)) => body = bytes,
            (2, Value::Varint(value)) => end = value != 0,
            _ => {}
        }
    }
    check(stream.ok_or(Status::BadArgument)?.inject_encoded_data(body, end, on_headers))
}

/// `{ string path = 1; bytes value = 2; … }`
fn set_filter_state(stream: Option<&dyn Stream>, arguments: &[u8]) -> Call {
    let (mut path, mut state) = (&[][..], &[][..]);
    for field in Fields(arguments) {
        match field? {
            (1, Value::Bytes(bytes)) => path = bytes,
            (2, Value::Bytes(bytes)) => state = bytes,
            _ => {}
        }
    }
    stream.ok_or(Status::BadArgument)?.set_filter_state(path, state);
    Ok(())
}
