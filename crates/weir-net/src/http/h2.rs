//! The border to the h2 crate: one conversion per head, and what HTTP/2 forbids.
mod flood;
pub(crate) mod stream;

pub use flood::{DATA_FRAME_BUDGET, Flood, Guarded, Seen};
pub use stream::H2Stream;

use super::{
    body,
    head::{Headers, RequestHead, ResponseHead, Version, percent_encoded},
    names::{HOP_BY_HOP, Known},
    text, trailers,
};
use h2::ext::Protocol;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri,
    uri::{PathAndQuery, Scheme},
};
use std::sync::LazyLock;

/// The first bytes of an HTTP/2 connection (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Fields of HTTP/1 connections make an HTTP/2 message malformed (RFC 9113 section 8.2.2); `te` may say `trailers`. Two lengths
/// are one too many wherever they stand.
const FORBIDDEN: u64 =
    Known::Connection.bit() | Known::KeepAlive.bit() | Known::ProxyConnection.bit() | Known::TransferEncoding.bit() | Known::Upgrade.bit();

/// Takes over a request that h2 has decoded. `false`: it is malformed, and the stream should be reset.
///
/// An extended CONNECT (RFC 8441) becomes the upgrade of HTTP/1 that it stands for: no other request of HTTP/2 has `upgrade`.
pub fn load_request(parts: &http::request::Parts, head: &mut RequestHead) -> bool {
    head.clear();
    let protocol = parts.extensions.get::<Protocol>().filter(|_| parts.method == Method::CONNECT).map(|p| p.as_str().as_bytes());
    // The library does not check it.
    if protocol.is_some_and(|p| !text::is_protocol(p)) {
        return false;
    }
    let uri = &parts.uri;
    // The library drops the scheme where there is no authority.
    if uri.scheme().is_some_and(|s| s.as_str().is_empty()) {
        return false;
    }
    head.set_method(if protocol.is_some() { b"GET" } else { parts.method.as_str().as_bytes() });
    head.https = uri.scheme() == Some(&Scheme::HTTPS);
    head.set_target(match uri.path_and_query() {
        Some(p) => p.as_str().as_bytes(),
        None => b"",
    });
    head.version = Version::Http2;
    if let Some(authority) = uri.authority() {
        head.headers.add(Known::Host, &[authority.as_str().as_bytes()]);
    }
    for (name, value) in &parts.headers {
        // `host` beside `:authority` says the same or is wrong (RFC 9113 section 8.3.1).
        if name == http::header::HOST && uri.authority().is_some() {
            if !uri.authority().is_some_and(|a| value.as_bytes().eq_ignore_ascii_case(a.as_str().as_bytes())) {
                return false;
            }
            continue;
        }
        // An invalid Host is left out; the request is then refused as one without a Host.
        if !head.headers.add_named(name.as_str().as_bytes(), value.as_bytes()) && name != http::header::HOST {
            return false;
        }
    }
    join_cookies(&mut head.headers);
    if !is_allowed(&head.headers) {
        return false;
    }
    if let Some(protocol) = protocol {
        head.headers.add(Known::Upgrade, &[protocol]);
        head.headers.add(Known::Connection, &[b"upgrade"]);
    }
    true
}

/// HTTP/2 may split the cookie; everybody else wants it whole (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut Headers) {
    if headers.all(Known::Cookie).nth(1).is_some() {
        let whole = headers.all(Known::Cookie).collect::<Vec<_>>().join(&b"; "[..]);
        headers.set(Known::Cookie, &[&whole]);
    }
}

fn is_allowed(headers: &Headers) -> bool {
    !headers.has_any(FORBIDDEN) && headers.all(Known::Te).all(|v| v == b"trailers") && body::content_length(headers).is_ok()
}

/// Takes over a response that h2 has decoded. `false`: it is malformed.
pub fn load_response(parts: &http::response::Parts, head: &mut ResponseHead) -> bool {
    head.begin(parts.status.as_u16());
    head.version = Version::Http2;
    head.headers.extend_from_map(&parts.headers) && is_allowed(&head.headers)
}

/// The headers as HTTP/2 has them: lower case, without what belongs to HTTP/1 connections, `te: trailers` kept.
fn map_of(headers: &Headers, without: u64) -> Option<HeaderMap> {
    let mut map = HeaderMap::with_capacity(headers.len());
    for (id, name, value) in headers.iter_known() {
        if id != Known::Other && id.bit() & (HOP_BY_HOP | without) != 0 {
            if id == Known::Te && value.eq_ignore_ascii_case(b"trailers") {
                map.insert(http::header::TE, HeaderValue::from_static("trailers"));
            }
            continue;
        }
        let name = match id {
            Known::Other => HeaderName::from_bytes(name).ok()?,
            id => KNOWN[id as usize].clone(),
        };
        map.append(name, HeaderValue::from_bytes(value).ok()?);
    }
    Some(map)
}

/// Well-known names as the `http` crate has them, by id.
static KNOWN: LazyLock<Vec<HeaderName>> =
    LazyLock::new(|| Known::all().map(|id| HeaderName::from_static(if id == Known::Other { "x" } else { id.name() })).collect());

/// The request for h2 to send, an upgrade as an extended CONNECT. `None` where a part of it cannot be expressed.
pub fn request_of(head: &RequestHead) -> Option<Request<()>> {
    let target = match head.target() {
        b"" => b"/",
        t => t,
    };
    let target = PathAndQuery::try_from(target).or_else(|_| PathAndQuery::try_from(escaped(target))).ok()?;
    let mut uri = Uri::builder().scheme(head.scheme()).path_and_query(target);
    uri = uri.authority(match head.authority() {
        b"" => return None,
        a => a,
    });
    let mut request = Request::new(());
    match head.headers.get(Known::Upgrade) {
        Some(asked) => {
            // `:protocol` holds one name: the first of the list.
            let first = asked.split(|c| *c == b',').next().unwrap_or_default().trim_ascii();
            let protocol = std::str::from_utf8(first).ok().filter(|p| text::is_protocol(p.as_bytes()))?;
            *request.method_mut() = Method::CONNECT;
            request.extensions_mut().insert(Protocol::from(protocol));
        }
        None => *request.method_mut() = Method::from_bytes(head.method_text()).ok()?,
    }
    *request.uri_mut() = uri.build().ok()?;
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = map_of(&head.headers, Known::Host.bit())?;
    Some(request)
}

/// A target without the few bytes that HTTP/1 tolerates and URIs do not have (RFC 3986 appendix A).
fn escaped(target: &[u8]) -> Vec<u8> {
    percent_encoded(target, |byte| matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}'))
}

/// The response for h2 to send.
pub fn response_of(head: &ResponseHead) -> Option<Response<()>> {
    let mut response = Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(head.status).ok()?;
    *response.headers_mut() = map_of(&head.headers, 0)?;
    Some(response)
}

/// Trailers for h2 to send.
pub fn trailers_of(trailers: &Headers) -> HeaderMap {
    map_of(trailers, 0).unwrap_or_default()
}

/// Writes trailers as lines of HTTP/1, without fields that trailers may not have.
pub fn trailers_from(map: &HeaderMap, into: &mut Headers) {
    into.clear();
    into.extend_from_map(map);
    trailers::filter(into);
}
