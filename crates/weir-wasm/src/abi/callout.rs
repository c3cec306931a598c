//! Calls out: HTTP, gRPC, Redis. Started here, answered later through the instance, never within the call.
use crate::{
    host::{GrpcCall, HttpCall, RedisInit, Status},
    memory::{Call as HostCall, Guest, View, check, view},
    pairs::Pairs,
    protobuf::{Fields, Value},
    state::Call,
};
use std::time::Duration;

/// A pointer and a length.
type Slice = (u32, u32);

/// Negative is refused, 0 is none.
fn timeout(ms: i32) -> Result<Option<Duration>, Status> {
    let ms = u64::try_from(ms).map_err(|_| Status::BadArgument)?;
    Ok((ms > 0).then(|| Duration::from_millis(ms)))
}

fn pairs<'a>(view: &'a View<'_>, at: Slice) -> Result<Pairs<'a>, Status> {
    Pairs::decode(view.bytes(at.0, at.1)?).map_err(|_| Status::BadArgument)
}

/// Starts a call under a new token, and says the token. That there is room for it is seen before anything is sent.
fn start(guest: &mut Guest<'_>, kind: Call, out: u32, call: impl FnOnce(&View<'_>, u32) -> Result<(), Status>) -> HostCall {
    let token = guest.data_mut().token(kind);
    let mut view = view(guest)?;
    view.bytes(out, 4)?;
    call(&view, token)?;
    Ok(view.put_u32(out, token)?)
}

#[allow(clippy::too_many_arguments)] // The ABI's, here and below.
pub(super) fn http_call(
    guest: &mut Guest<'_>,
    up: u32,
    ul: u32,
    hp: u32,
    hl: u32,
    bp: u32,
    bl: u32,
    tp: u32,
    tl: u32,
    timeout_ms: i32,
    out: u32,
) -> HostCall {
    start(guest, Call::Http, out, |view, token| {
        let call = HttpCall {
            context: view.host.effective(),
            upstream: view.text(up, ul)?,
            headers: pairs(view, (hp, hl))?,
            body: view.bytes(bp, bl)?,
            trailers: pairs(view, (tp, tl))?,
            timeout: timeout(timeout_ms)?,
        };
        if [&b":method"[..], b":path", b":authority"].iter().any(|name| call.headers.get(name).is_none()) {
            return Err(Status::BadArgument);
        }
        view.host.services().http_call(token, call)
    })
}

/// Whom a `GrpcService { EnvoyGrpc envoy_grpc = 1 { string cluster_name = 1; } GoogleGrpc google_grpc = 2 { string target_uri = 1; } … }`
/// means; what is none is a name itself.
fn grpc_upstream(service: &[u8]) -> Result<&str, Status> {
    let first_text = |message| {
        Fields(message).find_map(|field| match field {
            Ok((1, Value::Bytes(text))) => std::str::from_utf8(text).ok(),
            _ => None,
        })
    };
    let mut found = None;
    for field in Fields(service) {
        match field {
            Ok((1 | 2, Value::Bytes(target))) => found = first_text(target),
            Ok(_) => {}
            Err(_) => {
                found = None;
                break;
            }
        }
    }
    found.or_else(|| std::str::from_utf8(service).ok()).filter(|name| !name.is_empty()).ok_or(Status::ParseFailure)
}

/// Service, its name, method, metadata and message, as they stand in the guest's memory.
fn grpc<'a>(view: &'a View<'_>, [service, name, method, metadata, message]: [Slice; 5], timeout_ms: i32) -> Result<GrpcCall<'a>, Status> {
    // The Rust SDK takes ParseFailure where others would say BadArgument.
    let parsed = |_| Status::ParseFailure;
    Ok(GrpcCall {
        context: view.host.effective(),
        upstream: grpc_upstream(view.bytes(service.0, service.1)?)?,
        service_name: view.text(name.0, name.1).map_err(parsed)?,
        method: view.text(method.0, method.1).map_err(parsed)?,
        initial_metadata: pairs(view, metadata).map_err(parsed)?,
        message: view.bytes(message.0, message.1)?,
        timeout: timeout(timeout_ms).map_err(parsed)?,
    })
}

#[allow(clippy::too_many_arguments)]
pub(super) fn grpc_call(
    guest: &mut Guest<'_>,
    sp: u32,
    sl: u32,
    np: u32,
    nl: u32,
    mp: u32,
    ml: u32,
    ip: u32,
    il: u32,
    bp: u32,
    bl: u32,
    timeout_ms: i32,
    out: u32,
) -> HostCall {
    start(guest, Call::Grpc, out, |view, token| {
        let call = grpc(view, [(sp, sl), (np, nl), (mp, ml), (ip, il), (bp, bl)], timeout_ms)?;
        view.host.services().grpc_call(token, call)
    })
}

#[allow(clippy::too_many_arguments)]
pub(super) fn grpc_stream(
    guest: &mut Guest<'_>,
    sp: u32,
    sl: u32,
    np: u32,
    nl: u32,
    mp: u32,
    ml: u32,
    ip: u32,
    il: u32,
    out: u32,
) -> HostCall {
    start(guest, Call::GrpcStream, out, |view, token| {
        let call = grpc(view, [(sp, sl), (np, nl), (mp, ml), (ip, il), (0, 0)], 0)?;
        view.host.services().grpc_stream(token, call)
    })
}

pub(super) fn grpc_send(guest: &mut Guest<'_>, token: u32, p: u32, l: u32, end: u32) -> HostCall {
    if token & 3 != Call::GrpcStream as u32 {
        return Err(Status::BadArgument.into());
    }
    let view = view(guest)?;
    check(view.host.services().grpc_send(token, view.bytes(p, l)?, end != 0))
}

/// Calls and streams; other tokens are no gRPC.
fn is_grpc(token: u32) -> Result<(), Status> {
    let known = [Call::Grpc as u32, Call::GrpcStream as u32].contains(&(token & 3));
    if known { Ok(()) } else { Err(Status::BadArgument) }
}

pub(super) fn grpc_cancel(guest: &mut Guest<'_>, token: u32) -> HostCall {
    is_grpc(token)?;
    check(guest.data().services().grpc_cancel(token))
}

pub(super) fn grpc_close(guest: &mut Guest<'_>, token: u32) -> HostCall {
    is_grpc(token)?;
    check(guest.data().services().grpc_close(token))
}

#[allow(clippy::too_many_arguments)]
pub(super) fn redis_init(guest: &mut Guest<'_>, cp: u32, cl: u32, up: u32, ul: u32, pp: u32, pl: u32, timeout_ms: u32) -> HostCall {
    let view = view(guest)?;
    let init = RedisInit {
        cluster: view.text(cp, cl)?,
        user: view.text(up, ul)?,
        password: view.text(pp, pl)?,
        timeout: Duration::from_millis(timeout_ms.into()),
    };
    Ok(view.host.services().redis_init(init)?)
}

pub(super) fn redis_call(guest: &mut Guest<'_>, cp: u32, cl: u32, qp: u32, ql: u32, out: u32) -> HostCall {
    start(guest, Call::Redis, out, |view, token| view.host.services().redis_call(token, view.text(cp, cl)?, view.bytes(qp, ql)?))
}
