//! What guests read by property path, in Envoy's encoding: texts as they are, whole numbers,
//! times and durations as eight bytes, truth as one, maps as pairs.
mod node;

pub use node::set_labels;

use crate::{
    conn::{ConnInfo, PeerCertificate},
    head_access::canonical_authority,
    info::Info,
    stream::Stream,
};
use std::{cell::RefCell, net::SocketAddr};
use weir_config::model::Name;
use weir_net::http::Headers;
use weir_wasm::{PropertyPath, compatibility::Row, names, pairs};

/// Envoy's `TrafficDirection.OUTBOUND`: a gateway looks outwards.
const OUTBOUND: i64 = 2;

names! {
    /// The first segment of a path. Others are what plugins have set.
    enum First {
        Request = b"request", "Envoy", "A group; `NotFound` on its own.", "plugin_stream::properties_are_those_of_envoy";
        Response = b"response", "Envoy", "A group; `NotFound` on its own.", "plugin_stream::properties_are_those_of_envoy";
        Source = b"source", "Envoy", "A group; `NotFound` on its own.", "plugin_stream::properties_are_those_of_envoy";
        Destination = b"destination", "Envoy", "A group; `NotFound` on its own.", "plugin_stream::properties_are_those_of_envoy";
        Connection = b"connection", "Envoy", "A group; `NotFound` on its own.", "plugin_stream::properties_are_those_of_envoy";
        Upstream = b"upstream", "Envoy", "A group; `NotFound` on its own.", "plugin_stream::properties_are_those_of_envoy";
        Xds = b"xds", "Envoy", "A group; `NotFound` on its own.", "plugin_stream::properties_are_those_of_envoy";
        Node = b"node", "Envoy", "The node as a serialized `Node` message; also a group.", "plugin_stream::properties_are_those_of_envoy";
        ConnectionId = b"connection_id", "Envoy", "As `connection.id`.", "plugin_stream::properties_are_those_of_envoy";
        RouteName = b"route_name", "Envoy", "The route: `NAMESPACE/NAME/RULE` of an HTTPRoute, the names of Higress for an Ingress. Rules of Higress match it.", "plugin_rules::rules_of_higress_are_matched_by_its_sdk";
        ClusterName = b"cluster_name", "Envoy", "The cluster, `outbound|PORT|SUBSET|HOST`.", "plugin_rules::rules_of_higress_are_matched_by_its_sdk";
        ListenerDirection = b"listener_direction", "Envoy", "Always 2 (OUTBOUND).", "plugin_stream::properties_are_those_of_envoy";
        FilterState = b"filter_state", "Envoy", "Filter state by its full name, as `filter_state.wasm.user`.", "plugin_shared::one_plugin_reads_what_another_has_set";
    }
}

names! {
    /// `xds.…`
    enum Xds {
        Node = b"node", "Envoy", "As `node`.", "plugin_stream::properties_are_those_of_envoy";
        FilterChainName = b"filter_chain_name", "Envoy", "The filter chain of the connection.", "plugin_stream::properties_are_those_of_envoy";
        RouteName = b"route_name", "Envoy", "As `route_name`.", "plugin_stream::properties_are_those_of_envoy";
        VirtualHostName = b"virtual_host_name", "Envoy", "The virtual host.", "plugin_stream::properties_are_those_of_envoy";
        ClusterName = b"cluster_name", "Envoy", "As `cluster_name`.", "plugin_stream::properties_are_those_of_envoy";
        ListenerDirection = b"listener_direction", "Envoy", "As `listener_direction`.", "plugin_stream::properties_are_those_of_envoy";
    }
}

names! {
    /// `request.…`
    enum Request {
        Path = b"path", "Envoy", "The path with the query.", "plugin_stream::properties_are_those_of_envoy";
        UrlPath = b"url_path", "Envoy", "The path without the query.", "plugin_stream::properties_are_those_of_envoy";
        Query = b"query", "Envoy", "The query.", "plugin_stream::properties_are_those_of_envoy";
        Host = b"host", "Envoy", "The host in lower case, without a trailing dot.", "plugin_stream::properties_are_those_of_envoy";
        Scheme = b"scheme", "Envoy", "`http` or `https`.", "plugin_stream::properties_are_those_of_envoy";
        Method = b"method", "Envoy", "The method.", "plugin_stream::properties_are_those_of_envoy";
        Protocol = b"protocol", "Envoy", "`HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.", "plugin_stream::properties_are_those_of_envoy";
        Headers = b"headers", "Envoy", "All headers as pairs; `headers.NAME` is one of them.", "plugin_stream::properties_are_those_of_envoy";
        Referer = b"referer", "Envoy", "The header `referer`.", "plugin_stream::properties_are_those_of_envoy";
        UserAgent = b"useragent", "Envoy", "The header `user-agent`.", "plugin_stream::properties_are_those_of_envoy";
        Id = b"id", "Envoy", "The header `x-request-id`.", "plugin_stream::properties_are_those_of_envoy";
        Time = b"time", "Envoy", "When the request began, in ns of Unix time.", "plugin_stream::properties_are_those_of_envoy";
        Duration = b"duration", "Envoy", "How long the stream took in ns; from `proxy_on_log` on.", "plugin_host_calls::properties_at_the_end_of_a_stream";
        Size = b"size", "Envoy", "Bytes of the body: `content-length`, else those received so far.", "plugin_stream::properties_are_those_of_envoy";
        TotalSize = b"total_size", "Envoy", "The same with the bytes of the headers.", "plugin_stream::properties_are_those_of_envoy";
    }
}

names! {
    /// `response.…`
    enum Response {
        Code = b"code", "Envoy", "The status.", "plugin_stream::properties_are_those_of_envoy";
        CodeDetails = b"code_details", "Envoy", "Why the response has its status; `via_upstream` for one of the upstream.", "plugin_replies::plugins_tell_an_upstreams_response_from_the_gateways_own";
        Flags = b"flags", "Envoy", "The response flags as a number.", "plugin_stream::properties_are_those_of_envoy";
        GrpcStatus = b"grpc_status", "Envoy", "`grpc-status` of headers or trailers.", "plugin_host_calls::properties_at_the_end_of_a_stream";
        Headers = b"headers", "Envoy", "All headers as pairs; `headers.NAME` is one of them.", "plugin_stream::properties_are_those_of_envoy";
        Trailers = b"trailers", "Envoy", "All trailers as pairs; `trailers.NAME` is one of them.", "plugin_host_calls::properties_at_the_end_of_a_stream";
        Size = b"size", "Envoy", "Bytes of the body sent so far.", "plugin_host_calls::properties_at_the_end_of_a_stream";
        TotalSize = b"total_size", "Envoy", "The same with the bytes of the headers.", "plugin_host_calls::properties_at_the_end_of_a_stream";
    }
}

names! {
    /// `source.…` and `destination.…`
    enum Address {
        Address = b"address", "Envoy", "IP and port as text.", "plugin_stream::properties_are_those_of_envoy";
        Port = b"port", "Envoy", "The port.", "plugin_stream::properties_are_those_of_envoy";
    }
}

names! {
    /// `connection.…`
    enum Connection {
        Id = b"id", "Envoy", "The number of the connection.", "plugin_stream::properties_are_those_of_envoy";
        Mtls = b"mtls", "Envoy", "Whether the client showed a certificate that Weir trusts.", "plugin_host_calls::the_clients_certificate_is_seen_in_properties";
        ServerName = b"requested_server_name", "Envoy", "The SNI of the client.", "plugin_stream::tls_is_seen_in_properties";
        TlsVersion = b"tls_version", "Envoy", "`TLSv1.2` or `TLSv1.3`.", "plugin_stream::tls_is_seen_in_properties";
        Subject = b"subject_peer_certificate", "Envoy", "Subject of the certificate of the client.", "plugin_host_calls::the_clients_certificate_is_seen_in_properties";
        DnsSan = b"dns_san_peer_certificate", "Envoy", "Its first DNS name.", "plugin_host_calls::the_clients_certificate_is_seen_in_properties";
        UriSan = b"uri_san_peer_certificate", "Envoy", "Its first URI.", "plugin_host_calls::the_clients_certificate_is_seen_in_properties";
        Digest = b"sha256_peer_certificate_digest", "Envoy", "Its SHA-256 in hexadecimal.", "plugin_host_calls::the_clients_certificate_is_seen_in_properties";
    }
}

names! {
    /// `upstream.…`
    enum Upstream {
        Address = b"address", "Envoy", "IP and port of the endpoint as text.", "plugin_stream::properties_are_those_of_envoy";
        Port = b"port", "Envoy", "The port of the endpoint.", "plugin_stream::properties_are_those_of_envoy";
        LocalAddress = b"local_address", "Envoy", "The local IP and port of the connection.", "plugin_stream::properties_are_those_of_envoy";
        TlsVersion = b"tls_version", "Envoy", "`TLSv1.2` or `TLSv1.3`.", "plugin_stream::the_upstreams_certificate_is_seen_in_properties";
        Subject = b"subject_peer_certificate", "Envoy", "Subject of the certificate of the endpoint.", "plugin_stream::the_upstreams_certificate_is_seen_in_properties";
        DnsSan = b"dns_san_peer_certificate", "Envoy", "Its first DNS name.", "plugin_stream::the_upstreams_certificate_is_seen_in_properties";
        UriSan = b"uri_san_peer_certificate", "Envoy", "Its first URI.", "plugin_stream::the_upstreams_certificate_is_seen_in_properties";
        Digest = b"sha256_peer_certificate_digest", "Envoy", "Its SHA-256 in hexadecimal.", "plugin_stream::the_upstreams_certificate_is_seen_in_properties";
        Failure = b"transport_failure_reason", "Envoy", "Why the connection or its TLS failed.", "plugin_host_calls::properties_at_the_end_of_a_stream";
    }
}

/// The names by what stands before them.
pub const GROUPS: &[(&str, &[Row])] = &[
    ("", First::ROWS),
    ("request.", Request::ROWS),
    ("response.", Response::ROWS),
    ("source.", Address::ROWS),
    ("destination.", Address::ROWS),
    ("connection.", Connection::ROWS),
    ("upstream.", Upstream::ROWS),
    ("xds.", Xds::ROWS),
    ("node.", node::ROWS),
];

/// Properties of Envoy that are not there.
pub const ABSENT: &[Row] = &[
    absent("metadata", "Weir has no dynamic metadata for plugins."),
    absent("listener_metadata", METADATA),
    absent("cluster_metadata", METADATA),
    absent("route_metadata", METADATA),
    absent("upstream_host_metadata", METADATA),
    absent("xds.listener_metadata", METADATA),
    absent("xds.cluster_metadata", METADATA),
    absent("xds.route_metadata", METADATA),
    absent("xds.virtual_host_metadata", METADATA),
    absent("xds.upstream_host_metadata", METADATA),
    absent("upstream_filter_state", "Plugins share one filter state, `filter_state`."),
    absent("connection.subject_local_certificate", LOCAL),
    absent("connection.dns_san_local_certificate", LOCAL),
    absent("connection.uri_san_local_certificate", LOCAL),
    absent("upstream.subject_local_certificate", LOCAL),
    absent("upstream.dns_san_local_certificate", LOCAL),
    absent("upstream.uri_san_local_certificate", LOCAL),
    absent("connection.termination_details", "Connections that network filters end have no HTTP streams."),
];

const METADATA: &str = "Objects of Kubernetes have no Envoy metadata.";
const LOCAL: &str = "The gateway's own certificate is not shown to plugins.";

const fn absent(name: &'static str, does: &'static str) -> Row {
    Row { name, abi: "Envoy", does, test: "plugin_host_calls::properties_that_are_absent" }
}

/// Appends the value to `out`; false when there is none (now).
pub fn get(stream: &Stream, path: PropertyPath<'_>, out: &mut Vec<u8>) -> bool {
    let (first, rest) = path.split_first();
    let (second, after) = rest.split_first();
    let info = stream.info.borrow();
    let conn = stream.conn.borrow();
    let found = match First::of(first) {
        Some(First::Request) => request(stream, &info, second, after, out),
        Some(First::Response) => response(stream, &info, second, after, out),
        Some(First::Source) => conn.as_ref().and_then(|c| address(info.remote_address.unwrap_or(c.peer), second, out)),
        Some(First::Destination) => conn.as_ref().and_then(|c| address(c.local, second, out)),
        Some(First::Connection) => conn.as_ref().and_then(|c| connection(c, second, out)),
        Some(First::ConnectionId) => conn.as_ref().map(|c| number(c.id.cast_signed(), out)),
        Some(First::Upstream) => upstream(&info, second, out),
        Some(First::RouteName) => of_route(stream, &stream.route_name, out),
        Some(First::ClusterName) => cluster_name(stream, out),
        Some(First::ListenerDirection) => Some(number(OUTBOUND, out)),
        Some(First::Node) => node::get(rest, out).then_some(true),
        Some(First::Xds) => match Xds::of(second) {
            Some(Xds::Node) => node::get(after, out).then_some(true),
            Some(Xds::FilterChainName) => conn.as_ref().map(|c| text(&c.chain, out)),
            Some(Xds::RouteName) => of_route(stream, &stream.route_name, out),
            Some(Xds::VirtualHostName) => of_route(stream, &stream.virtual_host, out),
            Some(Xds::ClusterName) => cluster_name(stream, out),
            Some(Xds::ListenerDirection) => Some(number(OUTBOUND, out)),
            None => None,
        },
        Some(First::FilterState) => state(&info, "", rest, out),
        // What a plugin has set under this name.
        None => state(&info, "wasm.", path, out),
    };
    found == Some(true)
}

/// What is known without a stream: `node` and `xds.node`.
pub fn without_stream(path: PropertyPath<'_>, out: &mut Vec<u8>) -> bool {
    let (first, rest) = path.split_first();
    match (first, rest.split_first()) {
        (b"node", _) => node::get(rest, out),
        (b"xds", (b"node", rest)) => node::get(rest, out),
        _ => false,
    }
}

fn text(value: impl AsRef<str>, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(value.as_ref().as_bytes());
    true
}
fn bytes(value: &[u8], out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(value);
    true
}
fn number(value: i64, out: &mut Vec<u8>) -> bool {
    bytes(&value.to_le_bytes(), out)
}
fn whole(value: u64, out: &mut Vec<u8>) -> bool {
    number(i64::try_from(value).unwrap_or(i64::MAX), out)
}
fn truth(value: bool, out: &mut Vec<u8>) -> bool {
    bytes(&[u8::from(value)], out)
}

fn request(stream: &Stream, info: &Info, name: &[u8], rest: PropertyPath<'_>, out: &mut Vec<u8>) -> Option<bool> {
    let req = stream.req.borrow();
    let header = |name: &[u8], out: &mut Vec<u8>| req.headers.get_named(name).map(|v| bytes(v, out));
    Some(match Request::of(name)? {
        Request::Path => bytes(req.target(), out),
        Request::UrlPath => bytes(req.path(), out),
        Request::Query => bytes(req.query().unwrap_or_default(), out),
        Request::Host => bytes(&canonical_authority(req.authority()), out),
        Request::Scheme => text(req.scheme(), out),
        Request::Method => bytes(req.method_text(), out),
        Request::Protocol => text(info.protocol.text(), out),
        Request::Headers => match rest.split_first().0 {
            b"" => map(&req.headers, out),
            b":authority" => bytes(&canonical_authority(req.authority()), out),
            b":path" => bytes(req.target(), out),
            b":method" => bytes(req.method_text(), out),
            b":scheme" => text(req.scheme(), out),
            name => return header(name, out),
        },
        Request::Referer => return header(b"referer", out),
        Request::UserAgent => return header(b"user-agent", out),
        Request::Id => return header(b"x-request-id", out),
        Request::Time => whole(info.wall_start, out),
        Request::Duration if info.end == 0 => return None,
        Request::Duration => whole(info.end.saturating_sub(info.start), out),
        Request::Size => whole(size(&req.headers, info.bytes_received), out),
        Request::TotalSize => whole(size(&req.headers, info.bytes_received) + info.header_bytes_received, out),
    })
}

/// Of a body: what its head says, else what was counted so far.
fn size(headers: &Headers, counted: u64) -> u64 {
    let said = headers.get_named(b"content-length").and_then(|v| std::str::from_utf8(v).ok()?.parse().ok());
    said.unwrap_or(counted)
}

fn response(stream: &Stream, info: &Info, name: &[u8], rest: PropertyPath<'_>, out: &mut Vec<u8>) -> Option<bool> {
    let resp = stream.resp.borrow();
    let named = |headers: &Headers, out: &mut Vec<u8>| match rest.split_first().0 {
        b"" => Some(map(headers, out)),
        name => headers.get_named(name).map(|v| bytes(v, out)),
    };
    Some(match Response::of(name)? {
        Response::Code => match (info.status, resp.status) {
            (0, 0) => return None,
            (0, status) | (status, _) => number(status.into(), out),
        },
        Response::CodeDetails if info.details.as_str().is_empty() => return None,
        Response::CodeDetails => text(info.details.as_str(), out),
        Response::Flags => number(info.flags.0.into(), out),
        Response::GrpcStatus => return info.grpc_status.map(|s| number(s.into(), out)),
        Response::Headers if rest.split_first().0 == b":status" => text(resp.status.to_string(), out),
        Response::Headers => return named(&resp.headers, out),
        Response::Trailers => return named(&stream.trailers[1].borrow(), out),
        Response::Size => whole(info.bytes_sent, out),
        Response::TotalSize => whole(info.bytes_sent + info.header_bytes_sent, out),
    })
}

/// `address` is `ip:port`, as Envoy gives it.
fn address(of: SocketAddr, name: &[u8], out: &mut Vec<u8>) -> Option<bool> {
    Some(match Address::of(name)? {
        Address::Address => text(of.to_string(), out),
        Address::Port => number(of.port().into(), out),
    })
}

fn connection(conn: &ConnInfo, name: &[u8], out: &mut Vec<u8>) -> Option<bool> {
    let peer = conn.tls.as_ref().and_then(|t| t.peer_certificate.as_ref());
    let of_peer = |give: fn(&PeerCertificate) -> Option<&str>, out: &mut Vec<u8>| peer.and_then(|p| give(p)).map(|v| text(v, out));
    Some(match Connection::of(name)? {
        Connection::Id => number(conn.id.cast_signed(), out),
        Connection::Mtls => truth(peer.is_some(), out),
        Connection::ServerName => return conn.requested_server_name.as_ref().map(|n| text(n, out)),
        Connection::TlsVersion => return conn.tls.as_ref().map(|t| text(t.version, out)),
        Connection::Subject => return of_peer(|p| Some(&p.details.subject), out),
        Connection::DnsSan => return of_peer(|p| p.details.dns_names.first().map(String::as_str), out),
        Connection::UriSan => return of_peer(|p| p.details.uris.first().map(String::as_str), out),
        Connection::Digest => return peer.map(|p| text(weir_net::tls::hex_digest(&p.der), out)),
    })
}

fn upstream(info: &Info, name: &[u8], out: &mut Vec<u8>) -> Option<bool> {
    match Upstream::of(name)? {
        Upstream::Address => info.upstream_host.as_ref().map(|h| text(h, out)),
        Upstream::Port => info.upstream_host.as_ref()?.rsplit_once(':')?.1.parse().ok().map(|p| number(p, out)),
        Upstream::LocalAddress => info.upstream_local_address.map(|a| text(a.to_string(), out)),
        Upstream::TlsVersion => info.upstream_tls.as_ref().map(|t| text(t.version, out)),
        Upstream::Subject => Some(text(&info.upstream_tls.as_ref()?.details()?.subject, out)),
        Upstream::DnsSan => Some(text(info.upstream_tls.as_ref()?.details()?.dns_names.first()?, out)),
        Upstream::UriSan => Some(text(info.upstream_tls.as_ref()?.details()?.uris.first()?, out)),
        Upstream::Digest => Some(text(info.upstream_tls.as_ref()?.digest()?, out)),
        Upstream::Failure => info.upstream_failure.as_ref().map(|f| text(f, out)),
    }
}

/// Higress' rules match the names of the route and of the cluster.
fn of_route(stream: &Stream, name: &RefCell<Option<Name>>, out: &mut Vec<u8>) -> Option<bool> {
    stream.refresh_route();
    name.borrow().as_ref().map(|n| text(n, out))
}

fn cluster_name(stream: &Stream, out: &mut Vec<u8>) -> Option<bool> {
    stream.refresh_route();
    stream.cluster.borrow().as_ref().map(|slot| text(&slot.name, out))
}

fn state(info: &Info, prefix: &str, path: PropertyPath<'_>, out: &mut Vec<u8>) -> Option<bool> {
    let name = path.dotted();
    let found = info.filter_state.iter().find(|(n, _)| n.strip_prefix(prefix) == Some(&name))?;
    Some(bytes(&found.1, out))
}

fn map(headers: &Headers, out: &mut Vec<u8>) -> bool {
    let lower: Vec<_> = headers.iter().map(|(n, v)| (n.to_ascii_lowercase(), v)).collect();
    out.extend_from_slice(&pairs::encode(lower.iter().map(|(n, v)| (&**n, *v))));
    true
}
