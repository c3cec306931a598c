//! Lists that missed something, until the hub has listed them again.
use super::key::SetKey;
use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError, Weak},
};
use tokio::sync::Notify;

/// Most lists that wait. What does not fit stays marked, and is made whole by the next list of a client.
const MOST: usize = 1000;

/// With whose rights to list again, and for how long to follow.
#[derive(Clone, Default)]
pub struct Missed {
    /// The token of the client whose answer could not be kept; `None`: the credentials of the node. It is only in memory.
    pub token: Option<String>,
    /// That client, while its watch goes on.
    pub client: Weak<()>,
}

#[derive(Default)]
pub struct Stale {
    lists: Mutex<Lists>,
    news: Notify,
}

#[derive(Default)]
struct Lists {
    waiting: HashMap<SetKey, Missed>,
    /// Those that are being listed and followed.
    busy: HashSet<SetKey>,
}

impl Stale {
    /// Returns whether there was room.
    pub fn add(&self, key: SetKey, missed: Missed) -> bool {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = lists.waiting.len() < MOST || lists.waiting.contains_key(&key);
        if fits {
            lists.waiting.insert(key, missed);
            drop(lists);
            self.news.notify_one();
        }
        fits
    }

    /// The next list. It is not given out again before [`Stale::done`].
    pub async fn next(&self) -> (SetKey, Missed) {
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            self.news.notified().await;
        }
    }

    fn take(&self) -> Option<(SetKey, Missed)> {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        let key = lists.waiting.keys().find(|key| !lists.busy.contains(key))?.clone();
        let missed = lists.waiting.remove(&key)?;
        lists.busy.insert(key.clone());
        Some((key, missed))
    }

    pub fn done(&self, key: &SetKey) {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner).busy.remove(key);
        self.news.notify_one();
    }

    /// How many lists wait, or are on their way.
    pub fn len(&self) -> usize {
        let lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        lists.waiting.len() + lists.busy.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_list_is_given_out_once_at_a_time_and_the_number_is_bounded() {
        let key = |name: &str| SetKey {
            user: "u".into(),
            resource: name.into(),
            namespace: String::new(),
            selected: Some(Default::default()),
            media: "json".into(),
        };
        let stale = Stale::default();
        assert!(stale.add(key("a"), Missed::default()) && stale.add(key("a"), Missed { token: Some("t".into()), ..Missed::default() }));
        let (first, missed) = stale.next().await;
        assert_eq!((first.resource.as_str(), missed.token.as_deref(), stale.len()), ("a", Some("t"), 1));
        // It missed something again while it was listed.
        assert!(stale.add(key("a"), Missed::default()) && stale.take().is_none());
        stale.done(&first);
        assert_eq!(stale.next().await.0, first);
        stale.done(&first);
        assert!(stale.is_empty());
        assert_eq!((0..MOST + 5).filter(|i| stale.add(key(&i.to_string()), Missed::default())).count(), MOST);
        assert!(stale.add(key("7"), Missed::default()));
    }
}
