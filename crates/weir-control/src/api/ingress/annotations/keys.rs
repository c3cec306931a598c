//! Every annotation of Higress and ingress-nginx, and what Weir makes of it. The decoder, the findings, the reference page and
//! `weir migrate` read this one table.

/// An annotation, without its prefix.
#[derive(Debug)]
pub struct Key {
    /// With `NAME` at its end, it stands for every annotation that begins so.
    pub name: &'static str,
    /// It decides who is let in: without it, the Ingress would be open.
    pub guards: bool,
    /// Gateway API has an equivalent, at least for some of its values.
    pub portable: bool,
    pub support: Support,
}

/// What Weir makes of an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    Works,
    /// It works, with this difference from ingress-nginx.
    Differs(&'static str),
    /// Nothing is lost without it, for this reason.
    NotNeeded(&'static str),
    /// It has no effect, or closes the routes if it guards access. The text says what to do instead.
    Unsupported(&'static str),
}

impl Support {
    /// Whether the decoder reads it.
    pub fn is_read(self) -> bool {
        matches!(self, Support::Works | Support::Differs(_))
    }
}

const fn works(name: &'static str) -> Key {
    Key { name, guards: false, portable: false, support: Support::Works }
}

const fn differs(name: &'static str, how: &'static str) -> Key {
    Key { name, guards: false, portable: false, support: Support::Differs(how) }
}

const fn not_needed(name: &'static str, why: &'static str) -> Key {
    Key { name, guards: false, portable: false, support: Support::NotNeeded(why) }
}

const fn unsupported(name: &'static str, instead: &'static str) -> Key {
    Key { name, guards: false, portable: false, support: Support::Unsupported(instead) }
}

const fn guard(key: Key) -> Key {
    Key { guards: true, ..key }
}

const fn portable(key: Key) -> Key {
    Key { portable: true, ..key }
}

const STREAMS: &str = "Weir streams bodies and writes none to disk";
const AUTH_URL: &str = "guard the route by a WasmPlugin that calls the authorization service, such as ext-auth of Higress";
const OF_AUTH_URL: &str = "it only refines auth-url, which is not supported";
const WAF: &str = "use a WasmPlugin such as waf (Coraza) of Higress";
const PER_CLIENT: &str = "route-limit-rps and route-limit-rpm limit the route as a whole; for a limit per client use the plugin cluster-key-rate-limit or key-rate-limit";
const SNIPPET: &str = "Weir has no nginx directives: use an annotation for it, an HTTPRoute filter or a WasmPlugin";
const COOKIE: &str = "the cookie of the session has no such attribute";
const MCP: &str = "use the WasmPlugin mcp-server";
const FASTCGI: &str = "put a web server that speaks HTTP before the FastCGI application";

/// In the order of the alphabet.
pub const KEYS: &[Key] = &[
    works("affinity"),
    unsupported("affinity-canary-behavior", "a canary by weight takes its share of sessions too: sessions do not follow it"),
    differs(
        "affinity-mode",
        "balanced and persistent are the same: the cookie is hashed, and a new endpoint takes a small share of the sessions",
    ),
    guard(works("allowlist-source-range")),
    portable(works("app-root")),
    unsupported("auth-always-set-cookie", OF_AUTH_URL),
    unsupported("auth-cache-duration", OF_AUTH_URL),
    unsupported("auth-cache-key", OF_AUTH_URL),
    unsupported("auth-keepalive", OF_AUTH_URL),
    unsupported("auth-keepalive-requests", OF_AUTH_URL),
    unsupported("auth-keepalive-share-vars", OF_AUTH_URL),
    unsupported("auth-keepalive-timeout", OF_AUTH_URL),
    guard(unsupported("auth-method", AUTH_URL)),
    unsupported("auth-proxy-set-headers", OF_AUTH_URL),
    works("auth-realm"),
    guard(unsupported("auth-request-redirect", AUTH_URL)),
    unsupported("auth-response-headers", OF_AUTH_URL),
    guard(differs("auth-secret", "the Secret must be in the namespace of the Ingress; hashes are bcrypt, apr1, MD5, SHA-1 or plain text")),
    works("auth-secret-type"),
    guard(unsupported("auth-signin", AUTH_URL)),
    unsupported("auth-signin-redirect-param", OF_AUTH_URL),
    unsupported("auth-snippet", OF_AUTH_URL),
    unsupported("auth-tls-error-page", "a client without a certificate fails in the TLS handshake"),
    guard(unsupported("auth-tls-match-cn", "use an AuthorizationPolicy with the source principal")),
    unsupported("auth-tls-pass-certificate-to-upstream", "set forwardClientCertDetails in the mesh settings, for x-forwarded-client-cert"),
    guard(differs("auth-tls-secret", "the Secret must be in the namespace of the Ingress")),
    guard(differs("auth-tls-verify-client", "optional_no_ca is not accepted")),
    unsupported("auth-tls-verify-depth", "chains are verified to any depth"),
    guard(differs("auth-type", "digest is not accepted, as it rests on MD5")),
    guard(unsupported("auth-url", AUTH_URL)),
    differs("backend-protocol", "AUTO_HTTP and FCGI are not accepted; the setting applies to the Service, for all who lead there"),
    guard(works("blacklist-source-range")),
    portable(works("canary")),
    portable(works("canary-by-cookie")),
    portable(works("canary-by-header")),
    portable(works("canary-by-header-pattern")),
    portable(works("canary-by-header-value")),
    portable(differs("canary-weight", "it has no effect in a canary by header or cookie: add another canary Ingress")),
    portable(works("canary-weight-total")),
    not_needed("client-body-buffer-size", STREAMS),
    unsupported("configuration-snippet", SNIPPET),
    unsupported("connection-proxy-header", "Weir sends the Connection header that the protocol needs"),
    portable(works("cors-allow-credentials")),
    portable(works("cors-allow-headers")),
    portable(works("cors-allow-methods")),
    portable(works("cors-allow-origin")),
    portable(works("cors-expose-headers")),
    portable(works("cors-max-age")),
    unsupported("custom-headers", "use response-header-control-update"),
    differs("custom-http-errors", "it needs default-backend; a request body beyond the buffer limit keeps the answer of the backend"),
    differs("default-backend", "it takes the requests of a Service without endpoints, and those of custom-http-errors"),
    guard(works("denylist-source-range")),
    works("destination"),
    unsupported("disable-proxy-intercept-errors", "remove custom-http-errors from this Ingress"),
    guard(unsupported("domain-blacklist-source-range", "use denylist-source-range in every Ingress of the host")),
    guard(unsupported("domain-denylist-source-range", "use denylist-source-range in every Ingress of the host")),
    guard(unsupported("domain-whitelist-source-range", "use whitelist-source-range in every Ingress of the host")),
    unsupported("enable-access-log", "the access log has a filter of its own: see the settings of the whole gateway"),
    portable(works("enable-cors")),
    guard(unsupported("enable-global-auth", AUTH_URL)),
    guard(unsupported("enable-modsecurity", WAF)),
    unsupported("enable-opentelemetry", "tracing is a setting of the whole gateway"),
    guard(unsupported("enable-owasp-core-rules", WAF)),
    not_needed("enable-rewrite-log", "the access log and /explain show rewrites"),
    portable(works("exact-match-header-NAME")),
    works("exact-match-pseudo-header-NAME"),
    portable(works("exact-match-query-NAME")),
    unsupported("fastcgi-index", FASTCGI),
    unsupported("fastcgi-params-configmap", FASTCGI),
    portable(works("force-ssl-redirect")),
    unsupported("from-to-www-redirect", "add an Ingress for the other host with permanent-redirect"),
    portable(works("full-path-regex")),
    not_needed("http2-push-preload", "browsers no longer accept HTTP/2 push"),
    works("ignore-path-case"),
    guard(unsupported("limit-allowlist", PER_CLIENT)),
    guard(unsupported("limit-burst-multiplier", PER_CLIENT)),
    guard(unsupported("limit-connections", PER_CLIENT)),
    unsupported("limit-rate", "Weir does not limit the bytes of a response"),
    unsupported("limit-rate-after", "Weir does not limit the bytes of a response"),
    guard(unsupported("limit-rpm", PER_CLIENT)),
    guard(unsupported("limit-rps", PER_CLIENT)),
    guard(unsupported("limit-whitelist", PER_CLIENT)),
    differs("load-balance", "ewma is taken as LEAST_REQUEST"),
    portable(works("match-method")),
    unsupported("mcp-server", MCP),
    unsupported("mcp-server-enable-path-rewrite", MCP),
    unsupported("mcp-server-match-rule-domains", MCP),
    unsupported("mcp-server-match-rule-type", MCP),
    unsupported("mcp-server-match-rule-value", MCP),
    unsupported("mcp-server-path-rewrite-prefix", MCP),
    unsupported("mcp-server-upstream-type", MCP),
    unsupported("mcp-sse-stateful-param-name", MCP),
    unsupported("mirror-host", "a mirrored request has the host of the original and the suffix -shadow"),
    portable(works("mirror-percentage")),
    unsupported("mirror-request-body", "bodies are mirrored, up to the buffer limit"),
    unsupported("mirror-target", "use mirror-target-service"),
    unsupported("mirror-target-fqdn", "add a Service of the type ExternalName, and use mirror-target-service"),
    unsupported("mirror-target-fqdn-port", "add a Service of the type ExternalName, and use mirror-target-service"),
    portable(works("mirror-target-service")),
    guard(unsupported("modsecurity-snippet", WAF)),
    guard(unsupported("modsecurity-transaction-id", WAF)),
    unsupported("opentelemetry-operation-name", "tracing is a setting of the whole gateway"),
    unsupported("opentelemetry-trust-incoming-span", "tracing is a setting of the whole gateway"),
    portable(works("permanent-redirect")),
    portable(works("permanent-redirect-code")),
    portable(works("prefix-match-header-NAME")),
    works("prefix-match-pseudo-header-NAME"),
    portable(works("prefix-match-query-NAME")),
    not_needed("preserve-trailing-slash", "redirects keep the path as it was requested"),
    unsupported("proxy-body-size", "there is no limit for the body of a request; a plugin may set one"),
    not_needed("proxy-buffer-size", STREAMS),
    not_needed("proxy-buffering", STREAMS),
    not_needed("proxy-buffers-number", STREAMS),
    not_needed("proxy-busy-buffers-size", STREAMS),
    differs("proxy-connect-timeout", "the setting applies to the Service, for all who lead there"),
    unsupported("proxy-cookie-domain", "use response-header-control-update, or let the application set its cookies"),
    unsupported("proxy-cookie-path", "use response-header-control-update, or let the application set its cookies"),
    not_needed("proxy-http-version", "Weir speaks HTTP/1.1, or HTTP/2 where backend-protocol asks for it"),
    not_needed("proxy-max-temp-file-size", STREAMS),
    portable(differs("proxy-next-upstream", "requests of every method are tried again, also without non_idempotent")),
    portable(differs("proxy-next-upstream-timeout", "it limits each try, as in Higress, and not all of them together")),
    portable(differs("proxy-next-upstream-tries", "it counts the retries, as in Higress, and not the first try")),
    differs("proxy-read-timeout", "the longer one of this and proxy-send-timeout is the idle timeout of the stream"),
    unsupported("proxy-redirect-from", "let the application send redirects for the host that it is called by (upstream-vhost unset)"),
    unsupported("proxy-redirect-to", "let the application send redirects for the host that it is called by (upstream-vhost unset)"),
    not_needed("proxy-request-buffering", STREAMS),
    differs("proxy-send-timeout", "the longer one of this and proxy-read-timeout is the idle timeout of the stream"),
    unsupported("proxy-ssl-ciphers", "Weir offers its own list of safe cipher suites to backends"),
    works("proxy-ssl-name"),
    unsupported("proxy-ssl-protocols", "Weir offers TLS 1.2 and 1.3 to backends"),
    differs("proxy-ssl-secret", "the Secret must be in the namespace of the Ingress"),
    works("proxy-ssl-server-name"),
    works("proxy-ssl-verify"),
    unsupported("proxy-ssl-verify-depth", "chains are verified to any depth"),
    portable(works("regex-match-header-NAME")),
    works("regex-match-pseudo-header-NAME"),
    portable(works("regex-match-query-NAME")),
    not_needed("relative-redirects", "redirects name the host that was requested"),
    portable(works("request-header-control-add")),
    portable(works("request-header-control-remove")),
    portable(works("request-header-control-update")),
    portable(works("response-header-control-add")),
    portable(works("response-header-control-remove")),
    portable(works("response-header-control-update")),
    portable(differs("rewrite-path", "an annotation of Higress: it replaces the prefix")),
    portable(differs(
        "rewrite-target",
        "paths are regular expressions only with use-regex, full-path-regex, or a group in the target; RE2's syntax",
    )),
    guard(works("route-limit-burst-multiplier")),
    guard(works("route-limit-rpm")),
    guard(works("route-limit-rps")),
    unsupported("rpc-destination-name", "Http2Rpc is not supported"),
    guard(unsupported("satisfy", "Weir asks for all of the source range, the credentials and the certificate")),
    unsupported("server-alias", "add a rule for each host"),
    unsupported("server-snippet", SNIPPET),
    not_needed("service-upstream", "Weir balances over endpoints, and takes a change of them without a reload"),
    unsupported("session-cookie-change-on-failure", "a session whose endpoint fails moves to another endpoint"),
    unsupported("session-cookie-conditional-samesite-none", COOKIE),
    unsupported("session-cookie-domain", COOKIE),
    works("session-cookie-expires"),
    works("session-cookie-max-age"),
    differs("session-cookie-name", "the default is INGRESSCOOKIE; cookies that ingress-nginx has set start a new session"),
    works("session-cookie-path"),
    unsupported("session-cookie-samesite", COOKIE),
    unsupported("session-cookie-secure", COOKIE),
    differs("ssl-cipher", "cipher suites that are not safe are not accepted"),
    differs("ssl-ciphers", "cipher suites that are not safe are not accepted"),
    unsupported("ssl-passthrough", "use a TLSRoute, or a VirtualService with tls"),
    not_needed("ssl-prefer-server-ciphers", "the order of the client counts: every suite that is offered is safe"),
    portable(differs("ssl-redirect", "it is off unless set, as in Higress; ingress-nginx turns it on where the host has TLS")),
    unsupported("stream-snippet", "use a TCPRoute or UDPRoute"),
    portable(works("temporal-redirect")),
    portable(works("temporal-redirect-code")),
    portable(works("timeout")),
    works("tls-max-protocol-version"),
    works("tls-min-protocol-version"),
    differs("upstream-hash-by", "one variable: $remote_addr, $request_uri, $host, $http_NAME or $arg_NAME"),
    unsupported("upstream-hash-by-subset", "the hash leads to one endpoint"),
    unsupported("upstream-hash-by-subset-size", "the hash leads to one endpoint"),
    portable(works("upstream-vhost")),
    unsupported("use-port-in-redirects", "a redirect to HTTPS has the port of the gateway's HTTPS listener"),
    portable(works("use-regex")),
    guard(works("whitelist-source-range")),
    portable(works("x-forwarded-prefix")),
];

/// The entry of an annotation, by its name without prefix.
pub fn find(name: &str) -> Option<&'static Key> {
    let of = |key: &&Key| match key.name.strip_suffix("NAME") {
        Some(start) => name.len() > start.len() && name.starts_with(start),
        None => key.name == name,
    };
    KEYS.iter().find(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_found() {
        for pair in KEYS.windows(2) {
            assert!(pair[0].name < pair[1].name, "{} before {}", pair[0].name, pair[1].name);
        }
        for key in KEYS {
            assert_eq!(find(&key.name.replace("NAME", "x")).map(|k| k.name), Some(key.name));
        }
        assert!(find("exact-match-header-").is_none() && find("unknown").is_none());
    }
}
