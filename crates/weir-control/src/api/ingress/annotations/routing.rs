//! Which requests an Ingress takes and where they go: matches, redirects, rewrites, canaries.
use super::given::Given;
use crate::api::checks::{check_regex, header_name};
use weir_config::{
    model::{HeaderMatch, PathRewrite, QueryMatch, Redirect, RedirectPort, StringMatch, ValueMatch},
    reader::Field,
};

/// Conditions beside host and path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matching {
    pub headers: Vec<HeaderMatch>,
    pub query_parameters: Vec<QueryMatch>,
    /// A condition on the method is among the headers.
    pub method: bool,
    pub ignore_case: bool,
}

/// How paths are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathStyle {
    /// By their `pathType`; as a regular expression where one of [`REGEX_CHARACTERS`] is in them and there is a rewrite.
    #[default]
    Plain,
    /// A regular expression that the path begins with.
    PrefixRegex,
    /// A regular expression for the whole path.
    FullPathRegex,
}

const REGEX_CHARACTERS: &[char] = &['\\', '+', '*', '?', '(', ')', '|', '[', ']', '{', '}', '^', '$'];

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Redirects {
    /// Of every request.
    pub to: Option<Redirect>,
    /// Of `/`.
    pub app_root: Option<Box<str>>,
    /// Of plain HTTP.
    pub https: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rewrite {
    pub style: PathStyle,
    /// In place of what the path's pattern or prefix covers; `\1` stands for a group.
    pub target: Option<Box<str>>,
    /// In place of the prefix, and first.
    pub path: Option<Box<str>>,
    pub host: Option<Box<str>>,
}

/// Takes a part of the requests of the Ingress with the same hosts and paths.
#[derive(Clone, Debug, PartialEq)]
pub struct Canary {
    /// Of these; else by weight.
    pub header: Option<HeaderMatch>,
    pub weight: u32,
    pub weight_total: u32,
}

pub fn matching(given: &Given<'_>) -> Matching {
    let mut made = Matching { ignore_case: given.is_on("ignore-path-case"), ..Matching::default() };
    if let Some((field, text)) = given.text("match-method") {
        const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
        let words: Vec<String> = text.split_ascii_whitespace().map(str::to_ascii_uppercase).collect();
        if let Some(wrong) = words.iter().find(|w| !METHODS.contains(&&***w)) {
            field.invalid(format!("\"{wrong}\" is not a method"), format!("some of {}, with spaces between", METHODS.join(", ")));
        }
        let value = match &words[..] {
            [only] => StringMatch::Exact(only.clone()),
            some => StringMatch::Regex(some.join("|")),
        };
        made.headers.push(condition(":method", value));
        made.method = true;
    }
    type Make = fn(String) -> StringMatch;
    let kinds: [(&str, Make); 3] = [("exact", StringMatch::Exact), ("prefix", StringMatch::Prefix), ("regex", StringMatch::Regex)];
    for (kind, make) in kinds {
        let value = |field: &Field<'_>| {
            let text = field.node().as_str()?;
            if kind == "regex" {
                check_regex(field, text)?;
            }
            Some(make(text.into()))
        };
        for (name, field) in given.all(&format!("{kind}-match-header-")) {
            let (Some(name), Some(value)) = (header_name(name, field), value(field)) else { continue };
            add(&mut made.headers, condition(&name, value));
        }
        for (name, field) in given.all(&format!("{kind}-match-pseudo-header-")) {
            let known = ["authority", "method", "path", "scheme"];
            if !known.contains(&name) {
                field.invalid(format!("there is no pseudo-header :{name}"), format!("one of {}", known.join(", ")));
                continue;
            }
            made.method |= name == "method";
            let Some(value) = value(field) else { continue };
            add(&mut made.headers, condition(&format!(":{name}"), value));
        }
        for (name, field) in given.all(&format!("{kind}-match-query-")) {
            let Some(value) = value(field) else { continue };
            if made.query_parameters.iter().all(|q| q.name != name) {
                made.query_parameters.push(QueryMatch { name: name.into(), value: ValueMatch::Text(value) });
            }
        }
    }
    made
}

fn condition(name: &str, value: StringMatch) -> HeaderMatch {
    HeaderMatch { name: name.into(), value: ValueMatch::Text(value), invert: false, ignore_case: false }
}

/// Of one name the first counts.
fn add(headers: &mut Vec<HeaderMatch>, new: HeaderMatch) {
    if headers.iter().all(|h| h.name != new.name) {
        headers.push(new);
    }
}

pub fn redirects(given: &Given<'_>) -> Redirects {
    let https = given.is_on("ssl-redirect") | given.is_on("force-ssl-redirect");
    let app_root = given.text("app-root").and_then(|(field, text)| {
        if !text.starts_with('/') {
            field.invalid(format!("the path \"{text}\" does not begin with /"), "an absolute path");
            return None;
        }
        Some(text.into())
    });
    let code = |name: &str, default| {
        let code = given.number(name, 0).and_then(|code| {
            let code = u16::try_from(code).ok().filter(|code| [301, 302, 303, 307, 308].contains(code));
            if code.is_none()
                && let Some(field) = given.get(name)
            {
                field.invalid("is not a status of redirects", "301, 302, 303, 307 or 308");
            }
            code
        });
        code.unwrap_or(default)
    };
    let (temporal_code, permanent_code) = (code("temporal-redirect-code", 302), code("permanent-redirect-code", 301));
    let temporal = given.text("temporal-redirect").and_then(|(field, text)| redirect(field, text, temporal_code));
    let permanent = given.text("permanent-redirect").and_then(|(field, text)| redirect(field, text, permanent_code));
    Redirects { to: temporal.or(permanent), app_root, https }
}

/// To a URL. Without a path it keeps that of the request.
fn redirect(field: &Field<'_>, url: &str, status: u16) -> Option<Redirect> {
    let found = url.split_once("://").filter(|(scheme, rest)| matches!(*scheme, "http" | "https") && !rest.is_empty());
    let Some((scheme, rest)) = found else {
        field.invalid(format!("\"{url}\" is not a URL"), "an absolute URL that begins with http:// or https://");
        return None;
    };
    let (authority, path) = rest.find(['/', '?', '#']).map_or((rest, ""), |at| rest.split_at(at));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let port = match port.map(str::parse) {
        None => RedirectPort::FromProtocol,
        Some(Ok(port)) => RedirectPort::Literal(port),
        Some(Err(_)) => {
            field.invalid(format!("\"{url}\" has a port that is not a number"), "a URL as https://shop.test:8443/path");
            return None;
        }
    };
    Some(Redirect {
        scheme: Some(scheme.into()),
        host: Some(host.into()),
        port: Some(port),
        path: (!path.is_empty()).then(|| PathRewrite::Full(if path.starts_with('/') { path.into() } else { format!("/{path}") })),
        status,
        strip_query: false,
    })
}

pub fn rewrite(given: &Given<'_>) -> Rewrite {
    // Read both, so that a wrong value is reported.
    let style = match (given.is_on("full-path-regex"), given.is_on("use-regex")) {
        (true, _) => PathStyle::FullPathRegex,
        (false, true) => PathStyle::PrefixRegex,
        (false, false) => PathStyle::Plain,
    };
    let target = given.text("rewrite-target").map(|(_, text)| text);
    let grouped = |text: &str| text.as_bytes().windows(2).any(|pair| pair[0] == b'$' && pair[1].is_ascii_digit());
    let style = if style == PathStyle::Plain && target.is_some_and(|t| t.contains(['$', '\\'])) { PathStyle::PrefixRegex } else { style };
    Rewrite {
        style,
        target: target.map(|text| if grouped(text) { text.replace('$', "\\").into() } else { text.into() }),
        path: given.text("rewrite-path").map(|(_, text)| text.into()),
        host: given.text("upstream-vhost").map(|(_, text)| text.into()),
    }
}

/// Without the `$` at its end, unless that is escaped.
fn without_end(pattern: &str) -> &str {
    let escapes = |text: &str| text.len() - text.trim_end_matches('\\').len();
    pattern.strip_suffix('$').filter(|rest| escapes(rest) % 2 == 0).unwrap_or(pattern)
}

impl Rewrite {
    /// The pattern that a path stands for; `None` where it is no regular expression.
    pub fn pattern(&self, path: &str) -> Option<String> {
        match self.style {
            PathStyle::FullPathRegex => Some(without_end(path).to_string()),
            PathStyle::PrefixRegex => Some(format!("{path}.*")),
            PathStyle::Plain => (self.target.is_some() && path.contains(REGEX_CHARACTERS)).then(|| format!("{path}.*")),
        }
    }

    /// Reports a group of the target that the pattern does not have.
    pub fn check_groups(&self, path: &Field<'_>, pattern: &str) -> Option<()> {
        let digits = self.target.as_deref().unwrap_or_default().split('\\').skip(1).filter_map(|rest| rest.chars().next()?.to_digit(10));
        let (wanted, has) = (digits.max().unwrap_or(0) as usize, regex::Regex::new(pattern).ok()?.captures_len() - 1);
        if wanted > has {
            path.invalid(format!("the rewrite names group {wanted}, and this path has {has}"), "a path with as many groups in parentheses");
            return None;
        }
        Some(())
    }
}

pub fn canary(given: &Given<'_>) -> Option<Canary> {
    let on = given.is_on("canary");
    // All are read, used or not.
    let header = given.text("canary-by-header").and_then(|(field, text)| Some((field, header_name(text, field)?)));
    let value = given.text("canary-by-header-value");
    let pattern = given.text("canary-by-header-pattern");
    let cookie = given.text("canary-by-cookie").map(|(_, text)| text);
    let weight = given.number("canary-weight", 0);
    let total = given.number("canary-weight-total", 1);
    if !on {
        return None;
    }
    let text = |value: String| ValueMatch::Text(StringMatch::Regex(value));
    let by = |name: &str, value| HeaderMatch { name: name.into(), value, invert: false, ignore_case: false };
    let header = match (header, value, pattern, cookie) {
        (Some((_, name)), Some((field, value)), ..) => check_regex(field, value).map(|()| by(&name, text(format!("always|{value}")))),
        (Some((_, name)), None, Some((field, pattern)), _) => {
            check_regex(field, pattern).map(|()| by(&name, text(format!(".*(?:{pattern}).*"))))
        }
        (Some((_, name)), None, None, _) => Some(by(&name, ValueMatch::Text(StringMatch::Exact("always".into())))),
        (None, _, _, Some(cookie)) => Some(by("cookie", text(format!(r"(.*?;\s*)?{}=always(;.*)?", regex::escape(cookie))))),
        (None, ..) => None,
    };
    if header.is_some()
        && weight.is_some_and(|w| w > 0)
        && let Some(field) = given.get("canary-weight")
    {
        let message = "has no effect beside canary-by-header or canary-by-cookie";
        field.warning("UnusedField", message, "remove it, or write another canary Ingress with the weight");
    }
    Some(Canary { header, weight: weight.unwrap_or(0), weight_total: total.unwrap_or(100) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_end_that_is_not_escaped_is_dropped() {
        for (pattern, wanted) in [("/a$", "/a"), (r"/a\$", r"/a\$"), (r"/a\\$", r"/a\\"), ("/a", "/a"), ("$", "")] {
            assert_eq!(without_end(pattern), wanted, "{pattern}");
        }
    }
}
