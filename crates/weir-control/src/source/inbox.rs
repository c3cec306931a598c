//! What wakes the control plane: events of files, and word that a cluster has changes. One queue for both, so that one wait serves
//! them.
use super::watch::{Batch, Watch};
use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    time::{Duration, Instant},
};

/// Changes of files that come within this time of each other are taken as one…
const QUIET: Duration = Duration::from_millis(1);
/// …but none waits longer than this.
const GATHER: Duration = Duration::from_millis(5);

pub enum Event {
    File(notify::Result<notify::Event>),
    /// There is something to take from the cluster, or from registries.
    Objects,
}

pub struct Inbox {
    sender: Sender<Event>,
    events: Receiver<Event>,
}

impl Default for Inbox {
    fn default() -> Inbox {
        let (sender, events) = channel();
        Inbox { sender, events }
    }
}

impl Inbox {
    pub fn sender(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// A watch whose events come here.
    pub fn watch(&self) -> notify::Result<Watch> {
        let sender = self.sender();
        // A failure to send means that nobody looks any more.
        Watch::new(move |event| _ = sender.send(Event::File(event)))
    }

    /// Waits for changes, at most for `timeout`. Those of files are gathered for a moment, as an editor or a checkout makes many;
    /// those of a cluster are not, as they come one by one and whole.
    pub fn wait(&self, mut watch: Option<&mut Watch>, timeout: Duration) -> Option<Batch> {
        let end = Instant::now() + timeout;
        let mut batch = Batch::default();
        let mut gathered: Option<Instant> = None;
        loop {
            let now = Instant::now();
            let patience = match gathered {
                None if batch.objects => Duration::ZERO,
                None => end.saturating_duration_since(now),
                Some(first) => QUIET.min((first + GATHER).saturating_duration_since(now)),
            };
            match self.events.recv_timeout(patience) {
                Ok(Event::Objects) => batch.objects = true,
                Ok(Event::File(event)) => {
                    if let Some(watch) = &mut watch {
                        watch.take(event, &mut batch);
                    }
                    if gathered.is_none() && batch.has_files() {
                        gathered = Some(Instant::now());
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        (batch.objects || batch.has_files()).then_some(batch)
    }
}
