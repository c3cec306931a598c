//! `sessionPersistence`: a client's requests stay with the endpoint that answered its first.
use super::{no_findings, services};
use crate::{
    client::{self, Answer},
    harness::{Start, Weir, eventually},
    yaml::Service,
};

/// A rule to `echo` and `echo2` alike.
fn rule(path: &str, session: &str) -> String {
    format!(
        "  - {{ matches: [{{ path: {{ value: {path} }} }}], sessionPersistence: {session}, backendRefs: [{{ name: echo, port: 80 }}, {{ name: echo2, port: 80 }}] }}\n"
    )
}

fn route(rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: gateway }}\nspec: {{ gatewayClassName: weir, listeners: [{{ name: http, port: $PORT, protocol: HTTP }}] }}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: r }}\nspec:\n  parentRefs: [{{ name: gateway }}]\n  rules:\n{rules}"
    )
}

fn ask(weir: &Weir, path: &str, headers: &[(&str, &str)]) -> Answer {
    client::request(weir.address(), "GET", "h.test", path, headers, b"").unwrap()
}

fn name(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["name"].as_str().unwrap().to_string()
}

/// The name and token of the cookie that an answer sets, and the rest of it.
fn cookie(answer: &Answer) -> Option<(String, String)> {
    let (pair, rest) = answer.header("set-cookie")?.split_once("; ")?;
    Some((pair.to_string(), rest.to_string()))
}

#[test]
fn sessions_stay_with_their_endpoint() {
    let rules = [
        rule("/named", "{ cookie: { name: who, path: /named } }"),
        rule("/lasting", "{ type: Cookie, absoluteTimeout: 1h, cookie: { lifetimeType: Permanent } }"),
        rule("/short", "{ absoluteTimeout: 1s, cookie: {} }"),
        rule("/header", "{ type: Header, header: { name: X-Session } }"),
        rule("/older", "{ sessionName: old, cookieConfig: { lifetimeType: Session } }"),
    ];
    // The second service has two endpoints, of which one goes.
    let second = |ports: &str| Service::new("echo2", ports).slice("more");
    let weir = Start::new()
        .upstreams(3)
        .file("all.yaml", format!("{}---\n{}", route(&rules.concat()), services("default", 2)))
        .file("more.yaml", second("$ECHO3"))
        .run();
    no_findings(&weir);
    // Clients without a session are spread over all endpoints.
    let names: Vec<String> = (0..60).map(|_| name(&ask(&weir, "/named", &[]))).collect();
    for one in ["echo", "echo2", "echo3"] {
        assert!(names.iter().any(|n| n == one), "{names:?}");
    }
    for (path, begins, rest) in [
        ("/named/a", "who=", "Path=/named; HttpOnly"),
        ("/lasting", "weir-default-r-1=", "Path=/; Max-Age=3600; HttpOnly"),
        ("/short", "weir-default-r-2=", "Path=/; HttpOnly"),
        ("/older", "old=", "Path=/; HttpOnly"),
    ] {
        for _ in 0..6 {
            let first = ask(&weir, path, &[]);
            let (pair, attributes) = cookie(&first).unwrap_or_else(|| panic!("{path}: {first:?}"));
            assert!(pair.starts_with(begins) && attributes == rest, "{path}: {pair}; {attributes}");
            if path == "/short" {
                // It ends by itself.
                let anew = eventually("the end of the session", || cookie(&ask(&weir, path, &[("cookie", &pair)])));
                assert_ne!(anew.0, pair);
                break;
            }
            let cookies = format!("a=b; {pair}; c=d");
            for _ in 0..6 {
                let again = ask(&weir, path, &[("cookie", &cookies)]);
                assert_eq!((name(&again), cookie(&again)), (name(&first), None), "{path}");
            }
        }
    }
    let first = ask(&weir, "/header", &[]);
    let token = first.header("x-session").unwrap().to_string();
    for _ in 0..10 {
        let again = ask(&weir, "/header", &[("x-session", &token)]);
        assert_eq!((name(&again), again.header("x-session")), (name(&first), None));
    }
    // What nobody gave out begins a session; so does one of another route's cluster, as that has no such endpoint.
    for wrong in ["", "x", "!!", "MTIz", &token[1..]] {
        assert!(ask(&weir, "/header", &[("x-session", wrong)]).header("x-session").is_some(), "{wrong}");
    }
    // Where its endpoint is gone a session goes on elsewhere, and stays there.
    let (pair, _) = eventually("a session with the third", || {
        let answer = ask(&weir, "/named", &[]);
        (name(&answer) == "echo3").then(|| cookie(&answer).unwrap())
    });
    weir.remove("more.yaml");
    let moved = eventually("the end of the endpoint", || {
        let answer = ask(&weir, "/named", &[("cookie", &pair)]);
        (name(&answer) != "echo3").then_some(answer)
    });
    let (anew, _) = cookie(&moved).unwrap();
    for _ in 0..10 {
        assert_eq!(name(&ask(&weir, "/named", &[("cookie", &anew)])), name(&moved));
    }
    // A weight of 0 ends the sessions of its backend.
    let drained = rule("/named", "{ cookie: { name: who } }")
        .replace(&format!("name: {}, port: 80", name(&moved)), &format!("name: {}, port: 80, weight: 0", name(&moved)));
    weir.write("all.yaml", &format!("{}---\n{}", route(&drained), services("default", 2)));
    eventually("the drained backend", || (name(&ask(&weir, "/named", &[("cookie", &anew)])) != name(&moved)).then_some(()));
}
