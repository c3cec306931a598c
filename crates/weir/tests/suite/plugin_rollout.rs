//! Canaries of plugins: who takes which requests, promotion under load, and canaries that fail or cannot be.
use crate::{
    client,
    harness::{Start, TO_ECHO, Weir, eventually, weir},
    plugin_kit::{guest, status, tried},
    swap::Traffic,
};
use std::fmt::Write as _;

/// A second route, for canaries of one route.
const OTHER_ROUTE: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: other }
spec:
  parentRefs: [{ name: gateway }]
  rules: [{ matches: [{ path: { value: /other } }], backendRefs: [{ name: echo, port: 80 }] }]
";

/// A guest that marks requests and responses with its version. `also` runs at request headers.
fn version(version: &str, also: &str) -> String {
    guest(&format!(
        "(func (export \"proxy_on_request_headers\") (param i32 i32 i32) (result i32) {also}
           (drop (call $set (i32.const 0) [x-version] [{version}])) (i32.const 0))
         (func (export \"proxy_on_response_headers\") (param i32 i32 i32) (result i32)
           (drop (call $set (i32.const 2) [x-version] [{version}])) (i32.const 0))"
    ))
}

/// A WasmPlugin whose annotations are given without their prefix.
fn object(name: &str, code: &str, annotations: &[(&str, &str)]) -> String {
    let mut out =
        format!("---\napiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata:\n  name: {name}\n  annotations:\n    a: b\n");
    for (name, value) in annotations {
        let _ = writeln!(out, "    weir.dev/{name}: '{value}'");
    }
    out + &format!("spec: {{ url: file://{code} }}\n")
}

/// A gateway with the plugin `stable` of version v1 and this in canary.yaml.
fn with_canary(canary: &str) -> Weir {
    Start::new()
        .file("gateway.yaml", format!("{TO_ECHO}{OTHER_ROUTE}"))
        .file("v1.wat", version("v1", ""))
        .file("v2.wat", version("v2", ""))
        .file("stable.yaml", object("stable", "v1.wat", &[]))
        .file("canary.yaml", canary)
        .run()
}

/// The version that a request met, on its way there and back.
fn met(weir: &Weir, path: &str, headers: &[(&str, &str)]) -> String {
    let answer = client::request(weir.address(), "GET", "h", path, headers, b"").unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let there = answer.json()["headers"]["x-version"].as_str().unwrap().to_string();
    assert_eq!(answer.header("x-version"), Some(&*there), "two versions in one stream: {answer:?}");
    there
}

/// Waits until the canary's share is the wanted one and all workers run it: `path` and `headers` are its own for certain.
fn until_it_takes(weir: &Weir, path: &str, headers: &[(&str, &str)]) {
    let mut row = 0;
    eventually("the canary", || {
        row = if met(weir, path, headers) == "v2" { row + 1 } else { 0 };
        (row >= 20).then_some(())
    });
}

#[test]
fn a_canary_takes_its_share() {
    let weir = with_canary("");
    assert_eq!(met(&weir, "/", &[]), "v1");
    let always: &[(&str, &str)] = &[("x-canary", "always")];
    // Annotations; a request that is the canary's; others with the version that they meet.
    type Pairs<'a> = &'a [(&'a str, &'a str)];
    type Others<'a> = &'a [(&'a str, Pairs<'a>, &'a str)];
    let cases: [(Pairs<'_>, (&str, Pairs<'_>), Others<'_>); 5] = [
        (
            &[("canary-by-header", "X-Canary")],
            ("/", always),
            &[("/", &[], "v1"), ("/", &[("x-canary", "never")], "v1"), ("/other", always, "v2")],
        ),
        (
            &[("canary-by-header", "x-canary"), ("canary-by-header-value", "1")],
            ("/", &[("x-canary", "1")]),
            &[("/", always, "v1"), ("/", &[("x-canary", "2")], "v1")],
        ),
        (
            &[("canary-by-cookie", "canary")],
            ("/", &[("cookie", "a=b; canary=always")]),
            &[("/", &[], "v1"), ("/", &[("cookie", "canary=never")], "v1")],
        ),
        (&[("canary-routes", "HTTPRoute/other, HTTPRoute/elsewhere/x")], ("/other", &[]), &[("/", &[], "v1"), ("/", always, "v1")]),
        (
            &[("canary-weight", "100"), ("canary-by-header", "x-canary")],
            ("/", &[]),
            &[("/", &[("x-canary", "never")], "v1"), ("/other", &[], "v2")],
        ),
    ];
    for (annotations, (path, headers), others) in cases {
        let annotations: Vec<_> = [("canary-of", "stable")].into_iter().chain(annotations.iter().copied()).collect();
        weir.write("canary.yaml", &object("canary", "v2.wat", &annotations));
        until_it_takes(&weir, path, headers);
        for (path, headers, wanted) in others {
            assert_eq!(met(&weir, path, headers), *wanted, "{annotations:?} {path} {headers:?}");
        }
        // Nothing of it is left for the next one.
        weir.write("canary.yaml", "");
        eventually("the end of the canary", || (met(&weir, path, headers) == "v1").then_some(()));
    }
    // By weight, each request draws anew. Another weight starts nothing.
    let weighted = |weight: &str| object("canary", "v2.wat", &[("canary-of", "stable"), ("canary-weight", weight)]);
    weir.write("canary.yaml", &weighted("100"));
    until_it_takes(&weir, "/", &[]);
    let generation = || status(&weir, "canary").unwrap()["generation"].clone();
    let before = generation();
    weir.write("canary.yaml", &weighted("50"));
    eventually("the weight", || (status(&weir, "canary")?["canary"]["weight"] == 50).then_some(()));
    let taken = (0..400).filter(|_| met(&weir, "/", &[]) == "v2").count();
    assert!((100..300).contains(&taken), "{taken} of 400");
    assert_eq!(generation(), before);
    // Both count their own streams.
    let streams = |name: &str| weir.stat(&format!("weir_wasm_streams.default/{name}"));
    eventually("both count", || (streams("canary") >= taken as u64 && streams("stable") >= 400 - taken as u64).then_some(()));
}

#[test]
fn a_canary_becomes_the_plugin_without_a_failed_request() {
    let weir =
        with_canary(&object("canary", "v2.wat", &[("canary-of", "stable"), ("canary-by-header", "x-canary"), ("canary-weight", "50")]));
    until_it_takes(&weir, "/", &[("x-canary", "always")]);
    let mut traffic = Traffic::start(&weir, |a| a.header("x-version").is_some());
    for round in 0..3 {
        let (old, new) = if round % 2 == 0 { ("v1", "v2") } else { ("v2", "v1") };
        traffic.look();
        weir.write("stable.yaml", &object("stable", &format!("{new}.wat"), &[]));
        weir.remove("canary.yaml");
        let mut row = 0;
        eventually("the promotion", || {
            row = if met(&weir, "/", &[]) == new { row + 1 } else { 0 };
            (row >= 20 && status(&weir, "canary").is_none()).then_some(())
        });
        let code = format!("{old}.wat");
        weir.write("canary.yaml", &object("canary", &code, &[("canary-of", "stable"), ("canary-weight", "50")]));
        eventually("the next canary", || (met(&weir, "/", &[]) == old).then_some(()));
    }
    traffic.end();
}

#[test]
fn a_canary_that_cannot_run_takes_no_requests() {
    let annotations = [("canary-of", "stable"), ("canary-weight", "100")];
    let weir = with_canary(&object("canary", "bad.wat", &annotations));
    let refuses = version("v2", "").replacen(
        "(func (export \"proxy_abi_version_0_2_1\"))",
        "(func (export \"proxy_abi_version_0_2_1\")) (func (export \"proxy_on_configure\") (param i32 i32) (result i32) (i32.const 0))",
        1,
    );
    for (code, word) in [("", "bad.wat"), ("(module", "bad.wat"), (&*refuses, "configure")] {
        if !code.is_empty() {
            weir.write("bad.wat", code);
        }
        let said = eventually(word, || {
            let status = status(&weir, "canary")?;
            (status["state"] == "failed" && status["reason"].as_str()?.contains(word)).then_some(status)
        });
        (0..20).for_each(|_| assert_eq!(met(&weir, "/", &[]), "v1", "{said}"));
    }
    eventually("what is said", || weir.lines("this canary takes no requests: default/stable serves all").first().cloned());
    // Mended, it takes its share.
    weir.write("bad.wat", &version("v2", ""));
    until_it_takes(&weir, "/", &[]);
    assert_eq!(tried(&weir, "canary"), "active");
    // The plugin goes and comes back: its canary finds it again.
    weir.write("stable.yaml", "");
    eventually("no plugin", || weir.get("h", "/").header("x-version").is_none().then_some(()));
    weir.write("stable.yaml", &object("stable", "v1.wat", &[]));
    eventually("the canary of a new plugin", || (weir.get("h", "/").header("x-version") == Some("v2")).then_some(()));
}

#[test]
fn a_canary_that_traps_gives_its_requests_back() {
    let weir = with_canary(&object("canary", "traps.wat", &[("canary-of", "stable"), ("canary-by-header", "x-canary")]));
    weir.write("traps.wat", &version("v2", "(if (call $has [x-trap]) (then unreachable))"));
    let ask = |trap: bool| {
        let headers: &[(&str, &str)] = if trap { &[("x-canary", "always"), ("x-trap", "1")] } else { &[("x-canary", "always")] };
        client::request(weir.address(), "GET", "h", "/", headers, b"").unwrap()
    };
    until_it_takes(&weir, "/", &[("x-canary", "always")]);
    eventually("the rollback", || {
        ask(true);
        (weir.stat("weir_wasm_rollbacks.default/canary") == 1).then_some(())
    });
    let mut row = 0;
    eventually("the plugin serves all", || {
        let answer = ask(true);
        row = if answer.status == 200 && answer.header("x-version") == Some("v1") { row + 1 } else { 0 };
        (row >= 20).then_some(())
    });
    let said = status(&weir, "canary").unwrap();
    let reason = said["reason"].as_str().unwrap();
    assert!(said["state"] == "failed" && reason.contains("the canary was taken back: it trapped 3 times"), "{said}");
    // Another weight is no other version; other code is.
    let again = object("canary", "traps.wat", &[("canary-of", "stable"), ("canary-weight", "100")]);
    weir.write("canary.yaml", &again);
    eventually("the new weight", || (status(&weir, "canary")?["canary"]["weight"] == 100).then_some(()));
    assert_eq!((tried(&weir, "canary"), met(&weir, "/", &[])), ("failed".into(), "v1".into()));
    weir.write("traps.wat", &version("v2", ""));
    until_it_takes(&weir, "/", &[]);
    assert_eq!(tried(&weir, "canary"), "active");
}

#[test]
fn canaries_that_cannot_be_are_refused() {
    let stable = object("stable", "v1.wat", &[]);
    let canary = |name: &str, annotations: &[(&str, &str)]| object(name, "v1.wat", annotations);
    for (objects, wanted) in [
        (
            canary("c", &[("canary-of", "absent"), ("canary-weight", "10")]),
            "there is no WasmPlugin/default/absent: this canary takes no requests",
        ),
        (canary("c", &[("canary-of", "stable"), ("canary-weight", "101")]), "\"101\" is not a percentage"),
        (canary("c", &[("canary-of", "stable"), ("canary-weight", "ten")]), "\"ten\" is not a percentage"),
        (canary("c", &[("canary-of", "c"), ("canary-weight", "1")]), "a plugin cannot be its own canary"),
        (canary("c", &[("canary-of", "other/stable"), ("canary-weight", "1")]), "\"other/stable\" is not the name of a WasmPlugin"),
        (canary("c", &[("canary-of", "stable")]), "this canary takes no requests"),
        (canary("c", &[("canary-weight", "10")]), "has no effect without weir.dev/canary-of"),
        (
            canary("c", &[("canary-of", "stable"), ("canary-by-header-value", "1"), ("canary-weight", "1")]),
            "has no effect without weir.dev/canary-by-header",
        ),
        (canary("c", &[("canary-of", "stable"), ("canary-by-header", "a b")]), "\"a b\" is not the name of a header"),
        (canary("c", &[("canary-of", "stable"), ("canary-routes", "shop")]), "\"shop\" is not a route"),
        (canary("c", &[("canary-of", "stable"), ("canary-routes", "HTTPRoute/gone")]), "there is no HTTPRoute/default/gone"),
        (canary("c", &[("canary-of", "stable"), ("canary-wait", "1")]), "there is no annotation weir.dev/canary-wait"),
        (
            canary("c", &[("canary-of", "stable"), ("canary-weight", "1")])
                + &canary("d", &[("canary-of", "stable"), ("canary-weight", "1")]),
            "default/stable has a canary already: default/c",
        ),
        (
            canary("c", &[("canary-of", "d"), ("canary-weight", "1")]) + &canary("d", &[("canary-of", "c"), ("canary-weight", "1")]),
            "default/d is a canary itself",
        ),
        (
            canary("c", &[("canary-of", "stable"), ("canary-weight", "1")]).replace("spec: {", "spec: { phase: AUTHN,"),
            "phase, priority, targetRefs and match have no effect on a canary",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("v1.wat"), version("v1", "")).unwrap();
        std::fs::write(folder.path().join("plugins.yaml"), format!("{stable}{objects}")).unwrap();
        let output = weir().args(["check", "--no-plugins"]).arg(folder.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(wanted) && text.contains("plugins.yaml"), "{wanted}\n{objects}\n{text}");
    }
}

/// Asks both versions in turn until one was taken back; returns what its status says then.
fn until_taken_back(weir: &Weir, name: &str) -> serde_json::Value {
    eventually("the rollback", || {
        for headers in [&[("x-canary", "always")][..], &[]] {
            client::request(weir.address(), "GET", "h", "/", headers, b"").unwrap();
        }
        (weir.stat(&format!("weir_wasm_rollbacks.default/{name}")) == 1).then_some(())
    });
    let status = status(weir, name).unwrap();
    assert!(matches!(status["state"].as_str(), Some("failed" | "stale")), "{status}");
    status
}

const ANSWERS_500: &str = "(call $answer (i32.const 500) [broken]) (return (i32.const 1))";
/// Uses some 40 ms of a CPU.
const SLOW: &str = "(local $start i64) (drop (call $now (i32.const 64))) (local.set $start (i64.load (i32.const 64)))
    (loop $again (drop (call $now (i32.const 64)))
      (br_if $again (i64.lt_u (i64.sub (i64.load (i32.const 64)) (local.get $start)) (i64.const 40000000))))";

#[test]
fn a_canary_that_does_worse_gives_its_requests_back() {
    let by_header = [("canary-of", "stable"), ("canary-by-header", "x-canary"), ("rollback-min-streams", "20")];
    for (also, rules, wanted) in [
        (ANSWERS_500, &[][..], "100% of its"),
        (SLOW, &[("rollback-latency", "10ms"), ("call-deadline", "10s"), ("rollback-5xx", "0")], "the 99th percentile of its callbacks is"),
    ] {
        let annotations: Vec<_> = by_header.iter().chain(rules).copied().collect();
        let weir = with_canary("");
        weir.write("bad.wat", &version("v2", also));
        weir.write("canary.yaml", &object("canary", "bad.wat", &annotations));
        let said = until_taken_back(&weir, "canary");
        assert!(said["reason"].as_str().unwrap().contains(wanted), "{said}");
        assert_eq!((&said["history"][0]["outcome"], &said["generation"]), (&"rolled_back".into(), &0.into()), "{said}");
        let mut row = 0;
        eventually("the plugin serves all", || {
            row = if met(&weir, "/", &[("x-canary", "always")]) == "v1" { row + 1 } else { 0 };
            (row >= 20).then_some(())
        });
    }
}

#[test]
fn a_changed_plugin_that_does_worse_gives_way_to_the_one_before() {
    let weir = with_canary("");
    let rules = |code: &str| object("stable", code, &[("rollback-5xx", "10"), ("rollback-min-streams", "20")]);
    weir.write("stable.yaml", &rules("v1.wat"));
    eventually("streams of the version before", || {
        met(&weir, "/", &[]);
        let status = status(&weir, "stable")?;
        (status["generation"] == 2 && status["streams"].as_u64()? >= 40).then_some(())
    });
    weir.write("bad.wat", &version("v3", ANSWERS_500));
    weir.write("stable.yaml", &rules("bad.wat"));
    let said = until_taken_back(&weir, "stable");
    assert!(said["state"] == "stale" && said["reason"].as_str().unwrap().contains("100% of its"), "{said}");
    let outcomes: Vec<_> = said["history"].as_array().unwrap().iter().map(|v| v["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes[..3], ["serving", "rolled_back", "replaced"], "{said}");
    let mut row = 0;
    eventually("the version before serves", || {
        let answer = weir.get("h", "/");
        row = if answer.header("x-version") == Some("v1") { row + 1 } else { 0 };
        (row >= 20).then_some(())
    });
    // What the command shows.
    let shown = |args: &[&str]| {
        let output = crate::harness::weir().args(["plugin", "status", "--admin", &weir.admin.to_string()]).args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr))
    };
    let (code, text) = shown(&[]);
    assert!(code == Some(0) && text.contains("default/stable  stale") && text.contains("the new version was taken back"), "{text}");
    let (code, text) = shown(&["stable"]);
    assert!(code == Some(0) && text.contains("rolled back") && text.contains("100% of its"), "{text}");
    let (_, json) = shown(&["default/stable", "-o", "json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["state"], "stale", "{json}");
    let (code, text) = shown(&["absent"]);
    assert!(code == Some(1) && text.contains("has no plugin absent"), "{text}");
    let output = crate::harness::weir().args(["plugin", "status", "--admin", "127.0.0.1:1"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot reach the admin listener at 127.0.0.1:1"));
}

#[test]
fn a_rollback_outlives_the_gateway() {
    let cache = tempfile::tempdir().unwrap();
    let traps = version("v2", "unreachable");
    let start = |code: &str, canary: &str| {
        Start::new()
            .file("gateway.yaml", TO_ECHO)
            .file("stable.wat", code)
            .file("canary.wat", version("v3", "unreachable"))
            .file("stable.yaml", object("stable", "stable.wat", &[]))
            .file("canary.yaml", canary)
            .cache(cache.path())
            .run()
    };
    let serves = |weir: &Weir, wanted: &str| {
        let mut row = 0;
        eventually(wanted, || {
            row = if weir.get("h", "/").header("x-version") == Some(wanted) { row + 1 } else { 0 };
            (row >= 20).then_some(())
        });
    };
    let canary = object("canary", "canary.wat", &[("canary-of", "stable"), ("canary-by-header", "x-canary")]);
    {
        let weir = start(&version("v1", ""), "");
        serves(&weir, "v1");
        weir.write("stable.wat", &traps);
        until_taken_back(&weir, "stable");
        serves(&weir, "v1");
        weir.write("canary.yaml", &canary);
        until_taken_back(&weir, "canary");
    }
    // The same objects: the version before serves from the first request on, and the canary takes none.
    let weir = start(&traps, &canary);
    assert_eq!(met(&weir, "/", &[]), "v1");
    let said = eventually("the decision", || status(&weir, "stable").filter(|status| status["state"] == "stale"));
    assert!(said["reason"].as_str().unwrap().contains("the new version was taken back: it trapped 3 times"), "{said}");
    let said = eventually("the canary's", || status(&weir, "canary").filter(|status| status["state"] == "failed"));
    assert!(said["reason"].as_str().unwrap().contains("the canary was taken back"), "{said}");
    assert_eq!(met(&weir, "/", &[("x-canary", "always")]), "v1");
    assert_eq!(weir.stat("weir_wasm_traps.default/stable"), 0);
    // Another limit is another version of the object, which gets its chance; mended code serves.
    weir.write("stable.yaml", &object("stable", "stable.wat", &[("rollback-traps", "4")]));
    until_taken_back(&weir, "stable");
    weir.write("stable.wat", &version("v4", ""));
    serves(&weir, "v4");
    assert_eq!(tried(&weir, "stable"), "active");
}
