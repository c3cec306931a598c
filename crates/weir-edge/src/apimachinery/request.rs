//! What a request asks of the Kubernetes API, read from its method, path and query (RequestInfo of k8s.io/apiserver).
use std::fmt;

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestInfo {
    /// Discovery, OpenAPI, `/version`, `/healthz`, …
    NonResource {
        path: String,
    },
    Resource(Box<ResourceRequest>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceRequest {
    pub verb: Verb,
    pub resource: GroupVersionResource,
    /// Empty: a resource without namespaces, or all namespaces.
    pub namespace: String,
    /// Empty: the collection.
    pub name: String,
    /// `status`, `log`, `exec`, …; may have further segments, as `proxy/a/b` has.
    pub subresource: String,
    pub options: Options,
}

/// What the object of a request is called in the API: `("", "v1", "pods")`, `("apps", "v1", "deployments")`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionResource {
    /// Empty: the core group.
    pub group: String,
    pub version: String,
    pub resource: String,
}

impl fmt::Display for GroupVersionResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group.as_str() {
            "" => write!(f, "{}.{}", self.resource, self.version),
            group => write!(f, "{}.{}.{group}", self.resource, self.version),
        }
    }
}

impl GroupVersionResource {
    /// As objects say it: `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// Reads `v1/services` or `discovery.k8s.io/v1/endpointslices`.
    pub fn read(text: &str) -> Option<GroupVersionResource> {
        let parts: Vec<&str> = text.split('/').map(str::trim).collect();
        let (group, version, resource) = match parts[..] {
            [version, resource] => ("", version, resource),
            [group, version, resource] if !group.is_empty() => (group, version, resource),
            _ => return None,
        };
        let good = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        let fits = good(version) && version.starts_with('v') && !resource.is_empty() && good(resource) && group.split('.').all(good);
        fits.then(|| GroupVersionResource { group: group.into(), version: version.into(), resource: resource.into() })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    /// Spelled as RBAC and the audit log of Kubernetes spell it.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }
    pub fn reads(self) -> bool {
        matches!(self, Verb::Get | Verb::List | Verb::Watch)
    }
}

/// Query parameters of lists and watches (ListOptions of `meta.k8s.io/v1`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub label_selector: String,
    pub field_selector: String,
    pub resource_version: String,
    pub resource_version_match: String,
    pub limit: u64,
    pub continue_token: String,
    pub timeout_seconds: Option<u64>,
    pub allow_watch_bookmarks: bool,
    /// A watch begins with the objects that there are: a streaming list.
    pub send_initial_events: bool,
}

/// Longest name of a path segment that is read; Kubernetes allows 253 characters in names.
const MAX_SEGMENT: usize = 512;

impl RequestInfo {
    /// Reads a method and the path and query of a request's target. A path that is no resource's is a non-resource path, as it is for
    /// the API server; what that cannot serve, it refuses.
    pub fn read(method: &http::Method, path: &str, query: Option<&str>) -> RequestInfo {
        let non_resource = || RequestInfo::NonResource { path: path.to_string() };
        let mut segments: Vec<String> = Vec::new();
        for segment in path.split('/').filter(|s| !s.is_empty()) {
            match decoded(segment) {
                Some(text) => segments.push(text),
                None => return non_resource(),
            }
        }
        let mut rest = segments.into_iter().peekable();
        let (group, version) = match rest.next().as_deref() {
            Some("api") => (Some(String::new()), rest.next()),
            Some("apis") => (rest.next(), rest.next()),
            _ => return non_resource(),
        };
        let (Some(group), Some(version), true) = (group, version, rest.peek().is_some()) else { return non_resource() };
        let options = Options::read(query.unwrap_or_default());
        // The old form of a watch: /api/v1/watch/…
        let watch = rest.peek().is_some_and(|s| s == "watch") && rest.next().is_some() || flag(query, "watch");
        let mut rest: Vec<String> = rest.collect();
        let mut namespace = String::new();
        if rest.first().is_some_and(|s| s == "namespaces") && rest.len() > 2 && !matches!(rest[2].as_str(), "status" | "finalize") {
            namespace = rest.remove(1);
            rest.remove(0);
        }
        let mut rest = rest.into_iter();
        let Some(resource) = rest.next() else { return non_resource() };
        let name = rest.next().unwrap_or_default();
        let subresource = rest.collect::<Vec<_>>().join("/");
        let named = field_value(&options.field_selector, "metadata.name");
        let verb = match *method {
            http::Method::GET | http::Method::HEAD if watch => Verb::Watch,
            http::Method::GET | http::Method::HEAD if name.is_empty() => Verb::List,
            http::Method::GET | http::Method::HEAD => Verb::Get,
            http::Method::POST => Verb::Create,
            http::Method::PUT => Verb::Update,
            http::Method::PATCH => Verb::Patch,
            http::Method::DELETE if name.is_empty() => Verb::DeleteCollection,
            http::Method::DELETE => Verb::Delete,
            _ => return non_resource(),
        };
        let name = if name.is_empty() && verb.reads() { named.unwrap_or_default().to_string() } else { name };
        let resource = GroupVersionResource { group, version, resource };
        RequestInfo::Resource(Box::new(ResourceRequest { verb, resource, namespace, name, subresource, options }))
    }
}

impl Options {
    fn read(query: &str) -> Options {
        let mut options = Options::default();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let value = value.into_owned();
            match key.as_ref() {
                "labelSelector" => options.label_selector = value,
                "fieldSelector" => options.field_selector = value,
                "resourceVersion" => options.resource_version = value,
                "resourceVersionMatch" => options.resource_version_match = value,
                "limit" => options.limit = value.parse().unwrap_or_default(),
                "continue" => options.continue_token = value,
                "timeoutSeconds" => options.timeout_seconds = value.parse().ok(),
                "allowWatchBookmarks" => options.allow_watch_bookmarks = is_true(&value),
                "sendInitialEvents" => options.send_initial_events = is_true(&value),
                _ => {}
            }
        }
        options
    }
}

/// The value that a field selector asks of a field with `=` or `==`.
pub fn field_value<'a>(selector: &'a str, field: &str) -> Option<&'a str> {
    selector.split(',').find_map(|term| {
        let (key, value) = term.split_once('=')?;
        (key == field && !key.ends_with('!')).then(|| value.trim_start_matches('='))
    })
}

/// Booleans as the API server reads them (strconv.ParseBool, and a key without a value).
fn is_true(value: &str) -> bool {
    matches!(value, "" | "1" | "t" | "T" | "true" | "TRUE" | "True")
}

fn flag(query: Option<&str>, name: &str) -> bool {
    url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).any(|(key, value)| key == name && is_true(&value))
}

/// A path segment without percent encoding; `None` where it is too long, or may not stand in a path.
fn decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let hex = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?
            }
            _ => byte,
        });
    }
    let text = String::from_utf8(bytes).ok()?;
    let fits = text.len() <= MAX_SEGMENT && !text.contains(['/', '\0']) && text != "." && text != "..";
    fits.then_some(text)
}

#[cfg(test)]
mod tests;
