//! What the nodes of Dubbo and Spring Cloud say.
use crate::{api::labels::Labels, registry::service::Instance};
use serde::Deserialize;
use url::Url;

/// The host and the instance of a provider of Dubbo, of which the name of its node is the URL in percent encoding:
/// `dubbo://10.0.0.1:20880/org.apache.Demo?version=1.0.0&group=g`.
pub fn dubbo(interface: &str, node: &str) -> Option<(String, Instance)> {
    let decoded: String = percent_decoded(node)?;
    let url = Url::parse(&decoded).ok()?;
    let query: Labels = url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    let word = |name: &str, default: &'static str| query.get(name).cloned().unwrap_or_else(|| default.into());
    let host = format!("providers:{interface}:{}:{}.zookeeper", word("version", "0.0.0"), word("group", ""));
    let mut metadata = query;
    // Dubbo's Triple is gRPC.
    metadata.insert("protocol".into(), url.scheme().into());
    let address = url.host_str()?.trim_start_matches('[').trim_end_matches(']').to_string();
    let weight = metadata.get("weight").and_then(|weight| weight.parse::<u32>().ok()).map_or(1.0, f64::from);
    Some((host, Instance { address, port: url.port()?, weight, metadata }))
}

fn percent_decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let code =
            (*first == b'%').then(|| after.get(..2)).flatten().and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).ok()
}

#[derive(Deserialize)]
struct SpringCloud {
    address: String,
    port: Option<u16>,
    #[serde(default)]
    payload: Option<Payload>,
}

#[derive(Deserialize)]
struct Payload {
    #[serde(default)]
    metadata: Option<Labels>,
}

/// The instance of which a node of Spring Cloud has the JSON.
pub fn spring_cloud(data: &[u8]) -> Option<Instance> {
    let read: SpringCloud = serde_json::from_slice(data).ok()?;
    let metadata = read.payload.and_then(|payload| payload.metadata).unwrap_or_default();
    Some(Instance { address: read.address, port: read.port?, weight: 1.0, metadata })
}

/// `NAME.services.zookeeper` for a service under `/services`; `NAME.zookeeper` under the root.
pub fn spring_cloud_host(root: &str, service: &str) -> String {
    let path = root.trim_matches('/').replace('/', "-");
    if path.is_empty() { format!("{service}.zookeeper") } else { format!("{service}.{path}.zookeeper") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nodes_of_dubbo_and_spring_cloud() {
        let node = "dubbo%3A%2F%2F10.0.0.1%3A20880%2Forg.Demo%3Fversion%3D1.0%26group%3Dg%26weight%3D50";
        let (host, made) = dubbo("org.Demo", node).unwrap();
        assert_eq!(
            (host.as_str(), made.address.as_str(), made.port, made.weight),
            ("providers:org.Demo:1.0:g.zookeeper", "10.0.0.1", 20880, 50.0)
        );
        assert_eq!(made.metadata.get("protocol").map(String::as_str), Some("dubbo"));
        let (host, made) = dubbo("org.Demo", "tri://10.0.0.2:50051/org.Demo").unwrap();
        assert_eq!((host.as_str(), made.metadata["protocol"].as_str()), ("providers:org.Demo:0.0.0:.zookeeper", "tri"));
        assert_eq!((dubbo("x", "nonsense"), dubbo("x", "dubbo%3A%2F%2Fhost"), dubbo("x", "%ff%2")), (None, None, None));
        let made = spring_cloud(br#"{"name":"a","address":"10.0.0.1","port":8080,"payload":{"metadata":{"zone":"b"}}}"#).unwrap();
        assert_eq!((made.port, made.metadata["zone"].as_str()), (8080, "b"));
        assert_eq!((spring_cloud(b"{}"), spring_cloud(br#"{"address":"a"}"#), spring_cloud(b"")), (None, None, None));
        for (root, wanted) in [("/services", "a.services.zookeeper"), ("/x/y", "a.x-y.zookeeper"), ("/", "a.zookeeper")] {
            assert_eq!(spring_cloud_host(root, "a"), wanted);
        }
    }
}
