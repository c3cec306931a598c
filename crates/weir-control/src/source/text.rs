//! What a configuration file holds, or why it is not read.
use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileTypeExt,
    path::Path,
    sync::OnceLock,
    time::{Duration, Instant},
};
use weir_config::diagnostic::Diagnostic;

/// A larger file is refused.
pub const MAX_FILE_BYTES: u64 = 64 << 20;
/// How long a file that held something must be empty to be taken for that.
const EMPTY_FOR: Duration = Duration::from_millis(250);
/// It is taken for that after this time, whatever the clock of its file system says.
const EMPTY_AT_MOST: Duration = Duration::from_secs(1);

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("there is no such file")]
    Gone,
    #[error("cannot be read: {0}")]
    Io(io::Error),
    #[error("is larger than 64 MiB")]
    TooLarge,
    #[error("is {0}, not a regular file")]
    NotRegular(&'static str),
    #[error("is UTF-16 text")]
    Utf16,
    #[error("is not UTF-8 text: line {0} has other bytes")]
    NotUtf8(usize),
    #[error("is not text")]
    Binary,
}

impl Unreadable {
    /// What would be accepted.
    pub fn help(&self) -> &'static str {
        match self {
            Unreadable::Gone => "add it",
            Unreadable::Io(_) => "make it readable for this user",
            Unreadable::TooLarge => "split it into several files",
            Unreadable::NotRegular(_) => "use a regular file",
            Unreadable::Utf16 | Unreadable::NotUtf8(_) => "save it as UTF-8",
            Unreadable::Binary => "a file of YAML or JSON text in UTF-8",
        }
    }
    /// About the file of this name.
    pub fn diagnostic(&self, name: &str) -> Diagnostic {
        Diagnostic::error("Unreadable", format!("{name} {self}")).help(self.help())
    }
}

impl From<io::Error> for Unreadable {
    fn from(e: io::Error) -> Unreadable {
        if e.kind() == io::ErrorKind::NotFound { Unreadable::Gone } else { Unreadable::Io(e) }
    }
}

/// Pipes, devices and sockets are refused: they may never end, and cannot be read again.
pub fn check_regular(meta: &fs::Metadata) -> Result<(), Unreadable> {
    let kind = meta.file_type();
    let found = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(Unreadable::NotRegular(found))
}

/// What a file holds. One that `held` something and is empty since a moment ago is most likely being rewritten, although
/// no event told so yet: it gets the time for that.
pub fn read_settled(path: &Path, held: bool) -> Result<String, Unreadable> {
    if is_standard_input(path) {
        return read(path);
    }
    settle(held, || Ok((read(path)?, fs::metadata(path)?.modified()?.elapsed().unwrap_or_default())))
}

/// `look` gives the text, and for how long it has been so.
fn settle(held: bool, mut look: impl FnMut() -> Result<(String, Duration), Unreadable>) -> Result<String, Unreadable> {
    let start = Instant::now();
    loop {
        let (text, since) = look()?;
        if !held || !text.is_empty() || since >= EMPTY_FOR || start.elapsed() >= EMPTY_AT_MOST {
            return Ok(text);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Stands for standard input among files.
pub const STANDARD_INPUT: &str = "-";
/// Its name in findings.
pub const STANDARD_INPUT_NAME: &str = "<stdin>";
/// It can be read only once, so its text is kept.
static STANDARD_INPUT_BYTES: OnceLock<Result<Vec<u8>, io::Error>> = OnceLock::new();

pub fn is_standard_input(path: &Path) -> bool {
    path == Path::new(STANDARD_INPUT)
}

/// All of standard input.
fn standard_input() -> Result<String, Unreadable> {
    let read = || {
        let mut bytes = Vec::new();
        io::stdin().take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match STANDARD_INPUT_BYTES.get_or_init(read) {
        Ok(bytes) if bytes.len() as u64 > MAX_FILE_BYTES => Err(Unreadable::TooLarge),
        Ok(bytes) => text(bytes.clone()),
        Err(e) => Err(Unreadable::Io(io::Error::new(e.kind(), e.to_string()))),
    }
}

/// What the file of a finding holds: standard input where it was read under this name.
pub fn read_named(name: &str) -> Result<String, Unreadable> {
    let standard_input = name == STANDARD_INPUT_NAME && STANDARD_INPUT_BYTES.get().is_some();
    read(Path::new(if standard_input { STANDARD_INPUT } else { name }))
}

/// What a file holds now.
pub fn read(path: &Path) -> Result<String, Unreadable> {
    if is_standard_input(path) {
        return standard_input();
    }
    check_regular(&fs::metadata(path)?)?;
    let file = File::open(path)?;
    let meta = file.metadata()?;
    check_regular(&meta)?;
    // Some files (those of /proc) do not tell their size.
    let mut bytes = Vec::with_capacity(meta.len().min(MAX_FILE_BYTES) as usize + 1);
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Unreadable::TooLarge);
    }
    text(bytes)
}

fn text(bytes: Vec<u8>) -> Result<String, Unreadable> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Unreadable::Utf16);
    }
    if let Some(at) = memchr::memchr(0, &bytes) {
        // Every other byte of Latin text is zero there.
        let utf16 = at < 2 && bytes.chunks(2).take(8).all(|pair| pair.contains(&0) && pair != [0, 0]);
        return Err(if utf16 { Unreadable::Utf16 } else { Unreadable::Binary });
    }
    let mut text = String::from_utf8(bytes).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        Unreadable::NotUtf8(memchr::memchr_iter(b'\n', good).count() + 1)
    })?;
    if text.starts_with('\u{feff}') {
        text.drain(..3);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_gets_time_to_be_written() {
        // What is seen, in milliseconds since the last change; what is taken.
        for (held, seen, want) in [
            (true, vec![("", 0), ("", 249), ("a", 0)], "a"),
            (true, vec![("", 0), ("", 250), ("a", 0)], ""),
            (true, vec![("", 3_600_000)], ""),
            (true, vec![("b", 0)], "b"),
            (false, vec![("", 0), ("a", 0)], ""),
        ] {
            let mut looks = seen.iter().map(|(text, ms)| Ok((text.to_string(), Duration::from_millis(*ms))));
            let got = settle(held, || looks.next().unwrap_or(Err(Unreadable::Gone)));
            assert_eq!(got.unwrap_or_else(|e| e.to_string()), want, "{held} {seen:?}");
        }
        // A change that lies ahead never gets old.
        assert_eq!(settle(true, || Ok((String::new(), Duration::ZERO))).unwrap_or_else(|e| e.to_string()), "");
    }

    #[test]
    fn texts_are_told_from_other_files() {
        let utf16: Vec<u8> = "a: 1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let with_mark: Vec<u8> = [0xff, 0xfe].into_iter().chain(utf16.clone()).collect();
        let table: &[(&[u8], &str)] = &[
            (b"a: 1\n", "a: 1\n"),
            ("\u{feff}a: é\n".as_bytes(), "a: é\n"),
            (&utf16, "is UTF-16 text"),
            (&with_mark, "is UTF-16 text"),
            (b"\0asm\x01\0\0\0", "is not text"),
            (b"\x7fELF\x02\0", "is not text"),
            (b"a: 1\nb: \xe9\n", "is not UTF-8 text: line 2 has other bytes"),
        ];
        for (bytes, want) in table {
            let got = text(bytes.to_vec()).unwrap_or_else(|e| e.to_string());
            assert_eq!(got, *want, "{bytes:?}");
        }
    }
}
