//! What is kept of a request while it is on its way.
use crate::{
    apimachinery::media::MediaType,
    identity::caller::{Caller, bearer},
    settings::agent,
};
use http::{HeaderValue, Method, Request, header};

/// What the cache has to know of a request beside its [`RequestInfo`].
#[derive(Clone)]
pub struct Asked {
    pub caller: Caller,
    /// Its bearer token.
    pub token: Option<String>,
    /// GET or HEAD, for the caller itself: what it is given as somebody else is neither kept nor answered from what was kept.
    pub reads: bool,
    /// HEAD: the body is not wanted.
    pub head_only: bool,
    pub accept: String,
    /// The client, as its User-Agent names it.
    pub agent: String,
    /// The path and the query.
    pub target: String,
}

impl Asked {
    pub fn of<B>(caller: &Caller, request: &Request<B>) -> Asked {
        let headers = request.headers();
        let text = |value: &HeaderValue| value.to_str().ok().map(str::to_string);
        Asked {
            caller: caller.clone(),
            token: bearer(headers).map(str::to_string),
            reads: matches!(*request.method(), Method::GET | Method::HEAD)
                && !headers.keys().any(|name| name.as_str().starts_with("impersonate-")),
            head_only: *request.method() == Method::HEAD,
            accept: headers.get_all(header::ACCEPT).iter().filter_map(text).collect::<Vec<_>>().join(","),
            agent: headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).map(agent).unwrap_or_default(),
            target: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
        }
    }

    /// The media types in which an answer may be, the most wanted first.
    pub fn accepted(&self) -> Vec<MediaType> {
        let media = MediaType::accepted([self.accept.as_str()]).unwrap_or_default();
        media.into_iter().map(|m| MediaType { stream: false, pretty: false, ..m }).collect()
    }
}
