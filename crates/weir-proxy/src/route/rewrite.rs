//! Compiled path rewrites, and the `location` of redirects.
use super::matcher::{Invalid, Patterns};
use crate::head_access::{RequestView, host_without_port};
use regex::bytes::Regex;
use weir_config::model::{PathRewrite, Redirect, RedirectPort};

/// A compiled [`PathRewrite`].
#[derive(Debug)]
pub enum PathRewriteRt {
    Full(Box<[u8]>),
    /// Without a slash at its end.
    ReplacePrefixMatch(Box<[u8]>),
    Prefix(Box<[u8]>),
    Regex(Regex, Box<[u8]>),
}

impl PathRewriteRt {
    /// The error is about a regular expression.
    pub fn compile(of: &PathRewrite, patterns: &mut Patterns) -> Result<PathRewriteRt, Invalid> {
        let bytes = |s: &str| Box::from(s.as_bytes());
        Ok(match of {
            PathRewrite::Full(s) => PathRewriteRt::Full(bytes(s)),
            PathRewrite::ReplacePrefixMatch(s) => PathRewriteRt::ReplacePrefixMatch(bytes(s.trim_end_matches('/'))),
            PathRewrite::Prefix(s) => PathRewriteRt::Prefix(bytes(s)),
            PathRewrite::Regex { pattern, substitution } => {
                let regex = patterns.anywhere(pattern)?;
                let (template, highest) = template(substitution);
                if highest >= regex.captures_len() {
                    return Err(Invalid::Group { named: highest, groups: regex.captures_len() - 1 });
                }
                PathRewriteRt::Regex(regex, template.into_bytes().into())
            }
        })
    }

    /// Appends the new path and the query to `out`. `matched` bytes of the path were matched by the route's prefix.
    pub fn apply(&self, path: &[u8], query: Option<&[u8]>, matched: usize, out: &mut Vec<u8>) {
        let start = out.len();
        let rest = path.get(matched..).unwrap_or_default();
        match self {
            PathRewriteRt::Full(new) => out.extend_from_slice(new),
            PathRewriteRt::Prefix(new) => {
                out.extend_from_slice(new);
                out.extend_from_slice(rest);
            }
            PathRewriteRt::ReplacePrefixMatch(new) => {
                out.extend_from_slice(new);
                if !rest.is_empty() && rest[0] != b'/' {
                    out.push(b'/');
                }
                out.extend_from_slice(rest);
            }
            PathRewriteRt::Regex(regex, with) => out.extend_from_slice(&regex.replace_all(path, &with[..])),
        }
        if out.get(start) != Some(&b'/') {
            out.insert(start, b'/');
        }
        if let Some(query) = query.filter(|_| !out[start..].contains(&b'?')) {
            out.push(b'?');
            out.extend_from_slice(query);
        }
    }
}

/// RE2's `\1` in the words of the regex crate, and the highest group named.
fn template(substitution: &str) -> (String, usize) {
    let (mut out, mut highest, mut chars) = (String::new(), 0, substitution.chars());
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('$', _) => out += "$$",
            ('\\', Some(d)) if d.is_ascii_digit() => {
                highest = highest.max(d as usize - '0' as usize);
                out += &format!("${{{d}}}");
            }
            ('\\', Some('$')) => out += "$$",
            ('\\', Some(other)) => out.push(other),
            (c, _) => out.push(c),
        }
    }
    (out, highest)
}

/// A compiled [`Redirect`].
#[derive(Debug)]
pub struct RedirectRt {
    config: Redirect,
    path: Option<PathRewriteRt>,
}

impl RedirectRt {
    pub fn compile(config: &Redirect, patterns: &mut Patterns) -> Result<RedirectRt, Invalid> {
        let path = config.path.as_ref().map(|p| PathRewriteRt::compile(p, patterns)).transpose()?;
        Ok(RedirectRt { config: config.clone(), path })
    }
    pub fn status(&self) -> u16 {
        self.config.status
    }
    /// Appends the value of `location`. `local_port` is the port that the client connected to.
    pub fn location(&self, request: &dyn RequestView, matched: usize, local_port: u16, out: &mut Vec<u8>) {
        let config = &self.config;
        let scheme = config.scheme.as_ref().map_or(request.scheme(), |s| s.as_bytes());
        let authority = request.authority();
        let host = host_without_port(authority);
        let written = authority.get(host.len() + 1..).and_then(|p| std::str::from_utf8(p).ok()?.parse::<u16>().ok());
        let port = match (config.port, &config.host) {
            (Some(RedirectPort::Literal(p)), _) => Some(p),
            (Some(RedirectPort::FromRequest), _) => Some(written.unwrap_or(local_port)),
            (Some(RedirectPort::FromProtocol), _) | (None, Some(_)) => None,
            // The port of the old scheme means nothing to the new one.
            (None, None) => written.filter(|p| scheme == request.scheme() || !matches!(p, 80 | 443)),
        };
        out.extend_from_slice(scheme);
        out.extend_from_slice(b"://");
        out.extend_from_slice(config.host.as_ref().map_or(host, |h| h.as_bytes()));
        let default = if scheme == b"https" { 443 } else { 80 };
        if let Some(port) = port.filter(|p| *p != default) {
            out.push(b':');
            crate::access_log::decimal(out, port.into());
        }
        let query = request.query().filter(|_| !config.strip_query);
        match &self.path {
            Some(rewrite) => rewrite.apply(request.path(), query, matched, out),
            None => {
                out.extend_from_slice(request.path());
                if let Some(query) = query {
                    out.push(b'?');
                    out.extend_from_slice(query);
                }
            }
        }
    }
}
