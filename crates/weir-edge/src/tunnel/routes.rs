//! Which agent leads to a host.
use crate::body::Body;
use hyper::client::conn::http2::SendRequest;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Semaphore;

/// Most nodes that are remembered once they have gone.
const REMEMBERED: usize = 100_000;

/// A connection of an agent.
pub struct Connected {
    /// The node, by its certificate.
    pub node: String,
    pub sender: SendRequest<Body>,
    /// Streams that it may have.
    pub streams: Arc<Semaphore>,
}

/// Where to a host.
pub enum Way {
    Agent(Arc<Connected>),
    /// A node that had an agent, and has none now.
    Gone,
    /// Not the host of an agent.
    Unknown,
}

/// Agents by the hosts that they lead to. A name is the one in the certificate; who claims an address first has it.
#[derive(Default)]
pub struct Routes(Mutex<Table<Arc<Connected>>>);

impl Routes {
    /// Returns the addresses that belong to other nodes.
    pub fn add(&self, agent: &Arc<Connected>, addresses: &[String]) -> Vec<String> {
        self.table().add(&agent.node, addresses, agent)
    }

    pub fn remove(&self, agent: &Arc<Connected>) {
        self.table().remove(|other| Arc::ptr_eq(other, agent));
    }

    pub fn find(&self, host: &str) -> Way {
        let table = self.table();
        match table.hosts.get(host) {
            Some((_, agent)) => Way::Agent(agent.clone()),
            None if table.known.contains(host) => Way::Gone,
            None => Way::Unknown,
        }
    }

    /// How many nodes have an agent.
    pub fn nodes(&self) -> usize {
        let table = self.table();
        table.hosts.iter().filter(|(host, (node, _))| *host == node).count()
    }

    fn table(&self) -> MutexGuard<'_, Table<Arc<Connected>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Table<A> {
    /// By host: the node, and its agent.
    hosts: HashMap<String, (String, A)>,
    known: HashSet<String>,
}

impl<A> Default for Table<A> {
    fn default() -> Table<A> {
        Table { hosts: HashMap::new(), known: HashSet::new() }
    }
}

impl<A: Clone> Table<A> {
    fn add(&mut self, node: &str, addresses: &[String], agent: &A) -> Vec<String> {
        // The node has a new connection.
        self.hosts.retain(|_, (of, _)| of != node);
        let mut taken = Vec::new();
        // A name is worth more than a claim.
        self.hosts.insert(node.into(), (node.into(), agent.clone()));
        for address in addresses.iter().map(|address| address.to_ascii_lowercase()) {
            match self.hosts.get(&address) {
                Some((of, _)) if of != node => taken.push(address),
                _ => drop(self.hosts.insert(address, (node.into(), agent.clone()))),
            }
        }
        if self.known.len() < REMEMBERED {
            self.known.extend(self.hosts.iter().filter(|(_, (of, _))| of == node).map(|(host, _)| host.clone()));
        }
        taken
    }

    fn remove(&mut self, is: impl Fn(&A) -> bool) {
        self.hosts.retain(|_, (_, agent)| !is(agent));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_certificates_and_addresses_of_who_came_first() {
        let mut table = Table::default();
        let text = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        let find = |table: &Table<u32>, host: &str| table.hosts.get(host).map(|(_, agent)| *agent);
        assert!(table.add("a", &text(&["10.0.0.1", "A.test"]), &1).is_empty());
        assert_eq!(table.add("b", &text(&["10.0.0.1", "a", "10.0.0.2"]), &2), ["10.0.0.1", "a"]);
        assert_eq!(
            (find(&table, "a"), find(&table, "10.0.0.1"), find(&table, "a.test"), find(&table, "10.0.0.2")),
            (Some(1), Some(1), Some(1), Some(2))
        );
        // A new connection takes the place of the old one, whose end changes nothing then.
        assert!(table.add("a", &text(&["10.0.0.3"]), &3).is_empty());
        table.remove(|agent| *agent == 1);
        assert_eq!((find(&table, "a"), find(&table, "10.0.0.1"), find(&table, "10.0.0.3")), (Some(3), None, Some(3)));
        table.remove(|agent| *agent == 3);
        assert_eq!(find(&table, "a"), None);
        assert!(table.known.contains("a") && table.known.contains("10.0.0.1"));
        // Whoever has claimed a name loses it to the node of that name.
        assert!(table.add("b", &text(&["c"]), &2).is_empty());
        assert!(table.add("c", &[], &4).is_empty());
        assert_eq!(find(&table, "c"), Some(4));
    }
}
