//! Whatever a plugin writes, a head line ends where it should: at the upstream, at the target of a callout, at the client.
use crate::{
    harness::{Received, Start},
    head_lines::{is_sane, nasty},
    plugin_kit::{guest, istio},
    plugin_replies::ask,
    yaml::ToEcho,
};

/// A guest that writes `nasty()[i]` where the header `x-PLACE-i` of a request says.
fn writing() -> String {
    let (mut request, mut response) = (String::new(), String::new());
    for (i, value) in nasty().iter().enumerate() {
        let when = |place: &str, what: &str| format!("(if (call $has [x-{place}-{i}]) (then {what}))\n");
        for (place, what) in [
            ("add", format!("(drop (call $add (i32.const 0) [x-a] [{value}]))")),
            ("set", format!("(drop (call $set (i32.const 0) [x-b] [{value}]))")),
            ("name", format!("(drop (call $add (i32.const 0) [{value}] [v]))")),
            ("path", format!("(drop (call $set (i32.const 0) [:path] [/x{value}]))")),
            ("authority", format!("(drop (call $set (i32.const 0) [:authority] [{value}]))")),
            ("method", format!("(drop (call $set (i32.const 0) [:method] [{value}]))")),
            ("pairs", format!("(drop (call $set_pairs (i32.const 0) [pairs :method=GET,:path=/x,:authority=a,x-c={value}]))")),
            (
                "reply",
                format!(
                    "(drop (call $reply (i32.const 200) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
                       [pairs x-r={value}] (i32.const -1))) (return (i32.const 1))"
                ),
            ),
            (
                "call",
                format!(
                    "(if (i32.eqz (call $http_call [outbound|80||echo.default.svc.cluster.local]
                         [pairs :method=GET,:path=/x{value},:authority=a,x-d={value}] (i32.const 0) (i32.const 0)
                         (i32.const 0) (i32.const 0) (i32.const 20000) (i32.const 84)))
                       (then (i32.store (call $place (i32.load (i32.const 84))) (local.get 0)) (return (i32.const 1))))"
                ),
            ),
        ] {
            request += &when(place, &what);
        }
        response += &when("response", &format!("(drop (call $add (i32.const 2) [x-e] [{value}]))"));
    }
    guest(&format!(
        r#"(func (export "proxy_on_context_create") (param i32 i32))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) {request} (i32.const 0))
        (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) {response} (i32.const 0))
        (func (export "proxy_on_http_call_response") (param i32 i32 i32 i32 i32)
          (if (i32.eqz (call $effective (i32.load (call $place (local.get 1))))) (then (drop (call $continue_request)))))"#
    ))
}

#[test]
fn plugins_write_whole_lines() {
    let (port, received) = Received::start();
    let weir = Start::new()
        .file("gateway.yaml", ToEcho::new().upstream(port).text())
        .file("guest.wat", writing())
        .file("plugin.yaml", istio("writing", "url: file://guest.wat"))
        .upstreams(0)
        .run();
    for place in ["add", "set", "name", "path", "authority", "method", "pairs", "reply", "call", "response"] {
        for (i, value) in nasty().iter().enumerate() {
            for protocol in ["h1", "h2"] {
                let name = format!("{place} {:?} {protocol}", value.chars().take(12).collect::<String>());
                received.take();
                let answer = ask(&weir, protocol, "GET", "h.test", "/x", &[(&format!("x-{place}-{i}"), "1")]);
                let got = received.take();
                let calls = got.matches("x-d: ").count();
                assert!(place == "call" || calls == 0, "{name}");
                // A callout and the request that waits for it are two requests, on a connection each.
                for text in got.split_inclusive("\r\n\r\n") {
                    is_sane(&name, text, "/x");
                }
                assert!(Received::requests(&got).len() <= 1 + calls, "{name}: {got}");
                assert!(answer.headers.iter().all(|(n, v)| n != "x-evil" && !v.contains(['\r', '\n', '\0'])), "{name}: {answer:?}");
            }
        }
    }
    // The connection to the upstream is still in step.
    received.take();
    assert_eq!(weir.get("h.test", "/x/fine").status, 200);
    assert!(received.take().starts_with("GET /x/fine HTTP/1.1\r\n"));
}
