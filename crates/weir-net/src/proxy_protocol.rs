//! The PROXY protocol, versions 1 and 2 (haproxy's `proxy-protocol.txt`).
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A longer header is refused; version 1 ends at 107 bytes, version 2 may carry more in its TLVs.
pub const MAX_HEADER_BYTES: usize = 4096;

const V1: &[u8] = b"PROXY ";
const V1_MAX: usize = 107;
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A whole header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the connection that belong to it.
    pub length: usize,
    /// Source and destination; `None` keeps the socket's own (`LOCAL`, `UNKNOWN`, other families): health checks.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
}

/// Reads the header at the start of a connection; `None` while it is incomplete.
pub fn parse(bytes: &[u8]) -> Option<Result<Header, &'static str>> {
    let begins = |with: &[u8]| with.starts_with(&bytes[..bytes.len().min(with.len())]);
    if begins(V2) {
        version_2(bytes)
    } else if begins(V1) {
        version_1(bytes)
    } else {
        Some(Err("no PROXY protocol header"))
    }
}

fn version_1(bytes: &[u8]) -> Option<Result<Header, &'static str>> {
    let seen = &bytes[..bytes.len().min(V1_MAX)];
    let Some(end) = seen.windows(2).position(|w| w == b"\r\n") else {
        return (seen.len() == V1_MAX).then_some(Err("a version 1 header without its end"));
    };
    let line = std::str::from_utf8(&seen[V1.len()..end]).unwrap_or_default();
    let mut words = line.split(' ');
    let addresses = match words.next() {
        Some("UNKNOWN") => Ok(None),
        Some(family @ ("TCP4" | "TCP6")) => {
            let mut word = || words.next().unwrap_or_default();
            let (source, destination, source_port, destination_port) = (word(), word(), word(), word());
            let end = words.next().is_none();
            match (address(family, source, source_port), address(family, destination, destination_port)) {
                (Some(s), Some(d)) if end => Ok(Some(canonical((s, d)))),
                _ => Err("a malformed version 1 header"),
            }
        }
        _ => Err("a malformed version 1 header"),
    };
    Some(addresses.map(|addresses| Header { length: end + 2, addresses }))
}

fn address(family: &str, ip: &str, port: &str) -> Option<SocketAddr> {
    let ip: IpAddr = match family {
        "TCP4" => ip.parse::<Ipv4Addr>().ok()?.into(),
        _ => ip.parse::<Ipv6Addr>().ok()?.into(),
    };
    // No sign, no leading zero.
    let plain = port.bytes().all(|b| b.is_ascii_digit()) && (port.len() == 1 || !port.starts_with('0'));
    plain.then(|| port.parse().ok()).flatten().map(|port| SocketAddr::new(ip, port))
}

fn version_2(bytes: &[u8]) -> Option<Result<Header, &'static str>> {
    let [command, family, high, low, rest @ ..] = bytes.get(V2.len()..)? else { return None };
    let payload = usize::from(u16::from_be_bytes([*high, *low]));
    let length = V2.len() + 4 + payload;
    if command >> 4 != 2 || command & 15 > 1 {
        return Some(Err("an unknown version or command in a version 2 header"));
    }
    if length > MAX_HEADER_BYTES {
        return Some(Err("a version 2 header beyond 4 KiB"));
    }
    let payload = rest.get(..payload)?;
    let local = command & 15 == 0;
    let addresses = match family {
        _ if local => Ok(None),
        0x11 => pair::<4>(payload).ok_or("a version 2 header that is too short for its addresses"),
        0x21 => pair::<16>(payload).ok_or("a version 2 header that is too short for its addresses"),
        _ => Ok(None),
    };
    Some(addresses.map(|addresses| Header { length, addresses }))
}

/// Two addresses of `N` bytes, then their ports; `None` where bytes are missing.
fn pair<const N: usize>(payload: &[u8]) -> Option<Option<(SocketAddr, SocketAddr)>> {
    let ip = |at: usize| -> Option<IpAddr> {
        let bytes = payload.get(at..at + N)?;
        <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
    };
    let port = |at: usize| payload.get(at..at + 2).map(|p| u16::from_be_bytes([p[0], p[1]]));
    Some(Some(canonical((SocketAddr::new(ip(0)?, port(2 * N)?), SocketAddr::new(ip(N)?, port(2 * N + 2)?)))))
}

/// A header of version 1; without a client's address and the one it connected to, `UNKNOWN`: addresses of two families have no
/// other form.
pub fn header_v1(client: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    match client.map(canonical) {
        Some((s, d)) if s.is_ipv4() == d.is_ipv4() => {
            let family = if s.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {} {} {} {}\r\n", s.ip(), d.ip(), s.port(), d.port()).into_bytes()
        }
        _ => b"PROXY UNKNOWN\r\n".to_vec(),
    }
}

/// A header of version 2; without a client's address `LOCAL`. Addresses of two families are written as IPv6.
pub fn header_v2(client: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let mut out = V2.to_vec();
    let Some((source, destination)) = client.map(canonical) else {
        out.extend([0x20, 0, 0, 0]);
        return out;
    };
    let mut addresses = Vec::with_capacity(36);
    let family = match (source.ip(), destination.ip()) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            addresses.extend(s.octets());
            addresses.extend(d.octets());
            0x11
        }
        (s, d) => {
            for ip in [s, d] {
                addresses.extend(match ip {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                    IpAddr::V6(ip) => ip.octets(),
                });
            }
            0x21
        }
    };
    addresses.extend(source.port().to_be_bytes());
    addresses.extend(destination.port().to_be_bytes());
    out.extend([0x21, family, 0, addresses.len() as u8]);
    out.append(&mut addresses);
    out
}

/// Turns IPv4-mapped IPv6 addresses into IPv4: address ranges and logs use one form.
fn canonical((source, destination): (SocketAddr, SocketAddr)) -> (SocketAddr, SocketAddr) {
    let one = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
    (one(source), one(destination))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::type_complexity)]
    use super::*;

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        [V2, &[command, family], &(payload.len() as u16).to_be_bytes(), payload].concat()
    }

    #[test]
    fn headers_of_both_versions() {
        let pair4 = Some(("1.2.3.4:5".parse().unwrap(), "6.7.8.9:80".parse().unwrap()));
        let pair6 = Some(("[::1]:65535".parse().unwrap(), "[::2]:0".parse().unwrap()));
        let six = [&[0; 15][..], &[1], &[0; 15], &[2], &[255, 255, 0, 0]].concat();
        let four_as_six = [&[0; 10][..], &[255, 255, 1, 2, 3, 4], &[0; 10], &[255, 255, 6, 7, 8, 9], &[0, 5, 0, 80]].concat();
        let four_and_tlv = [1, 2, 3, 4, 6, 7, 8, 9, 0, 5, 0, 80, 4, 0, 1, 9];
        let table: &[(&[u8], Option<(SocketAddr, SocketAddr)>)] = &[
            (b"PROXY TCP4 1.2.3.4 6.7.8.9 5 80\r\n", pair4),
            (b"PROXY TCP6 ::1 ::2 65535 0\r\n", pair6),
            (b"PROXY TCP6 ::ffff:1.2.3.4 ::ffff:6.7.8.9 5 80\r\n", pair4),
            (b"PROXY UNKNOWN\r\n", None),
            (b"PROXY UNKNOWN ffff:: whatever 1 2\r\n", None),
            (&v2(0x21, 0x11, &four_and_tlv), pair4),
            (&v2(0x21, 0x21, &six), pair6),
            (&v2(0x21, 0x21, &four_as_six), pair4),
            (&v2(0x20, 0x00, &[]), None),
            (&v2(0x20, 0x11, &four_and_tlv), None),
            (&v2(0x21, 0x31, &[0; 216]), None),
        ];
        for (bytes, addresses) in table {
            let mut more = bytes.to_vec();
            more.extend_from_slice(b"GET / HTTP/1.1\r\n");
            assert_eq!(parse(&more), Some(Ok(Header { length: bytes.len(), addresses: *addresses })), "{bytes:?}");
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), None, "{cut} bytes of {bytes:?}");
            }
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let pairs =
            [(at("1.2.3.4:5"), at("6.7.8.9:80")), (at("[::ffff:1.2.3.4]:5"), at("6.7.8.9:80")), (at("[2001:db8::1]:65535"), at("[::1]:1"))];
        for pair in pairs {
            for header in [header_v1(Some(pair)), header_v2(Some(pair))] {
                let read = Header { length: header.len(), addresses: Some(canonical(pair)) };
                assert_eq!(parse(&header), Some(Ok(read)), "{pair:?}");
            }
        }
        let mixed = Some((at("1.2.3.4:5"), at("[::1]:80")));
        for header in [header_v1(None), header_v2(None), header_v1(mixed)] {
            assert_eq!(parse(&header), Some(Ok(Header { length: header.len(), addresses: None })));
        }
        let read = parse(&header_v2(mixed)).unwrap().unwrap().addresses.unwrap();
        assert_eq!((read.0.ip(), read.1.port()), (at("1.2.3.4:5").ip(), 80));
    }

    #[test]
    fn what_is_refused() {
        let long = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 100]].concat();
        let table: &[&[u8]] = &[
            b"GET / HTTP/1.1\r\n",
            b"PROXY\r\n",
            b"PROXY TCP4 1.2.3.4 6.7.8.9 5\r\n",
            b"PROXY TCP4 1.2.3.4 6.7.8.9 5 80 \r\n",
            b"PROXY TCP4 1.2.3.4 6.7.8.9 5 065\r\n",
            b"PROXY TCP4 1.2.3.4 6.7.8.9 5 +65\r\n",
            b"PROXY TCP4 1.2.3.4 6.7.8.9 5 65536\r\n",
            b"PROXY TCP4 ::1 ::2 5 80\r\n",
            b"PROXY TCP6 1.2.3.4 6.7.8.9 5 80\r\n",
            b"PROXY  TCP4 1.2.3.4 6.7.8.9 5 80\r\n",
            b"\x16\x03\x01",
            &long,
            &v2(0x21, 0x11, &[1; 11]),
            &v2(0x21, 0x21, &[1; 35]),
            &v2(0x22, 0x11, &[1; 12]),
            &v2(0x11, 0x11, &[1; 12]),
            &v2(0x21, 0x11, &[1; 5000]),
        ];
        for bytes in table {
            assert!(matches!(parse(bytes), Some(Err(_))), "{bytes:?}");
        }
    }
}
