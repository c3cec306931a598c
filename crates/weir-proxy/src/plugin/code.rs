//! Where a plugin's code comes from: a file, or HTTP(S) with a digest; what was fetched is kept on disk by digest.
use crate::app_log::Logger;
use bytes::Bytes;
use std::{
    fmt, io,
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use url::Url;
use weir_config::model::WasmCode;
use weir_net::{
    dial::{self, GuardedResolver, Unresolved},
    http::{
        Known, RequestHead,
        client::{self, ClientError},
        head::reason,
    },
    io::Io,
    tls::{self, hex_digest},
};

/// Bytes of a module, also after unpacking, unless something else is asked for.
pub const MAX_BYTES: usize = 256 << 20;

/// How remote code is fetched; the defaults are those of Istio's agent. The caller retries a failure.
#[derive(Clone)]
pub struct FetchOptions {
    /// From the connection to the last byte.
    pub timeout: Duration,
    /// Of a module, also after unpacking.
    pub max_bytes: usize,
    /// Code that was fetched before; `None` keeps nothing.
    pub cache_dir: Option<PathBuf>,
    /// URLs and redirects name hosts.
    pub resolver: Arc<GuardedResolver>,
}

impl FetchOptions {
    pub fn new(resolver: Arc<GuardedResolver>) -> FetchOptions {
        FetchOptions { timeout: Duration::from_secs(15), max_bytes: MAX_BYTES, cache_dir: None, resolver }
    }
}

/// A module's bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Code {
    pub wasm: Bytes,
    /// SHA-256 of `wasm`, in hexadecimal.
    pub digest: String,
    pub from: From,
}

/// Where code was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    File,
    /// Fetched now.
    Server,
    /// Fetched before.
    Disk,
}

/// Why there is no code.
#[derive(Clone, Debug, PartialEq)]
pub struct CodeError {
    pub message: String,
    /// Trying the same again may help.
    pub transient: bool,
    /// It was fetched, and is not what the digest says.
    pub mismatch: bool,
}

impl fmt::Display for CodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A text module with an error.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{place}: {message}")]
pub struct AssembleError {
    /// The file, with line and column where they are known.
    pub place: String,
    pub message: String,
}

/// What there is instead of a module.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("larger than {0} bytes")]
    TooLarge(usize),
    #[error("gzip: {0}")]
    Gzip(io::Error),
    #[error("a tar archive without plugin.wasm in it")]
    Archive,
    #[error("no WebAssembly module (nor gzip or tar of one): it begins with \"{0}\"")]
    Other(String),
}

fn lasting(message: impl Into<String>) -> CodeError {
    CodeError { message: message.into(), transient: false, mismatch: false }
}
fn transient(message: impl Into<String>) -> CodeError {
    CodeError { message: message.into(), transient: true, mismatch: false }
}

/// Redirects followed for one fetch.
const MAX_REDIRECTS: usize = 5;

/// The code that `from` names; one try.
pub async fn load(from: &WasmCode, options: &FetchOptions) -> Result<Code, CodeError> {
    match from {
        WasmCode::File { path, sha256 } => file(path, sha256, options).await,
        WasmCode::Http { url, sha256 } => remote(url, sha256.as_deref(), options).await,
        WasmCode::Unusable { why } => Err(lasting(why.as_str())),
    }
}

async fn file(path: &str, sha256: &str, options: &FetchOptions) -> Result<Code, CodeError> {
    let meta = tokio::fs::metadata(path).await.map_err(|e| transient(format!("{path}: {e}")))?;
    // Devices and pipes may never end.
    if !meta.is_file() {
        return Err(transient(format!("{path} is not a regular file")));
    }
    let bytes = tokio::fs::read(path).await.map_err(|e| transient(format!("{path}: {e}")))?;
    // The digest in the configuration is that of the file: of the text, for a .wat.
    if !sha256.is_empty() && !sha256.eq_ignore_ascii_case(&hex_digest(&bytes)) {
        return Err(transient(format!("{path} is not the file whose SHA-256 is {sha256}: it was changed since, or the digest is wrong")));
    }
    if path.ends_with(".wat") {
        return Ok(code(assemble(Path::new(path), &bytes).map_err(|e| lasting(e.to_string()))?.into(), From::File));
    }
    unpack(bytes.into(), options.max_bytes).map(|wasm| code(wasm, From::File)).map_err(|e| lasting(format!("{path}: {e}")))
}

/// Assembles the text module in `path`.
pub fn assemble(path: &Path, text: &[u8]) -> Result<Vec<u8>, AssembleError> {
    let parsed = wat::parse_bytes(text).map_err(|mut e| {
        e.set_path(path);
        // One line: the place and the problem.
        let said = e.to_string();
        let message = said.lines().next().unwrap_or_default().to_string();
        let place =
            said.lines().find_map(|line| line.trim().strip_prefix("--> ")).map_or_else(|| path.display().to_string(), str::to_string);
        AssembleError { place, message }
    });
    parsed.map(std::borrow::Cow::into_owned)
}

async fn remote(url: &str, sha256: Option<&str>, options: &FetchOptions) -> Result<Code, CodeError> {
    let store = options.cache_dir.as_deref().map(Store);
    if let Some(kept) = sha256.and_then(|digest| store.as_ref()?.get(digest)) {
        return Ok(kept);
    }
    let fetched = tokio::time::timeout(options.timeout, fetch(url, options)).await;
    let last = match fetched.unwrap_or_else(|_| Err(transient(format!("no answer within {:?}", options.timeout)))) {
        Ok(body) => return checked(url, sha256, body, options, store.as_ref()),
        Err(e) => e,
    };
    // Without a digest the same URL's last content is better than nothing: the server may be down while we restart.
    if let Some(kept) = store.as_ref().filter(|_| sha256.is_none()).and_then(|s| s.last(url)) {
        Logger::Wasm.warning(format_args!("{url} cannot be fetched ({last}); using what it gave before, {}", kept.digest));
        return Ok(kept);
    }
    Err(CodeError { message: format!("{url}: {}", last.message), ..last })
}

fn checked(url: &str, sha256: Option<&str>, body: Bytes, options: &FetchOptions, store: Option<&Store<'_>>) -> Result<Code, CodeError> {
    let digest = hex_digest(&body);
    let wasm = unpack(body, options.max_bytes).map_err(|e| lasting(format!("{url}: {e}")))?;
    let code = code(wasm, From::Server);
    if let Some(wanted) = sha256.filter(|w| !w.eq_ignore_ascii_case(&digest) && !w.eq_ignore_ascii_case(&code.digest)) {
        let message = format!("{url}: the SHA-256 of what was fetched is {digest}, not {wanted}");
        return Err(CodeError { message, transient: false, mismatch: true });
    }
    if let Some(Err(e)) = store.map(|s| s.put(url, sha256, &code)) {
        Logger::Wasm.warning(format_args!("{url} is not kept on disk: {e}"));
    }
    Ok(code)
}

fn code(wasm: Bytes, from: From) -> Code {
    let digest = hex_digest(&wasm);
    Code { wasm, digest, from }
}

/// Fetched modules in a folder: `DIGEST.wasm`, and `URL-DIGEST.url` with the digest that a URL gave last.
struct Store<'a>(&'a Path);

impl Store<'_> {
    fn get(&self, digest: &str) -> Option<Code> {
        if digest.len() != 64 || !digest.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let named = std::fs::read_to_string(self.0.join(format!("{}.url", digest.to_lowercase()))).ok();
        let digest = named.as_deref().unwrap_or(digest).to_lowercase();
        let code = code(std::fs::read(self.0.join(format!("{digest}.wasm"))).ok()?.into(), From::Disk);
        (code.digest == digest).then_some(code)
    }
    fn last(&self, url: &str) -> Option<Code> {
        self.get(&hex_digest(url.as_bytes()))
    }
    fn put(&self, url: &str, sha256: Option<&str>, code: &Code) -> io::Result<()> {
        std::fs::create_dir_all(self.0)?;
        replace(&self.0.join(format!("{}.wasm", code.digest)), &code.wasm)?;
        // A digest of something packed leads to the module in it.
        if let Some(packed) = sha256.map(str::to_lowercase).filter(|d| *d != code.digest) {
            replace(&self.0.join(format!("{packed}.url")), code.digest.as_bytes())?;
        }
        replace(&self.0.join(format!("{}.url", hex_digest(url.as_bytes()))), code.digest.as_bytes())
    }
}

/// Whole or not at all.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension(format!("new{}", std::process::id()));
    std::fs::write(&new, content)?;
    std::fs::rename(new, path)
}

/// The module in what was fetched: gzip and tar are taken off.
pub fn unpack(bytes: Bytes, max: usize) -> Result<Bytes, UnpackError> {
    if bytes.len() > max {
        return Err(UnpackError::TooLarge(max));
    }
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut out = Vec::new();
        let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
        flate2::read::GzDecoder::new(&bytes[..]).take(limit).read_to_end(&mut out).map_err(UnpackError::Gzip)?;
        return unpack(out.into(), max);
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return untar(&bytes).ok_or(UnpackError::Archive);
    }
    if bytes.starts_with(b"\0asm") {
        return Ok(bytes);
    }
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(16)]).escape_debug().to_string();
    Err(UnpackError::Other(shown))
}

/// `plugin.wasm` of an archive, or its first `.wasm`.
fn untar(archive: &Bytes) -> Option<Bytes> {
    let (mut at, mut found) = (0, None);
    while let Some(header) = archive.get(at..at + 512).filter(|h| h[0] != 0) {
        let name = header[..100].split(|b| *b == 0).next()?;
        let size = std::str::from_utf8(&header[124..136]).ok()?.trim_matches(['\0', ' ']);
        let size = usize::from_str_radix(size, 8).ok()?;
        let content = at + 512..(at + 512).checked_add(size)?;
        if name.ends_with(b".wasm") && content.end <= archive.len() {
            if name.rsplit(|b| *b == b'/').next() == Some(b"plugin.wasm") {
                return Some(archive.slice(content));
            }
            found = found.or(Some(archive.slice(content.clone())));
        }
        at = content.end.checked_next_multiple_of(512)?;
    }
    found
}

async fn fetch(url: &str, options: &FetchOptions) -> Result<Bytes, CodeError> {
    let mut url = Url::parse(url).map_err(|e| lasting(e.to_string()))?;
    for _ in 0..=MAX_REDIRECTS {
        let (head, body) = get(&url, options).await?;
        match head.status {
            200..300 => return Ok(body.into()),
            300..400 => {
                let location = String::from_utf8_lossy(head.headers.get(Known::Location).unwrap_or_default());
                url = url.join(&location).map_err(|e| lasting(format!("redirected to `{location}`: {e}")))?;
            }
            status => return Err(transient(format!("answered {status} {}", reason(status)))),
        }
    }
    Err(lasting(format!("more than {MAX_REDIRECTS} redirects")))
}

async fn get(url: &Url, options: &FetchOptions) -> Result<(weir_net::http::ResponseHead, Vec<u8>), CodeError> {
    let secure = match url.scheme() {
        "https" => true,
        "http" => false,
        other => return Err(lasting(format!("`{other}` is neither http nor https"))),
    };
    let host = url.host_str().ok_or_else(|| lasting("no host"))?;
    let port = url.port_or_known_default().unwrap_or(80);
    let authority = url.port().map_or_else(|| host.to_string(), |p| format!("{host}:{p}"));
    let mut request = RequestHead::default();
    request.begin(b"GET", url[url::Position::BeforePath..url::Position::AfterQuery].as_bytes());
    request.headers.set(Known::Host, &[authority.as_bytes()]);
    request.headers.add_named(b"user-agent", concat!("weir/", env!("CARGO_PKG_VERSION")).as_bytes());
    request.headers.add_named(b"accept", b"application/wasm, application/octet-stream, */*");
    request.headers.add(Known::Connection, &[b"close"]);
    let io = connect(host, port, &options.resolver).await?;
    let io = match secure {
        false => Io::Plain(io),
        true => {
            let client = tls::Client::new(tls::ClientOptions::system()).map_err(|e| lasting(e.to_string()))?;
            Io::tls(client.connect(io, host, tls::Alpn::Http1).await.map_err(|e| transient(e.to_string()))?)
        }
    };
    client::fetch(io, &request, options.max_bytes).await.map_err(|e| match e {
        ClientError::TooLarge => lasting(format!("larger than {} bytes", options.max_bytes)),
        e => transient(e.to_string()),
    })
}

/// To the first address of the host that takes the connection.
async fn connect(host: &str, port: u16, resolver: &GuardedResolver) -> Result<tokio::net::TcpStream, CodeError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let answer = resolver.lookup(bare).await.map_err(|e| match e {
        Unresolved::Dns(e) => transient(format!("{host} cannot be resolved: {e}")),
        Unresolved::NotAllowed(_) => lasting(format!("{host}: {e}")),
    })?;
    let mut last = transient(format!("{host} has no address"));
    for ip in answer.addresses {
        let address = SocketAddr::new(ip, port);
        match dial::connect(address, None, &[]).await {
            Ok(io) => return Ok(io),
            Err(e) => last = transient(format!("{address}: {e}")),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests;
