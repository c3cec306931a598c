//! Listening sockets, one per worker on the same address, among which the kernel spreads connections.
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    time::Duration,
};

/// Connections that wait to be accepted, per socket; the kernel's `somaxconn` may allow fewer.
const BACKLOG: i32 = 4096;

/// What is spoken on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
}

/// A socket that a listener takes connections or datagrams from.
#[derive(Debug)]
pub enum Listening {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Listening {
    /// # Errors
    /// The error of the system.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Listening::Tcp(socket) => socket.local_addr(),
            Listening::Udp(socket) => socket.local_addr(),
        }
    }
}

/// Binds `count` sockets to one address. Port 0 takes a free port, the same for all.
///
/// `shared` says that this process may hold sockets on the address already (an old listener that is about to leave it).
///
/// # Errors
/// What the system says, `AddrInUse` also for an address on which another process shares its port: without this,
/// starting a gateway twice would silently give each of them half the connections.
pub fn bind(transport: Transport, address: SocketAddr, count: usize, shared: bool) -> io::Result<Vec<Listening>> {
    if !shared && address.port() != 0 {
        // Only bound: who connected while it listened would be reset when it goes.
        bound(transport, address, false)?;
    }
    let first = socket(transport, address)?;
    let address = first.local_addr()?;
    let mut all = vec![first];
    for _ in 1..count {
        all.push(socket(transport, address)?);
    }
    Ok(all)
}

/// Checks that an address can be bound now; `shared` as for [`bind`].
///
/// # Errors
/// The error of the system where it cannot.
pub fn probe(transport: Transport, address: SocketAddr, shared: bool) -> io::Result<()> {
    bound(transport, address, shared).map(drop)
}

fn socket(transport: Transport, address: SocketAddr) -> io::Result<Listening> {
    let s = bound(transport, address, true)?;
    match transport {
        Transport::Tcp => {
            s.listen(BACKLOG)?;
            Ok(Listening::Tcp(s.into()))
        }
        Transport::Udp => Ok(Listening::Udp(s.into())),
    }
}

fn bound(transport: Transport, address: SocketAddr, share: bool) -> io::Result<Socket> {
    let (kind, protocol) = match transport {
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
    };
    let s = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    // For UDP it would let other processes take the same address.
    s.set_reuse_address(transport == Transport::Tcp)?;
    s.set_reuse_port(share)?;
    s.set_nonblocking(true)?;
    s.bind(&address.into())?;
    Ok(s)
}

/// A socket of its own for datagrams to one address and from there.
///
/// # Errors
/// The error of the system.
pub fn connected_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let s = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    s.set_nonblocking(true)?;
    s.connect(&address.into())?;
    Ok(s.into())
}

/// Keep-alive probes: idle time before the first, time between them, how many unanswered ones end the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    pub time: Duration,
    pub interval: Duration,
    pub probes: u32,
}

/// Sets keep-alive on a connection.
pub fn set_keepalive(io: &impl std::os::fd::AsFd, k: Keepalive) -> io::Result<()> {
    SockRef::from(io).set_tcp_keepalive(&TcpKeepalive::new().with_time(k.time).with_interval(k.interval).with_retries(k.probes))
}

/// Closes with a reset instead of a FIN: the client learns at once, and the port is free at once.
pub fn set_reset_on_close(io: &impl std::os::fd::AsFd) -> io::Result<()> {
    SockRef::from(io).set_linger(Some(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{
        net::TcpStream,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
    };

    /// A client that is waiting for the port to open is let in by a socket that stays.
    #[test]
    fn nobody_connects_to_a_socket_that_goes_away() {
        for _ in 0..300 {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let tries = Arc::new(AtomicU32::new(0));
            let count = tries.clone();
            let client = std::thread::spawn(move || {
                loop {
                    match TcpStream::connect(address) {
                        // A port of its own range may connect to itself.
                        Ok(c) if c.local_addr().unwrap() != address => return c,
                        _ => count.fetch_add(1, Ordering::Relaxed),
                    };
                }
            });
            while tries.load(Ordering::Relaxed) < 3 {
                std::hint::spin_loop();
            }
            let all = loop {
                match bind(Transport::Tcp, address, 2, false) {
                    Ok(all) => break all,
                    Err(e) => assert_eq!(e.kind(), io::ErrorKind::AddrInUse),
                }
            };
            let begun = std::time::Instant::now();
            while !all.iter().any(|l| matches!(l, Listening::Tcp(l) if l.accept().is_ok())) {
                assert!(begun.elapsed() < Duration::from_secs(20), "the client's connection is gone");
                std::thread::yield_now();
            }
            drop(client.join().unwrap());
        }
    }

    #[test]
    fn all_sockets_share_a_port_that_no_other_process_gets() {
        for transport in [Transport::Tcp, Transport::Udp] {
            let all = bind(transport, "127.0.0.1:0".parse().unwrap(), 3, false).unwrap();
            let address = all[0].local_addr().unwrap();
            assert!(all.iter().all(|l| l.local_addr().unwrap() == address));
            assert_eq!(bind(transport, address, 1, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            assert_eq!(probe(transport, address, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            let more = bind(transport, address, 1, true).unwrap();
            drop(all);
            match &more[0] {
                Listening::Tcp(listener) => {
                    TcpStream::connect(address).unwrap();
                    listener.set_nonblocking(false).unwrap();
                    listener.accept().unwrap();
                }
                Listening::Udp(socket) => {
                    connected_udp(address).unwrap().send(b"hello").unwrap();
                    socket.set_nonblocking(false).unwrap();
                    assert_eq!(socket.recv(&mut [0; 16]).unwrap(), 5);
                }
            }
        }
    }
}
