//! Envoy's command operators, compiled.
use super::time::TimeFormat;
use weir_config::diagnostic::Diagnostic;
use weir_net::http::Known;

/// A text with command operators in it.
#[derive(Debug, PartialEq)]
pub struct Format {
    pub(super) ops: Box<[Op]>,
}

/// One piece of a format.
#[derive(Debug, PartialEq)]
pub(super) enum Op {
    Text(Box<[u8]>),
    /// A text of at most eight bytes, and how many.
    Short([u8; 8], u8),
    Operator(Operator, Option<usize>),
}

impl Op {
    fn text(text: &[u8]) -> Option<Op> {
        let mut short = [0; 8];
        match text.len() {
            0 => None,
            len @ 1..=8 => {
                short[..len].copy_from_slice(text);
                Some(Op::Short(short, len as u8))
            }
            _ => Some(Op::Text(text.into())),
        }
    }
}

/// A field of a head and the one to take where it is missing.
#[derive(Debug, PartialEq)]
pub(super) struct Asked {
    pub field: FieldName,
    pub alternate: Option<FieldName>,
}

/// Looked up when the format is compiled, not for every record.
#[derive(Debug, PartialEq)]
pub(super) enum FieldName {
    Method,
    Authority,
    Scheme,
    Path,
    Known(Known),
    Other(Box<str>),
}

impl FieldName {
    /// `name` is in lower case and not empty.
    fn of(name: &str) -> FieldName {
        match name {
            ":method" => FieldName::Method,
            ":authority" => FieldName::Authority,
            ":scheme" => FieldName::Scheme,
            ":path" => FieldName::Path,
            _ => match Known::of(name.as_bytes()) {
                Known::Other => FieldName::Other(name.into()),
                known => FieldName::Known(known),
            },
        }
    }
}

macro_rules! operators {
    ($($id:ident = $name:literal: $doc:literal,)*) => {
        /// An operator without arguments.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub(super) enum Plain { $($id,)* }
        const PLAIN: &[(&str, Plain)] = &[$(($name, Plain::$id),)*];
        /// Names and meanings of the operators without arguments, for the documentation.
        pub const PLAIN_DOCS: &[(&str, &str)] = &[$(($name, $doc),)*];
    };
}

operators! {
    Duration = "DURATION": "milliseconds from the request's first byte to the response's last",
    RequestDuration = "REQUEST_DURATION": "milliseconds from the request's first byte to its last",
    RequestTxDuration = "REQUEST_TX_DURATION": "milliseconds from the request's first byte to its last towards the upstream",
    ResponseDuration = "RESPONSE_DURATION": "milliseconds from the request's first byte to the upstream response's first",
    ResponseTxDuration = "RESPONSE_TX_DURATION": "milliseconds from the upstream response's first byte to the last towards the client",
    UpstreamConnectDuration = "UPSTREAM_CONNECTION_POOL_READY_DURATION": "milliseconds from the request's first byte to a connection being ready",
    ResponseCode = "RESPONSE_CODE": "status; 0 if none was sent",
    ResponseCodeDetails = "RESPONSE_CODE_DETAILS": "why this status",
    ConnectionTerminationDetails = "CONNECTION_TERMINATION_DETAILS": "always missing",
    ResponseFlags = "RESPONSE_FLAGS": "Envoy's letters",
    ResponseFlagsLong = "RESPONSE_FLAGS_LONG": "the same in words",
    BytesReceived = "BYTES_RECEIVED": "body bytes from the client",
    BytesSent = "BYTES_SENT": "body bytes to the client",
    HeaderBytesReceived = "DOWNSTREAM_HEADER_BYTES_RECEIVED": "head bytes from the client",
    HeaderBytesSent = "DOWNSTREAM_HEADER_BYTES_SENT": "head bytes to the client",
    UpstreamWireBytesSent = "UPSTREAM_WIRE_BYTES_SENT": "bytes to upstreams",
    UpstreamWireBytesReceived = "UPSTREAM_WIRE_BYTES_RECEIVED": "bytes from upstreams",
    Protocol = "PROTOCOL": "`HTTP/1.1`, `HTTP/2`, …",
    UpstreamProtocol = "UPSTREAM_PROTOCOL": "protocol towards the upstream",
    UpstreamHost = "UPSTREAM_HOST": "address of the endpoint",
    UpstreamRemoteAddress = "UPSTREAM_REMOTE_ADDRESS": "address of the endpoint",
    UpstreamRemoteAddressWithoutPort = "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": "IP address of the endpoint",
    UpstreamRemotePort = "UPSTREAM_REMOTE_PORT": "port of the endpoint",
    UpstreamCluster = "UPSTREAM_CLUSTER": "name of the cluster",
    UpstreamClusterRaw = "UPSTREAM_CLUSTER_RAW": "name of the cluster",
    UpstreamLocalAddress = "UPSTREAM_LOCAL_ADDRESS": "local address towards the upstream",
    UpstreamLocalAddressWithoutPort = "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT": "local IP address towards the upstream",
    UpstreamLocalPort = "UPSTREAM_LOCAL_PORT": "local port towards the upstream",
    UpstreamConnectionId = "UPSTREAM_CONNECTION_ID": "number of the upstream connection",
    UpstreamRequestAttemptCount = "UPSTREAM_REQUEST_ATTEMPT_COUNT": "requests sent upstream, retries included",
    UpstreamTransportFailureReason = "UPSTREAM_TRANSPORT_FAILURE_REASON": "why the upstream could not be connected to",
    DownstreamRemoteAddress = "DOWNSTREAM_REMOTE_ADDRESS": "the client's address, by trusted `x-forwarded-for` where configured",
    DownstreamRemoteAddressWithoutPort = "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": "the client's IP address",
    DownstreamRemotePort = "DOWNSTREAM_REMOTE_PORT": "the client's port",
    DownstreamDirectRemoteAddress = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS": "the connection's peer",
    DownstreamDirectRemoteAddressWithoutPort = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT": "IP address of the connection's peer",
    DownstreamDirectRemotePort = "DOWNSTREAM_DIRECT_REMOTE_PORT": "port of the connection's peer",
    DownstreamLocalAddress = "DOWNSTREAM_LOCAL_ADDRESS": "the address that the client connected to",
    DownstreamLocalAddressWithoutPort = "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT": "the IP address that the client connected to",
    DownstreamLocalPort = "DOWNSTREAM_LOCAL_PORT": "the port that the client connected to",
    RequestedServerName = "REQUESTED_SERVER_NAME": "server name of the ClientHello",
    DownstreamTlsVersion = "DOWNSTREAM_TLS_VERSION": "`TLSv1.2` or `TLSv1.3`",
    DownstreamTlsCipher = "DOWNSTREAM_TLS_CIPHER": "cipher suite",
    DownstreamPeerSubject = "DOWNSTREAM_PEER_SUBJECT": "subject of the client's certificate",
    DownstreamPeerSerial = "DOWNSTREAM_PEER_SERIAL": "serial number of the client's certificate",
    DownstreamPeerUriSan = "DOWNSTREAM_PEER_URI_SAN": "URIs of the client's certificate",
    DownstreamPeerDnsSan = "DOWNSTREAM_PEER_DNS_SAN": "DNS names of the client's certificate",
    DownstreamPeerIpSan = "DOWNSTREAM_PEER_IP_SAN": "IP addresses of the client's certificate",
    RouteName = "ROUTE_NAME": "name of the route",
    VirtualClusterName = "VIRTUAL_CLUSTER_NAME": "always missing",
    Hostname = "HOSTNAME": "name of this machine",
    ConnectionId = "CONNECTION_ID": "number of the client's connection",
    StreamId = "STREAM_ID": "number of the request in this process",
    FilterChainName = "FILTER_CHAIN_NAME": "name of the filter chain",
    Percent = "%": "a percent sign",
}

/// An operator with what it was given.
#[derive(Debug, PartialEq)]
pub(super) enum Operator {
    Plain(Plain),
    Request(Asked),
    Response(Asked),
    Trailer(Asked),
    StartTime(TimeFormat),
    CommonDuration(Point, Point, u64),
    GrpcStatus(GrpcStyle),
    FilterState(Box<str>),
    DynamicMetadata(Box<str>, Box<str>),
    /// `%ENVIRONMENT(X)%`, read when the format was compiled; `None` where it is not set.
    Fixed(Option<Box<str>>),
    QueryParameter(Box<str>),
}

/// A moment of `%COMMON_DURATION%`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Point {
    DownstreamRxBegin,
    DownstreamRxEnd,
    ConnectBegin,
    ConnectEnd,
    HandshakeEnd,
    UpstreamTxBegin,
    UpstreamTxEnd,
    UpstreamRxBegin,
    UpstreamRxEnd,
    DownstreamTxBegin,
    DownstreamTxEnd,
}

const POINTS: &[(&str, Point)] = &[
    ("DS_RX_BEG", Point::DownstreamRxBegin),
    ("DS_RX_END", Point::DownstreamRxEnd),
    ("US_CX_BEG", Point::ConnectBegin),
    ("US_CX_END", Point::ConnectEnd),
    ("US_HS_END", Point::HandshakeEnd),
    ("US_TX_BEG", Point::UpstreamTxBegin),
    ("US_TX_END", Point::UpstreamTxEnd),
    ("US_RX_BEG", Point::UpstreamRxBegin),
    ("US_RX_END", Point::UpstreamRxEnd),
    ("DS_TX_BEG", Point::DownstreamTxBegin),
    ("DS_TX_END", Point::DownstreamTxEnd),
];

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum GrpcStyle {
    Number,
    Camel,
    Snake,
}

/// Operators with arguments, for the documentation.
pub const ARGUMENT_DOCS: &[(&str, &str)] = &[
    ("REQ(X?Y):Z", "request header X, or Y where X is missing, at most Z bytes"),
    ("RESP(X?Y):Z", "response header"),
    ("TRAILER(X?Y):Z", "response trailer"),
    (
        "START_TIME(FORMAT)",
        "when the request came, by strftime; %3f and so on for fractions of a second; ISO 8601 with milliseconds by default",
    ),
    (
        "COMMON_DURATION(START:END:PRECISION)",
        "time between two points: DS_RX_BEG, DS_RX_END, US_CX_BEG, US_CX_END, US_HS_END, US_TX_BEG, US_TX_END, US_RX_BEG, US_RX_END, DS_TX_BEG, DS_TX_END; in ms, us or ns",
    ),
    ("GRPC_STATUS(CAMEL_STRING|SNAKE_STRING|NUMBER)", "the gRPC status; GRPC_STATUS_NUMBER for its number"),
    ("FILTER_STATE(KEY)", "what a plugin wrote under this key"),
    ("DYNAMIC_METADATA(NAMESPACE:KEY)", "what a plugin wrote under this key"),
    ("ENVIRONMENT(X)", "an environment variable of the proxy"),
    ("QUERY_PARAM(X)", "a query parameter"),
];

impl Format {
    /// Compiles a text. The finding says what is wrong and what would be accepted.
    pub fn parse(text: &str) -> Result<Format, Diagnostic> {
        let (mut ops, mut literal, mut rest) = (Vec::new(), Vec::<u8>::new(), text);
        while let Some(at) = rest.find('%') {
            literal.extend_from_slice(&rest.as_bytes()[..at]);
            rest = &rest[at + 1..];
            if let Some(tail) = rest.strip_prefix('%') {
                literal.push(b'%');
                rest = tail;
                continue;
            }
            let (operator, max, tail) = operator(rest)?;
            ops.extend(Op::text(&std::mem::take(&mut literal)));
            ops.push(Op::Operator(operator, max));
            rest = tail;
        }
        literal.extend_from_slice(rest.as_bytes());
        ops.extend(Op::text(&literal));
        Ok(Format { ops: ops.into() })
    }

    /// Whether it holds something of the response's trailers.
    pub(super) fn reads_trailers(&self) -> bool {
        self.ops.iter().any(|op| matches!(op, Op::Operator(Operator::Trailer(_) | Operator::GrpcStatus(_), _)))
    }

    /// The text, where it holds no operator.
    pub fn literal(&self) -> Option<&[u8]> {
        match &*self.ops {
            [] => Some(b""),
            [Op::Text(t)] => Some(t),
            [Op::Short(t, len)] => Some(&t[..usize::from(*len)]),
            _ => None,
        }
    }
}

fn invalid(message: String) -> Diagnostic {
    Diagnostic::error("InvalidFormat", message)
}

fn unknown(name: &str) -> Diagnostic {
    let plain = PLAIN_DOCS.iter().map(|d| d.0);
    let accepted: Vec<_> = plain.chain(ARGUMENT_DOCS.iter().map(|d| d.0)).collect();
    invalid(format!("unknown command operator `%{name}%`")).help(format!("accepted are {}; `%%` is a percent sign", accepted.join(", ")))
}

/// Reads one operator, whose `%` has been read, with its closing `%`.
fn operator(text: &str) -> Result<(Operator, Option<usize>, &str), Diagnostic> {
    let end = text.find(|c: char| !c.is_ascii_uppercase() && c != '_' && !c.is_ascii_digit()).unwrap_or(text.len());
    let (name, mut rest) = text.split_at(end);
    let mut argument = None;
    if let Some(inner) = rest.strip_prefix('(') {
        let end = inner.find(')').ok_or_else(|| invalid(format!("`%{name}(` has no closing parenthesis")))?;
        argument = Some(&inner[..end]);
        rest = &inner[end + 1..];
    }
    let mut max = None;
    if let Some(number) = rest.strip_prefix(':') {
        let end = number.find('%').unwrap_or(number.len());
        max =
            Some(number[..end].parse().map_err(|_| invalid(format!("the length after `%{name}` is not a number: `{}`", &number[..end])))?);
        rest = &number[end..];
    }
    let Some(tail) = rest.strip_prefix('%') else {
        return Err(invalid(format!("`%{name}` has no closing percent sign")).help("write `%%` for a percent sign"));
    };
    Ok((meaning(name, argument)?, max, tail))
}

fn meaning(name: &str, argument: Option<&str>) -> Result<Operator, Diagnostic> {
    let needs = |what: &str| argument.filter(|a| !a.is_empty()).ok_or_else(|| invalid(format!("`%{name}%` needs {what} in parentheses")));
    let field = || {
        let text = needs("a header name")?.to_ascii_lowercase();
        let (first, alternate) = text.split_once('?').map_or((&*text, None), |(n, a)| (n, Some(a)));
        if first.is_empty() || alternate == Some("") {
            return Err(invalid(format!("`%{name}({text})%` lacks a header name beside the question mark")));
        }
        Ok(Asked { field: FieldName::of(first), alternate: alternate.map(FieldName::of) })
    };
    Ok(match name {
        "REQ" | "REQUEST_HEADER" => Operator::Request(field()?),
        "RESP" | "RESPONSE_HEADER" if argument.is_some_and(|a| a.eq_ignore_ascii_case(":status")) => Operator::Plain(Plain::ResponseCode),
        "RESP" | "RESPONSE_HEADER" => Operator::Response(field()?),
        "TRAILER" | "RESPONSE_TRAILER" => Operator::Trailer(field()?),
        "START_TIME" => Operator::StartTime(TimeFormat::parse(argument.unwrap_or_default())?),
        "GRPC_STATUS_NUMBER" => Operator::GrpcStatus(GrpcStyle::Number),
        "GRPC_STATUS" => Operator::GrpcStatus(match argument.unwrap_or_default() {
            "" | "CAMEL_STRING" => GrpcStyle::Camel,
            "SNAKE_STRING" => GrpcStyle::Snake,
            "NUMBER" => GrpcStyle::Number,
            other => {
                return Err(invalid(format!("`%GRPC_STATUS({other})%` is unknown")).help("accepted are CAMEL_STRING, SNAKE_STRING, NUMBER"));
            }
        }),
        "FILTER_STATE" => Operator::FilterState(needs("a key")?.split(':').next().unwrap_or_default().into()),
        "DYNAMIC_METADATA" => {
            let (namespace, key) =
                needs("`NAMESPACE:KEY`")?.split_once(':').ok_or_else(|| invalid("`%DYNAMIC_METADATA%` needs `NAMESPACE:KEY`".into()))?;
            Operator::DynamicMetadata(namespace.into(), key.into())
        }
        "ENVIRONMENT" => Operator::Fixed(std::env::var(needs("a variable's name")?).ok().map(Box::from)),
        "QUERY_PARAM" => Operator::QueryParameter(needs("a parameter's name")?.into()),
        "COMMON_DURATION" => duration(needs("`START:END:PRECISION`")?)?,
        _ => match PLAIN.iter().find(|p| p.0 == name) {
            Some(_) if argument.is_some() => return Err(invalid(format!("`%{name}%` takes no argument"))),
            Some((_, plain)) => Operator::Plain(*plain),
            None => return Err(unknown(name)),
        },
    })
}

fn duration(argument: &str) -> Result<Operator, Diagnostic> {
    let point = |name: &str| POINTS.iter().find(|p| p.0 == name).map(|p| p.1);
    let parts: Vec<_> = argument.split(':').collect();
    let unit = |name: &str| [("ms", 1_000_000), ("us", 1_000), ("ns", 1)].iter().find(|u| u.0 == name).map(|u| u.1);
    if let [start, end, precision] = parts[..]
        && let (Some(start), Some(end), Some(unit)) = (point(start), point(end), unit(precision))
    {
        return Ok(Operator::CommonDuration(start, end, unit));
    }
    let names: Vec<_> = POINTS.iter().map(|p| p.0).collect();
    let help = format!("accepted is START:END:PRECISION with the points {} and the precisions ms, us, ns", names.join(", "));
    Err(invalid(format!("`%COMMON_DURATION({argument})%` is not understood")).help(help))
}
