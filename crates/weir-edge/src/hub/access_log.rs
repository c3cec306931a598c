//! A line of JSON for each request, written when its answer has ended. The file is written by a thread of its own; what it cannot keep up
//! with is dropped and counted.
use crate::{
    apimachinery::{object::time, request::RequestInfo},
    hub::requests::{Source, age},
    offline::local::CACHE,
};
use http::{HeaderMap, Request, Response, header};
use serde_json::{Value, json};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// Lines that wait to be written.
const WAITING: usize = 4096;
/// Characters of a path or of a header that are written.
const LONGEST: usize = 2048;

pub struct AccessLog {
    lines: SyncSender<String>,
    /// Lines that were not written.
    pub dropped: AtomicU64,
}

impl AccessLog {
    /// Appends to a file. One that was moved away by a rotation of logs is begun again.
    pub fn open(path: PathBuf) -> io::Result<AccessLog> {
        let file = open(&path)?;
        let (lines, receive) = sync_channel(WAITING);
        std::thread::Builder::new().name("access-log".into()).spawn(move || write(&path, file, &receive))?;
        Ok(AccessLog { lines, dropped: AtomicU64::new(0) })
    }

    pub fn write(&self, line: &Value) {
        if self.lines.try_send(line.to_string()).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    if path == Path::new("/dev/stdout") {
        // A socket, as under systemd, cannot be opened by its path.
        return Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?));
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn write(path: &Path, file: File, lines: &Receiver<String>) {
    let mut out = BufWriter::new(file);
    while let Ok(first) = lines.recv() {
        if moved(path, out.get_ref())
            && let Ok(file) = open(path)
        {
            out = BufWriter::new(file);
        }
        // On a full disk lines are lost; the hub goes on.
        let _ = writeln!(out, "{first}");
        for line in lines.try_iter().take(WAITING) {
            let _ = writeln!(out, "{line}");
        }
        let _ = out.flush();
    }
}

/// Whether the path leads to another file than the one that is open.
fn moved(path: &Path, file: &File) -> bool {
    let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    match (fs::metadata(path), file.metadata()) {
        (Ok(there), Ok(open)) => !same(&there, &open),
        (Err(e), _) => e.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

/// What is known of a request when it comes.
pub struct Line {
    fields: Value,
    began: Instant,
}

impl Line {
    pub fn of<B>(request: &Request<B>, info: &RequestInfo) -> Line {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(short);
        let mut fields = json!({
            "time": time::text(i64::try_from(since.as_secs()).unwrap_or_default(), Some(since.subsec_micros())),
            "method": request.method().as_str(),
            "path": request.uri().path_and_query().map(|path| short(path.as_str())),
            "protocol": format!("{:?}", request.version()),
            "userAgent": header(header::USER_AGENT.as_str()),
            "traceparent": header("traceparent"),
        });
        if let RequestInfo::Resource(resource) = info {
            fields["verb"] = resource.verb.name().into();
            fields["resource"] = resource.resource.to_string().into();
            fields["namespace"] = resource.namespace.as_str().into();
            fields["name"] = resource.name.as_str().into();
        }
        Line { fields, began: Instant::now() }
    }

    /// What the answer says of it.
    pub fn answered<B>(&mut self, user: Option<String>, response: &Response<B>) {
        self.fields["user"] = user.into();
        self.fields["code"] = response.status().as_u16().into();
        self.fields["source"] = Source::of(response).name().into();
        self.fields["ageSeconds"] = cache_age(response.headers()).into();
        self.fields["startedMs"] = self.millis().into();
    }

    /// The whole line, when `bytes` of the answer have been sent.
    pub fn ended(mut self, bytes: u64) -> Value {
        self.fields["durationMs"] = self.millis().into();
        self.fields["bytes"] = bytes.into();
        self.fields
    }

    fn millis(&self) -> f64 {
        (self.began.elapsed().as_secs_f64() * 1e6).round() / 1e3
    }
}

fn cache_age(headers: &HeaderMap) -> Option<u64> {
    age(headers.get(CACHE)?.to_str().ok()?)
}

fn short(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_test::eventually;

    #[test]
    fn lines_are_appended_also_after_a_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let log = AccessLog::open(path.clone()).unwrap();
        let lines = |path: &Path| fs::read_to_string(path).unwrap_or_default().lines().count();
        log.write(&json!({ "n": 1 }));
        eventually("the first line", || (lines(&path) == 1).then_some(()));
        fs::rename(&path, &old).unwrap();
        log.write(&json!({ "n": 2 }));
        eventually("the second line", || (lines(&path) == 1).then_some(()));
        assert_eq!((lines(&old), log.dropped.load(Relaxed)), (1, 0));
        assert!(AccessLog::open(folder.path().join("none/access.log")).is_err());
    }
}
