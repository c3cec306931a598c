//! Many requests of one client, and what is written down of requests.
use super::{
    hub::{JSON, Rig},
    upstream::{SERVICES, reply},
};
use http::StatusCode;
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::{Value, json};
use std::{fs, time::Duration};
use tokio::sync::watch;
use weir_edge::{
    body::{BodyError, streamed},
    hub::in_flight::{Count, Limits},
};
use weir_test::eventually;

const TOKEN: (&str, &str) = ("authorization", "Bearer pod");

#[test]
fn a_busy_client_holds_up_nobody_else() {
    let rig = Rig::with(|options| options.in_flight = Limits { requests: 2, queued: 1, wait: Duration::from_secs(3600) });
    rig.upstream.put("a", json!({}));
    // Once the API server has accepted its token, the client has a limit of its own. Watches do not count.
    assert_eq!(rig.names(SERVICES, &[JSON, TOKEN]), ["a"]);
    let watches: Vec<_> = (0..5).map(|_| rig.watch(&format!("{SERVICES}?watch=1"), &[TOKEN])).collect();
    let held = watch::Sender::new(true);
    let receive = held.subscribe();
    rig.upstream.script(move |seen| {
        seen.parameter("hold")?;
        let end = futures_util::stream::unfold(receive.clone(), |mut held| async move {
            let _ = held.wait_for(|held| !held).await;
            None::<(Result<Frame<bytes::Bytes>, BodyError>, _)>
        });
        Some(reply(StatusCode::OK, streamed(StreamBody::new(end))))
    });
    let ask = || {
        let mut connection = rig.open();
        connection.send("GET /api/v1/secrets?hold=1 HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer pod\r\n\r\n").unwrap();
        connection
    };
    let mut answered: Vec<_> = (0..2).map(|_| ask()).collect();
    answered.iter_mut().for_each(|connection| assert_eq!(connection.head().unwrap().status, 200));
    let mut waits = ask();
    let counts = || rig.hub().in_flight.counts().get("token").copied().unwrap_or_default();
    eventually("one waits", || (counts() == Count { in_flight: 2, queued: 1, rejected: 0 }).then_some(()));
    let refused = rig.get(SERVICES, &[JSON, TOKEN]);
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")), "{refused:?}");
    assert_eq!((&refused.json()["reason"], &refused.json()["kind"]), (&json!("TooManyRequests"), &json!("Status")));
    // Others are answered.
    assert_eq!(rig.names(SERVICES, &[JSON, ("user-agent", "kubelet/v1.34.0")]), ["a"]);
    assert_eq!(rig.names(SERVICES, &[JSON, ("authorization", "Bearer other")]), ["a"]);
    held.send_replace(false);
    assert_eq!(waits.head().unwrap().status, 200);
    eventually("nothing is in flight", || (counts() == Count { rejected: 1, ..Count::default() }).then_some(()));
    drop(watches);
}

#[test]
fn each_request_has_a_line_in_the_access_log() {
    let mut rig = Rig::with(|options| options.access_log = Some(options.store.with_file_name("access.log")));
    rig.upstream.put("a", json!({}));
    let trace = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    rig.get(SERVICES, &[JSON, trace, ("user-agent", "kubelet/v1.34.0")]);
    let seen = rig.upstream.seen().into_iter().find(|seen| seen.agent.starts_with("kubelet")).unwrap();
    assert_eq!(seen.headers["traceparent"], trace.1, "it passes unchanged");
    rig.get(SERVICES, &[JSON, TOKEN]);
    eventually("both lists are kept", || (rig.hub().cache.kept().0 == 2).then_some(()));
    rig.upstream.cut();
    rig.stop_hub();
    rig.start_hub();
    rig.is_down();
    eventually("an answer that was kept", || rig.get(SERVICES, &[JSON]).header("weir-cache").map(|_| ()));
    rig.get("/api/v1/secrets", &[JSON]);
    let path = rig.path("access.log");
    let lines = eventually("the last line", || {
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        lines.iter().any(|line| line["resource"] == "secrets.v1").then_some(lines)
    });
    let find = |is: &dyn Fn(&Value) -> bool| lines.iter().find(|line| is(line)).unwrap_or_else(|| panic!("{lines:?}"));
    let first = find(&|line| line["userAgent"] == "kubelet/v1.34.0");
    let wanted = json!({
        "method": "GET", "path": SERVICES, "verb": "list", "resource": "services.v1", "namespace": "", "name": "", "code": 200,
        "source": "remote", "user": "system:node:n", "traceparent": trace.1, "ageSeconds": null,
    });
    wanted.as_object().unwrap().iter().for_each(|(field, value)| assert_eq!(&first[field], value, "{field}: {first}"));
    assert!(
        first["bytes"].as_u64() > Some(0) && first["durationMs"].is_number() && first["time"].as_str().unwrap().ends_with('Z'),
        "{first}"
    );
    assert!(find(&|line| line["user"].as_str().is_some_and(|user| user.starts_with("token:")))["code"] == 200);
    assert!(find(&|line| line["source"] == "cache")["ageSeconds"].is_u64());
    assert_eq!(find(&|line| line["resource"] == "secrets.v1")["code"], 503);
    assert!(!fs::read_to_string(&path).unwrap().contains("Bearer"));
}
