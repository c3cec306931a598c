//! The node: this process, as Istio's proxies name themselves.
use std::{collections::BTreeMap, sync::OnceLock};
use weir_wasm::{PropertyPath, compatibility::Row, names, pairs};

/// `envoy.config.core.v3.Node`, as much of it as plugins read.
struct Node {
    id: String,
    cluster: String,
    metadata: Vec<(&'static str, String)>,
    /// `LABELS` of the metadata.
    labels: BTreeMap<String, String>,
}

static LABELS: OnceLock<BTreeMap<String, String>> = OnceLock::new();

/// The labels of this process, before anybody reads them; the first call counts.
pub fn set_labels(labels: BTreeMap<String, String>) {
    let _ = LABELS.set(labels);
}

/// Name and namespace are those that Kubernetes' downward API hands over by convention, else the machine's name.
fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| {
        let variable = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").map(|h| h.trim().to_string()).ok();
        let name = variable("POD_NAME").or_else(|| variable("HOSTNAME")).or_else(host).unwrap_or_else(|| "weir".into());
        let namespace = variable("POD_NAMESPACE").unwrap_or_else(|| "default".into());
        let address = variable("INSTANCE_IP").unwrap_or_else(|| "127.0.0.1".into());
        Node {
            id: format!("router~{address}~{name}.{namespace}~{namespace}.svc.cluster.local"),
            cluster: format!("weir.{namespace}"),
            metadata: vec![("NAME", name), ("NAMESPACE", namespace)],
            labels: LABELS.get().cloned().unwrap_or_default(),
        }
    })
}

names! {
    enum Field {
        Id = b"id", "Envoy", "`router~IP~NAME.NAMESPACE~NAMESPACE.svc.cluster.local`.", "plugin_stream::properties_are_those_of_envoy";
        Cluster = b"cluster", "Envoy", "`weir.NAMESPACE`.", "plugin_stream::properties_are_those_of_envoy";
        Metadata = b"metadata", "Istio", "`NAME`, `NAMESPACE` and `LABELS` (`--labels`); all of it as pairs.", "plugin_stream::properties_are_those_of_envoy";
    }
}

pub const ROWS: &[Row] = Field::ROWS;

/// Appends what stands at `path` within the node; false for nothing.
pub fn get(path: PropertyPath<'_>, out: &mut Vec<u8>) -> bool {
    let node = node();
    let (first, rest) = path.split_first();
    if first.is_empty() {
        message(node, out);
        return true;
    }
    match Field::of(first) {
        Some(Field::Id) => out.extend_from_slice(node.id.as_bytes()),
        Some(Field::Cluster) => out.extend_from_slice(node.cluster.as_bytes()),
        Some(Field::Metadata) => {
            let (key, rest) = rest.split_first();
            if key == b"LABELS" {
                return labels(node, rest, out);
            }
            if key.is_empty() {
                let all = node.metadata.iter().map(|(k, v)| (k.as_bytes(), v.as_bytes()));
                out.extend_from_slice(&pairs::encode(all));
                return true;
            }
            let Some((_, value)) = node.metadata.iter().find(|(k, _)| k.as_bytes() == key) else { return false };
            out.extend_from_slice(value.as_bytes());
        }
        None => return false,
    }
    true
}

/// All labels, or the one of this name.
fn labels(node: &Node, path: PropertyPath<'_>, out: &mut Vec<u8>) -> bool {
    let name = path.dotted();
    if name.is_empty() {
        out.extend_from_slice(&pairs::encode(node.labels.iter().map(|(k, v)| (k.as_bytes(), v.as_bytes()))));
        return !node.labels.is_empty();
    }
    node.labels.get(&*name).is_some_and(|value| {
        out.extend_from_slice(value.as_bytes());
        true
    })
}

/// `Node { string id = 1; string cluster = 2; Struct metadata = 3; }`
fn message(node: &Node, out: &mut Vec<u8>) {
    field(1, node.id.as_bytes(), out);
    field(2, node.cluster.as_bytes(), out);
    let mut metadata = Vec::new();
    for (key, value) in &node.metadata {
        // A map's entry: key = 1, value = 2; a Value's string_value = 3.
        let (mut entry, mut text) = (Vec::new(), Vec::new());
        field(1, key.as_bytes(), &mut entry);
        field(3, value.as_bytes(), &mut text);
        field(2, &text, &mut entry);
        field(1, &entry, &mut metadata);
    }
    field(3, &metadata, out);
}

/// One field of bytes.
fn field(number: u8, value: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    let mut len = value.len();
    while len > 0x7f {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_is_a_message_of_envoys() {
        let node = Node { id: "i".into(), cluster: "c".repeat(130), metadata: vec![("K", "v".into())], labels: BTreeMap::new() };
        let mut out = Vec::new();
        message(&node, &mut out);
        assert_eq!(out[..6], [0x0a, 1, b'i', 0x12, 0x82, 1]);
        assert_eq!(out[136..], [0x1a, 10, 0x0a, 8, 0x0a, 1, b'K', 0x12, 3, 0x1a, 1, b'v']);
    }
}
