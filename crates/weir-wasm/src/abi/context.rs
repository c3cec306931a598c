//! Host functions about the instance itself: log, time, configuration, properties, contexts.
use crate::{
    declared::Abi,
    engine::nanoseconds,
    functions::Functions,
    host::{LogLevel, PropertyPath, Status},
    memory::{Call, Guest, give, view, with_scratch},
    names,
    row::Row,
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

names! {
    /// Properties of the instance itself.
    enum OwnProperty {
        Name = b"plugin_name", "Envoy", "`NAMESPACE/NAME` of the WasmPlugin.", "plugin_stream::properties_are_those_of_envoy";
        RootId = b"plugin_root_id", "Envoy", "`pluginName` of the WasmPlugin.", "plugin_stream::properties_are_those_of_envoy";
        VmId = b"plugin_vm_id", "Envoy", "Who shares data and queues with the plugin.", "plugin_stream::properties_are_those_of_envoy";
        VmMemory = b"plugin_vm_memory", "Higress", "Bytes of linear memory, as u64.", "plugin_stream::properties_are_those_of_envoy";
    }
}

pub const OWN_PROPERTIES: &[Row] = OwnProperty::ROWS;

names! {
    /// Properties that a guest sets to tell the instance something.
    enum OwnSpecialKey {
        NeedRebuild = b"wasm_need_rebuild", "Higress", "`true` replaces the instance once it has no streams.", "plugin_host_calls::a_plugin_asks_for_a_new_instance";
    }
}

pub const OWN_SPECIAL_KEYS: &[Row] = OwnSpecialKey::ROWS;

pub(super) fn get_property(guest: &mut Guest<'_>, p: u32, l: u32, pp: u32, lp: u32) -> Call {
    with_scratch(guest, |guest, value| {
        let view = view(guest)?;
        let path = PropertyPath(view.bytes(p, l)?);
        let host = &*view.host;
        let name = path.0.strip_suffix(&[0]).unwrap_or(path.0);
        let found = match OwnProperty::of(name) {
            Some(OwnProperty::Name) => put(value, host.spec.name.as_bytes()),
            Some(OwnProperty::RootId) => put(value, host.spec.root_id.as_bytes()),
            Some(OwnProperty::VmId) => put(value, host.spec.vm_id.as_bytes()),
            Some(OwnProperty::VmMemory) => put(value, &(view.memory_len() as u64).to_le_bytes()),
            None if name.is_empty() => false,
            None => host.stream().is_some_and(|s| s.property(path, value)) || host.services().property(path, value),
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
    match OwnSpecialKey::of(path.0) {
        Some(OwnSpecialKey::NeedRebuild) => view.host.rebuild = value == b"true",
        None => {}
    }
    Ok(())
}

/// Envoy only; its answer comes through another export. Here so that modules that could use it link.
pub(super) fn resolve_dns(_: &mut Guest<'_>, _: u32, _: u32, _: u32) -> Call {
    Err(Status::Unimplemented.into())
}

/// What the C++ and AssemblyScript runtimes import beside the ABI.
pub(super) fn register_runtimes(functions: &mut Functions) {
    let row = |name, abi, does| Row { name, abi, does, test: "plugin_abi::modules_in_the_shapes_that_toolchains_make" };
    functions.add("env", row("pthread_equal", "C++", "Compares two thread ids."), |a: u32, b: u32| u32::from(a == b));
    functions.add("env", row("emscripten_notify_memory_growth", "C++", "Does nothing."), |_: u32| {});
    functions.add("env", row("abort", "AssemblyScript", "Traps."), |_: u32, _: u32, _: u32, _: u32| -> wasmtime::Result<()> {
        Err(Stop::Abort.into())
    });
}

/// ABI 0.1.0 yields an empty value where later ones say `NotFound`.
pub(super) fn missing(abi: Abi) -> Result<(), Status> {
    if abi == Abi::V0_1_0 { Ok(()) } else { Err(Status::NotFound) }
}
