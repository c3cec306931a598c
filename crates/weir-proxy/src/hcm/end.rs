//! How a stream ends other than with the upstream's response.
use crate::{detail::Detail, info::Flags, reply::Reply, upstream::UpstreamError};
use weir_net::http::{parse::Bad, pump::Broken};

/// Why a stream does not end with the upstream's response.
pub(super) enum End {
    /// A local reply.
    Reply(Reply, Flags),
    /// The client cannot be answered any more, or must not be.
    Gone(Flags, Detail),
}

impl End {
    pub fn reply(status: u16, flags: Flags, details: Detail) -> End {
        End::Reply(Reply::new(status, details), flags)
    }
    /// The answer to a request that got nothing from its upstream.
    pub fn upstream(error: &UpstreamError) -> End {
        End::reply(error.status(), error.flag(), error.details())
    }
    pub fn client_gone(h2: bool) -> End {
        match h2 {
            true => End::Gone(Flags::DOWNSTREAM_REMOTE_RESET, Detail::DownstreamRemoteReset),
            false => End::Gone(Flags::DOWNSTREAM_CONNECTION_TERMINATION, Detail::DownstreamRemoteDisconnect),
        }
    }
}

/// A request that breaks the protocol.
pub(super) fn bad(b: Bad) -> End {
    End::reply(b.status(), Flags::DOWNSTREAM_PROTOCOL_ERROR, b.into())
}

/// A response that broke off. Before its head has left, the client can be told.
pub(super) fn before_head(end: End) -> End {
    match end {
        End::Gone(flags, details) if flags.has(Flags::UPSTREAM_CONNECTION_TERMINATION | Flags::UPSTREAM_PROTOCOL_ERROR) => {
            End::reply(502, flags, details)
        }
        end => end,
    }
}

/// A response that broke off when its head had left.
pub(super) fn broken(e: Broken, h2: bool) -> End {
    match e {
        Broken::Sink => End::client_gone(h2),
        Broken::Malformed | Broken::Length => End::Gone(Flags::UPSTREAM_PROTOCOL_ERROR, Detail::ResponseProtocolError),
        Broken::Source => End::Gone(Flags::UPSTREAM_CONNECTION_TERMINATION, Detail::ResponseConnectionTermination),
    }
}
