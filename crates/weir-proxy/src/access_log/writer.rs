//! How a writer thread writes its file, and how it reports failures: the first at once, then at intervals.
use crate::app_log::Logger;
use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write},
    time::{Duration, Instant},
};
use weir_config::{model::LogSink, text::counted};

/// The least time between two messages about lost records.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// Where bytes go.
pub(super) enum Target {
    Stdout,
    Stderr,
    File(String, File),
}

impl Target {
    pub fn open(of: &LogSink) -> io::Result<Target> {
        Ok(match of {
            LogSink::Stdout => Target::Stdout,
            LogSink::Stderr => Target::Stderr,
            LogSink::File(path) => Target::File(path.clone(), append(path)?),
        })
    }
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Target::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()?;
                Ok(bytes.len())
            }
            Target::Stderr => io::stderr().lock().write(bytes),
            Target::File(_, file) => file.write(bytes),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Stdout => f.write_str("standard output"),
            Target::Stderr => f.write_str("standard error"),
            Target::File(path, _) => f.write_str(path),
        }
    }
}

fn append(path: &str) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// The records in a block.
pub(super) fn lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

/// One target and its state.
pub(super) struct Writer {
    target: Target,
    /// The last write ended within a record.
    torn: bool,
    trouble: Option<Trouble>,
}

/// Lost records since the first failed write.
struct Trouble {
    lost: u64,
    said: Instant,
}

impl Writer {
    pub fn new(target: Target) -> Writer {
        Writer { target, torn: false, trouble: None }
    }

    /// Writes whole records; returns how many of them were lost.
    pub fn write(&mut self, block: &[u8]) -> u64 {
        if self.torn {
            // A record that a full disk cut short must not run into the next one.
            self.torn = !matches!(self.target.write(b"\n"), Ok(1));
        }
        match write_all(&mut self.target, block) {
            Ok(()) => {
                if let Some(trouble) = self.trouble.take() {
                    Logger::Main.info(format_args!(
                        "access log {}: written again, {} lost",
                        self.target,
                        counted(trouble.lost as usize, "record")
                    ));
                }
                0
            }
            Err((written, e)) => {
                self.torn |= written > 0 && block[written - 1] != b'\n';
                let lost = lines(&block[written..]);
                self.lost(lost, &e);
                lost
            }
        }
    }

    fn lost(&mut self, lost: u64, why: &io::Error) {
        let now = Instant::now();
        let is_first = self.trouble.is_none();
        let trouble = self.trouble.get_or_insert(Trouble { lost: 0, said: now });
        trouble.lost += lost;
        if is_first || now.duration_since(trouble.said) >= SAID_EVERY {
            trouble.said = now;
            Logger::Main.warning(format_args!(
                "cannot write access log {}: {why}; {} lost so far",
                self.target,
                counted(trouble.lost as usize, "record")
            ));
        }
    }

    /// Keeps the old file if the new one cannot be opened.
    pub fn reopen(&mut self) {
        if let Target::File(path, file) = &mut self.target {
            match append(path) {
                Ok(new) => (*file, self.torn) = (new, false),
                Err(e) => Logger::Main.warning(format_args!("cannot reopen access log {path}: {e}; records still go to the old file")),
            }
        }
    }
}

/// The error comes with how many bytes were written before it.
fn write_all(target: &mut Target, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < bytes.len() {
        match target.write(&bytes[written..]) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(n) => written += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err((written, e)),
        }
    }
    Ok(())
}
