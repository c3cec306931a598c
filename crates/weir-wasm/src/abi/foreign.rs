//! `proxy_call_foreign_function`: functions that a host adds to the ABI.
use crate::{
    host::{Status, Stream},
    memory::{Call, Guest, allocate, check, give, view, with_scratch},
    names,
    protobuf::{Fields, Value},
    row::Row,
};
use flate2::{Compression, read::ZlibDecoder, read::ZlibEncoder};
use std::io::Read;

/// What `compress` and `uncompress` read and return at most: few bytes can become many, and no deadline interrupts the host.
const MAX_RESULT: u64 = 16 << 20;

names! {
    enum Function {
        GetLogLevel = b"get_log_level", "Higress", "Returns the level of the logger `wasm` as u32.", "plugin_host_calls::foreign_functions";
        Compress = b"compress", "Envoy", "Compresses with zlib.", "plugin_host_calls::foreign_functions";
        Uncompress = b"uncompress", "Envoy", "Decompresses zlib, to at most 16 MiB.", "plugin_host_calls::foreign_functions";
        ClearRouteCache = b"clear_route_cache", "Envoy", "Looks up the route again.", "plugin_host_calls::foreign_functions";
        Inject = b"inject_encoded_data_to_filter_chain", "Higress", "As the host call of that name.", "plugin_host_calls::foreign_functions";
        InjectOnHeader = b"inject_encoded_data_to_filter_chain_on_header", "Higress", "The same for a response that had no body.", "plugin_host_calls::foreign_functions";
        SetFilterState = b"set_envoy_filter_state", "Envoy", "Stores filter state under its plain name.", "plugin_host_calls::foreign_functions";
        DeclareProperty = b"declare_property", "Envoy", "Accepted without effect: the type of filter state matters to CEL only.", "plugin_host_calls::foreign_functions";
    }
}

pub const FOREIGN_FUNCTIONS: &[Row] = Function::ROWS;

/// `NotFound`, and counted by `weir_wasm_unknown_foreign_functions`.
pub const ABSENT: &[Row] = &[
    absent("expr_create", "Envoy", "CEL is not available to plugins."),
    absent("expr_evaluate", "Envoy", "CEL is not available to plugins."),
    absent("expr_delete", "Envoy", "CEL is not available to plugins."),
    absent("sign", "Envoy", "Plugins bring their own cryptography."),
    absent("verify_signature", "Envoy", "Plugins bring their own cryptography."),
    absent("set_global_max_requests_per_io_cycle", "Higress", "Weir has no such limit."),
    absent("resolve_lua", "Kong", "There is no Lua."),
];

const fn absent(name: &'static str, abi: &'static str, does: &'static str) -> Row {
    Row { name, abi, does, test: "plugin_host_calls::foreign_functions" }
}

pub(super) fn call(guest: &mut Guest<'_>, np: u32, nl: u32, ap: u32, al: u32, pp: u32, lp: u32) -> Call {
    with_scratch(guest, |guest, out| {
        let view = view(guest)?;
        let (name, arguments) = (view.bytes(np, nl)?, view.bytes(ap, al)?);
        let stream = view.host.stream().map(|s| &**s);
        let services = view.host.services();
        match Function::of(name) {
            Some(Function::GetLogLevel) => out.extend_from_slice(&(services.log_level() as u32).to_le_bytes()),
            Some(Function::Compress) => read_all(ZlibEncoder::new(bounded(arguments)?, Compression::default()), out)?,
            Some(Function::Uncompress) => read_all(ZlibDecoder::new(bounded(arguments)?), out)?,
            Some(Function::ClearRouteCache) => stream.into_iter().for_each(|s| s.clear_route_cache()),
            Some(Function::Inject) => inject(stream, arguments, false)?,
            Some(Function::InjectOnHeader) => inject(stream, arguments, true)?,
            Some(Function::SetFilterState) => set_filter_state(stream, arguments)?,
            // Types of filter state matter to Envoy's CEL only.
            Some(Function::DeclareProperty) => {}
            None => {
                services.unknown_foreign_function(name);
                return Err(Status::NotFound.into());
            }
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
