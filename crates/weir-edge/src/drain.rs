//! How a hub that another process takes over from comes to its end: it takes no new requests, and what is open goes on for a while.
use crate::body::{Body, streamed};
use futures_util::StreamExt;
use http_body_util::{BodyStream, StreamBody};
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, time::timeout};

/// Clients may take so long to leave after their watches have ended.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    /// Connections close after their last answer.
    Leaving,
    /// Watches end, too.
    Ended,
}

#[derive(Debug)]
pub struct Drain {
    phase: watch::Sender<Phase>,
    open: watch::Sender<usize>,
}

impl Default for Drain {
    fn default() -> Drain {
        Drain { phase: watch::Sender::new(Phase::Serving), open: watch::Sender::new(0) }
    }
}

impl Drain {
    /// Held by what should have an end of its own: a connection, an upgrade.
    pub fn hold(self: &Arc<Drain>) -> Held {
        self.open.send_modify(|open| *open += 1);
        Held(self.clone())
    }

    /// How many are held.
    pub fn open(&self) -> usize {
        *self.open.borrow()
    }

    /// From now on connections close after their last answer.
    pub fn leave(&self) {
        self.reach(Phase::Leaving);
    }

    pub fn is_leaving(&self) -> bool {
        *self.phase.borrow() >= Phase::Leaving
    }

    /// Waits for [`Drain::leave`].
    pub async fn leaving(&self) {
        self.reached(Phase::Leaving).await;
    }

    /// Waits until nothing is held. When the time is up, watches end.
    pub async fn finish(&self, limit: Duration) {
        let mut open = self.open.subscribe();
        if timeout(limit, open.wait_for(|open| *open == 0)).await.is_err() {
            self.reach(Phase::Ended);
            let _ = timeout(GRACE, open.wait_for(|open| *open == 0)).await;
        }
    }

    /// The body of a watch, which ends early, as a watch may at any time: when the time is up, if it passes from an API server. What the hub
    /// watches for its clients comes from the store, so it ends as soon as another process has that.
    pub fn bound(self: &Arc<Drain>, body: Body, passes: bool) -> Body {
        let drain = self.clone();
        let end = if passes { Phase::Ended } else { Phase::Leaving };
        let ended = Box::pin(async move { drain.reached(end).await });
        streamed(StreamBody::new(BodyStream::new(body).take_until(ended)))
    }

    fn reach(&self, phase: Phase) {
        self.phase.send_modify(|now| *now = (*now).max(phase));
    }

    async fn reached(&self, phase: Phase) {
        // The sender is here.
        let _ = self.phase.subscribe().wait_for(|now| *now >= phase).await;
    }
}

pub struct Held(Arc<Drain>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::{BodyError, whole};
    use bytes::Bytes;
    use futures_util::stream;
    use http_body::Frame;

    fn endless() -> Body {
        let first = stream::iter([Ok::<_, BodyError>(Frame::data(Bytes::from("event")))]);
        streamed(StreamBody::new(first.chain(stream::pending())))
    }

    #[tokio::test]
    async fn watches_end_when_the_time_is_up() {
        let drain = Arc::new(Drain::default());
        let (body, own) = (drain.bound(endless(), true), drain.bound(endless(), false));
        let (held, client) = (drain.hold(), drain.clone());
        let reader = tokio::spawn(async move {
            client.leaving().await;
            whole(own, 100).await.unwrap();
            whole(body, 100).await.unwrap();
            drop(held);
        });
        drain.leave();
        drain.finish(Duration::from_millis(1)).await;
        reader.await.unwrap();
        assert_eq!(drain.open(), 0);
        // Nothing is open any more: there is nothing to wait for.
        drain.finish(Duration::MAX).await;
    }
}
