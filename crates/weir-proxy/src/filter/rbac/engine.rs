//! Compiled policies, and their decision about one request or connection.
use crate::{
    conn::ConnInfo,
    head_access::{RequestView, canonical_authority, host_without_port},
    route::matcher::{Header, Invalid, Patterns, Text},
};
use std::net::{IpAddr, SocketAddr};
use weir_config::model::{CidrRange, Name, RbacAction, RbacMatch, RbacPolicy, RbacRules};

/// What policies ask about.
pub struct Subject<'a> {
    /// `None` on a connection that carries no HTTP: conditions on requests do not hold.
    pub request: Option<&'a dyn RequestView>,
    /// The other end of the connection.
    pub direct_remote: IpAddr,
    /// The client, by `x-forwarded-for` where proxies are trusted.
    pub remote: IpAddr,
    /// What the client connected to.
    pub local: SocketAddr,
    /// The server name of TLS.
    pub server_name: Option<&'a str>,
    /// The names in the client's verified certificate; empty where there is none.
    pub principals: &'a [String],
}

impl<'a> Subject<'a> {
    /// A connection, before anything is known of its requests.
    pub fn of(conn: &'a ConnInfo) -> Subject<'a> {
        let certificate = conn.tls.as_ref().and_then(|tls| tls.peer_certificate.as_ref());
        Subject {
            request: None,
            direct_remote: conn.direct_peer.ip(),
            remote: conn.peer.ip(),
            local: conn.local,
            server_name: conn.requested_server_name.as_deref(),
            principals: certificate.map_or(&[], |c| c.principals()),
        }
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied<'a> {
    /// The policy that forbids it; `None` where no policy allows it.
    pub policy: Option<&'a str>,
}

/// Compiled [`RbacRules`], which must all be passed.
#[derive(Debug)]
pub struct Engine(Box<[Rules]>);

#[derive(Debug)]
struct Rules {
    action: RbacAction,
    policies: Box<[Policy]>,
}

#[derive(Debug)]
struct Policy {
    name: Name,
    permissions: Box<[Match]>,
    principals: Box<[Match]>,
}

#[derive(Debug)]
enum Match {
    Any,
    And(Box<[Match]>),
    Or(Box<[Match]>),
    Not(Box<Match>),
    Header(Header),
    Host(Text),
    UrlPath(Text),
    DestinationIp(CidrRange),
    DestinationPort(u16),
    RequestedServerName(Text),
    DirectRemoteIp(CidrRange),
    RemoteIp(CidrRange),
    Authenticated(Text),
}

impl Engine {
    /// The error is about a regular expression.
    pub fn compile(of: &[RbacRules], patterns: &mut Patterns) -> Result<Engine, Invalid> {
        let mut rules = Vec::with_capacity(of.len());
        for of in of {
            let policies = of.policies.iter().map(|p| Policy::compile(p, patterns)).collect::<Result<_, _>>()?;
            rules.push(Rules { action: of.action, policies });
        }
        Ok(Engine(rules.into()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn decide(&self, subject: &Subject<'_>) -> Result<(), Denied<'_>> {
        for rules in &self.0 {
            let matched = rules.policies.iter().find(|p| p.matches(subject));
            match (rules.action, matched) {
                (RbacAction::Allow, Some(_)) | (RbacAction::Deny, None) => {}
                (RbacAction::Deny, Some(policy)) => return Err(Denied { policy: Some(&policy.name) }),
                (RbacAction::Allow, None) => return Err(Denied { policy: None }),
            }
        }
        Ok(())
    }
}

impl Policy {
    fn compile(of: &RbacPolicy, patterns: &mut Patterns) -> Result<Policy, Invalid> {
        let permissions = Match::compile_all(&of.permissions, patterns)?;
        let principals = Match::compile_all(&of.principals, patterns)?;
        Ok(Policy { name: of.name.clone(), permissions, principals })
    }
    fn matches(&self, subject: &Subject<'_>) -> bool {
        self.permissions.iter().any(|m| m.holds(subject)) && self.principals.iter().any(|m| m.holds(subject))
    }
}

impl Match {
    fn compile_all(of: &[RbacMatch], patterns: &mut Patterns) -> Result<Box<[Match]>, Invalid> {
        of.iter().map(|m| Match::compile(m, patterns)).collect()
    }

    fn compile(of: &RbacMatch, patterns: &mut Patterns) -> Result<Match, Invalid> {
        Ok(match of {
            RbacMatch::Any => Match::Any,
            RbacMatch::And(all) => Match::And(Match::compile_all(all, patterns)?),
            RbacMatch::Or(all) => Match::Or(Match::compile_all(all, patterns)?),
            RbacMatch::Not(one) => Match::Not(Box::new(Match::compile(one, patterns)?)),
            RbacMatch::Header(header) => Match::Header(Header::compile(header, patterns)?),
            RbacMatch::Host(text) => Match::Host(Text::compile(text, true, patterns)?),
            RbacMatch::UrlPath(text) => Match::UrlPath(Text::compile(text, false, patterns)?),
            RbacMatch::UriTemplate(template) => Match::UrlPath(Text::Regex(patterns.whole(&template_regex(template), false)?)),
            RbacMatch::DestinationIp(range) => Match::DestinationIp(*range),
            RbacMatch::DestinationPort(port) => Match::DestinationPort(*port),
            RbacMatch::RequestedServerName(text) => Match::RequestedServerName(Text::compile(text, true, patterns)?),
            RbacMatch::DirectRemoteIp(range) => Match::DirectRemoteIp(*range),
            RbacMatch::RemoteIp(range) => Match::RemoteIp(*range),
            RbacMatch::Authenticated(text) => Match::Authenticated(Text::compile(text, false, patterns)?),
        })
    }

    fn holds(&self, subject: &Subject<'_>) -> bool {
        let request = |with: &dyn Fn(&dyn RequestView) -> bool| subject.request.is_some_and(with);
        match self {
            Match::Any => true,
            Match::And(all) => all.iter().all(|m| m.holds(subject)),
            Match::Or(all) => all.iter().any(|m| m.holds(subject)),
            Match::Not(one) => !one.holds(subject),
            Match::Header(header) => request(&|r| header.matches(r)),
            Match::Host(text) => request(&|r| host_matches(text, r.authority())),
            Match::UrlPath(text) => request(&|r| text.matches(r.path(), false)),
            Match::DestinationIp(range) => range.contains(subject.local.ip().to_canonical()),
            Match::DestinationPort(port) => subject.local.port() == *port,
            Match::RequestedServerName(text) => subject.server_name.is_some_and(|name| text.matches(name.as_bytes(), true)),
            Match::DirectRemoteIp(range) => range.contains(subject.direct_remote.to_canonical()),
            Match::RemoteIp(range) => range.contains(subject.remote.to_canonical()),
            Match::Authenticated(text) => subject.principals.iter().any(|name| text.matches(name.as_bytes(), false)),
        }
    }
}

/// With the port or without it, and in the form in which routes are found: no other spelling of a host is another host.
fn host_matches(text: &Text, authority: &[u8]) -> bool {
    let authority = canonical_authority(authority);
    text.matches(&authority, true) || text.matches(host_without_port(&authority), true)
}

/// `*` stands for one segment, `**` for any number of them.
fn template_regex(template: &str) -> String {
    let segment = |segment: &str| match segment {
        "*" => "[^/]+".to_string(),
        "**" => ".*".to_string(),
        text => regex::escape(text),
    };
    template.split('/').map(segment).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests;
