//! The part of WASI preview 1 that guests of the usual toolchains import, under both of its module names. There are no files, sockets
//! or arguments; a guest gets its environment, clocks, random numbers and its log.
use crate::{
    engine::{monotonic, nanoseconds},
    functions::Functions,
    host::{LogLevel, Status},
    memory::{Guest, View, view},
    row::Row,
    state::MAX_RECORD,
    trap::Stop,
};

const MODULES: [&str; 2] = ["wasi_snapshot_preview1", "wasi_unstable"];

const SUCCESS: u32 = 0;
const BADF: u32 = 8;
const FAULT: u32 = 21;
const INVAL: u32 = 28;
const NOENT: u32 = 44;
const NOSYS: u32 = 52;
const NOTDIR: u32 = 20;
const NOTSUP: u32 = 58;

const ABI: &str = "WASI";
/// The test of the functions that only ever return one number.
const CONSTANT: &str = "wasm::start::what_wasi_does_not_have";

const fn answer(errno: u32) -> &'static str {
    match errno {
        SUCCESS => "Does nothing and returns success.",
        BADF => "Returns `badf` (8): there are no files.",
        NOENT => "Returns `noent` (44): there are no files.",
        NOTDIR => "Returns `notdir` (20): there are no files.",
        NOSYS => "Returns `nosys` (52).",
        _ => "Returns `notsup` (58).",
    }
}

impl From<Status> for Errno {
    fn from(_: Status) -> Errno {
        Errno(FAULT)
    }
}

/// An error of WASI; memory that is not the guest's is `FAULT`.
struct Errno(u32);

type Call = Result<(), Errno>;

macro_rules! functions {
    ($functions:ident, $module:ident, $($name:literal => $function:ident [$($arg:ident: $type:ty),*] $does:literal, $test:literal;)*) => {
        $($functions.add($module, Row { name: $name, abi: ABI, does: $does, test: $test }, |mut guest: Guest<'_>, $($arg: $type),*| {
            guest.data_mut().host_calls += 1;
            $function(&mut guest, $($arg),*).map_or_else(|e| e.0, |()| SUCCESS)
        });)*
    };
}

/// Functions that only ever yield one number.
macro_rules! constants {
    ($functions:ident, $module:ident, $($name:literal [$($type:ty),*] = $errno:ident;)*) => {
        $($functions.add($module, Row { name: $name, abi: ABI, does: answer($errno), test: CONSTANT }, |$(_: $type),*| $errno);)*
    };
}

pub(crate) fn register(functions: &mut Functions) {
    for module in MODULES {
        functions! { functions, module,
            "fd_write" => fd_write[fd: u32, iovs: u32, count: u32, out: u32]
                "Writes lines of descriptors 1 and 2 to the log of the plugin, at level info and error; `badf` for others.",
                "wasm::start::standard_output_is_logged_in_one_record";
            "fd_fdstat_get" => fd_fdstat_get[fd: u32, out: u32]
                "Describes descriptors 1 and 2 as writable devices; `badf` for others.",
                "wasm::start::what_wasi_does_not_have";
            "environ_get" => environ_get[pointers: u32, text: u32]
                "Returns `vmConfig.env`.",
                "wasm::start::environment_clock_and_random";
            "environ_sizes_get" => environ_sizes_get[count: u32, bytes: u32]
                "Returns the size of `vmConfig.env`.",
                "wasm::start::environment_clock_and_random";
            "args_get" => args_get[a: u32, b: u32]
                "Returns no arguments.",
                "plugin_abi::modules_in_the_shapes_that_toolchains_make";
            "args_sizes_get" => args_sizes_get[count: u32, bytes: u32]
                "Returns no arguments.",
                "plugin_abi::modules_in_the_shapes_that_toolchains_make";
            "clock_time_get" => clock_time_get[id: u32, precision: u64, out: u32]
                "Returns the wall clock (0) or the monotonic clock (1); `notsup` for others.",
                "wasm::start::environment_clock_and_random";
            "clock_res_get" => clock_res_get[id: u32, out: u32]
                "Returns 1 ns for clocks 0 and 1.",
                "wasm::start::what_wasi_does_not_have";
            "random_get" => random_get[p: u32, l: u32]
                "Returns random bytes of the operating system.",
                "wasm::start::environment_clock_and_random";
            "poll_oneoff" => poll_oneoff[subscriptions: u32, events: u32, count: u32, out: u32]
                "Returns 0 events at once, also within the allocator (Go ends the process on an error).",
                "plugin_abi::modules_in_the_shapes_that_toolchains_make";
        }
        constants! { functions, module,
            "fd_read"[u32, u32, u32, u32] = NOSYS;
            "fd_pread"[u32, u32, u32, u64, u32] = NOSYS;
            "fd_pwrite"[u32, u32, u32, u64, u32] = NOSYS;
            "fd_fdstat_set_flags"[u32, u32] = NOSYS;
            "fd_fdstat_set_rights"[u32, u64, u64] = NOSYS;
            "fd_prestat_get"[u32, u32] = BADF;
            "fd_prestat_dir_name"[u32, u32, u32] = NOSYS;
            "fd_seek"[u32, i64, u32, u32] = SUCCESS;
            "fd_close"[u32] = SUCCESS;
            "fd_advise"[u32, u64, u64, u32] = SUCCESS;
            "fd_sync"[u32] = NOSYS;
            "fd_datasync"[u32] = NOSYS;
            "fd_tell"[u32, u32] = NOSYS;
            "fd_allocate"[u32, u64, u64] = NOSYS;
            "fd_renumber"[u32, u32] = NOSYS;
            "fd_filestat_get"[u32, u32] = BADF;
            "fd_filestat_set_size"[u32, u64] = NOSYS;
            "fd_filestat_set_times"[u32, u64, u64, u32] = NOSYS;
            "fd_readdir"[u32, u32, u32, u64, u32] = NOTDIR;
            "sched_yield"[] = SUCCESS;
            "path_open"[u32, u32, u32, u32, u32, u64, u64, u32, u32] = NOENT;
            "path_create_directory"[u32, u32, u32] = NOTSUP;
            "path_filestat_get"[u32, u32, u32, u32, u32] = NOTSUP;
            "path_filestat_set_times"[u32, u32, u32, u32, u64, u64, u32] = NOTSUP;
            "path_link"[u32, u32, u32, u32, u32, u32, u32] = NOTSUP;
            "path_readlink"[u32, u32, u32, u32, u32, u32] = NOTSUP;
            "path_remove_directory"[u32, u32, u32] = NOTSUP;
            "path_rename"[u32, u32, u32, u32, u32, u32] = NOTSUP;
            "path_symlink"[u32, u32, u32, u32, u32] = NOTSUP;
            "path_unlink_file"[u32, u32, u32] = NOTSUP;
            "sock_accept"[u32, u32, u32] = NOTSUP;
            "sock_recv"[u32, u32, u32, u32, u32, u32] = NOTSUP;
            "sock_send"[u32, u32, u32, u32, u32] = NOTSUP;
            "sock_shutdown"[u32, u32] = NOTSUP;
        }
        let exit = Row {
            name: "proc_exit",
            abi: ABI,
            does: "Ends the guest; code 0 during the start counts as a good end.",
            test: "wasm::limits::exits_and_last_words_are_told",
        };
        functions.add(module, exit, |code: u32| -> wasmtime::Result<()> { Err(Stop::Exit(code).into()) });
    }
}

/// Standard output and error, a record of the plugin's log for each line: Go writes a panic in many small pieces. What has no end
/// yet waits for more until the callback is over.
fn fd_write(guest: &mut Guest<'_>, fd: u32, iovs: u32, count: u32, out: u32) -> Call {
    let level = match fd {
        1 => LogLevel::Info,
        2 => LogLevel::Error,
        _ => return Err(Errno(BADF)),
    };
    let mut view = view(guest)?;
    let (text, written) = gather(&view, iovs, count)?;
    if level == LogLevel::Error {
        view.host.hear(&String::from_utf8_lossy(&text));
    }
    for piece in text.split_inclusive(|b| *b == b'\n') {
        view.host.write_line(level, piece, MAX_RECORD);
    }
    if usize::try_from(written).is_ok_and(|all| all > text.len()) {
        // What was cut off must not be taken for a part of the next line.
        view.host.write_line(level, b"\n", 0);
    }
    Ok(view.put_u32(out, written)?)
}

/// The bytes of all parts up to a bound, and how many there were.
fn gather(view: &View<'_>, iovs: u32, count: u32) -> Result<(Vec<u8>, u32), Errno> {
    let table = view.bytes(iovs, count.checked_mul(8).ok_or(Errno(INVAL))?)?;
    let (mut text, mut written) = (Vec::new(), 0_u32);
    for iov in table.chunks_exact(8) {
        let (start, len) = iov.split_at(4);
        let [start, len] = [start, len].map(|b| b.iter().rev().fold(0, |n, b| n << 8 | u32::from(*b)));
        let part = view.bytes(start, len)?;
        text.extend_from_slice(&part[..part.len().min(MAX_RECORD - text.len())]);
        written = written.saturating_add(len);
    }
    Ok((text, written))
}

/// Standard output and error are character devices that can be written.
fn fd_fdstat_get(guest: &mut Guest<'_>, fd: u32, out: u32) -> Call {
    if !matches!(fd, 1 | 2) {
        return Err(Errno(BADF));
    }
    let mut stat = [0; 24];
    stat[0] = 2;
    stat[8] = 64;
    Ok(view(guest)?.put(out, &stat)?)
}

fn environ_get(guest: &mut Guest<'_>, pointers: u32, text: u32) -> Call {
    let spec = guest.data().spec.clone();
    let mut view = view(guest)?;
    let (mut slot, mut at) = (pointers, text);
    for (name, value) in &spec.environment {
        view.put_u32(slot, at)?;
        let entry = format!("{name}={value}\0");
        view.put(at, entry.as_bytes())?;
        slot = slot.checked_add(4).ok_or(Errno(FAULT))?;
        at = u32::try_from(entry.len()).ok().and_then(|l| at.checked_add(l)).ok_or(Errno(FAULT))?;
    }
    Ok(())
}

fn environ_sizes_get(guest: &mut Guest<'_>, count: u32, bytes: u32) -> Call {
    let spec = guest.data().spec.clone();
    let len: usize = spec.environment.iter().map(|(n, v)| n.len() + v.len() + 2).sum();
    let mut view = view(guest)?;
    view.put_u32(count, u32::try_from(spec.environment.len()).map_err(|_| Errno(INVAL))?)?;
    Ok(view.put_u32(bytes, u32::try_from(len).map_err(|_| Errno(INVAL))?)?)
}

fn args_get(_: &mut Guest<'_>, _: u32, _: u32) -> Call {
    Ok(())
}

fn args_sizes_get(guest: &mut Guest<'_>, count: u32, bytes: u32) -> Call {
    let mut view = view(guest)?;
    view.put_u32(count, 0)?;
    Ok(view.put_u32(bytes, 0)?)
}

fn clock_time_get(guest: &mut Guest<'_>, id: u32, _: u64, out: u32) -> Call {
    let now = match id {
        0 => nanoseconds(guest.data().services().now()),
        1 => u64::try_from(monotonic().as_nanos()).unwrap_or(u64::MAX),
        _ => return Err(Errno(NOTSUP)),
    };
    Ok(view(guest)?.put_u64(out, now)?)
}

fn clock_res_get(guest: &mut Guest<'_>, id: u32, out: u32) -> Call {
    if id > 1 {
        return Err(Errno(NOTSUP));
    }
    Ok(view(guest)?.put_u64(out, 1)?)
}

fn random_get(guest: &mut Guest<'_>, p: u32, l: u32) -> Call {
    getrandom::fill(view(guest)?.bytes_mut(p, l)?).map_err(|_| Errno(NOSYS))
}

/// Nobody may wait here. Go's runtime ends the process on anything but success, also within the allocator.
fn poll_oneoff(guest: &mut Guest<'_>, _: u32, _: u32, _: u32, out: u32) -> Call {
    Ok(view(guest)?.put_u32(out, 0)?)
}
