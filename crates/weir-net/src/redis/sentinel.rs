//! What Sentinels know: the address of the master, which may change at any time.
use super::{
    Duplex, Limits, Options, ProtocolError,
    check::CheckError,
    pipeline::error_text,
    resp::{Framer, command},
    slots::Reader,
};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A set of servers that Sentinels watch.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Sentinel {
    /// The name of the set, as `mymaster`.
    pub master: String,
    /// What the Sentinels themselves ask for; empty for nothing.
    pub user: String,
    pub password: String,
}

/// Why there is no master to talk to.
#[derive(Debug, thiserror::Error)]
pub enum SentinelError {
    #[error(transparent)]
    Talk(#[from] CheckError),
    #[error("the Sentinel knows no master named `{0}`")]
    Unknown(String),
    #[error("the Sentinel answered: {0}")]
    Refused(String),
    #[error("the server that the Sentinel names is a {0} now, not the master")]
    Demoted(String),
}

/// Asks one Sentinel where the master is: its host and port.
///
/// # Errors
/// It does not say.
pub async fn master_of(mut io: impl Duplex, sentinel: &Sentinel) -> Result<(String, u16), SentinelError> {
    let ask = command(&[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", sentinel.master.as_bytes()]);
    let reply = talk(&mut io, &sentinel.user, &sentinel.password, &ask).await?;
    if let Some(text) = error_text(&reply) {
        return Err(SentinelError::Refused(text));
    }
    let unknown = || SentinelError::Unknown(sentinel.master.clone());
    let mut reader = Reader(&reply);
    let address = || {
        reader.array().filter(|n| *n == 2)?;
        let host = std::str::from_utf8(reader.text()?).ok()?.to_string();
        let port = std::str::from_utf8(reader.text()?).ok()?.parse().ok()?;
        Some((host, port))
    };
    std::iter::once_with(address).next().flatten().ok_or_else(unknown)
}

/// Whether the server is a master: a Sentinel may not know yet that it no longer is.
///
/// # Errors
/// It is none, or does not answer.
pub async fn is_master(io: &mut impl Duplex, options: &Options) -> Result<(), SentinelError> {
    let reply = talk(io, &options.user, &options.password, &command(&[b"ROLE"])).await?;
    // Who may not ask for the role may still be right.
    if reply.starts_with(b"-") {
        return Ok(());
    }
    let mut reader = Reader(&reply);
    match reader.array().and_then(|_| reader.text()) {
        Some(b"master") | None => Ok(()),
        Some(role) => Err(SentinelError::Demoted(String::from_utf8_lossy(role).into_owned())),
    }
}

/// One command on a fresh connection, behind the credentials.
async fn talk(io: &mut impl Duplex, user: &str, password: &str, ask: &[u8]) -> Result<Bytes, CheckError> {
    let auth = match (user, password) {
        (_, "") => None,
        ("", password) => Some(command(&[b"AUTH", password.as_bytes()])),
        (user, password) => Some(command(&[b"AUTH", user.as_bytes(), password.as_bytes()])),
    };
    let (mut inbox, mut framer, limits) = (BytesMut::new(), Framer::default(), Limits { max_reply_bytes: 64 << 10, max_depth: 8 });
    if let Some(auth) = &auth {
        io.write_all(auth).await?;
    }
    io.write_all(ask).await?;
    io.flush().await?;
    let mut verdict = auth.is_some();
    loop {
        while let Some(frame) = framer.next(&inbox, &limits).map_err(CheckError::Protocol)? {
            let reply = inbox.split_to(frame.len).freeze();
            // A password that is not needed does no harm: if AUTH fails, the next command reports the error.
            if frame.push || std::mem::take(&mut verdict) {
                continue;
            }
            return if inbox.is_empty() { Ok(reply) } else { Err(CheckError::Protocol(ProtocolError::Unasked)) };
        }
        if io.read_buf(&mut inbox).await? == 0 {
            return Err(CheckError::Closed);
        }
    }
}
