//! Lists again what missed something, with the rights of who filled it, and follows it while the client's own watch is not kept.
use crate::{
    cache::{
        key::SetKey,
        reflect::{Identity, Reflect, ReflectError, WATCH, is_for_good},
        stale::{Missed, Stale},
    },
    random::{backoff, between},
};
use std::{
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{sync::Semaphore, task::JoinSet, time::sleep};

/// A list waits up to this time: what overflows at one moment is not all listed at the next.
const SPREAD: Duration = Duration::from_secs(2);
/// Lists that are on their way at a time.
const AT_A_TIME: usize = 2;
/// Lists that are followed at a time; others are as old as their last list.
const FOLLOWED: usize = 100;
/// Waits after failures in a row.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Then it waits for the next list of a client.
const TRIES: u32 = 20;
/// How often it is looked at whether the client still watches.
const LOOK: Duration = Duration::from_secs(1);

pub struct Heal {
    reflect: Reflect,
    lists: Arc<Semaphore>,
    followed: Arc<Semaphore>,
}

impl Heal {
    pub fn new(reflect: Reflect) -> Heal {
        Heal { reflect, lists: Arc::new(Semaphore::new(AT_A_TIME)), followed: Arc::new(Semaphore::new(FOLLOWED)) }
    }

    /// Until the hub ends.
    pub async fn run(self) {
        let heal = Arc::new(self);
        let mut healing = JoinSet::new();
        loop {
            tokio::select! {
                (key, missed) = heal.stale().next() => {
                    let heal = heal.clone();
                    healing.spawn(async move {
                        heal.list(&key, missed).await;
                        heal.stale().done(&key);
                    });
                }
                Some(_) = healing.join_next() => {}
            }
        }
    }

    fn stale(&self) -> &Stale {
        &self.reflect.cache.stale
    }

    async fn list(&self, key: &SetKey, missed: Missed) {
        let identity = missed.token.map_or(Identity::Node, Identity::Token);
        let stats = &self.reflect.cache.stats;
        let mut link = self.reflect.remote.changes();
        let mut failures = 0;
        while failures < TRIES {
            sleep(if failures == 0 { between(Duration::ZERO, SPREAD) } else { backoff(BACKOFF.0, BACKOFF.1, failures - 1) }).await;
            if link.wait_for(|up| *up).await.is_err() {
                return;
            }
            let listed = {
                let _one = self.lists.acquire().await;
                self.reflect.list(key, &identity).await
            };
            match listed {
                Ok(()) => drop(stats.relists.fetch_add(1, Relaxed)),
                Err(ref e) => {
                    stats.failed_relists.fetch_add(1, Relaxed);
                    if matches!(e, ReflectError::Refused(code) if is_for_good(*code)) {
                        return;
                    }
                }
            }
            // Where following fails, something may be missing again.
            match listed.is_err() || self.follow(key, &identity, &missed.client).await.is_err() {
                true => failures += 1,
                false => return,
            }
        }
    }

    /// In place of a client's watch that is not kept any more, until that ends.
    async fn follow(&self, key: &SetKey, identity: &Identity, client: &Weak<()>) -> Result<(), ReflectError> {
        let Ok(_one) = self.followed.try_acquire() else { return Ok(()) };
        while client.strong_count() > 0 {
            let watch = async { self.reflect.watch(key, identity, WATCH).await?.follow().await };
            tokio::select! {
                followed = watch => followed?,
                () = ended(client) => break,
            }
        }
        Ok(())
    }
}

async fn ended(client: &Weak<()>) {
    while client.strong_count() > 0 {
        sleep(LOOK).await;
    }
}
