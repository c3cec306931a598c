//! Looking at the first bytes of a connection while they stay in the socket.
use rustix::net::{RecvFlags, recv};
use std::io;
use tokio::{io::Interest, net::TcpStream};

/// Enough for nearly every first flight; grows where it is not.
const FIRST: usize = 2048;

/// Waits until `judge`, given all bytes that came so far, decides. They remain to be read.
///
/// # Errors
/// `UnexpectedEof` when the peer closes first, `InvalidData` when `limit` bytes did not suffice.
pub async fn peek<T>(io: &TcpStream, limit: usize, mut judge: impl FnMut(&[u8]) -> Option<T>) -> io::Result<T> {
    let mut buf = vec![0; FIRST.min(limit)];
    loop {
        let ready = io.ready(Interest::READABLE).await?;
        let mut decided = None;
        // Claiming "would block" clears tokio's readiness, so that the next wait is for more than these same bytes.
        let got = io.try_io(Interest::READABLE, || {
            let n = recv(io, &mut buf[..], RecvFlags::PEEK)?.0;
            decided = judge(&buf[..n]);
            match n {
                0 => Ok(0),
                _ if decided.is_some() || n == buf.len() || ready.is_read_closed() => Ok(n),
                _ => Err(io::ErrorKind::WouldBlock.into()),
            }
        });
        match (decided, got) {
            (Some(t), _) => return Ok(t),
            (None, Ok(n)) if n == limit => return Err(io::ErrorKind::InvalidData.into()),
            (None, Ok(n)) if n == buf.len() => buf.resize((n * 2).min(limit), 0),
            (None, Ok(_)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (None, Err(e)) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            (None, Err(e)) => return Err(e),
        }
    }
}

/// Reads `n` bytes that [`peek`] has shown to be there.
pub fn skip(io: &TcpStream, n: usize) -> io::Result<()> {
    let mut left = n;
    let mut buf = [0; 512];
    while left > 0 {
        let want = left.min(buf.len());
        match io.try_read(&mut buf[..want])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => left -= got,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    /// Yields once `n` calls of the judge have been made, so that bytes come in portions.
    #[tokio::test]
    async fn bytes_that_drip_in_are_judged_together_and_stay() {
        let (mut client, mut server) = pair().await;
        let calls = std::rc::Rc::new(std::cell::Cell::new(0));
        let seen = calls.clone();
        let write = async {
            for (i, b) in b"hello".iter().enumerate() {
                client.write_all(&[*b]).await.unwrap();
                while calls.get() <= i && i < 4 {
                    tokio::task::yield_now().await;
                }
            }
        };
        let read = peek(&server, 100, |b| {
            seen.set(b.len());
            b.ends_with(b"o").then(|| b.to_vec())
        });
        let (got, ()) = tokio::join!(read, write);
        assert_eq!(got.unwrap(), b"hello");
        skip(&server, 2).unwrap();
        let mut rest = [0; 3];
        server.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"llo");
    }

    #[tokio::test]
    async fn it_ends_with_the_peer_and_with_the_limit() {
        let (mut client, server) = pair().await;
        client.write_all(b"abc").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(peek(&server, 100, |_| None::<()>).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let (mut client, server) = pair().await;
        client.write_all(&[7; 5000]).await.unwrap();
        assert_eq!(peek(&server, 4000, |_| None::<()>).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (client, server) = pair().await;
        drop(client);
        assert_eq!(peek(&server, 100, |_| None::<()>).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
