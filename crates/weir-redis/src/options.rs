//! Settings of a server.
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Options {
    /// At this many bytes, commands that need more are refused with `OOM`.
    pub max_memory: usize,
    /// Asked for by `AUTH` before anything else.
    pub password: Option<String>,
    pub scripts: ScriptLimits,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            max_memory: 64 << 20,
            password: None,
            scripts: ScriptLimits { instructions: 20_000_000, time: Duration::from_secs(5), memory: 32 << 20 },
        }
    }
}

/// Bounds of one script.
#[derive(Clone, Copy, Debug)]
pub struct ScriptLimits {
    /// Instructions of the Lua machine.
    pub instructions: u64,
    /// Of one run; looked at between instructions, and where an error is caught.
    pub time: Duration,
    /// Of the Lua state, all that scripts keep in it included.
    pub memory: usize,
}
