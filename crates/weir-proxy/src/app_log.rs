//! The application log: what the proxy says of itself on standard error, a line each, with a level per logger that can
//! be changed while it runs (admin `/logging`). Written by a thread of its own; when that cannot keep up, lines are
//! dropped and counted, never waited for.
use std::{
    fmt,
    io::Write,
    sync::{
        OnceLock,
        atomic::{AtomicU8, AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    time::SystemTime,
};
use weir_config::redact;

/// Envoy's levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warning,
    Error,
    Critical,
    Off,
}

impl Level {
    pub const ALL: [Level; 7] = [Level::Trace, Level::Debug, Level::Info, Level::Warning, Level::Error, Level::Critical, Level::Off];

    pub fn name(self) -> &'static str {
        match self {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
            Level::Critical => "critical",
            Level::Off => "off",
        }
    }
    /// Accepts `warn` for `warning` as well.
    pub fn parse(word: &str) -> Option<Level> {
        Level::ALL.into_iter().find(|l| l.name() == word || (word == "warn" && *l == Level::Warning))
    }
}

macro_rules! loggers {
    ($($id:ident = $name:literal: $doc:literal,)*) => {
        /// Who speaks.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Logger { $(#[doc = $doc] $id,)* }
        impl Logger {
            pub const ALL: &[Logger] = &[$(Logger::$id,)*];
            pub fn name(self) -> &'static str {
                match self { $(Logger::$id => $name,)* }
            }
        }
        static LEVELS: [AtomicU8; Logger::ALL.len()] = [const { AtomicU8::new(Level::Info as u8) }; Logger::ALL.len()];
    };
}

loggers! {
    Admin = "admin": "the admin listener",
    Config = "config": "what configuration brought",
    Connection = "connection": "downstream connections, TLS handshakes",
    Dns = "dns": "names and their addresses",
    Http = "http": "requests",
    Main = "main": "start and end",
    Upstream = "upstream": "clusters, endpoints, outliers",
    Wasm = "wasm": "plugins, and what they log",
}

impl Logger {
    pub fn level(self) -> Level {
        Level::ALL.get(usize::from(LEVELS[self as usize].load(Ordering::Relaxed))).copied().unwrap_or(Level::Off)
    }
    pub fn set_level(self, level: Level) {
        LEVELS[self as usize].store(level as u8, Ordering::Relaxed);
    }
    /// Whether a line of this level would be written: ask before building an expensive one.
    pub fn enabled(self, level: Level) -> bool {
        level as u8 >= LEVELS[self as usize].load(Ordering::Relaxed)
    }
    /// Writes one line: `log.write(Level::Info, format_args!("listening on {address}"))`.
    pub fn write(self, level: Level, message: fmt::Arguments<'_>) {
        if self.enabled(level) && level != Level::Off {
            let message = message.to_string();
            // Plugin tests need the exact text.
            let message = if DIVERTED.get().is_some() { message.into() } else { redact::text(&message) };
            send(format!("[{}][{}][{}] {message}\n", timestamp(SystemTime::now()), level.name(), self.name()));
        }
    }
    pub fn info(self, message: fmt::Arguments<'_>) {
        self.write(Level::Info, message);
    }
    pub fn warning(self, message: fmt::Arguments<'_>) {
        self.write(Level::Warning, message);
    }
    pub fn debug(self, message: fmt::Arguments<'_>) {
        self.write(Level::Debug, message);
    }
}

/// Lines that may wait for the writer.
const QUEUE: usize = 4096;
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines lost because standard error did not take them fast enough.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

type Reader = Box<dyn Fn(&str) + Send + Sync>;
static DIVERTED: OnceLock<Reader> = OnceLock::new();

/// From now on lines go to `reader` instead of standard error; only the first call counts.
pub fn divert(reader: impl Fn(&str) + Send + Sync + 'static) {
    let _ = DIVERTED.set(Box::new(reader));
}

fn send(line: String) {
    if let Some(reader) = DIVERTED.get() {
        return reader(&line);
    }
    static WRITER: OnceLock<Option<SyncSender<String>>> = OnceLock::new();
    let start = || {
        let (tx, rx) = sync_channel::<String>(QUEUE);
        let write = move || rx.iter().for_each(|line| std::io::stderr().write_all(line.as_bytes()).unwrap_or_default());
        std::thread::Builder::new().name("log".into()).spawn(write).ok().map(|_| tx)
    };
    match WRITER.get_or_init(start) {
        None => eprint!("{line}"),
        Some(tx) => {
            if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = tx.try_send(line) {
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// UTC with milliseconds, as `2026-11-21 08:16:05.123`.
pub(crate) fn timestamp(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (y, m, d) = civil((since.as_secs() / 86400) as i64);
    let s = since.as_secs() % 86400;
    format!("{y:04}-{m:02}-{d:02} {:02}:{:02}:{:02}.{:03}", s / 3600, s / 60 % 60, s % 60, since.subsec_millis())
}

/// RFC 3339 in seconds, as protobuf's JSON writes timestamps.
pub(crate) fn rfc3339(seconds: i64) -> String {
    let (y, m, d) = civil(seconds.div_euclid(86400));
    let s = seconds.rem_euclid(86400);
    format!("{y:04}-{m:02}-{d:02}T{:02}:{:02}:{:02}Z", s / 3600, s / 60 % 60, s % 60)
}

/// Year, month and day of a number of days since 1970 (proleptic Gregorian calendar).
fn civil(days: i64) -> (i64, i64, i64) {
    // Counted from 0000-03-01, so that the leap day ends its year.
    let z = days + 719_468;
    let drain_group = z.div_euclid(146_097);
    let day = z.rem_euclid(146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (m, d) = (if month < 10 { month + 3 } else { month - 9 }, day - (153 * month + 2) / 5 + 1);
    (year + drain_group * 400 + i64::from(m <= 2), m, d)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates() {
        for (seconds, expect) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (1_795_248_965, "2026-11-21T08:16:05Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), expect);
        }
        assert_eq!(timestamp(SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_248_965_007)), "2026-11-21 08:16:05.007");
    }

    #[test]
    fn levels_are_per_logger() {
        Logger::Dns.set_level(Level::Error);
        assert!(!Logger::Dns.enabled(Level::Warning) && Logger::Dns.enabled(Level::Critical));
        assert!(Logger::Admin.enabled(Level::Info));
        assert_eq!((Level::parse("warn"), Level::parse("loud")), (Some(Level::Warning), None));
    }
}
