//! Annotations that Weir does not know, or knows and does not honour.
use super::{
    Annotations,
    given::{Given, PREFIXES, named},
    keys::{self, Support},
};
use std::borrow::Cow;
use weir_config::node::Chars;

/// An annotation without which the Ingress would be open, or take requests that are not meant for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub key: Box<str>,
    pub place: Chars,
    /// What to do instead.
    pub instead: Option<&'static str>,
    /// It is a canary: it takes no requests. Else its requests are answered with 503.
    pub canary: bool,
}

/// An annotation without effect.
#[derive(Clone, Debug, PartialEq)]
pub struct Unsupported {
    pub key: Box<str>,
    pub place: Chars,
    /// What to do instead.
    pub instead: Cow<'static, str>,
}

/// Beginnings of the names of annotations that are taken to keep somebody out, among those that [`keys::KEYS`] does not have.
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

/// nginx directives that decide about access, looked for in snippets.
const DIRECTIVES: &[&str] = &["allow", "deny", "if", "internal", "return", "satisfy"];

/// Beginnings of the names of more of them.
const DIRECTIVE_PREFIXES: &[&str] =
    &["access_by_", "auth_", "js_access", "limit_", "modsecurity", "rewrite_by_", "secure_link", "ssl_verify_client"];

fn guards(name: &str, text: &str) -> bool {
    let begins = |word: &str, list: &[&str]| list.iter().any(|start| word.starts_with(start));
    if keys::find(name).map_or_else(|| begins(name, GUARDS), |key| key.guards) {
        return true;
    }
    let decides = |word: &str| DIRECTIVES.contains(&word) || begins(word, DIRECTIVE_PREFIXES);
    let of_auth_url = name == "auth-snippet";
    !of_auth_url && name.ends_with("-snippet") && text.split([' ', '\t', '\n', '\r', ';', '{', '}', '(']).any(decides)
}

/// What Weir makes of one annotation of an Ingress.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Works,
    /// With this difference.
    Differs(&'static str),
    /// For this reason.
    NotNeeded(&'static str),
    /// It has no effect; what to do instead.
    Unsupported(Cow<'static, str>),
    /// It closes the routes of its Ingress, or the canary; what to do instead.
    Closes(Cow<'static, str>),
}

/// The verdict on an annotation, with its name; `None` for one that is not for an ingress controller.
pub fn verdict<'a>(key: &'a str, text: &str) -> Option<(&'a str, Verdict)> {
    let (name, known) = named(key)?;
    let support = keys::find(name).map(|key| key.support);
    let read = known && support.is_some_and(Support::is_read);
    if !read && closes(name, text) {
        let instead = known_instead(name).unwrap_or("remove it where it is not needed, or guard the route by a WasmPlugin");
        return Some((name, Verdict::Closes(instead.into())));
    }
    let verdict = match support {
        Some(Support::NotNeeded(why)) => Verdict::NotNeeded(why),
        Some(Support::Works) if known => Verdict::Works,
        Some(Support::Differs(how)) if known => Verdict::Differs(how),
        _ => Verdict::Unsupported(instead_of(name).unwrap_or_default()),
    };
    Some((name, verdict))
}

/// Whether an unread annotation must not be passed over: it guards access, or is a canary's.
fn closes(name: &str, text: &str) -> bool {
    let off = matches!(text.trim(), "false" | "off" | "0");
    !off && (name.starts_with("canary") || guards(name, text))
}

/// Sorts the unread annotations into those that refuse the Ingress and those without effect.
pub fn sort(given: &Given<'_>, read: &mut Annotations) {
    read.guards = given.items().any(|item| guards(item.name, item.text())) || given.wrong().any(|name| guards(name, ""));
    for item in given.rest() {
        let place = item.field.node().span;
        let canary = item.name.starts_with("canary");
        if closes(item.name, item.text()) {
            let instead = known_instead(item.name).filter(|_| item.known);
            let refusal = Refusal { key: item.key.into(), place, instead, canary };
            // One that guards outweighs a canary.
            if read.refused.as_ref().is_none_or(|old| old.canary && !canary) {
                read.refused = Some(refusal);
            }
        } else if let Some(instead) = instead_of(item.name) {
            read.unsupported.push(Unsupported { key: item.key.into(), place, instead });
        }
    }
}

/// What to do instead of an annotation in the table.
fn known_instead(name: &str) -> Option<&'static str> {
    match keys::find(name)?.support {
        Support::Unsupported(instead) => Some(instead),
        Support::Works | Support::Differs(_) | Support::NotNeeded(_) => None,
    }
}

/// What to do instead of an annotation without effect; `None` where nothing is lost.
fn instead_of(name: &str) -> Option<Cow<'static, str>> {
    Some(match keys::find(name).map(|key| key.support) {
        Some(Support::NotNeeded(_)) => return None,
        Some(Support::Works | Support::Differs(_)) => format!("write {}{name}", PREFIXES[1]).into(),
        Some(Support::Unsupported(instead)) => instead.into(),
        None => "remove it, or accept that it does nothing".into(),
    })
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
