//! What waits in the outbox, by names that a command line can give.
use crate::{
    apimachinery::reported::{Kind, NODE, POD},
    store::ObjectName,
};
use std::{
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
};

#[derive(Clone)]
pub enum Item {
    /// The last renewal of the node's Lease.
    Lease,
    Status(&'static Kind, ObjectName),
    /// By its number.
    Event(u64),
    /// What the API server has refused for good, by its number.
    Refused(u64),
}

/// Not the name of an item.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no item of the outbox: expected lease, status/nodes/NAME, status/pods/NAMESPACE/NAME, event/NUMBER or refused/NUMBER")]
pub struct NoItem(String);

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::Lease => f.write_str("lease"),
            Item::Status(kind, name) => write!(f, "status/{}/{name}", kind.resource.split('.').next().unwrap_or_default()),
            Item::Event(number) => write!(f, "event/{number}"),
            Item::Refused(number) => write!(f, "refused/{number}"),
        }
    }
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Item {
    type Err = NoItem;
    fn from_str(text: &str) -> Result<Item, NoItem> {
        let parts: Vec<&str> = text.split('/').collect();
        let number = |text: &str| text.parse().ok();
        let named = |namespace: &str, name: &str| ObjectName { namespace: namespace.into(), name: name.into() };
        let item = match parts[..] {
            ["lease"] => Some(Item::Lease),
            ["status", "nodes", name] => Some(Item::Status(&NODE, named("", name))),
            ["status", "pods", namespace, name] => Some(Item::Status(&POD, named(namespace, name))),
            ["event", n] => number(n).map(Item::Event),
            ["refused", n] => number(n).map(Item::Refused),
            _ => None,
        };
        item.ok_or_else(|| NoItem(text.to_string()))
    }
}

// A kind is one of a few tables; its resource tells them apart.
impl Item {
    fn key(&self) -> (u8, &str, Option<&ObjectName>, u64) {
        match self {
            Item::Lease => (0, "", None, 0),
            Item::Status(kind, name) => (1, kind.resource, Some(name), 0),
            Item::Event(number) => (2, "", None, *number),
            Item::Refused(number) => (3, "", None, *number),
        }
    }
}

impl PartialEq for Item {
    fn eq(&self, other: &Item) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Item {}

impl Hash for Item {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_have_names_that_are_read_back() {
        for text in ["lease", "status/nodes/edge-1", "status/pods/default/p", "event/7", "refused/0"] {
            let item: Item = text.parse().unwrap();
            assert_eq!((item.to_string().as_str(), item.clone() == text.parse().unwrap()), (text, true));
            assert!(item != Item::Event(8));
        }
        for text in ["", "event", "event/x", "status/pods/p", "status/services/n/s", "lease/a", "refused/-1"] {
            assert_eq!(text.parse::<Item>(), Err(NoItem(text.to_string())), "{text}");
        }
    }
}
