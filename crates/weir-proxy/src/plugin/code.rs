//! Where a plugin's code comes from: a file, or HTTP(S) with a digest; what was fetched is kept on disk by digest.
use crate::app_log::Logger;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use std::{
    fmt, io,
    io::Read,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::net::TcpStream;
use url::Url;
use weir_config::model::WasmCode;
use weir_net::tls::{self, hex_digest};

/// How remote code is fetched; the defaults are those of Istio's agent. A failure is tried again by whoever asked.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// From the connection to the last byte.
    pub timeout: Duration,
    /// Of a module, also after unpacking.
    pub max_bytes: usize,
    /// Code that was fetched before; `None` keeps nothing.
    pub cache_dir: Option<PathBuf>,
}

impl Default for FetchOptions {
    fn default() -> Self {
        FetchOptions { timeout: Duration::from_secs(15), max_bytes: 256 << 20, cache_dir: None }
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
        return Ok(code(assemble(Path::new(path), &bytes).map_err(lasting)?.into(), From::File));
    }
    unpack(bytes.into(), options.max_bytes).map(|wasm| code(wasm, From::File)).map_err(|e| lasting(format!("{path}: {e}")))
}

/// Assembles the text module in `path`.
///
/// # Errors
/// The error in the text, and its line.
pub fn assemble(path: &Path, text: &[u8]) -> Result<Vec<u8>, String> {
    let parsed = wat::parse_bytes(text).map_err(|mut e| {
        e.set_path(path);
        // One line: the place and the problem.
        let said = e.to_string();
        let message = said.lines().next().unwrap_or_default();
        let place =
            said.lines().find_map(|line| line.trim().strip_prefix("--> ")).map_or_else(|| path.display().to_string(), str::to_string);
        format!("{place}: {message}")
    });
    parsed.map(std::borrow::Cow::into_owned)
}

async fn remote(url: &str, sha256: Option<&str>, options: &FetchOptions) -> Result<Code, CodeError> {
    let store = options.cache_dir.as_deref().map(Store);
    if let Some(kept) = sha256.and_then(|digest| store.as_ref()?.get(digest)) {
        return Ok(kept);
    }
    let fetched = tokio::time::timeout(options.timeout, fetch(url, options.max_bytes)).await;
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
///
/// # Errors
/// What it is instead.
pub fn unpack(bytes: Bytes, max: usize) -> Result<Bytes, String> {
    if bytes.len() > max {
        return Err(format!("larger than {max} bytes"));
    }
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut out = Vec::new();
        let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
        flate2::read::GzDecoder::new(&bytes[..]).take(limit).read_to_end(&mut out).map_err(|e| format!("gzip: {e}"))?;
        return unpack(out.into(), max);
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return untar(&bytes).ok_or_else(|| "a tar archive without plugin.wasm in it".to_string());
    }
    if bytes.starts_with(b"\0asm") {
        return Ok(bytes);
    }
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(16)]).escape_debug().to_string();
    Err(format!("no WebAssembly module (nor gzip or tar of one): it begins with \"{shown}\""))
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

async fn fetch(url: &str, max: usize) -> Result<Bytes, CodeError> {
    let mut url = Url::parse(url).map_err(|e| lasting(e.to_string()))?;
    for _ in 0..=MAX_REDIRECTS {
        let response = get(&url).await?;
        let status = response.status();
        if status.is_redirection() {
            let location = response.headers().get(http::header::LOCATION).and_then(|l| l.to_str().ok()).unwrap_or_default();
            url = url.join(location).map_err(|e| lasting(format!("redirected to `{location}`: {e}")))?;
            continue;
        }
        if !status.is_success() {
            return Err(CodeError { message: format!("answered {status}"), transient: true, mismatch: false });
        }
        let body = http_body_util::Limited::new(response.into_body(), max).collect().await;
        return body.map(|b| b.to_bytes()).map_err(|e| match e.downcast_ref::<http_body_util::LengthLimitError>() {
            Some(_) => lasting(format!("larger than {max} bytes")),
            None => transient(e.to_string()),
        });
    }
    Err(lasting(format!("more than {MAX_REDIRECTS} redirects")))
}

async fn get(url: &Url) -> Result<http::Response<hyper::body::Incoming>, CodeError> {
    let secure = match url.scheme() {
        "https" => true,
        "http" => false,
        other => return Err(lasting(format!("`{other}` is neither http nor https"))),
    };
    let host = url.host_str().ok_or_else(|| lasting("no host"))?;
    let port = url.port_or_known_default().unwrap_or(80);
    let io = connect(host, port).await?;
    let authority = url.port().map_or_else(|| host.to_string(), |p| format!("{host}:{p}"));
    let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let request = http::Request::get(target)
        .header(http::header::HOST, authority)
        .header(http::header::USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION")))
        .header(http::header::ACCEPT, "application/wasm, application/octet-stream, */*")
        .body(Empty::<Bytes>::new())
        .map_err(|e| lasting(e.to_string()))?;
    if secure {
        let client = tls::Client::new(tls::ClientOptions::system()).map_err(|e| lasting(e.to_string()))?;
        let io = client.connect(io, host, tls::Alpn::Http1).await.map_err(|e| transient(e.to_string()))?;
        exchange(io, request).await
    } else {
        exchange(io, request).await
    }
}

async fn exchange<T>(io: T, request: http::Request<Empty<Bytes>>) -> Result<http::Response<hyper::body::Incoming>, CodeError>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(|e| transient(e.to_string()))?;
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|e| transient(e.to_string()))
}

/// To an address that is not one of the machine's neighbourhood: a URL in a configuration must not reach the metadata
/// service of a cloud.
async fn connect(host: &str, port: u16) -> Result<TcpStream, CodeError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<SocketAddr> =
        tokio::net::lookup_host((bare, port)).await.map_err(|e| transient(format!("{host} cannot be resolved: {e}")))?.collect();
    let mut last = transient(format!("{host} has no address"));
    for address in addresses {
        if is_link_local(address.ip()) {
            last = lasting(format!("{host} is {}, a link-local address: not fetched from", address.ip()));
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(io) => return Ok(io),
            Err(e) => last = transient(format!("{address}: {e}")),
        }
    }
    Err(last)
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_link_local()),
    }
}

#[cfg(test)]
mod tests;
