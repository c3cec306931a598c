//! Why an upstream could not be reached or did not answer: one enum for requests, TCP connections and callouts, and the one place
//! that maps it to Envoy's response flags and details.
use crate::{cluster::Unresolved, detail::Detail, info::Flags};
use std::{fmt, io, net::IpAddr, time::Duration};
use weir_config::model::Name;
use weir_net::{dial::not_allowed, dns::DnsError, http::client::ClientError};

#[derive(Debug)]
pub enum UpstreamError {
    /// The configuration has no such cluster.
    NoCluster(Name),
    /// The cluster has no endpoint that may be used.
    NoHealthyUpstream(Name),
    /// A circuit breaker, or the limit on connections of the process, is reached.
    Overflow,
    /// The name of the host cannot be resolved.
    Dns(DnsError),
    /// Too many names are being looked up.
    DnsOverflow,
    /// The name of the host leads to an address that only the configuration itself may use.
    AddressNotAllowed(IpAddr),
    /// No connection within the cluster's `connect_timeout`.
    ConnectTimeout,
    /// The endpoint refused the connection, or cannot be reached.
    Connect(io::Error),
    /// The TLS handshake failed.
    Tls(io::Error),
    /// The connection ended before the response.
    Reset(String),
    /// The upstream has reset the stream.
    RemoteReset,
    /// What the upstream sent breaks its protocol.
    Protocol(ClientError),
    /// The request cannot be expressed in the upstream's protocol.
    InvalidRequest,
    /// The upstream does not speak HTTP/2, which the call needs.
    NoHttp2,
    /// No whole response in time.
    Timeout(Duration),
}

impl UpstreamError {
    /// Envoy's response flag.
    pub fn flag(&self) -> Flags {
        match self {
            UpstreamError::NoCluster(_) => Flags::NO_CLUSTER_FOUND,
            UpstreamError::NoHealthyUpstream(_) => Flags::NO_HEALTHY_UPSTREAM,
            UpstreamError::Overflow | UpstreamError::DnsOverflow => Flags::UPSTREAM_OVERFLOW,
            UpstreamError::Dns(_) => Flags::DNS_RESOLUTION_FAILED,
            UpstreamError::ConnectTimeout | UpstreamError::Connect(_) | UpstreamError::Tls(_) | UpstreamError::AddressNotAllowed(_) => {
                Flags::UPSTREAM_CONNECTION_FAILURE
            }
            UpstreamError::Reset(_) => Flags::UPSTREAM_CONNECTION_TERMINATION,
            UpstreamError::RemoteReset => Flags::UPSTREAM_REMOTE_RESET,
            UpstreamError::Protocol(_) | UpstreamError::InvalidRequest | UpstreamError::NoHttp2 => Flags::UPSTREAM_PROTOCOL_ERROR,
            UpstreamError::Timeout(_) => Flags::UPSTREAM_REQUEST_TIMEOUT,
        }
    }

    /// Envoy's response code details.
    pub fn details(&self) -> Detail {
        match self {
            UpstreamError::NoCluster(_) => Detail::ClusterNotFound,
            UpstreamError::NoHealthyUpstream(_) => Detail::NoHealthyUpstream,
            UpstreamError::Overflow => Detail::UpstreamOverflow,
            UpstreamError::DnsOverflow => Detail::DynamicForwardProxyOverflow,
            UpstreamError::Dns(_) => Detail::DnsResolutionFailure,
            UpstreamError::AddressNotAllowed(_) => Detail::UpstreamAddressNotAllowed,
            UpstreamError::ConnectTimeout | UpstreamError::Connect(_) | UpstreamError::Tls(_) => Detail::UpstreamConnectionFailure,
            UpstreamError::Reset(_) => Detail::UpstreamConnectionTermination,
            UpstreamError::RemoteReset => Detail::UpstreamRemoteReset,
            UpstreamError::Protocol(_) | UpstreamError::InvalidRequest | UpstreamError::NoHttp2 => Detail::UpstreamProtocolError,
            UpstreamError::Timeout(_) => Detail::ResponseTimeout,
        }
    }

    /// What a client of HTTP is answered.
    pub fn status(&self) -> u16 {
        match self {
            UpstreamError::AddressNotAllowed(_) => 403,
            UpstreamError::Protocol(_) | UpstreamError::InvalidRequest | UpstreamError::NoHttp2 => 502,
            UpstreamError::Timeout(_) => 504,
            _ => 503,
        }
    }

    /// Whether it says something about the endpoint, for outlier detection.
    pub fn is_endpoints(&self) -> bool {
        matches!(
            self,
            UpstreamError::ConnectTimeout
                | UpstreamError::Connect(_)
                | UpstreamError::Tls(_)
                | UpstreamError::Reset(_)
                | UpstreamError::RemoteReset
                | UpstreamError::Protocol(_)
                | UpstreamError::NoHttp2
                | UpstreamError::Timeout(_)
        )
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpstreamError::NoCluster(name) => write!(f, "there is no cluster {name}"),
            UpstreamError::NoHealthyUpstream(name) => write!(f, "no healthy endpoint in the cluster {name}"),
            UpstreamError::Overflow => f.write_str("overflow"),
            UpstreamError::Dns(e) => e.fmt(f),
            UpstreamError::DnsOverflow => f.write_str("too many names are being looked up"),
            UpstreamError::AddressNotAllowed(ip) => not_allowed(f, *ip),
            UpstreamError::ConnectTimeout => f.write_str("connection timeout"),
            UpstreamError::Connect(e) | UpstreamError::Tls(e) => e.fmt(f),
            UpstreamError::Reset(why) => f.write_str(why),
            UpstreamError::RemoteReset => f.write_str("the upstream reset the stream"),
            UpstreamError::Protocol(e) => e.fmt(f),
            UpstreamError::InvalidRequest => f.write_str("the request cannot be sent in the protocol of the upstream"),
            UpstreamError::NoHttp2 => f.write_str("the upstream does not speak HTTP/2"),
            UpstreamError::Timeout(limit) => write!(f, "no answer within {limit:?}"),
        }
    }
}

impl std::error::Error for UpstreamError {}

impl From<Unresolved> for UpstreamError {
    fn from(e: Unresolved) -> UpstreamError {
        match e {
            Unresolved::Dns(e) => UpstreamError::Dns(e),
            Unresolved::NotAllowed(ip) => UpstreamError::AddressNotAllowed(ip),
            Unresolved::Overflow => UpstreamError::DnsOverflow,
        }
    }
}
