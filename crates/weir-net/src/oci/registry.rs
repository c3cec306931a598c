//! A registry's API (OCI distribution 1.1): authentication, manifests and blobs.
use super::{
    Credentials, Descriptor, Digest, OciError, Received, Reference,
    challenge::{Challenge, challenges},
    error::Said,
    manifest::media,
};
use crate::{
    dial::GuardedResolver,
    http::fetch::{Fetcher, Request, Response, Watch},
    tls,
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};
use url::Url;

/// Of a manifest or an index; what registries themselves accept.
const MAX_MANIFEST: usize = 4 << 20;
/// Of what a token service answers.
const MAX_TOKEN: usize = 1 << 20;
const MAX_REDIRECTS: usize = 5;

/// How registries are reached.
pub struct RegistryOptions {
    pub resolver: Arc<GuardedResolver>,
    pub trust: tls::Trust,
    /// Hosts whose certificate is not verified, and that may speak plain HTTP; `*` for all. Registries of this machine may always speak HTTP.
    pub insecure: Vec<String>,
    /// For each step in which nothing happens.
    pub idle: Duration,
}

/// Makes sessions.
pub struct Registries {
    verified: Fetcher,
    unverified: Fetcher,
    insecure: Vec<String>,
}

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Pull,
    Push,
}

impl Action {
    fn text(self) -> &'static str {
        match self {
            Action::Pull => "pull",
            Action::Push => "push to",
        }
    }
    fn scope(self) -> &'static str {
        match self {
            Action::Pull => "pull",
            Action::Push => "pull,push",
        }
    }
}

impl Registries {
    /// # Errors
    /// The trusted certificates cannot be used.
    pub fn new(options: RegistryOptions) -> Result<Registries, rustls::Error> {
        let fetcher = |trust| {
            let client = tls::Client::new(tls::ClientOptions { trust, ..tls::ClientOptions::system() })?;
            Ok::<_, rustls::Error>(Fetcher::new(options.resolver.clone(), Arc::new(client), options.idle))
        };
        Ok(Registries { verified: fetcher(options.trust)?, unverified: fetcher(tls::Trust::Anyone)?, insecure: options.insecure })
    }

    fn is_insecure(&self, reference: &Reference) -> bool {
        self.insecure.iter().any(|host| host == "*" || host.eq_ignore_ascii_case(&reference.registry))
    }

    /// For the repository of `reference`. Asks a registry that need not speak TLS whether it does.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn session(
        &self,
        reference: &Reference,
        credentials: Option<Credentials>,
        action: Action,
        watch: Arc<dyn Watch + Send>,
    ) -> Result<Session, OciError> {
        let insecure = self.is_insecure(reference);
        let may_be_plain = insecure || reference.is_local();
        let fetcher = if insecure { &self.unverified } else { &self.verified };
        let base = |scheme: &str| {
            let text = format!("{scheme}://{}/v2/", reference.api_host());
            Url::parse(&text).map_err(|_| OciError::Redirect(text))
        };
        let mut session = Session {
            fetcher: fetcher.clone(),
            base: base("https")?,
            repository: reference.repository.clone(),
            registry: reference.registry.clone(),
            credentials,
            action,
            authorization: None,
            insecure,
            watch,
        };
        if may_be_plain {
            let ping = session.base.clone();
            match session.once("GET", &ping, &[], &[], MAX_TOKEN).await {
                Err(OciError::Fetch(e)) if e.is_without_tls() => session.base = base("http")?,
                other => _ = other?,
            }
        }
        Ok(session)
    }
}

/// Requests for one repository, with the credentials of one caller.
pub struct Session {
    fetcher: Fetcher,
    base: Url,
    registry: String,
    repository: String,
    credentials: Option<Credentials>,
    action: Action,
    /// What the registry has accepted.
    authorization: Option<String>,
    insecure: bool,
    watch: Arc<dyn Watch + Send>,
}

impl Session {
    /// The registry speaks HTTP without TLS.
    pub fn is_plain(&self) -> bool {
        self.base.scheme() == "http"
    }

    /// The digest that a tag has now, or that a digest is there.
    ///
    /// # Errors
    /// It is not there, or may not be seen.
    pub async fn resolve(&mut self, target: &str) -> Result<Digest, OciError> {
        let url = self.url(&["manifests", target])?;
        let accept = media::ACCEPTED.join(", ");
        let response = self.ask("HEAD", url, &[("accept", &accept)], &[], MAX_MANIFEST).await?;
        self.manifest_found(&response, target)?;
        match response.field("docker-content-digest").as_deref().and_then(Digest::parse) {
            Some(digest) => Ok(digest),
            // It is for the registry to say, but it need not.
            None => Ok(self.manifest(target).await?.0.digest),
        }
    }

    /// A manifest or an index.
    ///
    /// # Errors
    /// It is not there, may not be seen, or is none.
    pub async fn manifest(&mut self, target: &str) -> Result<(Descriptor, Received, Bytes), OciError> {
        let url = self.url(&["manifests", target])?;
        let accept = media::ACCEPTED.join(", ");
        let response = self.ask("GET", url, &[("accept", &accept)], &[], MAX_MANIFEST).await?;
        self.manifest_found(&response, target)?;
        let media_type = response.field("content-type").unwrap_or_default();
        let bytes = Bytes::from(response.body);
        let found = Digest::of(&bytes);
        let said = response.head.headers.get_named(b"docker-content-digest").and_then(|d| Digest::parse(std::str::from_utf8(d).ok()?));
        if let Some(wanted) = Digest::parse(target).or(said).filter(|wanted| *wanted != found) {
            return Err(OciError::Mismatch { what: "the manifest", wanted, found });
        }
        let received = Received::parse(&bytes, &media_type)?;
        Ok((Descriptor { media_type, digest: found, size: bytes.len() as u64, annotations: Vec::new() }, received, bytes))
    }

    fn manifest_found(&self, response: &Response, target: &str) -> Result<(), OciError> {
        match response.head.status {
            200 => Ok(()),
            404 => Err(OciError::NoManifest {
                registry: self.registry.clone(),
                repository: self.repository.clone(),
                target: if Digest::parse(target).is_some() { target.into() } else { format!("the tag {target}") },
                said: Said::of(&response.body),
            }),
            _ => Err(self.refusal("the manifest", response)),
        }
    }

    /// The content that a manifest names.
    ///
    /// # Errors
    /// It is not there, may not be seen, is larger than `max`, or is not what the digest says.
    pub async fn blob(&mut self, what: &Descriptor, max: usize) -> Result<Bytes, OciError> {
        let size = usize::try_from(what.size).ok().filter(|size| *size <= max);
        let size = size.ok_or(OciError::TooLarge { what: "a layer of the image", size: what.size, max })?;
        let url = self.url(&["blobs", &what.digest.to_string()])?;
        let response = self.ask("GET", url, &[], &[], size).await?;
        if response.head.status != 200 {
            return Err(self.refusal("a layer of the image", &response));
        }
        let found = Digest::of(&response.body);
        match found == what.digest {
            true => Ok(response.body.into()),
            false => Err(OciError::Mismatch { what: "a layer of the image", wanted: what.digest.clone(), found }),
        }
    }

    /// Writes content, unless the repository has it. Returns whether it was written.
    ///
    /// # Errors
    /// The registry does not take it.
    pub async fn push_blob(&mut self, content: &[u8]) -> Result<bool, OciError> {
        let digest = Digest::of(content).to_string();
        let url = self.url(&["blobs", &digest])?;
        let there = self.ask("HEAD", url, &[], &[], MAX_MANIFEST).await?;
        match there.head.status {
            200 => return Ok(false),
            404 => {}
            _ => return Err(self.refusal("a layer", &there)),
        }
        let url = self.url(&["blobs", "uploads", ""])?;
        let begun = self.ask("POST", url.clone(), &[], &[], MAX_MANIFEST).await?;
        if begun.head.status != 202 {
            return Err(self.refusal("the upload of a layer", &begun));
        }
        let mut target = joined(&url, &begun)?;
        target.query_pairs_mut().append_pair("digest", &digest);
        let done = self.ask("PUT", target, &[("content-type", "application/octet-stream")], content, MAX_MANIFEST).await?;
        match done.head.status {
            201 | 204 => Ok(true),
            _ => Err(self.refusal("the upload of a layer", &done)),
        }
    }

    /// Writes a manifest under a tag, or under its digest.
    ///
    /// # Errors
    /// The registry does not take it.
    pub async fn push_manifest(&mut self, target: &str, media_type: &str, content: &[u8]) -> Result<Digest, OciError> {
        let url = self.url(&["manifests", target])?;
        let done = self.ask("PUT", url, &[("content-type", media_type)], content, MAX_MANIFEST).await?;
        let wanted = Digest::of(content);
        if done.head.status != 201 {
            return Err(self.refusal("the manifest", &done));
        }
        match done.field("docker-content-digest").as_deref().and_then(Digest::parse) {
            Some(found) if found != wanted => Err(OciError::Mismatch { what: "the manifest", wanted, found }),
            _ => Ok(wanted),
        }
    }

    fn url(&self, parts: &[&str]) -> Result<Url, OciError> {
        let text = format!("{}/{}", self.repository, parts.join("/"));
        self.base.join(&text).map_err(|_| OciError::Redirect(text))
    }

    fn refusal(&self, what: &str, response: &Response) -> OciError {
        let said = Said::of(&response.body);
        match response.head.status {
            401 if self.credentials.is_none() => OciError::NoCredentials(said),
            401 => OciError::Unauthorized(said),
            403 => OciError::Forbidden { action: self.action.text(), repository: self.repository.clone(), said },
            status => OciError::Status { what: what.into(), status, said },
        }
    }

    /// Asks, and once more with what the registry's challenge wants.
    async fn ask(&mut self, method: &str, url: Url, fields: &[(&str, &str)], body: &[u8], max: usize) -> Result<Response, OciError> {
        let response = self.follow(method, url.clone(), fields, body, max).await?;
        if response.head.status != 401 {
            return Ok(response);
        }
        let asked: Vec<Challenge> =
            response.head.headers.all_named(b"www-authenticate").flat_map(|field| challenges(&String::from_utf8_lossy(field))).collect();
        match self.authenticate(&asked).await? {
            true => self.follow(method, url, fields, body, max).await,
            false => Ok(response),
        }
    }

    /// Follows redirects. What the registry was shown goes to no other host.
    async fn follow(&mut self, method: &str, mut url: Url, fields: &[(&str, &str)], body: &[u8], max: usize) -> Result<Response, OciError> {
        for _ in 0..=MAX_REDIRECTS {
            let response = self.once(method, &url, fields, body, max).await?;
            if !matches!(response.head.status, 301 | 302 | 303 | 307 | 308) || !matches!(method, "GET" | "HEAD") {
                return Ok(response);
            }
            let next = joined(&url, &response)?;
            if next.scheme() == "http" && url.scheme() == "https" && !self.insecure {
                return Err(OciError::Redirect(next.into()));
            }
            url = next;
        }
        Err(OciError::Redirects(MAX_REDIRECTS))
    }

    async fn once(&self, method: &str, url: &Url, fields: &[(&str, &str)], body: &[u8], max: usize) -> Result<Response, OciError> {
        let mut all = fields.to_vec();
        if let Some(authorization) = self.authorization.as_deref().filter(|_| url.origin() == self.base.origin()) {
            all.push(("authorization", authorization));
        }
        Ok(self.fetcher.send(Request { method, url, fields: &all, body, max, watch: &*self.watch }).await?)
    }

    /// `false`: there is nothing more to show.
    async fn authenticate(&mut self, asked: &[Challenge]) -> Result<bool, OciError> {
        let of = |scheme: &str| asked.iter().find(|c| c.scheme == scheme);
        let new = if let Some(bearer) = of("bearer") {
            Some(format!("Bearer {}", self.token(bearer).await?))
        } else if of("basic").is_some() {
            self.credentials.as_ref().and_then(Credentials::basic)
        } else {
            let schemes: Vec<_> = asked.iter().map(|c| c.scheme.as_str()).collect();
            return Err(OciError::Challenge(if schemes.is_empty() { "none".into() } else { schemes.join(", ") }));
        };
        let news = new.is_some() && new != self.authorization;
        self.authorization = new;
        Ok(news)
    }

    async fn token(&self, bearer: &Challenge) -> Result<String, OciError> {
        let realm = bearer.get("realm").unwrap_or_default();
        let mut url = Url::parse(realm).map_err(|_| OciError::Challenge(format!("Bearer with the realm \"{realm}\"")))?;
        if url.scheme() != "https" && !self.is_plain() && !self.insecure {
            return Err(OciError::PlainRealm(url.into()));
        }
        let own = format!("repository:{}:{}", self.repository, self.action.scope());
        let scope = bearer.get("scope").filter(|s| !s.is_empty()).unwrap_or(&own);
        let service = bearer.get("service").unwrap_or_default();
        let response = if let Some(Credentials::Identity { token }) = &self.credentials {
            let form =
                [("grant_type", "refresh_token"), ("service", service), ("client_id", "weir"), ("scope", scope), ("refresh_token", token)];
            let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
            let fields = [("content-type", "application/x-www-form-urlencoded"), ("accept", "application/json")];
            let request =
                Request { method: "POST", url: &url, fields: &fields, body: form.as_bytes(), max: MAX_TOKEN, watch: &*self.watch };
            self.fetcher.send(request).await?
        } else {
            url.query_pairs_mut().append_pair("service", service).append_pair("scope", scope);
            let basic = self.credentials.as_ref().and_then(Credentials::basic);
            let fields: Vec<_> = basic.iter().map(|basic| ("authorization", basic.as_str())).collect();
            self.fetcher.send(Request { method: "GET", url: &url, fields: &fields, body: &[], max: MAX_TOKEN, watch: &*self.watch }).await?
        };
        let problem = match response.head.status {
            200 => {
                let answer: serde_json::Value = serde_json::from_slice(&response.body).unwrap_or_default();
                let token = ["token", "access_token"].iter().find_map(|name| answer[name].as_str().filter(|t| !t.is_empty()));
                match token {
                    Some(token) => return Ok(token.to_string()),
                    None => "answered without a token".to_string(),
                }
            }
            401 | 403 if self.credentials.is_some() => return Err(OciError::Unauthorized(Said::of(&response.body))),
            401 | 403 => return Err(OciError::NoCredentials(Said::of(&response.body))),
            status => format!("answered {status}"),
        };
        Err(OciError::Token { host: url.host_str().unwrap_or_default().into(), problem })
    }
}

fn joined(url: &Url, response: &Response) -> Result<Url, OciError> {
    let location = response.field("location").unwrap_or_default();
    let next = url.join(&location).ok().filter(|next| !location.is_empty() && matches!(next.scheme(), "http" | "https"));
    next.ok_or(OciError::Redirect(location))
}
