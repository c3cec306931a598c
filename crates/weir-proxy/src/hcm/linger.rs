//! Closing a connection whose client may still be sending.
use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};
use weir_net::http::relay::Peer;

/// How many times the data of a client that was answered is read before its connection is closed, and how many bytes at once.
const LINGER_READS: u32 = 64;
const LINGER_BYTES: usize = 16 * 1024;

/// Ends a connection whose client may still be sending: what comes is read for a moment, or the reset would take the
/// answer with it. Whether the client was still there when the time was up.
pub async fn linger(peer: &mut Peer, timeout: Option<Duration>) -> bool {
    let (Some(wire), Some(timeout)) = (peer.wire(), timeout) else { return false };
    let _ = poll_fn(|cx| wire.poll_shutdown(cx)).await;
    wire.input.consume(wire.input.filled().len());
    let mut deadline = pin!(tokio::time::sleep(timeout));
    let pool = weir_net::http::buf::BufPool::new(LINGER_BYTES, 1);
    let mut left = LINGER_READS;
    poll_fn(|cx| {
        while left > 0 && deadline.as_mut().poll(cx).is_pending() {
            match wire.poll_fill(cx, &pool) {
                Poll::Ready(Ok(n @ 1..)) => wire.input.consume(n),
                Poll::Ready(_) => return Poll::Ready(false),
                Poll::Pending => return Poll::Pending,
            }
            left -= 1;
        }
        Poll::Ready(true)
    })
    .await
}
