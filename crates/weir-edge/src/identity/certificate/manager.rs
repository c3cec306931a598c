//! Keeps the certificates of the hub good: asks for the first ones, and for the next ones in time.
use super::{
    pair::Pair,
    request::{self, PATH, Purpose, Request, State},
    self_signed::{self, SelfSignedError},
    validity::{Next, next},
};
use crate::{
    durable,
    identity::bootstrap::{Bootstrap, BootstrapError},
    upstream::{
        api::{Api, ApiError, Shown},
        credentials::{CredentialError, Credentials},
    },
};
use http::{Method, StatusCode};
use serde_json::Value;
use std::{
    fmt, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::{sync::watch, task::JoinSet};
use weir_net::tls::{Certificate, CertificateError};

/// Time between two looks at a request that nobody has approved yet.
const POLL: Duration = Duration::from_secs(1);
/// A request is given up after so long, and made again.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// The first time to wait after a failure; it doubles.
const BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// A certificate that is due for renewal from the beginning is not renewed more often than this.
const LEAST: Duration = Duration::from_secs(60);

/// What the hub does for its certificates. Without any of this it uses those that others keep.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Certificates are kept in this folder.
    pub folder: PathBuf,
    /// How to get the first certificate of the node; `None`: others keep it.
    pub bootstrap: Option<Bootstrap>,
    /// Where the certificate authority of the cluster is written, if it comes with the bootstrap.
    pub write_authority: Option<PathBuf>,
    /// Names of the serving certificate that the API server is asked for.
    pub rotate_server: Option<Vec<String>>,
    /// Names of the serving certificate that the hub signs itself.
    pub self_signed: Option<Vec<String>>,
}

impl Options {
    /// The certificate of the node that the hub asks for.
    pub fn client(&self) -> Pair {
        Pair::new(&self.folder, "edge-client")
    }

    /// The serving certificate that the hub asks for.
    pub fn server(&self) -> Pair {
        Pair::new(&self.folder, "edge-server")
    }
}

/// What was done so far.
#[derive(Debug, Default)]
pub struct Stats {
    pub issued: AtomicU64,
    pub failed: AtomicU64,
}

#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    #[error("cannot make a request: {0}")]
    Make(#[from] rcgen::Error),
    #[error("{name}: {why}")]
    Refused { name: String, why: String },
    #[error("{name} was not {missing} within {PATIENCE:?}: see `kubectl get csr {name}`")]
    NotIssued { name: String, missing: &'static str },
    #[error("the API server's answer names no request")]
    Nameless,
    #[error("the certificate that was issued: {0}")]
    Unusable(#[from] CertificateError),
    #[error("cannot write {}: {error}", file.display())]
    Write { file: PathBuf, error: io::Error },
}

/// A certificate that the manager asks for.
enum Wanted {
    /// That of the node, and how to get the first one.
    Client(Bootstrap),
    /// With these names.
    Serving(Vec<String>),
}

impl Wanted {
    fn purpose(&self) -> Purpose {
        match self {
            Wanted::Client(_) => Purpose::Client,
            Wanted::Serving(names) => Purpose::Serving(names.clone()),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Wanted::Client(_) => "the certificate of the node",
            Wanted::Serving(_) => "the serving certificate",
        })
    }
}

pub struct Manager {
    node_name: String,
    options: Options,
    api: Api,
    credentials: Arc<Credentials>,
    /// Whether an API server can be reached.
    link: watch::Receiver<bool>,
    notice: Box<dyn Fn(String) + Send + Sync>,
    pub stats: Stats,
}

impl Manager {
    pub fn new(
        node_name: &str,
        options: Options,
        api: Api,
        credentials: Arc<Credentials>,
        link: watch::Receiver<bool>,
        notice: impl Fn(String) + Send + Sync + 'static,
    ) -> Manager {
        let (node_name, notice) = (node_name.to_string(), Box::new(notice));
        Manager { node_name, options, api, credentials, link, notice, stats: Stats::default() }
    }

    pub async fn run(self: Arc<Manager>) {
        let mut jobs = JoinSet::new();
        if let Some(bootstrap) = self.options.bootstrap.clone() {
            let manager = self.clone();
            jobs.spawn(async move { manager.keep(&Wanted::Client(bootstrap), &manager.options.client()).await });
        }
        if let Some(names) = self.options.rotate_server.clone() {
            let manager = self.clone();
            jobs.spawn(async move { manager.keep(&Wanted::Serving(names), &manager.options.server()).await });
        }
        if let Some(names) = self.options.self_signed.clone() {
            let manager = self.clone();
            jobs.spawn(async move { manager.keep_self_signed(&names).await });
        }
        while jobs.join_next().await.is_some() {}
    }

    /// Keeps one certificate good.
    async fn keep(&self, wanted: &Wanted, pair: &Pair) {
        let (mut backoff, mut said) = (BACKOFF, String::new());
        loop {
            let now = next(pair.read().map(|c| c.details).as_ref(), SystemTime::now());
            let wait = match now {
                Next::Wait(wait) => wait,
                Next::Renew | Next::Request => match self.obtain(wanted, pair, now).await {
                    Ok(()) => {
                        self.stats.issued.fetch_add(1, Relaxed);
                        (backoff, said) = (BACKOFF, String::new());
                        (self.notice)(format!("{wanted} was issued: {}", pair.current().display()));
                        LEAST
                    }
                    Err(e) => {
                        self.stats.failed.fetch_add(1, Relaxed);
                        let text = format!("{wanted} was not issued: {e}");
                        if text != said {
                            (self.notice)(text.clone());
                            said = text;
                        }
                        let wait = backoff;
                        backoff = (backoff * 2).min(MAX_BACKOFF);
                        wait
                    }
                },
            };
            let mut link = self.link.clone();
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // What failed without the link is tried once it is back.
                () = is_up_again(&mut link), if !said.is_empty() => {}
            }
        }
    }

    async fn obtain(&self, wanted: &Wanted, pair: &Pair, state: Next) -> Result<(), RequestError> {
        let made = Request::new(&wanted.purpose(), &self.node_name)?;
        let chain = match (wanted, state) {
            // There is no certificate to ask with.
            (Wanted::Client(bootstrap), Next::Request) => self.issued(&self.admitted(bootstrap).await?, &made).await?,
            _ => {
                let shown = Shown { client: self.credentials.clients()?.node()?, token: None };
                match (self.issued(&shown, &made).await, wanted) {
                    // The API server does not know the certificate any more: the bootstrap starts over.
                    (Err(RequestError::Api(e)), Wanted::Client(bootstrap)) if e.is(StatusCode::UNAUTHORIZED) => {
                        self.issued(&self.admitted(bootstrap).await?, &made).await?
                    }
                    (issued, _) => issued?,
                }
            }
        };
        Certificate::from_pem(&chain, &made.key)?;
        let written = pair.write(&chain, &made.key, SystemTime::now());
        written.map_err(|error| RequestError::Write { file: pair.current(), error })
    }

    /// What the bootstrap gives to ask with.
    async fn admitted(&self, bootstrap: &Bootstrap) -> Result<Shown, RequestError> {
        let admission = bootstrap.admission(&self.api).await?;
        if let Some(file) = &self.options.write_authority {
            let written = durable::write(file, 0o644, admission.authority.as_bytes());
            written.map_err(|error| RequestError::Write { file: file.clone(), error })?;
        }
        Ok(admission.shown)
    }

    /// Makes a request and waits until it is issued.
    async fn issued(&self, shown: &Shown, made: &Request) -> Result<String, RequestError> {
        let created = self.api.call(shown, Method::POST, PATH, Some(&made.object)).await?;
        let name = created["metadata"]["name"].as_str().ok_or(RequestError::Nameless)?.to_string();
        let (path, since, mut told) = (format!("{PATH}/{name}"), Instant::now(), false);
        loop {
            match request::state(&self.look(shown, &path).await?) {
                State::Issued(chain) => return Ok(chain),
                State::Refused(why) => return Err(RequestError::Refused { name, why }),
                State::Pending { approved } if since.elapsed() > PATIENCE => {
                    return Err(RequestError::NotIssued { name, missing: if approved { "signed" } else { "approved" } });
                }
                State::Pending { approved: false } if !told => {
                    (self.notice)(format!("waiting until {name} is approved: kubectl certificate approve {name}"));
                    told = true;
                }
                State::Pending { .. } => {}
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The request as it is now. While nobody answers, it is asked for again.
    async fn look(&self, shown: &Shown, path: &str) -> Result<Value, RequestError> {
        match self.api.get(shown, path).await {
            Err(ApiError::Unreachable { .. } | ApiError::Broken { .. }) => Ok(Value::Null),
            Err(ApiError::Refused { status, .. }) if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => Ok(Value::Null),
            found => Ok(found?),
        }
    }

    async fn keep_self_signed(&self, names: &[String]) {
        loop {
            tokio::time::sleep(LEAST).await;
            match ensure_self_signed(&self.options.folder, names).await {
                Ok(true) => (self.notice)("the serving certificate was renewed".into()),
                Ok(false) => {}
                Err(e) => (self.notice)(e.to_string()),
            }
        }
    }
}

/// Makes the serving certificate of the hub's own, on a thread where it may wait for the disk.
pub async fn ensure_self_signed(folder: &std::path::Path, names: &[String]) -> Result<bool, SelfSignedError> {
    let (folder, names) = (folder.to_path_buf(), names.to_vec());
    let made = tokio::task::spawn_blocking(move || self_signed::ensure(&folder, &names, SystemTime::now())).await;
    made.unwrap_or(Ok(false))
}

async fn is_up_again(link: &mut watch::Receiver<bool>) {
    link.mark_unchanged();
    loop {
        match link.changed().await {
            Ok(()) if *link.borrow_and_update() => return,
            Ok(()) => {}
            Err(_) => std::future::pending().await,
        }
    }
}
