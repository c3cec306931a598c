//! Addresses on the command line.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use weir_config::model::CidrRange;

/// `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`, or `:8080` for all IPv4 addresses of this machine.
pub fn listen(text: &str) -> Result<SocketAddr, String> {
    with(text, None)
}

/// A name server; its port is 53 where it names none.
pub fn resolver(text: &str) -> Result<SocketAddr, String> {
    with(text, Some(53))
}

/// An address, or a range of them in CIDR notation.
pub fn range(text: &str) -> Result<CidrRange, String> {
    text.parse().map_err(|()| "write it as 169.254.20.10, 169.254.20.0/24 or fe80::/10".to_string())
}

fn with(text: &str, default_port: Option<u16>) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let (Some(port), Ok(ip)) = (default_port, text.trim_start_matches('[').trim_end_matches(']').parse()) {
        return Ok(SocketAddr::new(ip, port));
    }
    let example = "write it as 127.0.0.1:8080, [::1]:8080, localhost:8080 or :8080 for all addresses";
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port),
        None if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() => {
            return Err(format!("no address; write localhost:{text}, or :{text} for all addresses"));
        }
        None => return Err(format!("no port; {example}")),
    };
    let port: u16 = port.parse().map_err(|_| format!("`{port}` is not a port; {example}"))?;
    let ip = match host {
        "" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        host if host.parse::<std::net::Ipv6Addr>().is_ok() => return Err(format!("write it as [{host}]:{port}")),
        host => return Err(format!("`{host}` is not an IP address; {example}")),
    };
    Ok(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses() {
        for (text, address) in
            [("127.0.0.1:80", "127.0.0.1:80"), ("[::1]:80", "[::1]:80"), (":80", "0.0.0.0:80"), ("localhost:0", "127.0.0.1:0")]
        {
            assert_eq!(listen(text).unwrap().to_string(), address);
        }
        for (text, part) in [
            ("8080", "write localhost:8080, or :8080"),
            ("127.0.0.1", "no port"),
            ("", "no port"),
            ("h.test:80", "`h.test` is not an IP address"),
            ("127.0.0.1:http", "`http` is not a port"),
            (":99999", "`99999` is not a port"),
            ("::1:80", "write it as [::1]:80"),
            ("http://127.0.0.1:80", "not an IP address"),
        ] {
            let refused = listen(text).unwrap_err();
            assert!(refused.contains(part), "{text}: {refused}");
        }
        for (text, address) in [("8.8.8.8", "8.8.8.8:53"), ("::1", "[::1]:53"), ("[::1]", "[::1]:53"), ("10.0.0.1:5353", "10.0.0.1:5353")] {
            assert_eq!(resolver(text).unwrap().to_string(), address);
        }
    }
}
