//! What is known of one stream beyond its heads: read by access logs, header operators, plugins and statistics.
use crate::{conn::UpstreamTls, detail::Detail};
use std::{fmt, net::SocketAddr, rc::Rc};
use weir_net::http::Version;

/// Namespace, key and value.
pub type Metadata = (Box<str>, Box<str>, Box<[u8]>);

/// Facts about one request and its response. Times are nanoseconds since the worker's epoch, 0 while they have not come;
/// the pool of streams clears it for reuse, so it owns little.
#[derive(Debug, Default)]
pub struct Info {
    /// Counts up in the process.
    pub stream_id: u64,
    /// Nanoseconds since 1970 when the request's first byte came.
    pub wall_start: u64,
    /// The first byte of the request head.
    pub start: u64,
    /// The last byte of the request.
    pub request_end: u64,
    pub upstream_connect_start: u64,
    pub upstream_connect_end: u64,
    pub upstream_handshake_end: u64,
    /// First and last byte of the request towards the upstream.
    pub upstream_tx_start: u64,
    pub upstream_tx_end: u64,
    /// First and last byte of the upstream's response.
    pub upstream_rx_start: u64,
    pub upstream_rx_end: u64,
    /// First and last byte of the response towards the client.
    pub response_start: u64,
    pub response_end: u64,
    /// When the stream was done with.
    pub end: u64,
    /// What the client was answered; 0 if nothing.
    pub status: u16,
    /// What the upstream answered, from trailers too.
    pub grpc_status: Option<u32>,
    pub flags: Flags,
    /// `%RESPONSE_CODE_DETAILS%`: why the request got its response.
    pub details: Detail,
    /// Body bytes from and to the client.
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// Bytes of heads and trailers from and to the client.
    pub header_bytes_received: u64,
    pub header_bytes_sent: u64,
    /// Bytes on the wire towards and from upstreams, over all attempts.
    pub upstream_bytes_sent: u64,
    pub upstream_bytes_received: u64,
    pub protocol: Version,
    pub upstream_protocol: Option<Version>,
    /// Requests sent upstream, retries included.
    pub attempts: u32,
    /// The endpoint's address as text, kept by the worker.
    pub upstream_host: Option<Rc<str>>,
    pub upstream_cluster: Option<Rc<str>>,
    pub upstream_local_address: Option<SocketAddr>,
    pub upstream_connection_id: u64,
    pub upstream_tls: Option<Rc<UpstreamTls>>,
    pub upstream_failure: Option<Box<str>>,
    /// The client's address by `x-forwarded-for` and its trusted hops, where that is not the connection's peer.
    pub remote_address: Option<SocketAddr>,
    /// Written by plugins; texts by namespace and key.
    pub metadata: Vec<Metadata>,
    /// Written by plugins (`set_property`).
    pub filter_state: Vec<(Box<str>, Box<[u8]>)>,
}

impl Info {
    /// Ready for the next request of a pooled stream.
    pub fn clear(&mut self) {
        let (mut metadata, mut filter_state) = (std::mem::take(&mut self.metadata), std::mem::take(&mut self.filter_state));
        metadata.clear();
        filter_state.clear();
        *self = Info { metadata, filter_state, ..Info::default() };
    }
    pub fn set_flag(&mut self, flag: Flags) {
        self.flags = self.flags | flag;
    }
}

macro_rules! flags {
    ($($name:ident = $short:literal $long:literal $doc:literal,)*) => {
        #[allow(non_camel_case_types)]
        enum Bit { $($name,)* }
        impl Flags {
            $(#[doc = $doc] pub const $name: Flags = Flags(1 << Bit::$name as u32);)*
        }
        /// Envoy's letters, its long name and what it means.
        pub const FLAGS: &[(Flags, &str, &str, &str)] = &[$((Flags::$name, $short, $long, $doc),)*];
    };
}

/// Response flags, in Envoy's letters.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags(pub u32);

flags! {
    NO_HEALTHY_UPSTREAM = "UH" "NoHealthyUpstream" "No healthy endpoint in the cluster.",
    UPSTREAM_CONNECTION_FAILURE = "UF" "UpstreamConnectionFailure" "The upstream could not be connected to.",
    UPSTREAM_OVERFLOW = "UO" "UpstreamOverflow" "A circuit breaker's limit was reached.",
    NO_ROUTE_FOUND = "NR" "NoRouteFound" "No route matched.",
    UPSTREAM_RETRY_LIMIT_EXCEEDED = "URX" "UpstreamRetryLimitExceeded" "The last retry failed too.",
    NO_CLUSTER_FOUND = "NC" "NoClusterFound" "The route's cluster does not exist.",
    DURATION_TIMEOUT = "DT" "DurationTimeout" "The stream or connection reached its greatest duration.",
    DOWNSTREAM_CONNECTION_TERMINATION = "DC" "DownstreamConnectionTermination" "The client closed its connection.",
    FAILED_LOCAL_HEALTH_CHECK = "LH" "FailedLocalHealthCheck" "This proxy is failing its own health check.",
    UPSTREAM_REQUEST_TIMEOUT = "UT" "UpstreamRequestTimeout" "The upstream took too long.",
    LOCAL_RESET = "LR" "LocalReset" "Reset by this proxy.",
    UPSTREAM_REMOTE_RESET = "UR" "UpstreamRemoteReset" "Reset by the upstream.",
    UPSTREAM_CONNECTION_TERMINATION = "UC" "UpstreamConnectionTermination" "The upstream closed its connection.",
    DELAY_INJECTED = "DI" "DelayInjected" "Delayed by fault injection.",
    FAULT_INJECTED = "FI" "FaultInjected" "Aborted by fault injection.",
    RATE_LIMITED = "RL" "RateLimited" "Refused by a rate limit.",
    UNAUTHORIZED_EXTERNAL_SERVICE = "UAEX" "UnauthorizedExternalService" "Refused by an external authorisation service.",
    STREAM_IDLE_TIMEOUT = "SI" "StreamIdleTimeout" "No byte moved for too long.",
    INVALID_ENVOY_REQUEST_HEADERS = "IH" "InvalidEnvoyRequestHeaders" "A header meant for the proxy was malformed.",
    DOWNSTREAM_PROTOCOL_ERROR = "DPE" "DownstreamProtocolError" "The client broke the protocol.",
    UPSTREAM_PROTOCOL_ERROR = "UPE" "UpstreamProtocolError" "The upstream broke the protocol.",
    UPSTREAM_MAX_STREAM_DURATION_REACHED = "UMSDR" "UpstreamMaxStreamDurationReached" "The upstream stream reached its greatest duration.",
    OVERLOAD_MANAGER = "OM" "OverloadManagerTerminated" "Ended because this proxy is overloaded.",
    DNS_RESOLUTION_FAILED = "DF" "DnsResolutionFailed" "The upstream's name could not be resolved.",
    DROP_OVERLOAD = "DO" "DropOverload" "Dropped by the load assignment's drop policy.",
    DOWNSTREAM_REMOTE_RESET = "DR" "DownstreamRemoteReset" "The client reset the stream.",
}

impl Flags {
    /// Those of answers that stand for one of the upstream's.
    pub const OF_UPSTREAM: Flags = Flags(
        Flags::NO_HEALTHY_UPSTREAM.0
            | Flags::UPSTREAM_CONNECTION_FAILURE.0
            | Flags::UPSTREAM_OVERFLOW.0
            | Flags::UPSTREAM_REQUEST_TIMEOUT.0
            | Flags::UPSTREAM_REMOTE_RESET.0
            | Flags::UPSTREAM_CONNECTION_TERMINATION.0
            | Flags::UPSTREAM_PROTOCOL_ERROR.0
            | Flags::DNS_RESOLUTION_FAILED.0,
    );
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// Its flags' short and long names, in Envoy's order.
    pub fn names(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        FLAGS.iter().filter(move |f| self.has(f.0)).map(|f| (f.1, f.2))
    }
}

impl std::ops::BitOr for Flags {
    type Output = Flags;
    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (short, _)) in self.names().enumerate() {
            write!(f, "{}{short}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}
