//! Where a plugin's code comes from: a file, HTTP(S) with a digest, or an image of a registry. What was fetched is kept on disk.
mod image;
pub mod store;
mod unpack;

pub use unpack::{UnpackError, is_packed, unpack};

use crate::app_log::Logger;
use bytes::Bytes;
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use store::{Link, Store};
use url::Url;
use weir_config::model::WasmCode;
use weir_net::{
    dial::GuardedResolver,
    http::{
        Known,
        fetch::{Fetcher, Request, Response, Watch},
        head::reason,
    },
    tls::{self, Roots, hex_digest},
};

/// Bytes of a module, also after unpacking, unless something else is asked for.
pub const MAX_BYTES: usize = 256 << 20;

/// How remote code is fetched; the defaults are those of Istio's agent. The caller retries a failure.
#[derive(Clone)]
pub struct FetchOptions {
    /// Of a URL from the connection to the last byte; of an image for each step in which nothing happens.
    pub timeout: Duration,
    /// Of a module, also after unpacking.
    pub max_bytes: usize,
    /// Code that was fetched before; `None` keeps nothing.
    pub store: Option<Arc<Store>>,
    /// URLs, images and redirects name hosts.
    pub resolver: Arc<GuardedResolver>,
    pub registry: RegistrySettings,
}

/// How registries are reached.
#[derive(Clone)]
pub struct RegistrySettings {
    /// Whose certificates they show.
    pub roots: Roots,
    /// Those whose certificate is not verified, and that may speak plain HTTP; `*` for all.
    pub insecure: Vec<String>,
    /// Docker's `config.json`, for images without a pull secret.
    pub config: Option<PathBuf>,
}

impl fmt::Debug for RegistrySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrySettings").field("insecure", &self.insecure).field("config", &self.config).finish_non_exhaustive()
    }
}

impl Default for RegistrySettings {
    fn default() -> RegistrySettings {
        RegistrySettings { roots: Roots::system(), insecure: Vec::new(), config: None }
    }
}

impl FetchOptions {
    pub fn new(resolver: Arc<GuardedResolver>) -> FetchOptions {
        FetchOptions {
            timeout: Duration::from_secs(15),
            max_bytes: MAX_BYTES,
            store: None,
            resolver,
            registry: RegistrySettings::default(),
        }
    }
}

/// A module's bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Code {
    pub wasm: Bytes,
    /// SHA-256 of `wasm`, in hexadecimal.
    pub digest: String,
    pub from: From,
    /// The image that it is of, with its digest.
    pub image: Option<Arc<str>>,
    /// The files of the store that it is found by.
    pub kept: Vec<String>,
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

fn lasting(message: impl Into<String>) -> CodeError {
    CodeError { message: message.into(), transient: false, mismatch: false }
}
fn transient(message: impl Into<String>) -> CodeError {
    CodeError { message: message.into(), transient: true, mismatch: false }
}

/// Redirects followed for one fetch.
const MAX_REDIRECTS: usize = 5;

/// The code that `from` names; one try.
pub async fn load(from: &WasmCode, options: &FetchOptions, watch: Arc<dyn Watch + Send>) -> Result<Code, CodeError> {
    match from {
        WasmCode::File { path, sha256 } => file(path, sha256, options).await,
        WasmCode::Http { url, sha256 } => remote(url, sha256.as_deref(), options, &*watch).await,
        WasmCode::Image(image) => image::load(image, options, watch).await,
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

async fn remote(url: &str, sha256: Option<&str>, options: &FetchOptions, watch: &dyn Watch) -> Result<Code, CodeError> {
    let store = options.store.as_ref();
    if let Some(kept) = sha256.and_then(|digest| kept(store?, &digest.to_lowercase())) {
        return Ok(kept);
    }
    let fetched = tokio::time::timeout(options.timeout, fetch(url, options, watch)).await;
    let last = match fetched.unwrap_or_else(|_| Err(transient(format!("no answer within {:?}", options.timeout)))) {
        Ok(body) => return checked(url, sha256, body, options).await,
        Err(e) => e,
    };
    // Without a digest the same URL's last content is better than nothing: the server may be down while we restart.
    if let Some(kept) = store.filter(|_| sha256.is_none()).and_then(|s| kept(s, &hex_digest(url.as_bytes()))) {
        Logger::Wasm.warning(format_args!("{url} cannot be fetched ({last}); using what it gave before, {}", kept.digest));
        return Ok(kept);
    }
    Err(CodeError { message: format!("{url}: {}", last.message), ..last })
}

/// What was fetched by this digest, or from the URL with this digest.
fn kept(store: &Store, key: &str) -> Option<Code> {
    let mut kept = Vec::new();
    let digest = store.link(Link::Url, key, &mut kept)?;
    let wasm = store.module(&digest, &mut kept)?;
    Some(Code { wasm, digest, from: From::Disk, image: None, kept })
}

async fn checked(url: &str, sha256: Option<&str>, body: Bytes, options: &FetchOptions) -> Result<Code, CodeError> {
    let packed = hex_digest(&body);
    let wasm = unpack(body, options.max_bytes).map_err(|e| lasting(format!("{url}: {e}")))?;
    let mut code = code(wasm, From::Server);
    if let Some(wanted) = sha256.filter(|w| !w.eq_ignore_ascii_case(&packed) && !w.eq_ignore_ascii_case(&code.digest)) {
        let message = format!("{url}: the SHA-256 of what was fetched is {packed}, not {wanted}");
        return Err(CodeError { message, transient: false, mismatch: true });
    }
    let Some(store) = options.store.clone() else { return Ok(code) };
    let (wasm, digest, by_url) = (code.wasm.clone(), code.digest.clone(), hex_digest(url.as_bytes()));
    let written = tokio::task::spawn_blocking(move || {
        let mut kept = Vec::new();
        store.put_module(&digest, &wasm, &mut kept)?;
        // A digest of something packed leads to the module in it.
        [&packed, &digest, &by_url].into_iter().try_for_each(|key| store.put_link(Link::Url, key, &digest, &mut kept))?;
        Ok::<_, std::io::Error>(kept)
    });
    match written.await {
        Ok(Ok(kept)) => code.kept = kept,
        Ok(Err(e)) => Logger::Wasm.warning(format_args!("{url} is not kept on disk: {e}")),
        Err(_) => {}
    }
    Ok(code)
}

fn code(wasm: Bytes, from: From) -> Code {
    let digest = hex_digest(&wasm);
    Code { wasm, digest, from, image: None, kept: Vec::new() }
}

async fn fetch(url: &str, options: &FetchOptions, watch: &dyn Watch) -> Result<Bytes, CodeError> {
    let mut url = Url::parse(url).map_err(|e| lasting(e.to_string()))?;
    let client = tls::Client::new(tls::ClientOptions::system()).map_err(|e| lasting(e.to_string()))?;
    let fetcher = Fetcher::new(options.resolver.clone(), Arc::new(client), options.timeout);
    let fields = [("accept", "application/wasm, application/octet-stream, */*")];
    for _ in 0..=MAX_REDIRECTS {
        let request = Request { method: "GET", url: &url, fields: &fields, body: &[], max: options.max_bytes, watch };
        let Response { head, body } =
            fetcher.send(request).await.map_err(|e| CodeError { message: e.to_string(), transient: e.is_transient(), mismatch: false })?;
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

#[cfg(test)]
mod tests;
