//! Calls out: HTTP, gRPC, Redis. Started here, answered later through the instance, never within the call.
use crate::{
    host::{GrpcCall, HttpCall, RedisInit, Status},
    memory::{Call as HostCall, Guest, check, view},
    pairs::Pairs,
    state::Call,
};
use std::time::Duration;

/// Negative is refused, 0 is none.
fn timeout(ms: i32) -> Result<Option<Duration>, Status> {
    let ms = u64::try_from(ms).map_err(|_| Status::BadArgument)?;
    Ok((ms > 0).then(|| Duration::from_millis(ms)))
}

fn decode(bytes: &[u8]) -> Result<Pairs<'_>, Status> {
    Pairs::decode(bytes).map_err(|_| Status::BadArgument)
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
    let token = guest.data_mut().token(Call::Http);
    let mut view = view(guest)?;
    view.bytes(out, 4)?;
    let call = HttpCall {
        context: view.host.effective(),
        upstream: view.text(up, ul)?,
        headers: decode(view.bytes(hp, hl)?)?,
        body: view.bytes(bp, bl)?,
        trailers: decode(view.bytes(tp, tl)?)?,
        timeout: timeout(timeout_ms)?,
    };
    if [&b":method"[..], b":path", b":authority"].iter().any(|name| call.headers.get(name).is_none()) {
        return Err(Status::BadArgument.into());
    }
    view.host.services.http_call(token, call)?;
    Ok(view.put_u32(out, token)?)
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
    let token = guest.data_mut().token(Call::Grpc);
    let mut view = view(guest)?;
    view.bytes(out, 4)?;
    // The Rust SDK takes ParseFailure where others would say BadArgument.
    let call = GrpcCall {
        context: view.host.effective(),
        service: view.bytes(sp, sl)?,
        service_name: view.text(np, nl).map_err(|_| Status::ParseFailure)?,
        method: view.text(mp, ml).map_err(|_| Status::ParseFailure)?,
        initial_metadata: decode(view.bytes(ip, il)?).map_err(|_| Status::ParseFailure)?,
        message: view.bytes(bp, bl)?,
        timeout: timeout(timeout_ms).map_err(|_| Status::ParseFailure)?,
    };
    view.host.services.grpc_call(token, call)?;
    Ok(view.put_u32(out, token)?)
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
    let token = guest.data_mut().token(Call::GrpcStream);
    let mut view = view(guest)?;
    view.bytes(out, 4)?;
    let call = GrpcCall {
        context: view.host.effective(),
        service: view.bytes(sp, sl)?,
        service_name: view.text(np, nl).map_err(|_| Status::ParseFailure)?,
        method: view.text(mp, ml).map_err(|_| Status::ParseFailure)?,
        initial_metadata: decode(view.bytes(ip, il)?).map_err(|_| Status::ParseFailure)?,
        message: &[],
        timeout: None,
    };
    view.host.services.grpc_stream(token, call)?;
    Ok(view.put_u32(out, token)?)
}

pub(super) fn grpc_send(guest: &mut Guest<'_>, token: u32, p: u32, l: u32, end: u32) -> HostCall {
    if token & 3 != Call::GrpcStream as u32 {
        return Err(Status::BadArgument.into());
    }
    let view = view(guest)?;
    check(view.host.services.grpc_send(token, view.bytes(p, l)?, end != 0))
}

/// Calls and streams; other tokens are no gRPC.
fn is_grpc(token: u32) -> Result<(), Status> {
    let known = [Call::Grpc as u32, Call::GrpcStream as u32].contains(&(token & 3));
    if known { Ok(()) } else { Err(Status::BadArgument) }
}

pub(super) fn grpc_cancel(guest: &mut Guest<'_>, token: u32) -> HostCall {
    is_grpc(token)?;
    check(guest.data().services.grpc_cancel(token))
}

pub(super) fn grpc_close(guest: &mut Guest<'_>, token: u32) -> HostCall {
    is_grpc(token)?;
    check(guest.data().services.grpc_close(token))
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
    Ok(view.host.services.redis_init(init)?)
}

pub(super) fn redis_call(guest: &mut Guest<'_>, cp: u32, cl: u32, qp: u32, ql: u32, out: u32) -> HostCall {
    let token = guest.data_mut().token(Call::Redis);
    let mut view = view(guest)?;
    view.bytes(out, 4)?;
    view.host.services.redis_call(token, view.text(cp, cl)?, view.bytes(qp, ql)?)?;
    Ok(view.put_u32(out, token)?)
}
