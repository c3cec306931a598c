//! Keeps secrets out of what people are shown: configuration dumps, statuses, logs and findings.
//!
//! Three rules decide what a secret is:
//! - the value of a key whose name says so ([`is_secret_name`]), with everything below it: `password`, `apiTokens`, `private_key`;
//!   and of a pair such as `{ name: authorization, value: … }`. Booleans and nulls are shown.
//! - what Kubernetes and Envoy say is one: `data` and `stringData` of a Secret, `env` of a plugin.
//! - in any text: the user and password of a URL, query parameters with a secret name, and bearer and basic credentials.
pub(crate) mod cut;
mod yaml;

pub use cut::REDACTED;
pub(crate) use yaml::shown;
pub use yaml::source;

use cut::Cut;
use regex::{Captures, Regex};
use std::{borrow::Cow, sync::LazyLock};

/// Words that make a name secret wherever they are in it.
const ANYWHERE: [&str; 7] = ["password", "passwd", "passphrase", "pwd", "secret", "credential", "private"];
/// Words that make a name secret at its end, also as the end of a longer word (`authtoken`).
const AT_END: [&str; 9] = ["token", "password", "passwd", "secret", "credential", "apikey", "accesskey", "secretkey", "privatekey"];
/// Words that make a name secret as its last one.
const LAST: [&str; 7] = ["key", "pass", "authorization", "cookie", "signature", "sig", "jwt"];
/// Fields of a WasmPlugin: the name of a Secret, and a public key.
const OPEN: [&str; 2] = ["imagepullsecret", "verificationkey"];
/// A name that ends with one of these only speaks about a secret: `secretName`, `token_url`, `passwordFile`.
const ABOUT: [&str; 24] = [
    "name",
    "namespace",
    "ref",
    "kind",
    "type",
    "url",
    "uri",
    "path",
    "file",
    "header",
    "prefix",
    "size",
    "length",
    "count",
    "limit",
    "ttl",
    "timeout",
    "expiry",
    "expiration",
    "duration",
    "network",
    "ip",
    "enabled",
    "required",
];

/// The words of `apiTokens`, `API_TOKENS` or `api-tokens`: in lower case and the singular.
fn words(name: &str) -> Vec<String> {
    let chars: Vec<char> = name.chars().collect();
    let (mut words, mut word) = (Vec::new(), String::new());
    for (i, c) in chars.iter().enumerate() {
        let next = chars.get(i + 1).is_some_and(|c| c.is_lowercase());
        let before = i.checked_sub(1).and_then(|i| chars.get(i));
        // `aB` and the `B` of `ABc` begin a word.
        let begins = c.is_uppercase() && before.is_some_and(|b| b.is_lowercase() || b.is_numeric() || (b.is_uppercase() && next));
        if (begins || !c.is_alphabetic()) && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if c.is_alphabetic() {
            word.extend(c.to_lowercase());
        }
    }
    words.extend(Some(word).filter(|w| !w.is_empty()));
    for word in &mut words {
        if word.len() > 3 && word.ends_with('s') && !word.ends_with("ss") {
            word.pop();
        }
    }
    words
}

/// Whether a key, header, parameter or variable of this name holds a secret.
pub fn is_secret_name(name: &str) -> bool {
    // Labels and annotations of Kubernetes name a Secret at most.
    if name.contains('/') {
        return false;
    }
    let words = words(name);
    let Some(last) = words.last().map(String::as_str) else { return false };
    if ABOUT.contains(&last) || OPEN.contains(&words.concat().as_str()) {
        return false;
    }
    words.iter().any(|w| ANYWHERE.contains(&w.as_str())) || AT_END.iter().any(|end| last.ends_with(end)) || LAST.contains(&last)
}

/// The value of a header or variable, hidden where its name says that it is secret.
pub fn value<'a>(name: &str, value: &'a str) -> Cow<'a, str> {
    if is_secret_name(name) && !value.is_empty() { REDACTED.into() } else { text(value) }
}

/// In their order, without one that is within another.
fn sorted(mut cuts: Vec<Cut>) -> Vec<Cut> {
    cuts.retain(|c| !c.bytes.is_empty());
    cuts.sort_by_key(|c| (c.bytes.start, std::cmp::Reverse(c.bytes.end)));
    let mut end = 0;
    cuts.retain_mut(|c| {
        c.bytes.start = c.bytes.start.max(end);
        end = end.max(c.bytes.end);
        !c.bytes.is_empty()
    });
    cuts
}

/// `text` without `cuts`, whose places count from `offset` before it.
fn without<'a>(text: &'a str, offset: usize, cuts: &[Cut]) -> Cow<'a, str> {
    if cuts.is_empty() {
        return text.into();
    }
    let (mut out, mut done) = (String::with_capacity(text.len()), 0);
    for cut in cuts {
        let start = cut.bytes.start.saturating_sub(offset).max(done);
        out += &text[done..start];
        out += cut.shown;
        done = (cut.bytes.end - offset).min(text.len());
    }
    out += &text[done..];
    out.into()
}

/// A line of a log, a message, a URL: without user and password of URLs, secret query parameters and members of JSON, and
/// bearer and basic credentials.
pub fn text(text: &str) -> Cow<'_, str> {
    without(text, 0, &sorted(in_text(text)))
}

/// All strings of a JSON value, as [`text`].
pub fn strings(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(s) => {
            if let Cow::Owned(redacted) = text(s) {
                *s = redacted;
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(strings),
        serde_json::Value::Object(map) => map.values_mut().for_each(strings),
        _ => {}
    }
}

/// A pattern whose group 2 is secret where group 1 is a secret name.
fn named(pattern: &str) -> Option<Regex> {
    Regex::new(pattern).ok()
}

// Each is compiled when a text first has what all its matches have: together they take more memory than a small gateway.
static USERINFO: LazyLock<Option<Regex>> = LazyLock::new(|| named(r#"[A-Za-z][A-Za-z0-9+.-]*://([^\s/?#"'`<>]+)@"#));
static CREDENTIALS: LazyLock<Option<Regex>> = LazyLock::new(|| named(r"(?i)\b(?:bearer|basic)\s+([A-Za-z0-9._~+/=-]{6,})"));
static PARAMETERS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let query = r#"[?&#]([A-Za-z0-9_.~%-]+)=([^&#\s"'`<>]+)"#;
    let logfmt = r#"(?:^|[\s,(\[{])([A-Za-z0-9_.-]*[A-Za-z0-9])=([^\s,;)\]}"'`]+|"[^"]*")"#;
    [query, logfmt].into_iter().filter_map(named).collect()
});
static MEMBERS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let string = r#"(?:^|[^\\])"([^"\\]{1,80})"\s*:\s*"((?:[^"\\]|\\.)*)"#;
    let other = r#""([^"\\]{1,80})"\s*:\s*(\[[^\]]*\]|-?[0-9][0-9.eE+-]*)"#;
    // JSON within a string of JSON.
    let escaped = r#"\\"([^"\\]{1,80})\\"\s*:\s*\\"((?:[^"\\]|\\[^"])*)"#;
    [string, other, escaped].into_iter().filter_map(named).collect()
});

/// What every name or kind that makes a value secret has in it, unless escapes hide it.
static SECRET: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let words = ANYWHERE.iter().chain(&AT_END).chain(&LAST).chain(&["env", r"\\"]).copied().collect::<Vec<&str>>();
    Regex::new(&format!("(?i){}", words.join("|"))).ok()
});

/// False where no key of a YAML text says that its value is secret.
fn may_name_secrets(text: &str) -> bool {
    !text.is_ascii() || SECRET.as_ref().is_none_or(|secret| secret.is_match(text))
}

fn in_text(text: &str) -> Vec<Cut> {
    let mut cuts = credentials(text);
    if text.contains('"') && text.contains(':') {
        cuts.extend(matches(text, &MEMBERS));
    }
    cuts
}

/// URLs' users and secret parameters, bearer and basic credentials, `password=…`.
fn credentials(text: &str) -> Vec<Cut> {
    let first = |found: &Captures<'_>| found.get(1).map(|g| Cut::of(g.range()));
    let mut cuts: Vec<Cut> = Vec::new();
    if text.contains("://") && text.contains('@') {
        cuts.extend(USERINFO.iter().flat_map(|p| p.captures_iter(text)).filter_map(|c| first(&c)));
    }
    // `Basic authentication` is none.
    let is_token = |c: &Captures<'_>| c[1].bytes().skip(1).any(|b| b.is_ascii_digit() || b.is_ascii_uppercase() || b == b'=');
    if ["bearer", "basic"].iter().any(|scheme| contains_ignoring_case(text, scheme)) {
        cuts.extend(CREDENTIALS.iter().flat_map(|p| p.captures_iter(text)).filter(is_token).filter_map(|c| first(&c)));
    }
    if text.contains('=') {
        cuts.extend(matches(text, &PARAMETERS));
    }
    cuts
}

/// `word` is ASCII.
fn contains_ignoring_case(text: &str, word: &str) -> bool {
    text.as_bytes().windows(word.len()).any(|w| w.eq_ignore_ascii_case(word.as_bytes()))
}

fn matches<'a>(text: &'a str, patterns: &'a [Regex]) -> impl Iterator<Item = Cut> + 'a {
    let all = patterns.iter().flat_map(move |p| p.captures_iter(text));
    // What was redacted before stays as it is.
    let secret = all.filter(|c| is_secret_name(&c[1]) && !REDACTED.starts_with(&c[2]));
    secret.filter_map(|c| c.get(2).map(|g| Cut::of(g.range())))
}

#[cfg(test)]
mod tests;
