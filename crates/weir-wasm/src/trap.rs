//! How a guest ends: traps with a kind that policy can be decided by, and start failures.
use crate::engine::EngineError;
use crate::host::Limits;
use std::{
    fmt::{self, Write},
    time::Duration,
};

/// Why an instance died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrapKind {
    /// More CPU time than its deadline.
    Deadline,
    /// It asked for more memory than its limit and did not survive the answer.
    Memory,
    /// `unreachable`: a panic or `abort` in most languages.
    Unreachable,
    /// `proc_exit` with this code.
    Exit(u32),
    StackOverflow,
    /// Any other trap of WebAssembly (division by zero, access out of bounds, …).
    Wasm,
    /// The instance had died before this call.
    Dead,
}

/// The end of an instance; every call after it answers [`TrapKind::Dead`].
#[derive(Clone, Debug)]
pub struct Trap {
    pub kind: TrapKind,
    pub message: String,
    /// What the guest last wrote to standard error during the call, on one line. [`Trap`]'s text has its first [`SHOWN_WORDS`] characters.
    pub said: String,
    /// The export that was called.
    pub callback: &'static str,
    /// The guest's functions, innermost first.
    pub backtrace: Vec<String>,
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.callback, self.message)?;
        if !self.said.is_empty() {
            f.write_str("; it said: ")?;
            self.said.chars().take(SHOWN_WORDS).try_for_each(|c| f.write_char(c))?;
        }
        if !self.backtrace.is_empty() {
            write!(f, " (at {})", self.backtrace.join(" < "))?;
        }
        Ok(())
    }
}

impl std::error::Error for Trap {}

/// Why an instance could not be started.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Trap(#[from] Trap),
    #[error("the plugin's start failed: proxy_on_vm_start returned false")]
    VmStart,
    #[error("the plugin refused its configuration: proxy_validate_configuration returned false")]
    Validate,
    #[error("the plugin refused its configuration: proxy_on_configure returned false")]
    Configure,
    /// An export that is not of the type that the ABI says.
    #[error("the export {name} has the wrong type: {message}")]
    Export { name: &'static str, message: String },
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Stops a guest from within a host call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stop {
    #[error("more than {0:?} of CPU time: the deadline of this callback")]
    Deadline(Duration),
    #[error("the plugin ended itself with exit code {0}")]
    Exit(u32),
    #[error("the plugin called abort")]
    Abort,
}

/// What the store knows about a call that ended badly.
pub(crate) struct Circumstances<'a> {
    pub callback: &'static str,
    pub limits: &'a Limits,
    /// Bytes of the last growth that was refused during the call.
    pub refused: Option<usize>,
    /// What the guest last wrote to standard error during the call.
    pub last_words: &'a str,
}

const MAX_FRAMES: usize = 20;
/// How many characters of what the guest said the text of a trap has.
const SHOWN_WORDS: usize = 512;

impl Trap {
    pub(crate) fn new(error: &wasmtime::Error, about: &Circumstances<'_>) -> Trap {
        let (kind, mut message) = if let Some(stop) = error.downcast_ref::<Stop>() {
            let kind = match stop {
                Stop::Deadline(_) => TrapKind::Deadline,
                Stop::Exit(code) => TrapKind::Exit(*code),
                Stop::Abort => TrapKind::Unreachable,
            };
            (kind, stop.to_string())
        } else if let Some(trap) = error.downcast_ref::<wasmtime::Trap>() {
            let kind = match trap {
                wasmtime::Trap::UnreachableCodeReached => TrapKind::Unreachable,
                wasmtime::Trap::StackOverflow => TrapKind::StackOverflow,
                _ => TrapKind::Wasm,
            };
            (kind, trap.to_string())
        } else {
            (TrapKind::Wasm, error.root_cause().to_string())
        };
        let mut final_kind = kind;
        if let Some(wanted) = about.refused
            && kind != TrapKind::Deadline
        {
            let mib = |bytes: usize| bytes.div_ceil(1 << 20);
            final_kind = TrapKind::Memory;
            message =
                format!("memory limit: {} MiB are not within its {} MiB; then: {message}", mib(wanted), mib(about.limits.memory_bytes));
        }
        // Go's list of goroutines follows a blank line.
        let words = about.last_words.trim_start().split("\n\n").next().unwrap_or_default().trim_end();
        let backtrace = error.downcast_ref::<wasmtime::WasmBacktrace>().map(frames).unwrap_or_default();
        Trap { kind: final_kind, message, said: words.replace('\n', " "), callback: about.callback, backtrace }
    }

    pub(crate) fn dead(callback: &'static str) -> Trap {
        Trap { kind: TrapKind::Dead, message: "the instance has died before".into(), said: String::new(), callback, backtrace: Vec::new() }
    }
}

fn frames(backtrace: &wasmtime::WasmBacktrace) -> Vec<String> {
    let name = |f: &wasmtime::FrameInfo| f.func_name().map_or_else(|| format!("function {}", f.func_index()), str::to_owned);
    backtrace.frames().iter().take(MAX_FRAMES).map(name).collect()
}
