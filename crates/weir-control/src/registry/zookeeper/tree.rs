//! Which nodes are watched, and what they come to: packets in, requests and changed services out.
use super::{
    content,
    wire::{self, Answer, Ask, EventKind, Packet, WireError},
};
use crate::registry::service::Instance;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// Requests that are not answered yet.
const MAX_ASKED: usize = 256;
const DUBBO: &str = "/dubbo";
/// Nodes of Dubbo that are no interfaces.
const NO_INTERFACES: [&str; 3] = ["config", "mapping", "metadata"];

#[derive(Debug, PartialEq)]
pub enum Change {
    Put(String, Vec<Instance>),
    Gone(String),
}

/// What a path is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Role {
    /// Its children are interfaces of Dubbo.
    DubboRoot,
    /// Its children are providers of this interface.
    Providers(String),
    /// Its children are services of Spring Cloud.
    Root,
    /// Its children are instances.
    Service,
    /// Its data is an instance.
    Instance,
}

struct Node {
    role: Role,
    children: BTreeSet<String>,
    /// Of an instance; it was read at least once.
    read: bool,
    instance: Option<Instance>,
    /// Hosts of a service, or of the providers, as of the last time.
    hosts: BTreeSet<String>,
}

pub struct Tree {
    nodes: BTreeMap<String, Node>,
    /// To be asked, each once.
    queue: VecDeque<(Ask, String)>,
    queued: BTreeSet<(Ask, String)>,
    asked: HashMap<i32, (Ask, String)>,
    last: i32,
    max_nodes: usize,
}

impl Tree {
    /// `paths`: under which Spring Cloud has its services. `max_nodes` are watched; the services of others are left out.
    pub fn new(paths: &[Box<str>], max_nodes: usize) -> Tree {
        let (nodes, queue, queued, asked) = (BTreeMap::new(), VecDeque::new(), BTreeSet::new(), HashMap::new());
        let mut tree = Tree { nodes, queue, queued, asked, last: 0, max_nodes };
        tree.add(DUBBO.into(), Role::DubboRoot);
        for path in paths {
            tree.add(path.to_string(), Role::Root);
        }
        tree
    }

    /// Nothing more is asked, and everything was answered.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.asked.is_empty()
    }

    /// The packets to send now.
    pub fn requests(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while self.asked.len() < MAX_ASKED
            && let Some((ask, path)) = self.queue.pop_front()
        {
            self.queued.remove(&(ask, path.clone()));
            if !self.nodes.contains_key(&path) {
                continue;
            }
            // Negative ones are the server's.
            self.last = self.last.checked_add(1).unwrap_or(1);
            out.extend(wire::ask(self.last, ask, &path));
            self.asked.insert(self.last, (ask, path));
        }
        out
    }

    pub fn receive(&mut self, packet: &[u8]) -> Result<Vec<Change>, WireError> {
        let mut changes = Vec::new();
        match wire::read(packet)? {
            Packet::Ping => {}
            Packet::Event { kind, path } => self.event(kind, path),
            Packet::Answer { xid, answer } => {
                let Some((ask, path)) = self.asked.remove(&xid) else { return Err(WireError::Malformed) };
                self.answer(ask, path, answer, &mut changes)?;
            }
        }
        Ok(changes)
    }

    fn event(&mut self, kind: EventKind, path: String) {
        let Some(node) = self.nodes.get(&path) else { return };
        let is_instance = node.role == Role::Instance;
        match kind {
            EventKind::DataChanged if is_instance => self.ask(Ask::Data, path),
            EventKind::Created | EventKind::Deleted | EventKind::ChildrenChanged if !is_instance => self.ask(Ask::Children, path),
            // The watch of its parent reports an instance that goes.
            _ => {}
        }
    }

    fn answer(&mut self, ask: Ask, path: String, answer: Answer, changes: &mut Vec<Change>) -> Result<(), WireError> {
        match (ask, answer) {
            (Ask::Children, Answer::Body(body)) => self.set_children(&path, wire::children(&body)?, changes),
            (Ask::Children, Answer::NoNode) => {
                self.set_children(&path, Vec::new(), changes);
                if self.nodes.contains_key(&path) {
                    self.ask(Ask::Exists, path);
                }
            }
            // It came in between.
            (Ask::Exists, Answer::Body(_)) => self.ask(Ask::Children, path),
            (Ask::Exists, Answer::NoNode) => {}
            (Ask::Data, answer) => {
                let instance = match answer {
                    Answer::Body(body) => content::spring_cloud(&wire::data(&body)?),
                    Answer::NoNode => None,
                };
                if let Some(node) = self.nodes.get_mut(&path) {
                    (node.read, node.instance) = (true, instance);
                }
                if let Some((parent, _)) = path.rsplit_once('/') {
                    self.publish(parent, changes);
                }
            }
        }
        Ok(())
    }

    fn set_children(&mut self, path: &str, names: Vec<String>, changes: &mut Vec<Change>) {
        let Some(node) = self.nodes.get_mut(path) else { return };
        let now: BTreeSet<String> = names.into_iter().collect();
        let before = std::mem::replace(&mut node.children, now.clone());
        let role = node.role.clone();
        for name in before.difference(&now) {
            self.remove(&child(&role, path, name), changes);
        }
        for name in now.difference(&before) {
            let below = match &role {
                Role::DubboRoot if NO_INTERFACES.contains(&name.as_str()) => continue,
                Role::DubboRoot => Role::Providers(name.clone()),
                Role::Root => Role::Service,
                Role::Service => Role::Instance,
                Role::Providers(_) | Role::Instance => continue,
            };
            self.add(child(&role, path, name), below);
        }
        self.publish(path, changes);
    }

    fn add(&mut self, path: String, role: Role) {
        if self.nodes.len() >= self.max_nodes {
            return;
        }
        let ask = if role == Role::Instance { Ask::Data } else { Ask::Children };
        let node = Node { role, children: BTreeSet::new(), read: false, instance: None, hosts: BTreeSet::new() };
        self.nodes.insert(path.clone(), node);
        self.ask(ask, path);
    }

    fn ask(&mut self, ask: Ask, path: String) {
        if self.queued.insert((ask, path.clone())) {
            self.queue.push_back((ask, path));
        }
    }

    fn remove(&mut self, path: &str, changes: &mut Vec<Change>) {
        let Some(node) = self.nodes.remove(path) else { return };
        for name in &node.children {
            self.remove(&child(&node.role, path, name), changes);
        }
        changes.extend(node.hosts.into_iter().map(Change::Gone));
    }

    /// Says what the service, or the providers, at a path are now.
    fn publish(&mut self, path: &str, changes: &mut Vec<Change>) {
        let Some(node) = self.nodes.get(path) else { return };
        let mut hosts: BTreeMap<String, Vec<Instance>> = BTreeMap::new();
        match &node.role {
            Role::Providers(interface) => {
                for (host, instance) in node.children.iter().filter_map(|name| content::dubbo(interface, name)) {
                    hosts.entry(host).or_default().push(instance);
                }
            }
            Role::Service => {
                let below = node.children.iter().map(|name| self.nodes.get(&child(&node.role, path, name)));
                let Some(below) = below.collect::<Option<Vec<&Node>>>() else { return };
                // Said once all of them were read, so that none is missed in between.
                if below.iter().any(|instance| !instance.read) {
                    return;
                }
                let (root, service) = path.rsplit_once('/').unwrap_or(("", path));
                hosts.insert(
                    content::spring_cloud_host(root, service),
                    below.into_iter().filter_map(|node| node.instance.clone()).collect(),
                );
            }
            Role::DubboRoot | Role::Root | Role::Instance => return,
        }
        let now: BTreeSet<String> = hosts.keys().cloned().collect();
        let before = match self.nodes.get_mut(path) {
            Some(node) => std::mem::replace(&mut node.hosts, now.clone()),
            None => BTreeSet::new(),
        };
        // Providers that went leave a service without endpoints while their interface is there.
        changes.extend(before.difference(&now).map(|host| Change::Put(host.clone(), Vec::new())));
        changes.extend(hosts.into_iter().map(|(host, instances)| Change::Put(host, instances)));
        if let Some(node) = self.nodes.get_mut(path) {
            node.hosts.extend(before);
        }
    }
}

fn child(role: &Role, path: &str, name: &str) -> String {
    match role {
        Role::DubboRoot => format!("{path}/{name}/providers"),
        _ if path == "/" => format!("/{name}"),
        _ => format!("{path}/{name}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A server: nodes with their data, whose changes go to the watches one by one.
    #[derive(Default)]
    struct Server(BTreeMap<String, String>);

    impl Server {
        fn children(&self, path: &str) -> BTreeSet<String> {
            let start = format!("{}/", path.trim_end_matches('/'));
            let below = self.0.keys().filter_map(|node| node.strip_prefix(&start));
            below.map(|rest| rest.split('/').next().unwrap().to_string()).collect()
        }
        fn answer(&self, request: &[u8]) -> Vec<u8> {
            let (xid, code) = (&request[..4], i32::from_be_bytes(request[4..8].try_into().unwrap()));
            let path = std::str::from_utf8(&request[12..request.len() - 1]).unwrap();
            let there = self.0.contains_key(path) || !self.children(path).is_empty();
            let mut out = [xid, &[0; 8], &(if there { 0i32 } else { -101 }).to_be_bytes()].concat();
            let mut text = |text: &str| out.extend([&(text.len() as i32).to_be_bytes()[..], text.as_bytes()].concat());
            match code {
                4 if there => text(self.0.get(path).map_or("", |data| data)),
                8 if there => {
                    let children = self.children(path);
                    out.extend((children.len() as i32).to_be_bytes());
                    children.iter().for_each(|name| out.extend([&(name.len() as i32).to_be_bytes()[..], name.as_bytes()].concat()));
                }
                _ => {}
            }
            out
        }
        /// Answers all requests; what changed.
        fn run(&self, tree: &mut Tree) -> Vec<String> {
            let mut said = Vec::new();
            loop {
                let requests = tree.requests();
                if requests.is_empty() {
                    return said;
                }
                let mut rest = &requests[..];
                while !rest.is_empty() {
                    let length = i32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
                    let changes = tree.receive(&self.answer(&rest[4..4 + length])).unwrap();
                    said.extend(changes.into_iter().map(|change| match change {
                        Change::Put(host, all) => {
                            format!("{host}: {}", all.iter().map(|i| i.port.to_string()).collect::<Vec<_>>().join(" "))
                        }
                        Change::Gone(host) => format!("{host} is gone"),
                    }));
                    rest = &rest[4 + length..];
                }
            }
        }
    }

    fn event(kind: i32, path: &str) -> Vec<u8> {
        let head = [&(-1i32).to_be_bytes()[..], &[0; 8], &[0; 4], &kind.to_be_bytes(), &3i32.to_be_bytes()].concat();
        [&head[..], &(path.len() as i32).to_be_bytes(), path.as_bytes()].concat()
    }

    #[test]
    fn services_follow_their_nodes() {
        let instance = |port: u16| format!(r#"{{"address":"10.0.0.1","port":{port}}}"#);
        let mut server = Server::default();
        server.0.insert("/services/web/1".into(), instance(80));
        server.0.insert("/services/web/2".into(), instance(81));
        server.0.insert("/dubbo/config/x".into(), String::new());
        server.0.insert("/dubbo/Demo/providers/dubbo%3A%2F%2F10.0.0.1%3A20880%2FDemo".into(), String::new());
        let mut tree = Tree::new(&["/services".into(), "/other".into()], 1000);
        let mut said = server.run(&mut tree);
        said.sort();
        assert_eq!(said, ["providers:Demo:0.0.0:.zookeeper: 20880", "web.services.zookeeper: 80 81"]);
        assert!(tree.is_idle());
        let mut after = |server: &Server, kind: i32, path: &str| {
            assert!(tree.receive(&event(kind, path)).unwrap().is_empty());
            server.run(&mut tree)
        };
        server.0.remove("/services/web/1");
        assert_eq!(after(&server, 4, "/services/web"), ["web.services.zookeeper: 81"]);
        server.0.insert("/services/web/2".into(), instance(82));
        assert_eq!(after(&server, 3, "/services/web/2"), ["web.services.zookeeper: 82"]);
        // A root that was not there.
        server.0.insert("/other/api/1".into(), instance(90));
        assert_eq!(after(&server, 1, "/other"), ["api.other.zookeeper: ", "api.other.zookeeper: 90"][1..]);
        // The interface without providers stays, as a service without endpoints.
        server.0.remove("/dubbo/Demo/providers/dubbo%3A%2F%2F10.0.0.1%3A20880%2FDemo");
        server.0.insert("/dubbo/Demo/providers".into(), String::new());
        assert_eq!(after(&server, 4, "/dubbo/Demo/providers"), ["providers:Demo:0.0.0:.zookeeper: "]);
        server.0.retain(|path, _| !path.starts_with("/services"));
        assert_eq!(after(&server, 4, "/services"), ["web.services.zookeeper is gone"]);
        assert_eq!(tree.receive(&[0; 3]), Err(WireError::Malformed));
    }
}
