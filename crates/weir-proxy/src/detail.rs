//! Response code details: why a request got its response.
use weir_net::http::parse::Bad;

macro_rules! details {
    ($($name:ident = $text:literal $doc:literal,)*) => {
        /// A value of `%RESPONSE_CODE_DETAILS%`, spelled as Envoy spells it where Envoy has it.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub enum Detail {
            /// Not known: the text is empty.
            #[default]
            Unknown,
            $(#[doc = $doc] $name,)*
            /// A text that is made at run time, such as a plugin's.
            Other(Box<str>),
        }

        impl Detail {
            /// The text for access logs and plugins.
            pub fn as_str(&self) -> &str {
                match self {
                    Detail::Unknown => "",
                    $(Detail::$name => $text,)*
                    Detail::Other(text) => text,
                }
            }
        }

        #[cfg(test)]
        const FIXED: &[Detail] = &[Detail::Unknown, $(Detail::$name,)*];
    };
}

details! {
    ViaUpstream = "via_upstream" "The response of the upstream.",
    DirectResponse = "direct_response" "The route answers by itself, or redirects.",
    RouteNotFound = "route_not_found" "No route matched.",
    ClusterNotFound = "cluster_not_found" "The cluster of the route does not exist.",
    MisdirectedRequest = "misdirected_request" "Another listener serves this host name for the connection's TLS server name.",
    Overload = "overload" "The gateway sheds load.",

    Http1CodecError = "http1.codec_error" "The request is not valid HTTP/1.",
    Http1InvalidCharacters = "http1.invalid_characters" "A header has a character that is not allowed.",
    Http1UnsupportedVersion = "http1.unsupported_version" "The HTTP version is not supported.",
    Http1HeadersTooLarge = "http1.headers_too_large" "The HTTP/1 headers have too many bytes.",
    Http1TooManyHeaders = "http1.too_many_headers" "There are too many HTTP/1 headers.",
    Http1InvalidUrl = "http1.invalid_url" "The request target is not valid.",
    Http1InvalidAuthority = "http1.invalid_authority" "The Host header is not valid.",
    Http1ContentLengthAndChunked = "http1.content_length_and_chunked_not_allowed" "The request has both a length and a transfer coding.",
    Http1InvalidTransferEncoding = "http1.invalid_transfer_encoding" "The transfer coding is not valid or not supported.",
    MissingHostHeader = "missing_host_header" "The request names no host.",
    Http2HeadersTooLarge = "http2.headers_too_large" "The HTTP/2 headers have too many bytes.",
    Http2TooManyHeaders = "http2.too_many_headers" "There are too many HTTP/2 headers.",
    UpgradeFailed = "upgrade_failed" "The upgrade, or CONNECT, is not allowed.",
    AbsolutePathRejected = "absolute_path_rejected" "The path does not begin with a slash.",
    PathNormalizationFailed = "path_normalization_failed" "The path cannot be normalized, or must be requested in its normal form.",
    ExpectationFailed = "expectation_failed" "The Expect header asks for something other than 100-continue.",

    RequestHeaderTimeout = "request_header_timeout" "The request headers took too long.",
    RequestOverallTimeout = "request_overall_timeout" "The request took too long.",
    StreamIdleTimeout = "stream_idle_timeout" "No byte moved for too long.",
    ResponseTimeout = "response_timeout" "The upstream took too long.",
    UpstreamPerTryTimeout = "upstream_per_try_timeout" "The upstream took too long in one attempt.",

    NoHealthyUpstream = "no_healthy_upstream" "The cluster has no usable endpoint.",
    DnsResolutionFailure = "dns_resolution_failure" "The name of the upstream cannot be resolved.",
    DynamicForwardProxyOverflow = "dynamic_forward_proxy_pending_request_overflow" "Too many names are being resolved.",
    UpstreamAddressNotAllowed = "upstream_address_not_allowed" "The name of the upstream resolves to an address that it must not use.",
    UpstreamOverflow = "upstream_reset_before_response_started{overflow}" "A circuit breaker is at its limit.",
    UpstreamConnectionFailure = "upstream_reset_before_response_started{connection_failure}" "There is no connection to the upstream.",
    UpstreamConnectionTermination = "upstream_reset_before_response_started{connection_termination}" "The upstream closed the connection before it responded.",
    UpstreamRemoteReset = "upstream_reset_before_response_started{remote_reset}" "The upstream reset the stream before it responded.",
    UpstreamProtocolError = "upstream_reset_before_response_started{protocol_error}" "The response headers break the protocol.",
    ResponseConnectionTermination = "upstream_reset_after_response_started{connection_termination}" "The upstream closed the connection within the response.",
    ResponseProtocolError = "upstream_reset_after_response_started{protocol_error}" "The rest of the response breaks the protocol.",

    DownstreamRemoteReset = "downstream_remote_reset" "The client reset the stream.",
    DownstreamRemoteDisconnect = "downstream_remote_disconnect" "The client closed the connection.",
    LocalResetAfterResponse = "local_reset_after_response" "The gateway had to refuse the request after the response had started.",
    LocalReplyHeld = "local_reply_held" "A filter did not let a response of the gateway pass.",
    InvalidResponseHeaders = "invalid_response_headers" "The response headers cannot be sent to the client.",
    ContentLengthMismatch = "content_length_mismatch" "A plugin made a body longer or shorter than its length.",
    RequestPayloadTooLarge = "request_payload_too_large" "A filter needs the whole request body, and it is over the limit.",
    ResponsePayloadTooLarge = "response_payload_too_large" "A filter needs the whole response body, and it is over the limit.",

    WasmCloseStream = "wasm_close_stream" "A plugin closed the stream.",
    LocalRateLimited = "local_rate_limited" "The local rate limit is reached.",
    MissingCredential = "missing_credential_for_basic_auth" "The request has no user and password.",
    InvalidCredential = "invalid_credential_for_basic_auth" "The user or the password is wrong.",
    CorsPreflight = "cors_preflight" "The CORS filter answered a preflight request.",
    FaultFilterAbort = "fault_filter_abort" "The fault filter aborted the request.",
}

impl From<Bad> for Detail {
    fn from(bad: Bad) -> Detail {
        match bad {
            Bad::Syntax | Bad::NotHttp | Bad::Length | Bad::Chunk => Detail::Http1CodecError,
            Bad::Character => Detail::Http1InvalidCharacters,
            Bad::Version => Detail::Http1UnsupportedVersion,
            Bad::TooLarge => Detail::Http1HeadersTooLarge,
            Bad::TooMany => Detail::Http1TooManyHeaders,
            Bad::Target => Detail::Http1InvalidUrl,
            Bad::MissingHost => Detail::MissingHostHeader,
            Bad::Host => Detail::Http1InvalidAuthority,
            Bad::LengthAndCoding => Detail::Http1ContentLengthAndChunked,
            Bad::Coding | Bad::UnknownCoding => Detail::Http1InvalidTransferEncoding,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn texts_are_unique_and_fit_a_log_field() {
        let mut seen = HashSet::new();
        for detail in FIXED {
            let text = detail.as_str();
            assert!(seen.insert(text), "{text} twice");
            assert_eq!(text.is_empty(), *detail == Detail::Unknown, "{detail:?}");
            assert!(text.bytes().all(|b| b.is_ascii_graphic()), "{text}");
        }
        assert_eq!(Detail::Other("rbac_access_denied_matched_policy[a]".into()).as_str(), "rbac_access_denied_matched_policy[a]");
    }
}
