//! Writes a record by a compiled format, straight into its block.
use super::{
    decimal,
    format::{Asked, FieldName, Format, GrpcStyle, Op, Operator, Plain, Point},
};
use crate::{
    conn::{ConnInfo, PeerCertificate},
    head_access::{Fields, RequestView, query_parameter},
    info::Info,
};
use std::{
    io::Write,
    net::{IpAddr, SocketAddr},
    sync::OnceLock,
};

/// What operators read: a stream, at its end or on its way.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// `None` for a connection without requests (TCP proxy).
    pub request: Option<&'a dyn RequestView>,
    pub response: Option<&'a dyn Fields>,
    pub trailers: Option<&'a dyn Fields>,
    pub info: &'a Info,
    pub conn: &'a ConnInfo,
    /// Empty without a route.
    pub route_name: &'a str,
}

/// What an operator wrote.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Wrote {
    Text,
    Number,
    Missing,
}

impl Format {
    /// Appends the text; `missing` stands for a value that is not there.
    pub fn write(&self, record: &Record<'_>, missing: &[u8], out: &mut Vec<u8>) {
        for op in &self.ops {
            match op {
                Op::Text(text) => out.extend_from_slice(text),
                // One store of a fixed size: a call to copy a blank and a quotation mark costs more than all else here.
                Op::Short(text, len) => {
                    let end = out.len() + usize::from(*len);
                    out.extend_from_slice(text);
                    out.truncate(end);
                }
                Op::Operator(operator, max) => {
                    if operator.write(record, *max, out) == Wrote::Missing {
                        // Mostly a dash: cheaper than a copy.
                        match missing {
                            [one] => out.push(*one),
                            _ => out.extend_from_slice(missing),
                        }
                    }
                }
            }
        }
    }

    /// Appends a JSON value: of its own type for a single operator, `null` where that is missing, else a string.
    pub(super) fn write_json(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        if let [Op::Operator(operator, max)] = &*self.ops {
            match operator.write(record, *max, out) {
                Wrote::Missing => out.extend_from_slice(b"null"),
                Wrote::Number => {}
                Wrote::Text => quote(out, start),
            }
            return;
        }
        self.write(record, b"-", out);
        quote(out, start);
    }
}

/// Makes a JSON string of what stands behind `start`.
pub(super) fn quote(out: &mut Vec<u8>, start: usize) {
    // Without an early exit the compiler checks many bytes at once.
    let odd = out[start..].iter().fold(false, |odd, c| odd | !(b' '..=b'~').contains(c) | (*c == b'"') | (*c == b'\\'));
    if !odd {
        out.insert(start, b'"');
        return out.push(b'"');
    }
    let raw = out.split_off(start);
    let text = String::from_utf8_lossy(&raw);
    let _ = serde_json::to_writer(out, &*text);
}

fn text(out: &mut Vec<u8>, value: Option<&[u8]>) -> Wrote {
    let Some(value) = value else { return Wrote::Missing };
    out.extend_from_slice(value);
    Wrote::Text
}

fn some_text(out: &mut Vec<u8>, value: &str) -> Wrote {
    text(out, (!value.is_empty()).then_some(value.as_bytes()))
}

fn number(out: &mut Vec<u8>, value: Option<u64>) -> Wrote {
    let Some(value) = value else { return Wrote::Missing };
    decimal(out, value);
    Wrote::Number
}

/// Between two moments of which neither may be missing.
fn between(out: &mut Vec<u8>, start: u64, end: u64, unit: u64) -> Wrote {
    number(out, (start != 0 && end != 0).then(|| end.saturating_sub(start) / unit))
}

fn write_address(out: &mut Vec<u8>, address: SocketAddr) -> Wrote {
    match address {
        SocketAddr::V4(a) => {
            write_ip(out, IpAddr::V4(*a.ip()));
            out.push(b':');
            decimal(out, a.port().into());
        }
        SocketAddr::V6(_) => {
            let _ = write!(out, "{address}");
        }
    }
    Wrote::Text
}

fn write_ip(out: &mut Vec<u8>, ip: IpAddr) -> Wrote {
    match ip {
        IpAddr::V4(a) => {
            for (i, byte) in a.octets().into_iter().enumerate() {
                if i > 0 {
                    out.push(b'.');
                }
                decimal(out, byte.into());
            }
        }
        IpAddr::V6(a) => {
            let _ = write!(out, "{a}");
        }
    }
    Wrote::Text
}

/// An address, its IP address or its port.
#[derive(Clone, Copy)]
enum Part {
    Whole,
    Ip,
    Port,
}

fn part(out: &mut Vec<u8>, address: Option<SocketAddr>, part: Part) -> Wrote {
    let Some(address) = address else { return Wrote::Missing };
    match part {
        Part::Whole => write_address(out, address),
        Part::Ip => write_ip(out, address.ip()),
        Part::Port => number(out, Some(address.port().into())),
    }
}

fn joined<T: ToString>(out: &mut Vec<u8>, items: &[T]) -> Wrote {
    let all: Vec<_> = items.iter().map(T::to_string).collect();
    some_text(out, &all.join(","))
}

fn hostname() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| std::fs::read_to_string("/proc/sys/kernel/hostname").map_or(String::new(), |s| s.trim().to_string()))
}

/// A header, or a pseudo-header that stands in the request line.
fn field(fields: Option<&dyn Fields>, request: Option<&dyn RequestView>, name: &FieldName, out: &mut Vec<u8>) -> bool {
    let value = match (name, request) {
        (FieldName::Known(id), _) => fields.and_then(|f| f.known(*id)),
        (FieldName::Other(name), _) => fields.and_then(|f| f.first(name)),
        (FieldName::Method, Some(r)) => Some(r.method()).filter(|m| !m.is_empty()),
        (FieldName::Authority, Some(r)) => Some(r.authority()).filter(|a| !a.is_empty()),
        (FieldName::Scheme, Some(r)) => Some(r.scheme()),
        (FieldName::Path, Some(r)) => {
            out.extend_from_slice(r.path());
            if let Some(query) = r.query() {
                out.push(b'?');
                out.extend_from_slice(query);
            }
            return true;
        }
        (_, None) => None,
    };
    let Some(value) = value else { return false };
    out.extend_from_slice(value);
    true
}

fn either(fields: Option<&dyn Fields>, request: Option<&dyn RequestView>, of: &Asked, out: &mut Vec<u8>) -> Wrote {
    let found = field(fields, request, &of.field, out) || of.alternate.as_ref().is_some_and(|a| field(fields, request, a, out));
    if found { Wrote::Text } else { Wrote::Missing }
}

impl Operator {
    /// Appends the value, cut after `max` bytes; nothing if it is missing.
    fn write(&self, r: &Record<'_>, max: Option<usize>, out: &mut Vec<u8>) -> Wrote {
        let (start, info) = (out.len(), r.info);
        let wrote = match self {
            Operator::Plain(plain) => plain.write(r, out),
            Operator::Request(of) => {
                let fields = r.request.map(|request| request as &dyn Fields);
                either(fields, r.request, of, out)
            }
            Operator::Response(of) => either(r.response, None, of, out),
            Operator::Trailer(of) => either(r.trailers, None, of, out),
            Operator::StartTime(format) => {
                format.write(info.wall_start, out);
                Wrote::Text
            }
            Operator::CommonDuration(from, to, unit) => between(out, from.of(info), to.of(info), *unit),
            Operator::GrpcStatus(style) => match (info.grpc_status, style) {
                (None, _) => Wrote::Missing,
                (Some(n), GrpcStyle::Number) => number(out, Some(n.into())),
                (Some(n), style) => match GRPC.get(n as usize) {
                    Some((camel, snake)) => some_text(out, if *style == GrpcStyle::Camel { camel } else { snake }),
                    None => number(out, Some(n.into())),
                },
            },
            Operator::FilterState(key) => text(out, info.filter_state.iter().find(|f| f.0 == *key).map(|f| &*f.1)),
            Operator::DynamicMetadata(namespace, key) => {
                text(out, info.metadata.iter().find(|m| m.0 == *namespace && m.1 == *key).map(|m| &*m.2))
            }
            Operator::Fixed(value) => text(out, value.as_ref().map(|v| v.as_bytes())),
            Operator::QueryParameter(name) => {
                text(out, r.request.and_then(|request| request.query()).and_then(|q| query_parameter(q, name.as_bytes())))
            }
        };
        if let Some(max) = max {
            out.truncate(start + max);
        }
        wrote
    }
}

impl Plain {
    fn write(self, r: &Record<'_>, out: &mut Vec<u8>) -> Wrote {
        const MS: u64 = 1_000_000;
        let (info, conn) = (r.info, r.conn);
        let tls = conn.tls.as_ref();
        let peer = || tls.and_then(|t| t.peer_certificate.as_deref());
        let details = |get: fn(&PeerCertificate) -> &str| peer().map(get).filter(|t| !t.is_empty()).map(str::as_bytes);
        let upstream = || info.upstream_host.as_ref().and_then(|h| h.parse::<SocketAddr>().ok());
        let remote = || Some(info.remote_address.unwrap_or(conn.peer));
        match self {
            Plain::Duration => between(out, info.start, if info.end != 0 { info.end } else { info.response_end }, MS),
            Plain::RequestDuration => between(out, info.start, info.request_end, MS),
            Plain::RequestTxDuration => between(out, info.start, info.upstream_tx_end, MS),
            Plain::ResponseDuration => between(out, info.start, info.upstream_rx_start, MS),
            Plain::ResponseTxDuration => between(out, info.upstream_rx_start, info.response_end, MS),
            Plain::UpstreamConnectDuration => between(out, info.start, info.upstream_tx_start, MS),
            Plain::ResponseCode => number(out, Some(info.status.into())),
            Plain::ResponseCodeDetails => some_text(out, info.details.as_str()),
            Plain::ConnectionTerminationDetails | Plain::VirtualClusterName => Wrote::Missing,
            Plain::ResponseFlags | Plain::ResponseFlagsLong => {
                for (i, (short, long)) in info.flags.names().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(if self == Plain::ResponseFlags { short } else { long }.as_bytes());
                }
                if info.flags.is_empty() { Wrote::Missing } else { Wrote::Text }
            }
            Plain::BytesReceived => number(out, Some(info.bytes_received)),
            Plain::BytesSent => number(out, Some(info.bytes_sent)),
            Plain::HeaderBytesReceived => number(out, Some(info.header_bytes_received)),
            Plain::HeaderBytesSent => number(out, Some(info.header_bytes_sent)),
            Plain::UpstreamWireBytesSent => number(out, Some(info.upstream_bytes_sent)),
            Plain::UpstreamWireBytesReceived => number(out, Some(info.upstream_bytes_received)),
            Plain::Protocol => some_text(out, r.request.map_or("", |_| info.protocol.text())),
            Plain::UpstreamProtocol => some_text(out, info.upstream_protocol.map_or("", |p| p.text())),
            Plain::UpstreamHost | Plain::UpstreamRemoteAddress => some_text(out, info.upstream_host.as_deref().unwrap_or_default()),
            Plain::UpstreamRemoteAddressWithoutPort => part(out, upstream(), Part::Ip),
            Plain::UpstreamRemotePort => part(out, upstream(), Part::Port),
            Plain::UpstreamCluster | Plain::UpstreamClusterRaw => some_text(out, info.upstream_cluster.as_deref().unwrap_or_default()),
            Plain::UpstreamLocalAddress => part(out, info.upstream_local_address, Part::Whole),
            Plain::UpstreamLocalAddressWithoutPort => part(out, info.upstream_local_address, Part::Ip),
            Plain::UpstreamLocalPort => part(out, info.upstream_local_address, Part::Port),
            Plain::UpstreamConnectionId => number(out, (info.upstream_connection_id != 0).then_some(info.upstream_connection_id)),
            Plain::UpstreamRequestAttemptCount => number(out, Some(info.attempts.into())),
            Plain::UpstreamTransportFailureReason => some_text(out, info.upstream_failure.as_deref().unwrap_or_default()),
            Plain::DownstreamRemoteAddress => part(out, remote(), Part::Whole),
            Plain::DownstreamRemoteAddressWithoutPort => part(out, remote(), Part::Ip),
            Plain::DownstreamRemotePort => part(out, remote(), Part::Port),
            Plain::DownstreamDirectRemoteAddress => part(out, Some(conn.direct_peer), Part::Whole),
            Plain::DownstreamDirectRemoteAddressWithoutPort => part(out, Some(conn.direct_peer), Part::Ip),
            Plain::DownstreamDirectRemotePort => part(out, Some(conn.direct_peer), Part::Port),
            Plain::DownstreamLocalAddress => part(out, Some(conn.local), Part::Whole),
            Plain::DownstreamLocalAddressWithoutPort => part(out, Some(conn.local), Part::Ip),
            Plain::DownstreamLocalPort => part(out, Some(conn.local), Part::Port),
            Plain::RequestedServerName => some_text(out, conn.requested_server_name.as_deref().unwrap_or_default()),
            Plain::DownstreamTlsVersion => some_text(out, tls.map_or("", |t| t.version)),
            Plain::DownstreamTlsCipher => some_text(out, tls.map_or("", |t| t.cipher)),
            Plain::DownstreamPeerSubject => text(out, details(|p| &p.details.subject)),
            Plain::DownstreamPeerSerial => text(out, details(|p| &p.details.serial)),
            Plain::DownstreamPeerUriSan => peer().map_or(Wrote::Missing, |p| joined(out, &p.details.uris)),
            Plain::DownstreamPeerDnsSan => peer().map_or(Wrote::Missing, |p| joined(out, &p.details.dns_names)),
            Plain::DownstreamPeerIpSan => peer().map_or(Wrote::Missing, |p| joined(out, &p.details.addresses)),
            Plain::RouteName => some_text(out, r.route_name),
            Plain::Hostname => some_text(out, hostname()),
            Plain::ConnectionId => number(out, Some(conn.id)),
            Plain::StreamId => number(out, Some(info.stream_id)),
            Plain::FilterChainName => some_text(out, &conn.chain),
            Plain::Percent => text(out, Some(b"%")),
        }
    }
}

impl Point {
    fn of(self, info: &Info) -> u64 {
        match self {
            Point::DownstreamRxBegin => info.start,
            Point::DownstreamRxEnd => info.request_end,
            Point::ConnectBegin => info.upstream_connect_start,
            Point::ConnectEnd => info.upstream_connect_end,
            Point::HandshakeEnd => info.upstream_handshake_end,
            Point::UpstreamTxBegin => info.upstream_tx_start,
            Point::UpstreamTxEnd => info.upstream_tx_end,
            Point::UpstreamRxBegin => info.upstream_rx_start,
            Point::UpstreamRxEnd => info.upstream_rx_end,
            Point::DownstreamTxBegin => info.response_start,
            Point::DownstreamTxEnd => info.response_end,
        }
    }
}

/// gRPC's statuses in camel and in snake case.
const GRPC: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];
