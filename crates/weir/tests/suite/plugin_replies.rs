//! How answers of plugins and of the gateway pass through the plugins, and responses that plugins change.
use crate::{
    aborts::left,
    client::{self, Answer, Connection},
    harness::{Start, Weir, eventually, runtime, sized_upstream},
    plugin_kit::{guest, guest_of, istio, on_headers, shown},
    streams::{h2c, says, websocket},
    yaml::ToEcho,
};
use http::Request;

/// Answers requests with `x-deny` with 401, and the response of any other plugin's or the gateway's that has the status in
/// `x-replace` with its own name and 200. With `x-again` it answers its own 401 again.
fn answering(name: &str) -> String {
    let status = "(drop (call $get_value (i32.const 2) [:status] (i32.const 4) (i32.const 8)))
        (local.set $status (i32.load (i32.load (i32.const 4))))";
    let replaces = format!(
        "(if (call $has [x-replace-{name}]) (then
           (local.set $wanted (i32.load (i32.load (i32.const 4))))
           {status}
           (if (i32.eq (i32.and (local.get $wanted) (i32.const 0xffffff)) (i32.and (local.get $status) (i32.const 0xffffff)))
             (then (call $answer (i32.const 200) [{name} instead])))))"
    );
    on_headers("request", &format!("(if (call $has [x-deny-{name}]) (then (call $answer (i32.const 401) [{name} denies])))"))
        + &on_headers("response", &replaces).replace("(result i32)", "(result i32) (local $status i32) (local $wanted i32)")
}

/// One request over either protocol.
pub fn ask(weir: &Weir, protocol: &str, method: &str, host: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    if protocol == "h1" {
        let mut client = Connection::open(weir.address()).unwrap();
        let fields: String = headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        client.send(format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{fields}\r\n")).unwrap();
        return match method {
            "HEAD" => client.head(),
            _ => client.answer(),
        }
        .unwrap_or_else(|e| panic!("{method} {host}{path} {headers:?}: {e}"));
    }
    runtime().block_on(async {
        let mut request = Request::builder().method(method).uri(format!("http://{host}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (response, _) = h2c(weir.address()).await.ready().await.unwrap().send_request(request.body(()).unwrap(), true).unwrap();
        let (parts, mut body) = response.await.unwrap().into_parts();
        let mut bytes = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            let _ = body.flow_control().release_capacity(piece.len());
            bytes.extend_from_slice(&piece);
        }
        let headers = parts.headers.iter().map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect();
        Answer { status: parts.status.as_u16(), headers, body: String::from_utf8_lossy(&bytes).into_owned(), ..Answer::default() }
    })
}

/// Name, host, path, headers, status and body of the answer.
type Row = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)], u16, &'static str);

/// `dead.test` has no endpoint, `nowhere.test` no route.
const HOSTS: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: dead }
spec:
  parentRefs: [{ name: gateway }]
  hostnames: [dead.test]
  rules: [{ backendRefs: [{ name: dead, port: 80 }] }]
---
{ apiVersion: v1, kind: Service, metadata: { name: dead }, spec: { ports: [{ port: 80 }] } }
";

#[test]
fn a_plugin_answers_in_place_of_any_answer() {
    let plugins: String = [("outer", 2), ("inner", 1)]
        .iter()
        .map(|(name, priority)| istio(name, &format!("url: file://{name}.wat\npriority: {priority}")))
        .collect();
    let weir = Start::new()
        .file("gateway.yaml", ToEcho::new().hostnames("h.test").text() + HOSTS)
        .file("outer.wat", guest(&answering("outer")))
        .file("inner.wat", guest(&answering("inner")))
        .file("plugins.yaml", plugins)
        .arg("--access-log-format")
        .arg("%REQ(X-ROW)% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS%")
        .run();
    let rows: &[Row] = &[
        ("nothing is replaced", "h.test", "/status/404", &[("x-replace-outer", "503")], 404, ""),
        ("the upstream's", "h.test", "/status/404", &[("x-replace-outer", "404")], 200, "outer instead"),
        ("another plugin's", "h.test", "/", &[("x-deny-inner", "1"), ("x-replace-outer", "401")], 200, "outer instead"),
        ("its own", "h.test", "/", &[("x-deny-outer", "1"), ("x-replace-outer", "401")], 401, "outer denies"),
        ("that of the plugin before it", "h.test", "/", &[("x-deny-outer", "1"), ("x-replace-inner", "401")], 200, "inner instead"),
        ("no route", "nowhere.test", "/", &[("x-replace-outer", "404")], 200, "outer instead"),
        ("no endpoint", "dead.test", "/", &[("x-replace-inner", "503")], 200, "inner instead"),
        // A reply that replaces an answer is not shown again.
        ("both", "dead.test", "/", &[("x-replace-inner", "503"), ("x-replace-outer", "200")], 200, "inner instead"),
        ("both want the same", "dead.test", "/", &[("x-replace-inner", "503"), ("x-replace-outer", "503")], 200, "inner instead"),
    ];
    for (what, host, path, headers, status, body) in rows {
        for protocol in ["h1", "h2"] {
            for method in ["GET", "HEAD"] {
                let row = format!("{what}-{protocol}-{method}").replace(' ', "_");
                let headers = [*headers, &[("x-row", &*row)]].concat();
                let answer = ask(&weir, protocol, method, host, path, &headers);
                assert_eq!(answer.status, *status, "{row}: {answer:?}");
                if *status != 404 {
                    assert_eq!(answer.header("content-length"), Some(&*body.len().to_string()), "{row}: {answer:?}");
                    assert_eq!(answer.body, if method == "GET" { *body } else { "" }, "{row}");
                }
                eventually(&row, || weir.lines(&format!("{row} {status} ")).first().cloned());
            }
        }
    }
    eventually("nothing is left", || left(&weir, false).is_empty().then_some(()));
    assert_eq!(weir.stat("weir_wasm_traps.default/outer") + weir.stat("weir_wasm_traps.default/inner"), 0);
}

#[test]
fn plugins_tell_an_upstreams_response_from_the_gateways_own() {
    let show = guest(&on_headers("response", "(call $show [response\\0code_details] [x-details])"));
    let weir = Start::new()
        .file("gateway.yaml", ToEcho::new().hostnames("h.test").text() + HOSTS)
        .file("guest.wat", show)
        .file("plugin.yaml", istio("under-test", "url: file://guest.wat"))
        .run();
    for protocol in ["h1", "h2"] {
        for (host, wanted) in [("h.test", "via_upstream"), ("dead.test", "no_healthy_upstream"), ("nowhere.test", "route_not_found")] {
            let answer = ask(&weir, protocol, "GET", host, "/", &[]);
            let details = shown(answer.header("x-details").unwrap()).unwrap_or_default();
            assert_eq!(String::from_utf8_lossy(&details), wanted, "{protocol} {host}");
        }
    }
}

/// Holds the head of a response to a request with `x-hold`, and logs its value; a tick resumes it unless that begins with `k`.
fn holding_responses() -> String {
    guest(
        r#"(global $held (mut i32) (i32.const 0))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0))
        (func (export "proxy_on_response_headers") (param $context i32) (param i32 i32) (result i32)
          (if (i32.eqz (call $has [x-hold])) (then (return (i32.const 0))))
          (global.set $held (local.get $context))
          (call $say (i32.load (i32.const 4)) (i32.load (i32.const 8)))
          (if (i32.ne (i32.load8_u (i32.load (i32.const 4))) (i32.const 107)) (then (drop (call $tick (i32.const 10)))))
          (i32.const 1))
        (func (export "proxy_on_tick") (param i32)
          (drop (call $tick (i32.const 0)))
          (if (i32.eqz (call $effective (global.get $held))) (then (drop (call $continue (i32.const 1))))))"#,
    )
}

#[test]
fn a_held_switch_of_protocols_keeps_its_deadline_and_notices_the_client() {
    let weir = Start::new()
        .file("gateway.yaml", ToEcho::new().rule("matches: [{ headers: [{ name: x-late, value: '1' }] }], timeouts: { request: 300ms }, backendRefs: [{ name: echo, port: 80 }]").text())
        .file("guest.wat", holding_responses())
        .file("plugin.yaml", istio("under-test", "url: file://guest.wat"))
        .workers(1)
        .run();
    runtime().block_on(async {
        let mut socket = websocket(weir.address()).await;
        says(&mut socket, "hello").await;
    });
    let upgrade = |more: &str| {
        let mut client = Connection::open(weir.address()).unwrap();
        let head = "GET /ws HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        client.send(format!("{head}{more}\r\n")).unwrap();
        client
    };
    assert_eq!(upgrade("x-hold: tick\r\n").head().unwrap().status, 101);
    weir.says("default/under-test: tick");
    // Past the route's time.
    assert_eq!(upgrade("x-hold: k-late\r\nx-late: 1\r\n").answer().unwrap().status, 504);
    let client = upgrade("x-hold: k-leaves\r\n");
    weir.says("default/under-test: k-leaves");
    drop(client);
    eventually("nothing is left", || left(&weir, false).is_empty().then_some(()));
}

/// Changes the body in the direction that `x-edit-request` or `x-edit-response` names, and leaves its head as it is: `p`, `a` put
/// something in front of the first piece or behind the last; `r` waits for all of it, and puts something in its place; `n`
/// swallows all of it.
fn resizing() -> String {
    let direction = |name: &str, buffer: u32| {
        let is = |letter: char| format!("(i32.eq (local.get $edit) (i32.const {}))", u32::from(letter));
        format!(
            r#"(func (export "proxy_on_{name}_headers") (param $context i32) (param i32 i32) (result i32)
              (i32.store (call $place (i32.shl (local.get $context) (i32.const 2))) (i32.const 0))
              (i32.const 0))
            (func (export "proxy_on_{name}_body") (param $context i32) (param $size i32) (param $end i32) (result i32) (local $edit i32) (local $first i32)
              (local.set $first (i32.eqz (i32.load (call $place (i32.shl (local.get $context) (i32.const 2))))))
              (i32.store (call $place (i32.shl (local.get $context) (i32.const 2))) (i32.const 1))
              (if (i32.eqz (call $has [x-edit-{name}])) (then (return (i32.const 0))))
              (local.set $edit (i32.load8_u (i32.load (i32.const 4))))
              (if (i32.and {p} (local.get $first)) (then (drop (call $set_buffer (i32.const {buffer}) (i32.const 0) (i32.const 0) [<new>]))))
              (if (i32.and {a} (local.get $end)) (then (drop (call $set_buffer (i32.const {buffer}) (local.get $size) (i32.const 0) [<new>]))))
              (if {r} (then
                (if (i32.eqz (local.get $end)) (then (return (i32.const 1))))
                (drop (call $set_buffer (i32.const {buffer}) (i32.const 0) (local.get $size) [<new>]))))
              (if {n} (then
                (if (i32.eqz (local.get $end)) (then (return (i32.const 3))))
                (drop (call $set_buffer (i32.const {buffer}) (i32.const 0) (local.get $size) (i32.const 0) (i32.const 0)))))
              (i32.const 0))"#,
            p = is('p'),
            a = is('a'),
            r = is('r'),
            n = is('n'),
        )
    };
    guest_of("0_2_100", &(direction("request", 0) + &direction("response", 1)))
}

#[test]
fn a_body_whose_length_a_plugin_changes_arrives_whole() {
    let weir = Start::new()
        .file("gateway.yaml", ToEcho::and_sized())
        .word("SIZED", sized_upstream())
        .file("guest.wat", resizing())
        .file("plugin.yaml", istio("under-test", "url: file://guest.wat"))
        .run();
    let get = |path: &str, edit: &str| client::request(weir.address(), "GET", "h", path, &[("x-edit-response", edit)], b"");
    let post = |body: &[u8], edit: &str| client::request(weir.address(), "POST", "h", "/stream", &[("x-edit-request", edit)], body);
    let edited = |edit: &str, size: usize| match edit {
        "p" | "a" => size + 5,
        "r" => 5,
        _ => size,
    };
    let judge = |what: &str, answer: &Answer, edit: &str, size: usize| {
        assert_eq!((answer.status, answer.body.len()), (200, edited(edit, size)), "{what}");
        match edit {
            "p" | "r" => assert!(answer.body.starts_with("<new>"), "{what}"),
            "a" => assert!(answer.body.ends_with("<new>"), "{what}"),
            _ => {}
        }
    };
    for size in [1, 5, 70_000, 300_000] {
        for edit in ["-", "p", "r"] {
            let what = format!("{edit} {size}");
            let answer = get(&format!("/sized/{size}"), edit).unwrap();
            judge(&what, &answer, edit, size);
            // A body that is left alone keeps its length.
            assert!(edit != "-" || answer.header("content-length") == Some(&*size.to_string()), "{what}: {:?}", answer.headers);
            judge(&what, &post(&vec![b'y'; size], edit).unwrap(), edit, size);
            let over_h2 = ask(&weir, "h2", "GET", "h", &format!("/sized/{size}"), &[("x-edit-response", edit)]);
            judge(&what, &over_h2, edit, size);
        }
    }
    // A body that was complete before its head was sent.
    judge("a 5", &get("/sized/5", "a").unwrap(), "a", 5);
    // A large body ends after its head was sent: it is lost and reported; later heads give no length.
    for direction in ["request", "response"] {
        let large = |edit: &str| match direction {
            "request" => post(&vec![b'y'; 300_000], edit),
            _ => get("/sized/300000", edit),
        };
        // A request's may be whole before its head has to go, the first times.
        let mut lost = false;
        for edit in ["a", "a", "a", "-", "p", "r"] {
            let answer = large(edit);
            if edit == "a" && !lost && answer.as_ref().map_or(true, |a| a.status == 500) {
                weir.says(&format!("default/under-test: it changed the length of a {direction}'s body"));
                lost = true;
            } else {
                judge(&format!("{direction} {edit}"), &answer.unwrap(), edit, 300_000);
            }
        }
    }
    // Nothing is left of it.
    assert_eq!(get("/sized/300000", "n").unwrap().body, "");
    assert_eq!(post(&vec![b'y'; 300_000], "n").unwrap().body, "");
    assert_eq!(weir.stat("weir_wasm_traps.default/under-test"), 0);
}
