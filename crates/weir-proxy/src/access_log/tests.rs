#![allow(clippy::unwrap_used)]
use super::*;
use crate::{
    conn::{ConnInfo, PeerCertificate, TlsInfo},
    detail::Detail,
    drain::Drain,
    filter::headers::{Edits, Values},
    head_access::fake::{List, Request},
    info::{Flags, Info},
};
use std::rc::Rc;
use weir_config::model::{HeaderEdits, LogSink};

pub(crate) struct Bed {
    request: Request,
    response: List,
    trailers: List,
    info: Info,
    conn: ConnInfo,
}

impl Bed {
    fn new() -> Bed {
        let mut request = Request::get("shop.test:8080", "/cart?item=7");
        request = request.with("user-agent", "curl/8").with("x-request-id", "id-1").with("x-long", "abcdefghij");
        let ms = 1_000_000;
        let info = Info {
            stream_id: 5,
            wall_start: 1_709_210_096_007_000_000,
            start: 100 * ms,
            request_end: 102 * ms,
            upstream_connect_start: 103 * ms,
            upstream_connect_end: 104 * ms,
            upstream_tx_start: 104 * ms,
            upstream_tx_end: 105 * ms,
            upstream_rx_start: 110 * ms,
            upstream_rx_end: 111 * ms,
            response_start: 111 * ms,
            response_end: 112 * ms,
            end: 113 * ms,
            status: 503,
            grpc_status: Some(14),
            flags: Flags::UPSTREAM_CONNECTION_FAILURE | Flags::UPSTREAM_RETRY_LIMIT_EXCEEDED,
            details: Detail::Other("upstream_reset_before_response_started".into()),
            bytes_received: 10,
            bytes_sent: 2048,
            attempts: 3,
            upstream_host: Some("10.0.0.1:9000".into()),
            upstream_cluster: Some("outbound|80||shop".into()),
            upstream_failure: Some("refused".into()),
            metadata: vec![("ns".into(), "k".into(), (*b"v").into())],
            filter_state: vec![("state".into(), (*b"s").into())],
            ..Info::default()
        };
        let details = weir_net::tls::Details {
            subject: "CN=me".into(),
            serial: "0a".into(),
            dns_names: vec!["a.test".into(), "b.test".into()],
            uris: vec![],
            addresses: vec![],
            not_before: 0,
            not_after: 0,
            key_digest: [0; 32],
        };
        let tls = TlsInfo {
            sni: Some("shop.test".into()),
            alpn: None,
            version: "TLSv1.3",
            cipher: "TLS_AES_128_GCM_SHA256",
            peer_certificate: Some(Rc::new(PeerCertificate { details, der: Vec::new(), forwarded: Box::default() })),
        };
        let conn = ConnInfo {
            id: 9,
            peer: "192.0.2.1:5555".parse().unwrap(),
            local: "[2001:db8::1]:8443".parse().unwrap(),
            direct_peer: "198.51.100.7:6666".parse().unwrap(),
            listener: "l".into(),
            chain: "chain".into(),
            tls: Some(tls),
            requested_server_name: Some("shop.test".into()),
            drain: Rc::<Drain>::default(),
        };
        let trailers = List::of(&[("grpc-message", "oops")]);
        Bed { request, response: List::of(&[("server", "x"), ("odd", "a\"b\\\u{e9}")]), trailers, info, conn }
    }
    fn record(&self) -> Record<'_> {
        Record {
            request: Some(&self.request),
            response: Some(&self.response),
            trailers: Some(&self.trailers),
            info: &self.info,
            conn: &self.conn,
            route_name: "ns/shop/0",
        }
    }
    fn text(&self, format: &str) -> String {
        let mut out = Vec::new();
        Format::parse(format).unwrap_or_else(|e| panic!("{}", e.line())).write(&self.record(), b"-", &mut out);
        String::from_utf8(out).unwrap()
    }
}

#[test]
fn every_operator_writes_its_value() {
    let bed = Bed::new();
    let table = [
        ("%REQ(:METHOD)% %REQ(:PATH)% %REQ(:AUTHORITY)% %REQ(:SCHEME)%", "GET /cart?item=7 shop.test:8080 http"),
        ("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%|%REQ(X?Y)%|%REQ(X-LONG):3%|%REQ(USER-AGENT?X)%", "/cart?item=7|-|abc|curl/8"),
        ("%RESP(SERVER)% %RESP(NONE)% %RESP(:STATUS)% %TRAILER(GRPC-MESSAGE)%", "x - 503 oops"),
        ("%START_TIME% %START_TIME(%s.%3f)%", "2024-02-29T12:34:56.007Z 1709210096.007"),
        ("%DURATION% %REQUEST_DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION% %REQUEST_TX_DURATION%", "13 2 10 2 5"),
        (
            "%COMMON_DURATION(US_TX_BEG:US_RX_BEG:us)% %COMMON_DURATION(DS_RX_BEG:DS_TX_END:ms)% %COMMON_DURATION(US_HS_END:US_RX_BEG:ns)%",
            "6000 12 -",
        ),
        (
            "%RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%",
            "503 upstream_reset_before_response_started UF,URX UpstreamConnectionFailure,UpstreamRetryLimitExceeded",
        ),
        ("%BYTES_RECEIVED% %BYTES_SENT% %PROTOCOL% %UPSTREAM_PROTOCOL%", "10 2048 HTTP/1.1 -"),
        ("%UPSTREAM_HOST% %UPSTREAM_CLUSTER% %UPSTREAM_LOCAL_ADDRESS% %UPSTREAM_REMOTE_PORT%", "10.0.0.1:9000 outbound|80||shop - 9000"),
        ("%UPSTREAM_REQUEST_ATTEMPT_COUNT% %UPSTREAM_TRANSPORT_FAILURE_REASON%", "3 refused"),
        ("%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_REMOTE_PORT%", "192.0.2.1:5555 192.0.2.1 5555"),
        (
            "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT%",
            "198.51.100.7:6666 [2001:db8::1]:8443 2001:db8::1 8443",
        ),
        ("%REQUESTED_SERVER_NAME% %DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_TLS_CIPHER%", "shop.test TLSv1.3 TLS_AES_128_GCM_SHA256"),
        (
            "%DOWNSTREAM_PEER_SUBJECT% %DOWNSTREAM_PEER_SERIAL% %DOWNSTREAM_PEER_DNS_SAN% %DOWNSTREAM_PEER_URI_SAN%",
            "CN=me 0a a.test,b.test -",
        ),
        ("%ROUTE_NAME% %VIRTUAL_CLUSTER_NAME% %CONNECTION_ID% %STREAM_ID% %FILTER_CHAIN_NAME%", "ns/shop/0 - 9 5 chain"),
        ("%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS(NUMBER)% %GRPC_STATUS_NUMBER%", "Unavailable UNAVAILABLE 14 14"),
        ("%FILTER_STATE(state)% %FILTER_STATE(none:PLAIN)% %DYNAMIC_METADATA(ns:k)% %DYNAMIC_METADATA(ns:x)%", "s - v -"),
        ("%ENVIRONMENT(WEIR_SURELY_NOT_SET)% %QUERY_PARAM(item)% 100%%", "- 7 100%"),
    ];
    for (format, expected) in table {
        assert_eq!(bed.text(format), expected, "{format}");
    }
    // Each one that takes no argument can be written, with nothing known too.
    let bare = Bed { info: Info::default(), response: List::default(), ..Bed::new() };
    for (name, _) in PLAIN_DOCS.iter().filter(|d| d.0 != "%") {
        assert!(!bare.text(&format!("%{name}%")).is_empty() || *name == "HOSTNAME", "{name}");
    }
}

#[test]
fn the_default_format_says_why() {
    let line = Bed::new().text(LogFormat::DEFAULT_TEXT);
    let expected = "[2024-02-29T12:34:56.007Z] \"GET /cart?item=7 HTTP/1.1\" 503 UF,URX upstream_reset_before_response_started - \"refused\" 10 2048 13 - \"-\" \"curl/8\" \"id-1\" \"shop.test:8080\" \"10.0.0.1:9000\"\n";
    assert_eq!(line, expected);
}

#[test]
fn wrong_formats_are_explained() {
    let table = [
        ("%NONSENSE%", "unknown command operator `%NONSENSE%`"),
        ("%REQ%", "needs a header name"),
        ("%REQ(X", "no closing parenthesis"),
        ("100%", "no closing percent sign"),
        ("%DURATION(X)%", "takes no argument"),
        ("%REQ(X):abc%", "not a number"),
        ("%START_TIME(%Q)%", "unknown conversion `%Q`"),
        ("%COMMON_DURATION(A:B:ms)%", "not understood"),
        ("%GRPC_STATUS(X)%", "is unknown"),
        ("%DYNAMIC_METADATA(x)%", "NAMESPACE:KEY"),
    ];
    for (format, message) in table {
        let finding = Format::parse(format).unwrap_err();
        assert!(finding.message.contains(message), "{format}: {}", finding.message);
    }
    assert!(Format::parse("%NONSENSE%").unwrap_err().help.unwrap().contains("REQUEST_DURATION"));
}

#[test]
fn blocks_reach_the_file_and_follow_it_when_it_moves() {
    let dir = tempfile::tempdir().unwrap();
    let (path, moved) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let (sinks, mut logs, bed) = (Sinks::default(), WorkerLogs::default(), Bed::new());
    let sink = LogSink::File(path.to_str().unwrap().into());
    let compile = |format| AccessLogger::compile(&AccessLog { sink: sink.clone(), format }, &sinks).unwrap_or_else(|e| panic!("{e:?}"));
    let text = compile(LogFormat::Text("%RESPONSE_CODE% %REQ(X-LONG)%".into()));
    let pairs = [
        ("code", "%RESPONSE_CODE%"),
        ("none", "%RESP(NONE)%"),
        ("both", "%PROTOCOL% %RESP(NONE)%"),
        ("odd", "%RESP(ODD)%"),
        ("k\"", "literal"),
    ];
    let json = compile(LogFormat::Json(pairs.map(|(k, v)| (k.to_string(), v.to_string())).to_vec()));
    logs.write(&text, &bed.record());
    logs.write(&json, &bed.record());
    logs.flush();
    sinks.sync();
    let lines = std::fs::read_to_string(&path).unwrap();
    let (first, second) = lines.trim_end().split_once('\n').unwrap();
    assert_eq!(first, "503 abcdefghij");
    let value: serde_json::Value = serde_json::from_str(second).unwrap();
    assert_eq!(value, serde_json::json!({"code": 503, "none": null, "both": "HTTP/1.1 -", "odd": "a\"b\\\u{e9}", "k\"": "literal"}));

    std::fs::rename(&path, &moved).unwrap();
    sinks.reopen();
    // More than one block.
    (0..10_000).for_each(|_| logs.write(&text, &bed.record()));
    drop(logs);
    sinks.sync();
    let written = std::fs::read_to_string(&path).unwrap().lines().count() as u64;
    assert_eq!(written + sinks.counts().dropped, 10_000);
    assert!(written > 0);
    assert_eq!(std::fs::read_to_string(&moved).unwrap(), lines);
}

#[test]
fn a_sink_that_cannot_be_opened_or_formats_that_cannot_be_read_are_told() {
    let sinks = Sinks::default();
    let log = |format, path: &str| AccessLogger::compile(&AccessLog { sink: LogSink::File(path.into()), format }, &sinks);
    assert!(log(LogFormat::Text("x".into()), "/nonexistent/dir/log").is_err_and(|e| e[0].message.contains("cannot open")));
    let pairs = vec![("a".to_string(), "%A%".to_string()), ("b".to_string(), "%B%".to_string())];
    assert!(log(LogFormat::Json(pairs), "/dev/null").is_err_and(|e| e.len() == 2));
}

#[test]
fn header_values_are_computed_by_the_same_operators() {
    let pair = |n: &str, v: &str| (n.to_string(), v.to_string());
    let edits = HeaderEdits::new(
        vec!["Gone".into()],
        vec![
            pair("X-Peer", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
            pair("x-fixed", "100%%"),
            pair("bad", "%NO%"),
            pair("b ad", "x"),
            pair("Host", "two words"),
            pair(":authority", "h.test/path"),
        ],
        vec![pair("x-multi", "2"), pair("x-none", "%RESP(NONE)%"), pair(":authority", "%REQ(:AUTHORITY)%")],
    );
    let mut findings = Vec::new();
    let edits = Edits::compile(&edits, &mut findings).unwrap();
    assert_eq!(findings.len(), 4);
    assert!(edits.needs_record());
    let (mut fields, mut values) =
        (List::of(&[("host", "old"), ("gone", "1"), ("x-peer", "spoofed"), ("x-multi", "1")]), Values::default());
    edits.evaluate(&Bed::new().record(), &mut values);
    edits.apply(&mut fields, &values);
    let expected = [("x-multi", "1"), ("x-peer", "192.0.2.1"), ("x-fixed", "100%"), ("x-multi", "2"), ("host", "shop.test:8080")];
    assert_eq!(fields, List::of(&expected));
    assert!(Edits::compile(&HeaderEdits::default(), &mut findings).is_none());
}
