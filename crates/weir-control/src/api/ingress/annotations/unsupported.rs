//! Annotations that Weir does not know, or knows and does not honour.
use super::{Annotations, given::Given};
use weir_config::node::Chars;

/// An annotation without which the Ingress would be open, or take requests that are not meant for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub key: Box<str>,
    pub place: Chars,
    /// It is a canary: it takes no requests. Else its requests are answered with 503.
    pub canary: bool,
}

/// Beginnings of the names of annotations that keep somebody out.
pub const GUARDS: &[&str] = &[
    "allowlist-",
    "auth-",
    "blacklist-",
    "denylist-",
    "domain-blacklist-",
    "domain-denylist-",
    "domain-whitelist-",
    "enable-modsecurity",
    "enable-owasp-",
    "limit-",
    "modsecurity-",
    "oauth",
    "route-limit-",
    "satisfy",
    "whitelist-",
];

/// Those that begin so and guard nothing by themselves.
const HARMLESS: &[&str] = &[
    "auth-cache-",
    "auth-keepalive",
    "auth-proxy-set-headers",
    "auth-realm",
    "auth-response-headers",
    "auth-secret-type",
    // Of the request to auth-url, which is an annotation of its own.
    "auth-snippet",
    "auth-signin-redirect-param",
    "auth-tls-error-page",
    "auth-tls-pass-certificate-to-upstream",
    "auth-tls-verify-depth",
    "limit-rate",
];

/// nginx directives that decide about access, looked for in snippets.
const DIRECTIVES: &[&str] = &["allow", "deny", "if", "internal", "return", "satisfy"];

/// Beginnings of the names of more of them.
const DIRECTIVE_PREFIXES: &[&str] =
    &["access_by_", "auth_", "js_access", "limit_", "modsecurity", "rewrite_by_", "secure_link", "ssl_verify_client"];

fn guards(name: &str, text: &str) -> bool {
    let begins = |word: &str, list: &[&str]| list.iter().any(|start| word.starts_with(start));
    if begins(name, GUARDS) && !begins(name, HARMLESS) {
        return true;
    }
    let decides = |word: &str| DIRECTIVES.contains(&word) || begins(word, DIRECTIVE_PREFIXES);
    name.ends_with("-snippet") && text.split([' ', '\t', '\n', '\r', ';', '{', '}', '(']).any(decides)
}

/// Sorts the unread annotations into those that refuse the Ingress and those without effect.
pub fn sort(given: &Given<'_>, read: &mut Annotations) {
    read.guards = given.items().any(|item| guards(item.name, item.text())) || given.wrong().any(|name| guards(name, ""));
    for item in given.rest() {
        let place = item.field.node().span;
        let canary = item.name.starts_with("canary");
        let off = matches!(item.text().trim(), "false" | "off" | "0");
        if !off && (canary || guards(item.name, item.text())) {
            let refusal = Refusal { key: item.key.into(), place, canary };
            // One that guards outweighs a canary.
            if read.refused.as_ref().is_none_or(|old| old.canary && !canary) {
                read.refused = Some(refusal);
            }
        } else {
            read.unsupported.push((item.key.into(), place));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_guards_access() {
        let table = [
            ("auth-url", "http://auth", true),
            ("auth-tls-match-cn", "CN=a", true),
            ("auth-realm", "shop", false),
            ("limit-rps", "5", true),
            ("limit-rate", "100", false),
            ("denylist-source-range", "10.0.0.0/8", true),
            ("configuration-snippet", "more_set_headers \"x: y\";", false),
            ("configuration-snippet", "allow 10.0.0.0/8;\ndeny all;", true),
            ("server-snippet", "location /admin { return 403; }", true),
            ("configuration-snippet", "if ($bad) { set $x 1; }", true),
            ("configuration-snippet", "access_by_lua_block { ngx.exit(403) }", true),
            ("configuration-snippet", "rewrite_by_lua_file /etc/auth.lua;", true),
            ("server-snippet", "ssl_verify_client on;", true),
            ("configuration-snippet", "js_access main.check;", true),
            ("configuration-snippet", "modsecurity on;", true),
            ("configuration-snippet", "internal;", true),
            ("configuration-snippet", "proxy_pass http://internal.test;", false),
            ("modsecurity-snippet", "SecRuleEngine On", true),
            ("auth-snippet", "proxy_set_header x y;", false),
            ("domain-blacklist-source-range", "10.0.0.0/8", true),
            ("domain-whitelist-source-range", "10.0.0.0/8", true),
            ("proxy-body-size", "8m", false),
        ];
        for (name, text, wanted) in table {
            assert_eq!(guards(name, text), wanted, "{name}: {text}");
        }
    }
}
