//! Waiting for something that is not the client's: its deadlines and its going away count all the same.
use super::{active_stream::ActiveStream, clock::Late, end::End};
use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

/// Why a wait was given up.
pub(super) enum GivenUp {
    Late(Late),
    /// The exchange is over: the client has gone, or a plugin has ended it.
    End(End),
}

impl ActiveStream<'_> {
    /// Waits for `work` while the client is there and no deadline has passed.
    pub(super) async fn attended<T>(&mut self, work: impl Future<Output = T>) -> Result<T, GivenUp> {
        let mut work = pin!(work);
        self.clock.arm(&self.c.deadline);
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                self.w.now();
                return Poll::Ready(Ok(done));
            }
            if let Err(late) = self.check_clock(cx) {
                return Poll::Ready(Err(GivenUp::Late(late)));
            }
            let read = self.request.is_read();
            match self.poll_client_gone(cx, read) {
                Poll::Ready(Err(end)) => Poll::Ready(Err(GivenUp::End(end))),
                _ => Poll::Pending,
            }
        })
        .await
    }

    /// Lets time pass.
    pub(super) async fn pause(&mut self, time: std::time::Duration) -> Result<(), End> {
        self.meanwhile(tokio::time::sleep(time)).await
    }

    /// As [`ActiveStream::attended`], but giving up ends the exchange.
    pub(super) async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Result<T, End> {
        self.attended(work).await.map_err(|why| self.given_up(why))
    }

    /// How the exchange ends because a wait was given up.
    pub(super) fn given_up(&self, why: GivenUp) -> End {
        match why {
            GivenUp::Late(late) => self.too_late(late),
            GivenUp::End(end) => end,
        }
    }

    /// The last byte of the request has been read: what is counted from there begins.
    pub(super) fn request_read(&mut self) {
        if self.s.info.borrow().request_end == 0 {
            self.request_read_at(self.w.now());
        }
    }

    pub(super) fn request_read_at(&mut self, now: u64) {
        self.s.info.borrow_mut().request_end = now;
        self.clock.request_read(now);
        self.clock.arm(&self.c.deadline);
    }
}
