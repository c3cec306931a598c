//! Which fields may be trailers. A recipient may merge trailers into the head (RFC 9110 section 6.5.1), so fields that decide how a
//! message is read, where it goes or who sent it never pass as trailers, in either direction.
use super::{head::Headers, names::Known};

const NEVER: &[Known] = &[
    // Framing and connections.
    Known::ContentLength,
    Known::TransferEncoding,
    Known::Connection,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::Te,
    Known::Trailer,
    Known::Upgrade,
    Known::Http2Settings,
    // Routing, and controls of the request.
    Known::Host,
    Known::Expect,
    Known::Range,
    Known::IfNoneMatch,
    Known::IfModifiedSince,
    Known::GrpcTimeout,
    // Identity of the client.
    Known::Authorization,
    Known::ProxyAuthorization,
    Known::ProxyAuthenticate,
    Known::Cookie,
    Known::SetCookie,
    Known::Origin,
    Known::RequestMethod,
    Known::AllowOrigin,
    // Set by the gateway itself.
    Known::Forwarded,
    Known::ForwardedFor,
    Known::ForwardedProto,
    Known::ForwardedHost,
    Known::ForwardedClientCert,
    Known::RealIp,
    Known::RequestId,
    Known::OriginalPath,
    Known::AttemptCount,
    Known::UpstreamServiceTime,
    // Content, and controls of the response.
    Known::ContentType,
    Known::ContentEncoding,
    Known::CacheControl,
    Known::Date,
    Known::Location,
    Known::RetryAfter,
    Known::Vary,
];
const NEVER_KNOWN: u64 = {
    let (mut all, mut i) = (0, 0);
    while i < NEVER.len() {
        all |= NEVER[i].bit();
        i += 1;
    }
    all
};
const NEVER_NAMED: &[&str] = &["age", "content-range", "expires", "max-forwards", "pragma", "warning", "www-authenticate"];
const NEVER_PREFIXES: &[&str] = &["x-forwarded-", "x-envoy-", "access-control-", "if-", "sec-"];

/// Removes fields that may not be trailers.
pub fn filter(fields: &mut Headers) {
    fields.remove_any(NEVER_KNOWN);
    NEVER_NAMED.iter().for_each(|name| fields.remove_named(name.as_bytes()));
    NEVER_PREFIXES.iter().for_each(|prefix| fields.remove_prefixed(prefix.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_into_a_head_is_no_trailer() {
        let mut fields = Headers::default();
        let never = "Content-Length Transfer-Encoding HOST te Cookie set-cookie X-Forwarded-For x-forwarded-client-cert X-Forwarded-Port \
            x-envoy-upstream-rq-timeout-ms X-Envoy-Attempt-Count x-real-ip Authorization WWW-Authenticate Proxy-Authorization proxy-authenticate Proxy-Connection Expect If-Match Range \
            Content-Type content-range Pragma x-request-id Connection Upgrade trailer Sec-Fetch-Site";
        let fine = [
            "grpc-status",
            "grpc-message",
            "grpc-status-details-bin",
            "etag",
            "digest",
            "server-timing",
            "proxy-status",
            "x-t",
            "iffy",
            "x-envoy",
        ];
        for name in never.split_whitespace().chain(fine) {
            assert!(fields.add_named(name.as_bytes(), b"1"), "{name}");
        }
        filter(&mut fields);
        let left: Vec<_> = fields.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
        assert_eq!(left, fine);
    }
}
