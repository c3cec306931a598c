//! The access log from the running binary: every command operator against real requests, both encodings, and a reader that
//! is too slow.
use crate::{
    client::{self, Connection},
    harness::{Start, TO_ECHO, Weir, eventually},
    tls::secret,
    yaml::ToEcho,
};
use rcgen::{DnType, SanType};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{PrivateKeyDer, ServerName, pem::PemObject},
};
use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::Read,
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
};
use weir_proxy::access_log::{ARGUMENT_DOCS, PLAIN_DOCS};
use weir_test::{Ca, self_signed};

/// What a value must be.
#[derive(Clone, Copy, Debug)]
enum Want {
    Is(&'static str),
    /// `-`
    None,
    /// A whole number in `from..=to`.
    Number(u64, u64),
    /// Of the loopback, with a port.
    Loopback,
    Port,
    /// Anything but `-`.
    Some,
}
use Want::{Is, Loopback, None as Missing, Number, Port, Some as Given};

impl Want {
    fn holds(self, value: &str) -> bool {
        match self {
            Is(text) => value == text,
            Missing => value == "-",
            Number(from, to) => value.parse().is_ok_and(|n: u64| (from..=to).contains(&n)),
            Loopback => value.parse::<SocketAddr>().is_ok_and(|a| a.ip().is_loopback() && a.port() > 0),
            Port => value.parse::<u16>().is_ok_and(|p| p > 0),
            Given => !value.is_empty() && value != "-",
        }
    }
}

/// Longer than anything takes here, but for a machine that stands still.
const LONG: u64 = 20_000;

/// A POST of five bytes over plain HTTP/1.1 to an upstream that waits 60 ms; then what differs for a GET over TLS and HTTP/1.1
/// by a client with a certificate on a connection to the upstream that is used again.
const PLAIN: &[(&str, Want, Want)] = &[
    ("DURATION", Number(60, LONG), Number(60, LONG)),
    ("REQUEST_DURATION", Number(0, LONG), Number(0, LONG)),
    ("REQUEST_TX_DURATION", Number(0, LONG), Number(0, LONG)),
    ("RESPONSE_DURATION", Number(60, LONG), Number(60, LONG)),
    ("RESPONSE_TX_DURATION", Number(0, LONG), Number(0, LONG)),
    ("UPSTREAM_CONNECTION_POOL_READY_DURATION", Number(0, LONG), Number(0, LONG)),
    ("RESPONSE_CODE", Is("201"), Is("201")),
    ("RESPONSE_CODE_DETAILS", Is("via_upstream"), Is("via_upstream")),
    ("CONNECTION_TERMINATION_DETAILS", Missing, Missing),
    ("RESPONSE_FLAGS", Missing, Missing),
    ("RESPONSE_FLAGS_LONG", Missing, Missing),
    ("BYTES_RECEIVED", Is("5"), Is("0")),
    ("BYTES_SENT", Number(100, 5000), Number(100, 5000)),
    ("DOWNSTREAM_HEADER_BYTES_RECEIVED", Number(100, 400), Number(60, 400)),
    ("DOWNSTREAM_HEADER_BYTES_SENT", Number(60, 600), Number(60, 600)),
    ("UPSTREAM_WIRE_BYTES_SENT", Number(150, 3000), Number(100, 3000)),
    ("UPSTREAM_WIRE_BYTES_RECEIVED", Number(200, 6000), Number(200, 6000)),
    ("PROTOCOL", Is("HTTP/1.1"), Is("HTTP/1.1")),
    ("UPSTREAM_PROTOCOL", Is("HTTP/1.1"), Is("HTTP/1.1")),
    ("UPSTREAM_HOST", Loopback, Loopback),
    ("UPSTREAM_REMOTE_ADDRESS", Loopback, Loopback),
    ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Is("127.0.0.1"), Is("127.0.0.1")),
    ("UPSTREAM_REMOTE_PORT", Port, Port),
    ("UPSTREAM_CLUSTER", Is("outbound|80||up.test"), Is("outbound|80||up.test")),
    ("UPSTREAM_CLUSTER_RAW", Is("outbound|80||up.test"), Is("outbound|80||up.test")),
    ("UPSTREAM_LOCAL_ADDRESS", Loopback, Loopback),
    ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Is("127.0.0.1"), Is("127.0.0.1")),
    ("UPSTREAM_LOCAL_PORT", Port, Port),
    ("UPSTREAM_CONNECTION_ID", Number(1, u64::MAX), Number(1, u64::MAX)),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", Is("1"), Is("1")),
    ("UPSTREAM_TRANSPORT_FAILURE_REASON", Missing, Missing),
    ("DOWNSTREAM_REMOTE_ADDRESS", Loopback, Loopback),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Is("127.0.0.1"), Is("127.0.0.1")),
    ("DOWNSTREAM_REMOTE_PORT", Port, Port),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", Loopback, Loopback),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", Is("127.0.0.1"), Is("127.0.0.1")),
    ("DOWNSTREAM_DIRECT_REMOTE_PORT", Port, Port),
    ("DOWNSTREAM_LOCAL_ADDRESS", Loopback, Loopback),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Is("127.0.0.1"), Is("127.0.0.1")),
    ("DOWNSTREAM_LOCAL_PORT", Port, Port),
    ("REQUESTED_SERVER_NAME", Missing, Is("in.test")),
    ("DOWNSTREAM_TLS_VERSION", Missing, Is("TLSv1.3")),
    ("DOWNSTREAM_TLS_CIPHER", Missing, Given),
    ("DOWNSTREAM_PEER_SUBJECT", Missing, Is("CN=the client")),
    ("DOWNSTREAM_PEER_SERIAL", Missing, Given),
    ("DOWNSTREAM_PEER_URI_SAN", Missing, Is("spiffe://cluster.local/ns/a/sa/b")),
    ("DOWNSTREAM_PEER_DNS_SAN", Missing, Is("client.test")),
    ("DOWNSTREAM_PEER_IP_SAN", Missing, Is("10.1.2.3")),
    ("ROUTE_NAME", Is("the-route"), Is("the-route")),
    ("VIRTUAL_CLUSTER_NAME", Missing, Missing),
    ("HOSTNAME", Given, Given),
    ("CONNECTION_ID", Number(0, u64::MAX), Number(0, u64::MAX)),
    ("STREAM_ID", Number(1, u64::MAX), Number(1, u64::MAX)),
    ("FILTER_CHAIN_NAME", Given, Given),
    ("%", Is("%"), Is("%")),
];

/// What stands in the format, what it comes to, and the name of the operator in the documentation.
const WITH_ARGUMENTS: &[(&str, Want, Want)] = &[
    ("REQ(:METHOD)", Is("POST"), Is("GET")),
    ("REQ(:AUTHORITY)", Is("in.test"), Is("in.test")),
    ("REQ(X-NONE?USER-AGENT)", Is("a client"), Is("a client")),
    ("REQ(USER-AGENT):3", Is("a c"), Is("a c")),
    ("REQ(X-NONE)", Missing, Missing),
    ("RESP(CONTENT-TYPE)", Is("application/json"), Is("application/json")),
    ("RESP(X-NONE)", Missing, Missing),
    ("TRAILER(X-ECHO-TRAILER)", Missing, Missing),
    ("START_TIME", Given, Given),
    ("START_TIME(%s)", Number(1_600_000_000, 9_999_999_999), Number(1_600_000_000, 9_999_999_999)),
    ("COMMON_DURATION(DS_RX_BEG:DS_RX_END:us)", Number(0, LONG * 1000), Number(0, LONG * 1000)),
    // Of a new connection only.
    ("COMMON_DURATION(US_CX_BEG:US_CX_END:ns)", Number(1, LONG * 1_000_000), Missing),
    ("COMMON_DURATION(US_CX_BEG:US_HS_END:ns)", Missing, Missing),
    ("COMMON_DURATION(US_TX_BEG:US_TX_END:us)", Number(0, LONG * 1000), Number(0, LONG * 1000)),
    // The worker may read the clock for an end long after it.
    ("COMMON_DURATION(US_TX_BEG:US_RX_BEG:ms)", Number(50, LONG), Number(50, LONG)),
    ("COMMON_DURATION(US_TX_END:US_RX_BEG:ms)", Number(0, LONG), Number(0, LONG)),
    ("COMMON_DURATION(US_RX_BEG:US_RX_END:us)", Number(0, LONG * 1000), Number(0, LONG * 1000)),
    ("COMMON_DURATION(DS_TX_BEG:DS_TX_END:us)", Number(0, LONG * 1000), Number(0, LONG * 1000)),
    ("GRPC_STATUS", Missing, Missing),
    ("GRPC_STATUS_NUMBER", Missing, Missing),
    ("FILTER_STATE(none)", Missing, Missing),
    ("DYNAMIC_METADATA(none:none)", Missing, Missing),
    ("ENVIRONMENT(WEIR_NONE)", Missing, Missing),
    ("ENVIRONMENT(PATH)", Given, Given),
    ("QUERY_PARAM(delay)", Is("60ms"), Is("60ms")),
    ("QUERY_PARAM(none)", Missing, Missing),
];

const OBJECTS: &str = "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: { name: gateway }
spec:
  selector: { istio: ingressgateway }
  servers:
  - { port: { number: $PORT, name: http, protocol: HTTP }, hosts: ['*'] }
  - { port: { number: $PORT2, name: https, protocol: HTTPS }, hosts: ['*'], tls: { mode: MUTUAL, credentialName: gateway } }
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: service }
spec:
  hosts: ['*']
  gateways: [gateway]
  http: [{ name: the-route, route: [{ destination: { host: up.test } }], retries: { attempts: 0 } }]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: up }
spec:
  hosts: [up.test]
  resolution: STATIC
  ports: [{ number: 80, name: http, protocol: HTTP }]
  endpoints: [{ address: 127.0.0.1, ports: { http: $ECHO } }]
---
";

/// A certificate authority, the gateway's certificate, and a client of both.
fn mutual() -> (String, ClientConfig) {
    let ca = Ca::new();
    let server = self_signed(&["in.test"]);
    let leaf = ca.sign_with(&["client.test", "10.1.2.3"], |params| {
        params.distinguished_name = Default::default();
        params.distinguished_name.push(DnType::CommonName, "the client");
        params.subject_alt_names.insert(1, SanType::URI("spiffe://cluster.local/ns/a/sa/b".try_into().unwrap()));
    });
    let mut roots = RootCertStore::empty();
    roots.add(server.der.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![leaf.der.clone()], PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap())
        .unwrap();
    let roots: String = ca.pem().lines().map(|l| format!("    {l}\n")).collect();
    (format!("{}  ca.crt: |\n{roots}", secret("gateway", &server)), config)
}

fn get_tls(weir: &Weir, config: ClientConfig, request: &str) -> client::Answer {
    let tls = ClientConnection::new(Arc::new(config), ServerName::try_from("in.test").unwrap()).unwrap();
    let io = TcpStream::connect(("127.0.0.1", weir.ports[1])).unwrap();
    let mut c = Connection::over(StreamOwned::new(tls, io));
    c.send(request).unwrap();
    c.answer().unwrap()
}

/// A record of `name=value|name=value|…`.
fn values(line: &str) -> BTreeMap<String, String> {
    line.split('|').filter_map(|pair| pair.split_once("==")).map(|(n, v)| (n.to_string(), v.to_string())).collect()
}

#[test]
fn every_operator_says_what_happened() {
    let documented: HashSet<_> = PLAIN_DOCS.iter().map(|d| d.0).collect();
    assert_eq!(PLAIN.iter().map(|(name, ..)| *name).collect::<HashSet<_>>(), documented, "each operator stands in the table");
    for (form, _) in ARGUMENT_DOCS {
        let name = form.split('(').next().unwrap();
        assert!(WITH_ARGUMENTS.iter().any(|(given, ..)| given.starts_with(name)), "no row for {name}");
    }
    let rows: Vec<_> = PLAIN.iter().chain(WITH_ARGUMENTS).collect();
    let mut format = "begin %REQ(X-ID)%|".to_string();
    for (i, (operator, ..)) in rows.iter().enumerate() {
        // The cluster's name has bars in it: they are taken out below.
        format += &if *operator == "%" { format!("{i}==%%|") } else { format!("{i}==%{operator}%|") };
    }
    let (secret, config) = mutual();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let weir = Start::new()
        .file("objects.yaml", format!("{OBJECTS}{secret}"))
        .arg("--access-log")
        .arg(file.to_str().unwrap())
        .arg("--access-log-format")
        .arg(&format)
        .run();
    let record = |id: &str| {
        let start = format!("begin {id}|");
        eventually(&format!("the record of {id}"), || {
            let text = fs::read_to_string(&file).unwrap_or_default();
            let whole = text.rsplit_once('\n')?.0;
            Some(whole.lines().find_map(|l| l.strip_prefix(&start))?.replace("outbound|80||up.test", "outbound!80!!up.test"))
        })
    };
    let headers = "user-agent: a client\r\nx-echo-status: 201\r\nconnection: close\r\n";
    let mut c = Connection::open(weir.address()).unwrap();
    c.send(format!("POST /?delay=60ms HTTP/1.1\r\nhost: in.test\r\nx-id: plain\r\n{headers}content-length: 5\r\n\r\nhello")).unwrap();
    assert_eq!(c.answer().unwrap().status, 201);
    let check = |id: &str, of: fn(&(&str, Want, Want)) -> Want| {
        let line = record(id);
        let values = values(&line);
        for (i, row) in rows.iter().enumerate() {
            let value = values.get(&i.to_string()).unwrap_or_else(|| panic!("{id}: no {}: {line}", row.0)).replace('!', "|");
            assert!(of(row).holds(&value), "{id}: %{}% is {value}, not {:?}", row.0, of(row));
        }
        values
    };
    let first = check("plain", |row| row.1);
    // The same worker's connection to the upstream is used again only where the same worker takes the client's: asked for
    // until one is.
    let again = (0..40).find_map(|i| {
        let id = format!("tls{i}");
        let request = format!("GET /?delay=60ms HTTP/1.1\r\nhost: in.test\r\nx-id: {id}\r\n{headers}\r\n");
        assert_eq!(get_tls(&weir, config.clone(), &request).status, 201);
        let values = values(&record(&id));
        let index = |name: &str| rows.iter().position(|r| r.0 == name).unwrap().to_string();
        (values[&index("COMMON_DURATION(US_CX_BEG:US_CX_END:ns)")] == "-").then_some((id, values[&index("UPSTREAM_CONNECTION_ID")].clone()))
    });
    let (id, _) = again.expect("a connection that was used again");
    check(&id, |row| row.2);
    // START_TIME is ISO 8601 with milliseconds.
    let time = &first[&rows.iter().position(|r| r.0 == "START_TIME").unwrap().to_string()];
    assert!(time.len() == 24 && time.ends_with('Z') && &time[10..11] == "T" && &time[19..20] == ".", "{time}");
    // A client's own word for its address counts only behind trusted hops; the request line and trailers, of any body.
    assert_eq!(first[&rows.iter().position(|r| r.0 == "DOWNSTREAM_LOCAL_PORT").unwrap().to_string()], weir.ports[0].to_string());
}

#[test]
fn trailers_and_grpc_statuses_are_seen_in_bodies_that_pass_unread() {
    let weir = Start::new()
        .file("gateway.yaml", TO_ECHO)
        .arg("--access-log-format")
        .arg("log %REQ(:PATH)% %TRAILER(X-ECHO-TRAILER)% %GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS_NUMBER%")
        .run();
    let grpc =
        [("content-type", "application/grpc"), ("x-echo-grpc-status", "5"), ("x-echo-header", "trailer=grpc-status"), ("te", "trailers")];
    for (method, path, headers, expected) in
        [("GET", "/trailers", &grpc[3..], "the end - - -"), ("POST", "/s/Method", &grpc[..], "- NotFound NOT_FOUND 5")]
    {
        assert_eq!(client::request(weir.address(), method, "h", path, headers, b"").unwrap().status, 200, "{path}");
        let line = eventually("the record", || weir.lines(&format!("log {path} ")).first().cloned());
        assert_eq!(line, format!("log {path} {expected}"));
    }
}

#[test]
fn json_keeps_numbers_and_says_null() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).arg("--access-log-format").arg("json").run();
    let odd = [("user-agent", "a \"quoted\" \\ agent")];
    assert_eq!(client::request(weir.address(), "GET", "h.test", "/status/404", &odd, b"").unwrap().status, 404);
    let line = eventually("the record", || weir.lines("/status/404").first().cloned());
    let record: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
    for (key, expected) in [
        ("response_code", serde_json::json!(404)),
        ("method", serde_json::json!("GET")),
        ("path", serde_json::json!("/status/404")),
        ("authority", serde_json::json!("h.test")),
        ("user_agent", serde_json::json!("a \"quoted\" \\ agent")),
        ("bytes_received", serde_json::json!(0)),
        ("response_flags", serde_json::Value::Null),
        ("requested_server_name", serde_json::Value::Null),
        ("response_code_details", serde_json::json!("via_upstream")),
    ] {
        assert_eq!(record[key], expected, "{key}: {line}");
    }
    assert!(record["duration"].is_u64() && record["bytes_sent"].is_u64() && record["request_id"].is_string(), "{line}");
}

/// Asked `by` a signal or the admin listener.
fn goes_on_in_a_new_file(by: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (file, moved) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let weir = Start::new().file("gateway.yaml", TO_ECHO).arg("--access-log").arg(file.to_str().unwrap()).run();
    let holds = |path: &std::path::Path, what: &str| fs::read_to_string(path).is_ok_and(|t| t.contains(what));
    weir.get("h", "/before");
    eventually("the first record", || holds(&file, "/before").then_some(()));
    fs::rename(&file, &moved).unwrap();
    match by {
        "HUP" => weir.signal(by),
        path => assert_eq!(client::request(weir.admin, "POST", "localhost", path, &[], b"").unwrap().status, 200),
    }
    eventually("the new file", || file.exists().then_some(()));
    weir.get("h", "/after");
    eventually("the second record", || holds(&file, "/after").then_some(()));
    assert!(!holds(&moved, "/after") && holds(&moved, "/before"));
}

#[test]
fn a_log_goes_on_in_a_new_file_and_may_be_off() {
    for by in ["HUP", "/reopen_logs"] {
        goes_on_in_a_new_file(by);
    }
    // A full disk costs records and nothing else.
    let weir = Start::new().file("gateway.yaml", TO_ECHO).arg("--access-log").arg("/dev/full").run();
    assert_eq!(weir.get("h", "/lost").status, 200);
    eventually("the failure is counted", || (weir.stat("filesystem.write_failed") > 0).then_some(()));
    let blocks = weir.stat("filesystem.write_failed");
    assert_eq!(weir.get("h", "/lost").status, 200);
    eventually("the next one", || (weir.stat("filesystem.write_failed") > blocks).then_some(()));
    eventually("both are counted", || (weir.stat("server.access_log_dropped") == 2).then_some(()));
    // Said once, not for each record.
    assert_eq!(weir.says("cannot write access log /dev/full: No space left on device").len(), 1, "{}", weir.printed());
    let weir = Start::new().file("gateway.yaml", TO_ECHO).arg("--access-log").arg("off").run();
    assert_eq!(weir.get("h", "/silent").status, 200);
    assert!(weir.lines("/silent").is_empty());
}

#[test]
fn a_log_that_cannot_be_reopened_goes_on_in_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let (logs, moved) = (folder.path().join("logs"), folder.path().join("moved"));
    fs::create_dir(&logs).unwrap();
    let file = logs.join("access.log");
    let weir = Start::new().file("gateway.yaml", TO_ECHO).arg("--access-log").arg(file.to_str().unwrap()).run();
    fs::rename(&logs, &moved).unwrap();
    weir.signal("HUP");
    weir.says(&format!("cannot reopen access log {}: No such file", file.display()));
    weir.get("h", "/after");
    let written = || fs::read_to_string(moved.join("access.log")).is_ok_and(|text| text.contains("/after"));
    eventually("the record", || written().then_some(()));
}

#[test]
fn a_text_log_says_why_a_request_failed() {
    let gateway = ToEcho::new().upstream("$PORT2").text();
    let weir = Start::new().file("gateway.yaml", gateway).run();
    assert_eq!(weir.get("h.test", "/dead").status, 503);
    let line = weir.says("GET /dead").remove(0);
    for part in [" 503 UF upstream_reset_before_response_started{", "Connection refused", "\"h.test\""] {
        assert!(line.contains(part), "no {part} in {line}");
    }
}

#[test]
fn a_reader_that_is_too_slow_costs_records_not_requests() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Open, so that the gateway finds a reader, who reads nothing for now.
    let mut reader = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let weir = Start::new().file("gateway.yaml", TO_ECHO).arg("--access-log").arg(pipe.to_str().unwrap()).run();
    let mut c = Connection::open(weir.address()).unwrap();
    let long = "x".repeat(30_000);
    let dropped = || {
        let text = weir.admin("/stats?filter=access_log_dropped").body;
        text.lines().filter_map(|l| l.rsplit(": ").next()?.parse::<u64>().ok()).sum::<u64>()
    };
    let mut sent = 0u64;
    // One worker's blocks hold a megabyte.
    while dropped() == 0 {
        for _ in 0..20 {
            sent += 1;
            assert_eq!(c.request("GET", "h", &format!("/status/200?{long}"), &[], b"").unwrap().status, 200, "{sent}");
        }
        assert!(sent < 2_000, "nothing was dropped");
    }
    let memory = weir.resident_kb();
    for _ in 0..100 {
        assert_eq!(c.request("GET", "h", &format!("/status/200?{long}"), &[], b"").unwrap().status, 200);
    }
    assert!(dropped() >= 80, "{}", dropped());
    assert!(weir.resident_kb() < memory + 8_192, "what waits is bounded: {memory} KB, then {} KB", weir.resident_kb());
    // Read at last: what had waited comes whole, and new records after it.
    let found = Arc::new(Mutex::new(String::new()));
    let text = found.clone();
    // Ends with the process: the pipe is never at its end while it is open for writing here too.
    std::thread::spawn(move || {
        let mut piece = vec![0; 65_536];
        while let Ok(n @ 1..) = reader.read(&mut piece) {
            text.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..n]));
        }
    });
    eventually("new records", || {
        let _ = c.request("GET", "h", "/status/200?new", &[], b"").unwrap();
        found.lock().unwrap().contains("/status/200?new ").then_some(())
    });
    let text = found.lock().unwrap();
    let (whole, _) = text.rsplit_once('\n').unwrap();
    assert!(whole.lines().all(|l| l.starts_with('[') && l.ends_with('"')), "no record is cut");
}
