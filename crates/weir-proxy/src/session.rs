//! Persistent sessions: a token, in a cookie or a header, names the cluster and the endpoint that a client's requests go to. It is
//! not secret; what is made up by somebody else reaches no endpoint that the route does not have.
use crate::{
    balance::hash_bytes,
    head_access::{Fields, cookie},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use std::net::SocketAddr;
use weir_config::model::{SessionCarrier, SessionPersistence};

/// What a token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Of the cluster's name.
    pub cluster: u64,
    pub address: SocketAddr,
}

impl Session {
    pub fn is_of(&self, cluster: &str) -> bool {
        self.cluster == hash_bytes(cluster.as_bytes())
    }

    /// The session of a request, where it has one that lasts at `now` (seconds since 1970).
    pub fn of_request(config: &SessionPersistence, request: &dyn Fields, now: u64) -> Option<Session> {
        match &config.carrier {
            SessionCarrier::Cookie { name, .. } => cookie(request, name, |token| Session::parse(token, now)).flatten(),
            SessionCarrier::Header { name } => Session::parse(request.first(name)?, now),
        }
    }

    fn parse(token: &[u8], now: u64) -> Option<Session> {
        let text = String::from_utf8(BASE64.decode(token).ok()?).ok()?;
        let mut parts = text.split('|');
        let (cluster, until, address) = (parts.next()?, parts.next()?, parts.next()?);
        let until: u64 = until.parse().ok()?;
        let session = Session { cluster: u64::from_str_radix(cluster, 16).ok()?, address: address.parse().ok()? };
        (until == 0 || now < until).then_some(session)
    }
}

/// The header of a response that begins a session at `now` (seconds since 1970), and its value.
pub fn begin<'a>(config: &'a SessionPersistence, cluster: &str, address: SocketAddr, now: u64) -> (&'a str, String) {
    let until = config.absolute_timeout.map_or(0, |lasts| now + lasts.as_secs().max(1));
    let token = BASE64.encode(format!("{:016x}|{until}|{address}", hash_bytes(cluster.as_bytes())));
    match &config.carrier {
        SessionCarrier::Header { name } => (name, token),
        SessionCarrier::Cookie { name, path, permanent } => {
            let age = config.absolute_timeout.filter(|_| *permanent).map(|lasts| format!("; Max-Age={}", lasts.as_secs()));
            ("set-cookie", format!("{name}={token}; Path={path}{}; HttpOnly", age.unwrap_or_default()))
        }
    }
}
