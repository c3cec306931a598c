//! Lists on their way through filters: what is changed, what is not touched, and that nobody waits for the end of a list.
use super::{
    watches::{Node, SERVICES, SLICES, list, service, slice, text},
    wire,
};
use crate::{
    apimachinery::{
        list::List,
        media::Encoding,
        object::{Envelope, Object},
        wire::put_bytes,
    },
    body::{Body, BodyError, streamed},
    filters::{context::Context, stats::Count},
    store::ObjectName,
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderName, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use std::{
    io::Write,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{sync::mpsc, time::timeout};

const JSON: (HeaderName, &str) = (header::CONTENT_TYPE, "application/json");
const PROTOBUF: (HeaderName, &str) = (header::CONTENT_TYPE, "application/vnd.kubernetes.protobuf");
const GZIP: (HeaderName, &str) = (header::CONTENT_ENCODING, "gzip");
/// Nothing here takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

fn context() -> Context {
    Context { node: "node1".into(), hub: Some("192.0.2.9:10268".parse().unwrap()), ..Context::default() }
}

fn hidden(name: &str) -> Value {
    service(name, 1, json!({ "svc.openyurt.io/discard": "true" }))
}

fn shown(name: &str) -> Value {
    service(name, 1, json!({}))
}

fn in_pieces(body: &[u8], size: usize) -> Body {
    let pieces: Vec<_> = body.chunks(size).map(|piece| Ok::<_, BodyError>(Frame::data(Bytes::copy_from_slice(piece)))).collect();
    streamed(StreamBody::new(futures_util::stream::iter(pieces)))
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(1));
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// A list in protobuf as the API server writes it.
fn protobuf(kind: &str, version: u32, items: &[Value]) -> Bytes {
    let mut metadata = Vec::new();
    for (number, text) in [(1, ""), (2, version.to_string().as_str()), (3, "")] {
        put_bytes(&mut metadata, number, text.as_bytes());
    }
    let mut message = Vec::new();
    put_bytes(&mut message, 1, &metadata);
    for item in items {
        let whole = wire(item).unwrap();
        let raw = Envelope::read(&whole).unwrap().raw;
        put_bytes(&mut message, 2, &whole[raw]);
    }
    Envelope::wrap("v1", &format!("{kind}List"), &message)
}

#[tokio::test]
async fn hidden_items_leave_a_list_as_if_they_were_never_in_it() {
    let node = Node::new(context());
    let cases = [
        vec![hidden("a"), shown("b"), shown("c")],
        vec![shown("a"), hidden("b"), hidden("c"), shown("d")],
        vec![shown("a"), hidden("b")],
        vec![hidden("a"), hidden("b")],
        vec![shown("a")],
        vec![],
    ];
    for items in cases {
        let kept: Vec<Value> = items.iter().filter(|item| item["metadata"]["annotations"] == json!({})).cloned().collect();
        let (body, wanted) = (list("Service", 9, &items), list("Service", 9, &kept));
        for size in [1, 10, 100, 10_000] {
            let plain = node.serve_as("kube-proxy", SERVICES, &[JSON], in_pieces(body.as_bytes(), size)).await;
            assert_eq!(text(plain.into_body()).await, wanted, "{size}");
            let compressed = node.serve_as("kube-proxy", SERVICES, &[JSON, GZIP], in_pieces(&gzip(body.as_bytes()), size)).await;
            assert_eq!(compressed.headers().get(header::CONTENT_ENCODING), None);
            assert_eq!(text(compressed.into_body()).await, wanted, "{size}");
        }
        let (body, wanted) = (protobuf("Service", 9, &items), protobuf("Service", 9, &kept));
        for size in [1, 10, 10_000] {
            let answer = node.serve_as("kube-proxy", SERVICES, &[PROTOBUF], in_pieces(&body, size)).await;
            let found = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(found, wanted, "{size}");
            // What is not changed stays compressed.
            let compressed = gzip(&body);
            let answer = node.serve_as("kube-proxy", SERVICES, &[PROTOBUF, GZIP], in_pieces(&compressed, size)).await;
            let is_compressed = answer.headers().contains_key(header::CONTENT_ENCODING);
            let found = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(
                (is_compressed, found == wanted, found == compressed),
                if kept == items { (true, false, true) } else { (false, true, false) }
            );
        }
    }
}

#[tokio::test]
async fn changed_items_stand_where_they_were_and_others_are_not_touched() {
    let node = Node::new(context());
    let master = json!({
        "kind": "Service", "apiVersion": "v1", "spec": { "clusterIP": "10.96.0.1", "ports": [{ "name": "https", "port": 443 }] },
        "metadata": { "name": "kubernetes", "namespace": "default", "resourceVersion": "7" },
    });
    // Neither the order of fields nor spaces of the others.
    let odd = r#"{ "spec" : {"type":"ClusterIP"}, "metadata":{"namespace":"n","name":"kubernetes","resourceVersion":"3"} }"#;
    let mut bare = master.clone();
    ["kind", "apiVersion"].into_iter().for_each(|field| drop(bare.as_object_mut().unwrap().shift_remove(field)));
    let around = |item: &str| {
        format!(
            "{{\"kind\":\"ServiceList\", \"apiVersion\":\"v1\",\"metadata\":{{\"resourceVersion\":\"9\"}},\"items\":[ {odd} ,\n {item}, {odd}]}}\n"
        )
    };
    let body = around(&bare.to_string());
    for size in [1, 33, 10_000] {
        let answer = text(node.serve_as("kubelet", SERVICES, &[JSON], in_pieces(body.as_bytes(), size)).await.into_body()).await;
        let found: Value = serde_json::from_str(&answer).unwrap();
        let item = &found["items"][1];
        assert_eq!((&item["spec"]["clusterIP"], &item["spec"]["ports"][0]["port"]), (&json!("192.0.2.9"), &json!(10268)));
        assert!(item.get("kind").is_none() && item["metadata"]["resourceVersion"] != "7");
        assert_eq!(answer, around(&item.to_string()), "{size}");
    }
    let body = protobuf("Service", 9, &[shown("a"), master, shown("b")]);
    let answer = node.serve_as("kubelet", SERVICES, &[PROTOBUF], in_pieces(&body, 50)).await;
    let length = answer.headers()[header::CONTENT_LENGTH].to_str().unwrap().to_string();
    let found = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(length, found.len().to_string());
    let (before, after) = (List::split(&body, Encoding::Protobuf).unwrap(), List::split(&found, Encoding::Protobuf).unwrap());
    assert_eq!((after.items.len(), &after.head), (3, &before.head));
    for (i, (before, after)) in before.items.iter().zip(&after.items).enumerate() {
        assert_eq!(before.bytes() == after.bytes(), i != 1, "{i}");
    }
    let whole = Object::read(after.head.whole(&after.items[1]), Encoding::Protobuf).unwrap();
    assert_eq!(super::opened(&whole)["spec"]["clusterIP"], "192.0.2.9");
    let (filter, resource) = ("masterservice", "services");
    let count = node.filters.stats.counts().iter().find(|count| (count.filter, count.resource) == (filter, resource)).unwrap();
    let counted = |number: fn(&Count) -> &std::sync::atomic::AtomicU64| number(count).load(Relaxed);
    assert_eq!((counted(|c| &c.seen), counted(|c| &c.changed), counted(|c| &c.dropped)), (12, 4, 0));
}

#[tokio::test]
async fn items_pass_before_the_list_has_ended() {
    let node = Node::new(context());
    let (upstream, receive) = mpsc::unbounded_channel::<Bytes>();
    let frames = futures_util::stream::unfold(receive, |mut receive| async {
        let bytes = receive.recv().await?;
        Some((Ok::<_, BodyError>(Frame::data(bytes)), receive))
    });
    let whole = list("Service", 9, &[shown("a"), hidden("b"), shown("c")]);
    let wanted = list("Service", 9, &[shown("a"), shown("c")]);
    // In the middle of the second item.
    let cut = whole.find("svc.openyurt").unwrap();
    upstream.send(Bytes::copy_from_slice(&whole.as_bytes()[..cut])).unwrap();
    let mut body = node.serve_as("kube-proxy", SERVICES, &[JSON], streamed(StreamBody::new(frames))).await.into_body();
    let mut found = Vec::new();
    while !String::from_utf8_lossy(&found).contains("\"a\"") {
        let frame = timeout(PATIENCE, body.frame()).await.expect("it waits for the end").unwrap().unwrap();
        found.extend_from_slice(&frame.into_data().unwrap());
    }
    upstream.send(Bytes::copy_from_slice(&whole.as_bytes()[cut..])).unwrap();
    drop(upstream);
    found.extend_from_slice(&body.collect().await.unwrap().to_bytes());
    assert_eq!(String::from_utf8(found).unwrap(), wanted);
}

#[tokio::test]
async fn what_is_no_list_passes_as_it_is() {
    let node = Node::new(context());
    let list = list("Service", 9, &[shown("a"), hidden("b"), shown("c")]);
    let broken = list.replacen("},{", "},,{", 1);
    let short = &list[..list.len() - 20];
    for (body, reads) in [(broken.as_str(), false), ("{", false), ("[]", false), ("", false), (short, true)] {
        for size in [1, 40, 10_000] {
            let answer = node.serve_as("kube-proxy", SERVICES, &[JSON], in_pieces(body.as_bytes(), size)).await;
            let found = text(answer.into_body()).await;
            assert!(found == body || reads && !found.contains("\"b\"") && found.ends_with(&body[body.len() - 10..]), "{found}");
        }
    }
    let whole = protobuf("Service", 9, &[hidden("a"), shown("b")]);
    for body in [&whole[..whole.len() - 10], b"k8s", b""] {
        let answer = node.serve_as("kube-proxy", SERVICES, &[PROTOBUF], in_pieces(body, 7)).await;
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), body);
    }
    // Of what is not compressed as it says, nothing can be passed on as a list.
    let answer = node.serve_as("kube-proxy", SERVICES, &[JSON, GZIP], in_pieces(list.as_bytes(), 50)).await;
    assert!(answer.into_body().collect().await.is_err());
}

#[tokio::test]
async fn a_list_that_says_its_version_last_is_known_to_later_contexts() {
    let node = Node::new(Context { node: "node1".into(), ..Context::default() });
    let topology = |services: &[&str]| {
        let name = |name: &str| ObjectName { namespace: "default".into(), name: name.into() };
        let all = services.iter().map(|service| (name(service), "kubernetes.io/hostname".to_string())).collect();
        node.filters.update(|context| context.topology = Arc::new(all));
    };
    topology(&["x"]);
    let item = slice("a", 5, &["node1", "node2"]).to_string();
    let body = format!(
        "{{\"apiVersion\":\"discovery.k8s.io/v1\",\"items\":[{item},{item}],\"kind\":\"EndpointSliceList\",\"metadata\":{{\"resourceVersion\":\"9\"}}}}"
    );
    let (upstream, receive) = mpsc::unbounded_channel::<Bytes>();
    let frames = futures_util::stream::unfold(receive, |mut receive| async {
        let bytes = receive.recv().await?;
        Some((Ok::<_, BodyError>(Frame::data(bytes)), receive))
    });
    let cut = body.find("},{\"kind\"").unwrap() + 5;
    upstream.send(Bytes::copy_from_slice(&body.as_bytes()[..cut])).unwrap();
    let mut answer = node.serve_as("kube-proxy", SLICES, &[JSON], streamed(StreamBody::new(frames))).await.into_body();
    let first = timeout(PATIENCE, answer.frame()).await.unwrap().unwrap().unwrap().into_data().unwrap();
    // The context changes after the first item has passed. The client goes on from the version of the list, and has to hear of it.
    topology(&["x", "a"]);
    upstream.send(Bytes::copy_from_slice(&body.as_bytes()[cut..])).unwrap();
    drop(upstream);
    let rest = answer.collect().await.unwrap().to_bytes();
    assert_eq!([first, rest].concat(), body.as_bytes());
    assert_eq!(node.filters.context().mark, 9);
}
