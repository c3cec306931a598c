//! Host functions about the instance itself: log, time, configuration, properties, contexts.
use crate::{
    declared::Abi,
    engine::nanoseconds,
    functions::Functions,
    host::{LogLevel, PropertyPath, Status},
    memory::{Call, Guest, give, view, with_scratch},
    trap::Stop,
};
use std::time::Duration;

const LEVELS: [LogLevel; 6] = [LogLevel::Trace, LogLevel::Debug, LogLevel::Info, LogLevel::Warn, LogLevel::Error, LogLevel::Critical];

pub(super) fn log(guest: &mut Guest<'_>, level: u32, p: u32, l: u32) -> Call {
    let level = *LEVELS.get(level as usize).ok_or(Status::BadArgument)?;
    Ok(view(guest)?.log(level, p, l)?)
}

pub(super) fn get_log_level(guest: &mut Guest<'_>, out: u32) -> Call {
    let level = guest.data().services().log_level();
    Ok(view(guest)?.put_u32(out, level as u32)?)
}

pub(super) fn get_status(guest: &mut Guest<'_>, code: u32, pp: u32, lp: u32) -> Call {
    let (status, message) = guest.data().status.clone();
    view(guest)?.put_u32(code, status)?;
    give(guest, &message, pp, lp)
}

pub(super) fn get_current_time(guest: &mut Guest<'_>, out: u32) -> Call {
    let now = nanoseconds(guest.data().services().now());
    Ok(view(guest)?.put_u64(out, now)?)
}

pub(super) fn set_tick_period(guest: &mut Guest<'_>, ms: u32) -> Call {
    guest.data().services().set_tick_period((ms > 0).then(|| Duration::from_millis(ms.into())));
    Ok(())
}

pub(super) fn set_effective_context(guest: &mut Guest<'_>, id: u32) -> Call {
    if guest.data_mut().set_effective(id) { Ok(()) } else { Err(Status::BadArgument.into()) }
}

/// Valid for a context whose `proxy_on_done` has said "not yet".
pub(super) fn done(guest: &mut Guest<'_>) -> Call {
    let host = guest.data_mut();
    let context = host.effective().0;
    if !host.pending_done.remove(&context) {
        return Err(Status::NotFound.into());
    }
    host.now_done.push(context);
    Ok(())
}

/// ABI 0.1.0: the VM's configuration until the plugin is configured, then the plugin's.
pub(super) fn get_configuration(guest: &mut Guest<'_>, pp: u32, lp: u32) -> Call {
    let (spec, configuring) = (guest.data().spec.clone(), guest.data().configured);
    give(guest, if configuring { &spec.configuration } else { &spec.vm_configuration }, pp, lp)
}

pub(super) fn get_property(guest: &mut Guest<'_>, p: u32, l: u32, pp: u32, lp: u32) -> Call {
    with_scratch(guest, |guest, value| {
        let view = view(guest)?;
        let path = PropertyPath(view.bytes(p, l)?);
        let host = &*view.host;
        let found = match path.0.strip_suffix(&[0]).unwrap_or(path.0) {
            b"" => false,
            b"plugin_name" => put(value, host.spec.name.as_bytes()),
            b"plugin_root_id" => put(value, host.spec.root_id.as_bytes()),
            b"plugin_vm_id" => put(value, host.spec.vm_id.as_bytes()),
            b"plugin_vm_memory" => put(value, &(view.memory_len() as u64).to_le_bytes()),
            _ => host.stream().is_some_and(|s| s.property(path, value)) || host.services().property(path, value),
        };
        if !found {
            return Err(Status::NotFound.into());
        }
        give(guest, value, pp, lp)
    })
}

fn put(out: &mut Vec<u8>, value: &[u8]) -> bool {
    out.extend_from_slice(value);
    true
}

/// On the root context there is nothing to set it on; the Rust SDK panics on any status but `Ok`.
pub(super) fn set_property(guest: &mut Guest<'_>, p: u32, l: u32, vp: u32, vl: u32) -> Call {
    let view = view(guest)?;
    let (path, value) = (PropertyPath(view.bytes(p, l)?), view.bytes(vp, vl)?);
    if let Some(stream) = view.host.stream() {
        stream.set_property(path, value);
    }
    if path.0 == b"wasm_need_rebuild" {
        let rebuild = value == b"true";
        view.host.rebuild = rebuild;
    }
    Ok(())
}

/// Envoy only; its answer comes through another export. Here so that modules that could use it link.
pub(super) fn resolve_dns(_: &mut Guest<'_>, _: u32, _: u32, _: u32) -> Call {
    Err(Status::Unimplemented.into())
}

/// What the C++ and AssemblyScript runtimes import beside the ABI.
pub(super) fn register_runtimes(functions: &mut Functions) {
    functions.add("env", "pthread_equal", |a: u32, b: u32| u32::from(a == b));
    functions.add("env", "emscripten_notify_memory_growth", |_: u32| {});
    functions.add("env", "abort", |_: u32, _: u32, _: u32, _: u32| -> wasmtime::Result<()> { Err(Stop::Abort.into()) });
}

/// ABI 0.1.0 yields an empty value where later ones say `NotFound`.
pub(super) fn missing(abi: Abi) -> Result<(), Status> {
    if abi == Abi::V0_1_0 { Ok(()) } else { Err(Status::NotFound) }
}
