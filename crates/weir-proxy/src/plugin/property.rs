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
use std::net::SocketAddr;
use weir_net::http::Headers;
use weir_wasm::{PropertyPath, pairs};

/// Envoy's `TrafficDirection.OUTBOUND`: a gateway looks outwards.
const OUTBOUND: i64 = 2;

/// Appends the value to `out`; false when there is none (now).
pub fn get(stream: &Stream, path: PropertyPath<'_>, out: &mut Vec<u8>) -> bool {
    let (first, rest) = path.split_first();
    let (second, after) = rest.split_first();
    let info = stream.info.borrow();
    let conn = stream.conn.borrow();
    let found = match first {
        b"request" => request(stream, &info, second, after, out),
        b"response" => response(stream, &info, second, after, out),
        b"source" => conn.as_ref().map(|c| address(info.remote_address.unwrap_or(c.peer), second, out)),
        b"destination" => conn.as_ref().map(|c| address(c.local, second, out)),
        b"connection" => conn.as_ref().and_then(|c| connection(c, second, out)),
        b"connection_id" => conn.as_ref().map(|c| number(c.id.cast_signed(), out)),
        b"upstream" => upstream(&info, second, out),
        b"route_name" | b"cluster_name" | b"listener_direction" => of_route(stream, first, out),
        b"node" => node::get(rest, out).then_some(true),
        b"xds" if second == b"node" => node::get(after, out).then_some(true),
        b"xds" if second == b"filter_chain_name" => conn.as_ref().map(|c| text(&c.chain, out)),
        b"xds" => of_route(stream, second, out),
        b"filter_state" => state(&info, "", rest, out),
        // What a plugin has set under this name.
        _ => state(&info, "wasm.", path, out),
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
    Some(match name {
        b"path" => bytes(req.target(), out),
        b"url_path" => bytes(req.path(), out),
        b"query" => bytes(req.query().unwrap_or_default(), out),
        b"host" => bytes(&canonical_authority(req.authority()), out),
        b"scheme" => text(req.scheme(), out),
        b"method" => bytes(req.method_text(), out),
        b"protocol" => text(info.protocol.text(), out),
        b"headers" => match rest.split_first().0 {
            b"" => map(&req.headers, out),
            b":authority" => bytes(&canonical_authority(req.authority()), out),
            b":path" => bytes(req.target(), out),
            b":method" => bytes(req.method_text(), out),
            b":scheme" => text(req.scheme(), out),
            name => return header(name, out),
        },
        b"referer" => return header(b"referer", out),
        b"useragent" => return header(b"user-agent", out),
        b"id" => return header(b"x-request-id", out),
        b"time" => whole(info.wall_start, out),
        b"duration" if info.end > 0 => whole(info.end.saturating_sub(info.start), out),
        b"size" => whole(size(&req.headers, info.bytes_received), out),
        b"total_size" => whole(size(&req.headers, info.bytes_received) + info.header_bytes_received, out),
        _ => return None,
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
    Some(match name {
        b"code" => match (info.status, resp.status) {
            (0, 0) => return None,
            (0, status) | (status, _) => number(status.into(), out),
        },
        b"code_details" if !info.details.as_str().is_empty() => text(info.details.as_str(), out),
        b"flags" => number(info.flags.0.into(), out),
        b"grpc_status" => return info.grpc_status.map(|s| number(s.into(), out)),
        b"headers" if rest.split_first().0 == b":status" => text(resp.status.to_string(), out),
        b"headers" => return named(&resp.headers, out),
        b"trailers" => return named(&stream.trailers[1].borrow(), out),
        b"size" => whole(info.bytes_sent, out),
        b"total_size" => whole(info.bytes_sent + info.header_bytes_sent, out),
        _ => return None,
    })
}

/// `address` is `ip:port`, as Envoy gives it.
fn address(of: SocketAddr, name: &[u8], out: &mut Vec<u8>) -> bool {
    match name {
        b"address" => text(of.to_string(), out),
        b"port" => number(of.port().into(), out),
        _ => false,
    }
}

fn connection(conn: &ConnInfo, name: &[u8], out: &mut Vec<u8>) -> Option<bool> {
    let peer = conn.tls.as_ref().and_then(|t| t.peer_certificate.as_ref());
    let of_peer = |give: fn(&PeerCertificate) -> Option<&str>, out: &mut Vec<u8>| peer.and_then(|p| give(p)).map(|v| text(v, out));
    Some(match name {
        b"id" => number(conn.id.cast_signed(), out),
        b"mtls" => truth(peer.is_some(), out),
        b"requested_server_name" => return conn.requested_server_name.as_ref().map(|n| text(n, out)),
        b"tls_version" => return conn.tls.as_ref().map(|t| text(t.version, out)),
        b"subject_peer_certificate" => return of_peer(|p| Some(&p.details.subject), out),
        b"dns_san_peer_certificate" => return of_peer(|p| p.details.dns_names.first().map(String::as_str), out),
        b"uri_san_peer_certificate" => return of_peer(|p| p.details.uris.first().map(String::as_str), out),
        b"sha256_peer_certificate_digest" => return peer.map(|p| text(weir_net::tls::hex_digest(&p.der), out)),
        _ => return None,
    })
}

fn upstream(info: &Info, name: &[u8], out: &mut Vec<u8>) -> Option<bool> {
    match name {
        b"address" => info.upstream_host.as_ref().map(|h| text(h, out)),
        b"port" => info.upstream_host.as_ref()?.rsplit_once(':')?.1.parse().ok().map(|p| number(p, out)),
        b"local_address" => info.upstream_local_address.map(|a| text(a.to_string(), out)),
        b"tls_version" => info.upstream_tls.as_ref().map(|t| text(t.version, out)),
        b"subject_peer_certificate" => Some(text(&info.upstream_tls.as_ref()?.details()?.subject, out)),
        b"dns_san_peer_certificate" => Some(text(info.upstream_tls.as_ref()?.details()?.dns_names.first()?, out)),
        b"uri_san_peer_certificate" => Some(text(info.upstream_tls.as_ref()?.details()?.uris.first()?, out)),
        b"sha256_peer_certificate_digest" => Some(text(info.upstream_tls.as_ref()?.digest()?, out)),
        b"transport_failure_reason" => info.upstream_failure.as_ref().map(|f| text(f, out)),
        _ => None,
    }
}

/// Higress' rule matching lives on the names of the route and of the cluster.
fn of_route(stream: &Stream, name: &[u8], out: &mut Vec<u8>) -> Option<bool> {
    let place = match name {
        b"route_name" => &stream.route_name,
        b"virtual_host_name" => &stream.virtual_host,
        b"cluster_name" => {
            stream.refresh_route();
            return stream.cluster.borrow().as_ref().map(|slot| text(&slot.name, out));
        }
        b"listener_direction" => return Some(number(OUTBOUND, out)),
        _ => return None,
    };
    stream.refresh_route();
    place.borrow().as_ref().map(|n| text(n, out))
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
