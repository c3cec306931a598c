//! Opening connections, and the addresses that nobody but the configuration itself may name.
use crate::{
    dns::{Answer, DnsError, Resolver},
    listen::{self, Keepalive},
};
use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::net::{TcpSocket, TcpStream};

/// Connects to `address` and sends `first` (a PROXY protocol header, or nothing).
///
/// # Errors
/// What the system says.
pub async fn connect(address: SocketAddr, keepalive: Option<Keepalive>, first: &[u8]) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_nodelay(true)?;
    if let Some(keepalive) = keepalive {
        listen::set_keepalive(&socket, keepalive)?;
    }
    let io = socket.connect(address).await?;
    let mut left = first;
    while !left.is_empty() {
        io.writable().await?;
        match io.try_write(left) {
            Ok(n) => left = &left[n..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Ok(io)
}

/// Metadata services of clouds outside of the link-local ranges: Amazon's, and Alibaba's.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
const METADATA_V4: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);

/// Whether an address is one that only the configuration itself may name: link-local, the metadata service of a cloud, unspecified,
/// multicast or broadcast. A plugin, a client or a redirect that leads there is more likely an attack than a wish (SSRF).
pub fn is_protected(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_link_local() || ip.octets()[0] == 0 || ip.is_multicast() || ip.is_broadcast() || ip == METADATA_V4,
        IpAddr::V6(ip) => {
            // NAT64 and 6to4 carry an address of IPv4 (RFC 6052, RFC 3056).
            let [a, b, c, .., y, z] = ip.segments();
            let inner = match (a, b) {
                (0x64, 0xff9b) => Some((y, z)),
                (0x2002, _) => Some((b, c)),
                _ => None,
            };
            let v4 = |(high, low): (u16, u16)| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
            ip.is_unicast_link_local()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip == METADATA_V6
                || inner.is_some_and(|parts| is_protected(v4(parts).into()))
        }
    }
}

/// Why a name that somebody else chose leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unresolved {
    Dns(DnsError),
    /// It has only addresses that are protected; the first of them.
    NotAllowed(IpAddr),
}

/// Refuses protected addresses to names that plugins, clients and redirects choose. It looks at what a name resolves to, so that
/// no answer of a name server gets around it.
pub struct Guard {
    allowed: Box<dyn Fn(IpAddr) -> bool + Send + Sync>,
    /// Names and addresses that were refused.
    refused: AtomicU64,
}

impl Guard {
    /// `allowed`: protected addresses that may be used all the same.
    pub fn new(allowed: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Guard {
        Guard { allowed: Box::new(allowed), refused: AtomicU64::new(0) }
    }

    /// Those of `addresses` that may be used, at least one.
    ///
    /// # Errors
    /// All are protected.
    pub fn filter(&self, mut addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, Unresolved> {
        let first = addresses.first().copied();
        addresses.retain(|ip| !is_protected(*ip) || (self.allowed)(*ip));
        match (addresses.is_empty(), first) {
            (true, Some(first)) => {
                self.refused.fetch_add(1, Relaxed);
                Err(Unresolved::NotAllowed(first))
            }
            (true, None) => Err(Unresolved::Dns(DnsError::NotFound)),
            (false, _) => Ok(addresses),
        }
    }

    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unresolved::Dns(e) => e.fmt(f),
            Unresolved::NotAllowed(ip) => not_allowed(f, *ip),
        }
    }
}

/// The message about an address that is refused.
///
/// # Errors
/// Those of the formatter.
pub fn not_allowed(f: &mut fmt::Formatter<'_>, ip: IpAddr) -> fmt::Result {
    write!(
        f,
        "{ip} is not reached: it is link-local, a cloud's metadata service, unspecified or multicast; --allow-upstream-address allows it"
    )
}

/// Resolves names: those that somebody else than the configuration chose lead to no protected address.
pub struct GuardedResolver {
    resolver: Arc<Resolver>,
    pub guard: Guard,
}

impl GuardedResolver {
    pub fn new(resolver: Arc<Resolver>, guard: Guard) -> GuardedResolver {
        GuardedResolver { resolver, guard }
    }

    /// With the system's name servers, and every protected address refused. To be called within a tokio runtime.
    ///
    /// # Errors
    /// As [`Resolver::new`].
    pub fn system() -> io::Result<GuardedResolver> {
        Ok(GuardedResolver::new(Arc::new(Resolver::new(Default::default())?), Guard::default()))
    }

    /// The addresses of a name that the configuration itself chose: all of them.
    ///
    /// # Errors
    /// There is none.
    pub async fn lookup_trusted(&self, host: &str) -> Result<Answer, Unresolved> {
        self.resolver.lookup(host).await.map_err(Unresolved::Dns)
    }

    /// The addresses of `host` that may be used, at least one.
    ///
    /// # Errors
    /// There is none.
    pub async fn lookup(&self, host: &str) -> Result<Answer, Unresolved> {
        let answer = self.lookup_trusted(host).await?;
        Ok(Answer { addresses: self.guard.filter(answer.addresses)?, ..answer })
    }
}

impl Default for Guard {
    /// Allows no protected address.
    fn default() -> Guard {
        Guard::new(|_| false)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn protected_addresses() {
        for text in
            "169.254.169.254 169.254.0.1 0.0.0.0 0.1.2.3 224.0.0.1 255.255.255.255 100.100.100.200 :: fe80::1 ff02::1 fd00:ec2::254 \
            ::ffff:169.254.169.254 ::ffff:0.0.0.0 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe::1"
                .split_whitespace()
        {
            assert!(is_protected(text.parse().unwrap()), "{text}");
        }
        for text in "127.0.0.1 10.0.0.1 192.168.1.1 100.100.100.201 8.8.8.8 ::1 fd00::1 2001:db8::1 ::ffff:10.0.0.1 64:ff9b::808:808 \
            2002:808:808::1"
            .split_whitespace()
        {
            assert!(!is_protected(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_guard_leaves_what_is_allowed() {
        let ips = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<IpAddr>>();
        let guard = Guard::new(|ip| ip == IpAddr::from([169, 254, 20, 10]));
        assert_eq!(guard.filter(ips(&["169.254.1.1", "10.0.0.1", "169.254.20.10"])), Ok(ips(&["10.0.0.1", "169.254.20.10"])));
        assert_eq!(guard.filter(ips(&["169.254.1.1", "fe80::1"])), Err(Unresolved::NotAllowed("169.254.1.1".parse().unwrap())));
        assert_eq!(guard.filter(Vec::new()), Err(Unresolved::Dns(DnsError::NotFound)));
        assert_eq!(guard.refused(), 1);
    }
}
