//! Lists and watches that the hub makes itself, to keep a list up to date without a client.
use crate::{
    apimachinery::media::MediaType,
    body::{Body, empty, gathered::Gathered, streamed},
    cache::{Cache, Outcome, key::SetKey},
    random::between,
    settings::AGENT,
    upstream::remote::{Peer, Remote, RemoteError, Show},
};
use http::{HeaderValue, Request, Response, StatusCode, header};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// The API server may take so long for a whole list.
const LIST: Duration = Duration::from_secs(120);
/// A watch ends after a time between these, as those of client-go do.
pub const WATCH: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(600));

/// Who is asked for a list or a watch of the hub, and with whose rights.
#[derive(Clone)]
pub enum Identity {
    /// The API server, as the node.
    Node,
    /// The API server, with a client's token, which the client itself has sent.
    Token(String),
    /// The hub of another node, as the node.
    Peer(Arc<Peer>),
}

impl Identity {
    fn is_peer(&self) -> bool {
        matches!(self, Identity::Peer(_))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ReflectError {
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("the API server answers {0}")]
    Refused(StatusCode),
    /// The list has to be made again.
    #[error("the resource version is too old")]
    Expired,
    #[error("the answer cannot be kept")]
    NotKept,
    #[error("the answer of the other hub is older than what is kept")]
    Behind,
    #[error("the answer broke off, or took too long")]
    Cut,
}

#[derive(Clone)]
pub struct Reflect {
    pub cache: Arc<Cache>,
    pub remote: Arc<Remote>,
}

impl Reflect {
    /// Lists a set and keeps it. It never goes back behind what is kept.
    pub async fn list(&self, key: &SetKey, identity: &Identity) -> Result<(), ReflectError> {
        let kept = self.cache.head(&key.name()).map(|head| head.resource_version).filter(|version| !version.is_empty());
        let listed = match &kept {
            Some(version) => self.list_from(key, identity, &[("resourceVersion", version), ("resourceVersionMatch", "NotOlderThan")]).await,
            None => self.list_from(key, identity, &[("resourceVersion", "0")]).await,
        };
        match listed {
            // The API server does not have this version (any more): it was set up again, or is behind.
            Err(ReflectError::Refused(code)) if kept.is_some() && !is_for_good(code) && !identity.is_peer() => {
                self.list_from(key, identity, &[]).await
            }
            listed => listed,
        }
    }

    async fn list_from(&self, key: &SetKey, identity: &Identity, parameters: &[(&str, &str)]) -> Result<(), ReflectError> {
        let (request, media) = request(key, identity, true, parameters).ok_or(ReflectError::NotKept)?;
        let all = async {
            let response = self.send(request, identity).await?;
            match is_of(&response, media) {
                true => {
                    let response = response.map(|body| streamed(Gathered::new(body)));
                    outcome(self.cache.fill_list(key.clone(), media, identity.is_peer(), response).await)
                }
                false => Err(ReflectError::NotKept),
            }
        };
        timeout(LIST, all).await.unwrap_or(Err(ReflectError::Cut))
    }

    /// Begins a watch from the resource version that is kept. It ends after a time between these.
    pub async fn watch(&self, key: &SetKey, identity: &Identity, lasts: (Duration, Duration)) -> Result<Watching, ReflectError> {
        let head = self.cache.head(&key.name()).ok_or(ReflectError::Expired)?;
        let seconds = between(lasts.0, lasts.1).as_secs().to_string();
        let version = head.resource_version;
        let parameters = [
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", version.as_str()),
            ("timeoutSeconds", seconds.as_str()),
        ];
        let (request, media) = request(key, identity, false, &parameters).ok_or(ReflectError::NotKept)?;
        let response = timeout(LIST, self.send(request, identity)).await.unwrap_or(Err(ReflectError::Cut));
        match response {
            Ok(response) if is_of(&response, media) => {
                Ok(Watching { cache: self.cache.clone(), key: key.clone(), media, version, of_peer: identity.is_peer(), response })
            }
            Ok(_) => Err(ReflectError::NotKept),
            Err(ReflectError::Refused(StatusCode::GONE)) => Err(ReflectError::Expired),
            Err(e) => Err(e),
        }
    }

    async fn send(&self, request: Request<Body>, identity: &Identity) -> Result<Response<Body>, ReflectError> {
        let response = match identity {
            Identity::Node => self.remote.send(request, Show::Node).await?,
            Identity::Token(_) => self.remote.send(request, Show::Own).await?,
            Identity::Peer(peer) => peer.send(request).await?,
        };
        match response.status() {
            StatusCode::OK => Ok(response),
            code => Err(ReflectError::Refused(code)),
        }
    }
}

/// A watch that has begun.
pub struct Watching {
    cache: Arc<Cache>,
    key: SetKey,
    media: MediaType,
    version: String,
    of_peer: bool,
    response: Response<Body>,
}

impl Watching {
    /// Keeps what it brings until it ends.
    pub async fn follow(self) -> Result<(), ReflectError> {
        outcome(self.cache.fill_watch(self.key, self.media, self.version, self.of_peer, self.response).await)
    }
}

/// Whether asking again with the same rights is of no use.
pub fn is_for_good(code: StatusCode) -> bool {
    matches!(code, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::NOT_ACCEPTABLE)
}

fn outcome(outcome: Outcome) -> Result<(), ReflectError> {
    match outcome {
        Outcome::Kept => Ok(()),
        Outcome::Cut => Err(ReflectError::Cut),
        Outcome::Expired => Err(ReflectError::Expired),
        Outcome::Missed => Err(ReflectError::NotKept),
        Outcome::Behind => Err(ReflectError::Behind),
    }
}

/// The API server may fall back to JSON: that is another set.
fn is_of(response: &Response<Body>, media: MediaType) -> bool {
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| MediaType::read(value.to_str().ok()?));
    content_type.is_some_and(|content_type| content_type.encoding == media.encoding)
}

fn request(key: &SetKey, identity: &Identity, list: bool, parameters: &[(&str, &str)]) -> Option<(Request<Body>, MediaType)> {
    let media = MediaType::of_key(&key.media)?;
    let request = Request::get(key.target(parameters)?).header(header::ACCEPT, media.accept(list)).header(header::USER_AGENT, AGENT);
    let mut request = request.body(empty()).ok()?;
    if let Identity::Token(token) = identity {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
        value.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    Some((request, media))
}
