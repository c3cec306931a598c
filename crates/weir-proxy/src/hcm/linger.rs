//! Closing a connection whose client may still be sending.
use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};
use weir_net::http::relay::Peer;

/// How long a client that was answered may keep sending before its connection is closed, how many times its data is read
/// meanwhile, and how many bytes at once.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_READS: u32 = 64;
const LINGER_BYTES: usize = 16 * 1024;

/// Ends a connection whose client may still be sending: what comes is read for a moment, or the reset would take the
/// answer with it.
pub async fn linger(peer: &mut Peer) {
    let Some(wire) = peer.wire() else { return };
    let _ = poll_fn(|cx| wire.poll_shutdown(cx)).await;
    wire.input.consume(wire.input.filled().len());
    let mut deadline = pin!(tokio::time::sleep(LINGER));
    let pool = weir_net::http::buf::BufPool::new(LINGER_BYTES, 1);
    let mut left = LINGER_READS;
    poll_fn(|cx| {
        while left > 0 && deadline.as_mut().poll(cx).is_pending() {
            match wire.poll_fill(cx, &pool) {
                Poll::Ready(Ok(n @ 1..)) => wire.input.consume(n),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
            left -= 1;
        }
        Poll::Ready(())
    })
    .await;
}
