//! Answers that are broken, in pieces, or nonsense: clients get what came, and what was kept stays true.
use super::{
    hub::{JSON, Rig, names},
    upstream::{SERVICES, Seen, reply},
};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::json;
use std::{
    io::{Read, Write},
    net::Shutdown,
    sync::atomic::Ordering::Relaxed,
};
use tokio::sync::mpsc;
use weir_edge::body::{Body, BodyError, full, streamed};
use weir_test::eventually;

/// No filter reads these: they pass as they come.
const SECRETS: &str = "/api/v1/secrets";

/// A list of so many secrets, from one number on.
fn list(from: usize, count: usize, version: u64, next: &str) -> String {
    let item = |i: usize| json!({ "metadata": { "name": format!("s{i:04}"), "namespace": "default", "resourceVersion": "5" } });
    let items: Vec<_> = (from..from + count).map(item).collect();
    let mut metadata = json!({ "resourceVersion": version.to_string() });
    if !next.is_empty() {
        metadata["continue"] = next.into();
    }
    json!({ "kind": "SecretList", "apiVersion": "v1", "metadata": metadata, "items": items }).to_string()
}

/// An answer in these pieces.
fn pieces(pieces: Vec<Bytes>) -> Response<Body> {
    let frames = pieces.into_iter().map(|piece| Ok::<_, BodyError>(Frame::data(piece))).collect::<Vec<_>>();
    reply(StatusCode::OK, streamed(StreamBody::new(futures_util::stream::iter(frames))))
}

/// Reads what the API server sends of an answer, which it breaks off once the client has that.
fn cut(rig: &Rig, path: &str, sent: &Bytes) {
    let (send, receive) = mpsc::unbounded_channel::<Result<Bytes, BodyError>>();
    let mut receive = Some(receive);
    rig.upstream.script(move |seen| {
        if seen.path != SECRETS {
            return None;
        }
        let frames = futures_util::stream::unfold(receive.take()?, |mut receive| async {
            let piece = receive.recv().await?;
            Some((piece.map(Frame::data), receive))
        });
        Some(reply(StatusCode::OK, streamed(StreamBody::new(frames))))
    });
    let mut client = rig.open();
    client.send(format!("GET {path} HTTP/1.1\r\nhost: hub\r\naccept: application/json\r\n\r\n")).unwrap();
    assert_eq!(client.head().unwrap().status, 200);
    send.send(Ok(sent.clone())).unwrap();
    let mut seen = Vec::new();
    while seen.len() < sent.len() {
        seen.extend(client.chunk().unwrap().unwrap());
    }
    assert_eq!(seen, sent[..]);
    // The client sees that it breaks off.
    send.send(Err("cut".into())).unwrap();
    assert!(client.chunk().is_err());
}

fn kept(rig: &Rig) -> u64 {
    rig.hub().cache.stats.kept.load(Relaxed)
}

#[test]
fn a_list_that_breaks_off_anywhere_leaves_what_was_kept() {
    let rig = Rig::start();
    let old = list(0, 3, 10, "");
    rig.upstream.script({
        let old = old.clone();
        move |seen| (seen.path == SECRETS).then(|| reply(StatusCode::OK, full(old.clone())))
    });
    assert_eq!(rig.get(SECRETS, &[JSON]).body, old);
    eventually("it is kept", || (kept(&rig) == 1).then_some(()));
    let new = Bytes::from(list(0, 4, 20, ""));
    // Cut behind each byte.
    for at in 0..new.len() {
        cut(&rig, SECRETS, &new.slice(..at));
    }
    assert_eq!(kept(&rig), 1);
    // Whole, in two pieces cut at each byte: the list is kept each time.
    for at in (0..new.len()).step_by(3) {
        let sent = new.clone();
        rig.upstream.script(move |seen| (seen.path == SECRETS).then(|| pieces(vec![sent.slice(..at), sent.slice(at..)])));
        assert_eq!(rig.get(SECRETS, &[JSON]).body.as_bytes(), new);
        let wanted = 2 + (at / 3) as u64;
        eventually("it is kept", || (kept(&rig) == wanted).then_some(()));
    }
    rig.upstream.behave();
    rig.upstream.cut();
    rig.is_down();
    assert_eq!(rig.get(SECRETS, &[JSON]).body.as_bytes(), new);
}

#[test]
fn pages_are_one_list_once_the_last_of_them_has_come() {
    let mut rig = Rig::start();
    // 1,250 objects in pages of 500. The second page of the second round fails.
    let pages = |version: u64| {
        move |seen: &Seen| {
            let page = match seen.parameter("continue").unwrap_or_default().as_str() {
                "" => list(0, 500, version, "two"),
                "two" => list(500, 500, version, "three"),
                _ => list(1000, 250, version, ""),
            };
            (seen.path == SECRETS).then(|| reply(StatusCode::OK, full(page)))
        }
    };
    rig.upstream.script(pages(30));
    for token in ["", "&continue=two", "&continue=three"] {
        assert_eq!(rig.get(&format!("{SECRETS}?limit=500{token}"), &[JSON]).status, 200);
    }
    eventually("it is kept", || (kept(&rig) == 1).then_some(()));
    rig.upstream.script(pages(40));
    rig.get(&format!("{SECRETS}?limit=500"), &[JSON]);
    cut(&rig, &format!("{SECRETS}?limit=500&continue=two"), &Bytes::from(list(500, 500, 40, "three")).slice(..9000));
    rig.upstream.script(pages(40));
    rig.get(&format!("{SECRETS}?limit=500&continue=three"), &[JSON]);
    rig.upstream.cut();
    for _ in 0..2 {
        rig.is_down();
        let offline = rig.get(SECRETS, &[JSON]);
        assert_eq!((names(&offline).len(), offline.json()["metadata"]["resourceVersion"].as_str()), (1250, Some("30")));
        // What belongs behind a page that the API server gave is not the whole list: the client begins again.
        let next = rig.get(&format!("{SECRETS}?limit=500&continue=two"), &[JSON]);
        assert_eq!((next.status, next.json()["reason"].as_str()), (410, Some("Expired")));
        rig.stop_hub();
        rig.start_hub();
    }
}

#[test]
fn selectors_of_one_kind_have_lists_of_their_own_over_a_restart() {
    let mut rig = Rig::start();
    let selectors = [("labelSelector=a", 1), ("labelSelector=b%3Dc", 2), ("fieldSelector=type%3DOpaque", 3)];
    rig.upstream.script(|seen| {
        let count = match (seen.parameter("labelSelector").as_deref(), seen.parameter("fieldSelector")) {
            (Some("a"), _) => 1,
            (Some(_), _) => 2,
            (None, Some(_)) => 3,
            (None, None) => 0,
        };
        (seen.path == SECRETS).then(|| reply(StatusCode::OK, full(list(count * 10, count, 50, ""))))
    });
    for (selector, count) in selectors {
        assert_eq!(rig.names(&format!("{SECRETS}?{selector}"), &[JSON]).len(), count);
    }
    eventually("they are kept", || (kept(&rig) == 3).then_some(()));
    rig.upstream.cut();
    for _ in 0..2 {
        rig.is_down();
        for (selector, count) in selectors {
            let wanted: Vec<String> = (count * 10..count * 10 + count).map(|i| format!("s{i:04}")).collect();
            assert_eq!(rig.names(&format!("{SECRETS}?{selector}"), &[JSON]), wanted, "{selector}");
        }
        let never = rig.get(SECRETS, &[JSON]);
        assert_eq!((never.status, never.json()["reason"].as_str()), (503, Some("ServiceUnavailable")));
        assert!(never.header("retry-after").is_some());
        rig.stop_hub();
        rig.start_hub();
    }
}

#[test]
fn nonsense_reaches_the_client_as_it_is_and_is_not_kept() {
    let rig = Rig::start();
    let deep = "[".repeat(20_000);
    let table: [&[u8]; 8] = [
        b"",
        b"null",
        b"{\"kind\":\"ServiceList\"",
        b"{\"kind\":\"PodList\",\"apiVersion\":\"v1\",\"metadata\":{},\"items\":[{\"metadata\":{}}]}",
        b"{\"kind\":\"ServiceList\",\"apiVersion\":\"v1\",\"items\":7}",
        b"\xff\xfe\x00",
        b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        deep.as_bytes(),
    ];
    for (before, body) in table.into_iter().enumerate() {
        let sent = Bytes::copy_from_slice(body);
        rig.upstream
            .script(move |seen| (seen.path == SERVICES && !seen.is_list_of_hub()).then(|| reply(StatusCode::OK, full(sent.clone()))));
        for query in ["", "?watch=1&resourceVersion=0&sendInitialEvents=true"] {
            let mut client = rig.open();
            client
                .send(format!("GET {SERVICES}{query} HTTP/1.1\r\nhost: hub\r\naccept: application/json\r\nconnection: close\r\n\r\n"))
                .unwrap();
            let head = client.head().unwrap();
            assert_eq!(head.status, 200);
            let mut seen = Vec::new();
            match head.header("content-length") {
                Some(length) => seen = client.bytes(length.parse().unwrap()).unwrap(),
                None => {
                    while let Some(piece) = client.chunk().unwrap() {
                        seen.extend(piece);
                    }
                }
            }
            assert_eq!(seen, body, "{query}");
        }
        eventually("it is counted", || (rig.hub().cache.stats.unreadable.load(Relaxed) > before as u64).then_some(()));
    }
    // The hub has listed it itself in place of what it could not read.
    rig.upstream.behave();
    rig.upstream.put("good", json!({}));
    assert_eq!(rig.names(SERVICES, &[JSON]), ["good"]);
}

#[test]
fn a_thousand_clients_cost_what_one_costs() {
    let rig = Rig::start();
    rig.upstream.put("a", json!({}));
    let mut client = rig.open();
    for i in 0..1000 {
        let agent = format!("agent-{i}/1.0");
        let answer = client.request("GET", "hub", SERVICES, &[JSON, ("user-agent", &agent)], b"").unwrap();
        assert_eq!(names(&answer), ["a"]);
    }
    eventually("one list", || (rig.hub().cache.kept() == (1, 1)).then_some(()));
    assert_eq!(rig.upstream.connections(), 1);
}

#[test]
fn streams_of_exec_pass_both_ways_and_end_one_after_the_other() {
    let rig = Rig::start();
    let size = 32 << 20;
    for protocol in ["SPDY/3.1", "websocket"] {
        let mut client = rig.open();
        let path = "/api/v1/namespaces/default/pods/p/exec?command=cat";
        client.send(format!("POST {path} HTTP/1.1\r\nhost: hub\r\nconnection: Upgrade\r\nupgrade: {protocol}\r\n\r\n")).unwrap();
        let head = client.head().unwrap();
        assert_eq!((head.status, head.header("upgrade")), (101, Some(protocol)));
        let mut io = client.into_inner();
        let mut reader = io.try_clone().unwrap();
        let reads = std::thread::spawn(move || {
            let mut back = Vec::new();
            reader.read_to_end(&mut back).map(|_| back)
        });
        let sent: Vec<u8> = (0..size).map(|i: usize| (i ^ (i >> 8)) as u8).collect();
        io.write_all(&sent).unwrap();
        // The client has said everything; the other side goes on.
        io.shutdown(Shutdown::Write).unwrap();
        let back = reads.join().unwrap().unwrap();
        assert!(back[..size] == sent[..], "{protocol}");
        assert_eq!(String::from_utf8_lossy(&back[size..]), format!("<{size}>"), "{protocol}");
    }
}
