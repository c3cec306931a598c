//! Listening sockets, one per worker on the same address, among which the kernel spreads connections.
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

/// Connections that wait to be accepted, per socket; the kernel's `somaxconn` may allow fewer.
const BACKLOG: i32 = 4096;

/// Binds `count` sockets to one address. Port 0 takes a free port, the same for all.
///
/// `shared` says that this process may hold sockets on the address already (an old listener that is about to leave it).
///
/// # Errors
/// What the system says, `AddrInUse` also for an address on which another process shares its port: without this,
/// starting a gateway twice would silently give each of them half the connections.
pub fn bind(address: SocketAddr, count: usize, shared: bool) -> io::Result<Vec<TcpListener>> {
    if !shared && address.port() != 0 {
        // Only bound: who connected while it listened would be reset when it goes.
        bound(address, false)?;
    }
    let first = socket(address, true)?;
    let address = first.local_addr()?;
    let mut all = vec![first];
    for _ in 1..count {
        all.push(socket(address, true)?);
    }
    Ok(all)
}

/// Checks that an address can be bound now; `shared` as for [`bind`].
///
/// # Errors
/// The error of the system where it cannot.
pub fn probe(address: SocketAddr, shared: bool) -> io::Result<()> {
    bound(address, shared).map(drop)
}

fn socket(address: SocketAddr, share: bool) -> io::Result<TcpListener> {
    let s = bound(address, share)?;
    s.listen(BACKLOG)?;
    Ok(s.into())
}

fn bound(address: SocketAddr, share: bool) -> io::Result<Socket> {
    let s = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    s.set_reuse_address(true)?;
    s.set_reuse_port(share)?;
    s.set_nonblocking(true)?;
    s.bind(&address.into())?;
    Ok(s)
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
                match bind(address, 2, false) {
                    Ok(all) => break all,
                    Err(e) => assert_eq!(e.kind(), io::ErrorKind::AddrInUse),
                }
            };
            let begun = std::time::Instant::now();
            while !all.iter().any(|l| l.accept().is_ok()) {
                assert!(begun.elapsed() < Duration::from_secs(20), "the client's connection is gone");
                std::thread::yield_now();
            }
            drop(client.join().unwrap());
        }
    }

    #[test]
    fn all_sockets_share_a_port_that_no_other_process_gets() {
        let all = bind("127.0.0.1:0".parse().unwrap(), 3, false).unwrap();
        let address = all[0].local_addr().unwrap();
        assert!(all.iter().all(|l| l.local_addr().unwrap() == address));
        assert_eq!(bind(address, 1, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let more = bind(address, 1, true).unwrap();
        drop(all);
        TcpStream::connect(address).unwrap();
        more[0].set_nonblocking(false).unwrap();
        more[0].accept().unwrap();
    }
}
