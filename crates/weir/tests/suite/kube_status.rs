//! What `weir gateway` writes into the status of objects.
use crate::{
    harness::eventually,
    kube_gateway::{Gateway, base, route},
};
use serde_json::{Value, json};
use weir_test::Kube;

const API: &str = "/apis/gateway.networking.k8s.io/v1";

fn object(kube: &Kube, namespace: &str, path: &str) -> Value {
    kube.object(&format!("{API}/namespaces/{namespace}/{path}")).unwrap_or_default()
}

/// `status/reason` of a condition in a list of conditions.
pub fn condition(of: &Value, kind: &str) -> String {
    let found = of["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == kind);
    found.map_or("-".into(), |c| format!("{}/{}", c["status"].as_str().unwrap_or_default(), c["reason"].as_str().unwrap_or_default()))
}

/// Writes of statuses of objects whose path has this part, with what the requests said of them.
pub fn writes(kube: &Kube, part: &str) -> usize {
    let ours = |line: &&String| line.contains("/status?") && line.contains("fieldManager=weir") && line.contains(part);
    kube.audit().iter().filter(ours).count()
}

/// Waits for this number of them: a write is seen before it is logged.
#[track_caller]
pub fn wrote(kube: &Kube, part: &str, count: usize) {
    eventually(&format!("{count} writes of {part}"), || (writes(kube, part) == count).then_some(()));
}

#[test]
fn statuses_say_what_became_of_objects() {
    let kube = Kube::shared();
    kube.apply(&(base("said") + &route("said", "a", "a.test")));
    // A second listener whose port another program has.
    let mut taken = kube.command(env!("CARGO_BIN_EXE_weir"));
    let mut taken = taken.args(["echo", "--listen", "10.245.0.21:81"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    eventually("echo", || kube.get("10.245.0.21:81", "x", "/").ok());
    let gateway = Gateway::ready(kube, 21, &["--namespace", "said"]);
    let of_route = || object(kube, "said", "httproutes/a")["status"]["parents"][0].clone();
    eventually("the route is accepted", || (condition(&of_route(), "Accepted") == "True/Accepted").then_some(()));
    let parent = of_route();
    assert_eq!(parent["controllerName"], "weir.dev/gateway-controller");
    assert_eq!(parent["parentRef"]["name"], "web");
    assert_eq!(condition(&parent, "ResolvedRefs"), "True/ResolvedRefs");
    let of_gateway = || object(kube, "said", "gateways/web")["status"].clone();
    eventually("the Gateway is programmed", || (condition(&of_gateway(), "Programmed") == "True/Programmed").then_some(()));
    let status = of_gateway();
    assert_eq!(status["addresses"], json!([{ "type": "IPAddress", "value": "10.245.0.21" }]));
    assert_eq!(condition(&status["listeners"][0], "Programmed"), "True/Programmed");
    assert_eq!(status["conditions"][0]["observedGeneration"], 1);
    let class = || kube.object(&format!("{API}/gatewayclasses/said")).unwrap()["status"].clone();
    eventually("the class is accepted", || (condition(&class(), "Accepted") == "True/Accepted").then_some(()));
    eventually("the release is known", || (condition(&class(), "SupportedVersion") == "True/SupportedVersion").then_some(()));

    kube.apply(&base("said").replace("protocol: HTTP}", "protocol: HTTP}, {name: taken, port: 81, protocol: HTTP}"));
    let listener =
        || of_gateway()["listeners"].as_array().into_iter().flatten().find(|l| l["name"] == "taken").cloned().unwrap_or_default();
    eventually("the listener is not programmed", || condition(&listener(), "Programmed").starts_with("False/").then_some(()));
    let time = |status: &Value| status["listeners"][0]["conditions"][0]["lastTransitionTime"].clone();
    assert_eq!(time(&of_gateway()), time(&status), "what did not change keeps its time");
    let _ = taken.kill();
    let _ = taken.wait();
    eventually("the listener is programmed", || (condition(&listener(), "Programmed") == "True/Programmed").then_some(()));

    // Entries of other controllers stay, ours goes with the parent.
    let foreign = json!({ "controllerName": "other.test/controller", "parentRef": { "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "web" }, "conditions": [
        { "type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2020-01-01T00:00:00Z" },
    ] });
    let body = json!({ "status": { "parents": [foreign, of_route()] } }).to_string();
    let path = format!("{API}/namespaces/said/httproutes/a/status");
    assert_eq!(kube.api("PATCH", &path, "application/merge-patch+json", body.as_bytes()).unwrap().status, 200);
    kube.apply(&route("said", "a", "a.test").replace("[{name: web}]", "[{name: web, sectionName: nowhere}]"));
    let parents = || object(kube, "said", "httproutes/a")["status"]["parents"].clone();
    let refused = |parents: &Value| parents.as_array().unwrap().iter().any(|p| condition(p, "Accepted") == "False/NoMatchingParent");
    eventually("the route is refused", || refused(&parents()).then_some(()));
    let names = |parents: &Value| -> Vec<String> {
        parents.as_array().into_iter().flatten().map(|p| p["controllerName"].as_str().unwrap().to_string()).collect()
    };
    assert_eq!(names(&parents()), ["other.test/controller", "weir.dev/gateway-controller"]);
    kube.delete("{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: web, namespace: said}}");
    eventually("our entry is gone", || (names(&parents()) == ["other.test/controller"]).then_some(()));
    drop(gateway);
}

#[test]
fn equal_statuses_are_not_written() {
    let kube = Kube::shared();
    let routes: String = (0..50).map(|n| route("thrifty", &format!("r{n}"), &format!("r{n}.test"))).collect();
    kube.apply(&(base("thrifty") + &routes));
    let all_said = || {
        let list = object(kube, "thrifty", "httproutes");
        let items = list["items"].as_array().unwrap().clone();
        (items.len() == 50 && items.iter().all(|r| condition(&r["status"]["parents"][0], "Accepted") == "True/Accepted")).then_some(())
    };
    let gateway = Gateway::ready(kube, 22, &["--namespace", "thrifty"]);
    eventually("all routes are accepted", all_said);
    wrote(kube, "/namespaces/thrifty/httproutes", 50);
    // One that is edited, and one that says the same as before.
    kube.apply(&(route("thrifty", "r1", "other.test") + &route("thrifty", "r2", "r2.test")));
    eventually("the edit is seen", || {
        (object(kube, "thrifty", "httproutes/r1")["status"]["parents"][0]["conditions"][0]["observedGeneration"] == 2).then_some(())
    });
    wrote(kube, "/namespaces/thrifty/httproutes", 51);
    drop(gateway);
    let of_gateway = writes(kube, "/namespaces/thrifty/gateways");
    let again = Gateway::ready(kube, 22, &["--namespace", "thrifty"]);
    again.answers("other.test", 302);
    // It leads once the Lease of the one before has ended; then a new route is written, and nothing else.
    kube.apply(&route("thrifty", "new", "new.test"));
    eventually("the new route is accepted", || {
        (condition(&object(kube, "thrifty", "httproutes/new")["status"]["parents"][0], "Accepted") == "True/Accepted").then_some(())
    });
    wrote(kube, "/namespaces/thrifty/httproutes", 52);
    assert!(writes(kube, "/namespaces/thrifty/gateways") <= of_gateway + 1, "at most for the number of its routes");
}

#[test]
fn one_of_several_gateways_writes() {
    let kube = Kube::shared();
    kube.apply(&(base("led") + &route("led", "a", "a.test")));
    let address = || object(kube, "led", "gateways/web")["status"]["addresses"][0]["value"].as_str().unwrap_or_default().to_string();
    let with = |host: u8, address: &str| {
        let lease = ["--namespace", "led", "--leader-election-id", "led", "--publish-status-address", address];
        Gateway::ready(kube, host, &lease)
    };
    let first = with(23, "192.0.2.1");
    eventually("the first one writes", || (address() == "192.0.2.1").then_some(()));
    let second = with(24, "192.0.2.2");
    // Both serve.
    first.answers("a.test", 302);
    second.answers("a.test", 302);
    first.signal("STOP");
    eventually("the second one takes over", || (address() == "192.0.2.2").then_some(()));
    let written = writes(kube, "/namespaces/led/httproutes");
    first.signal("CONT");
    first.answers("a.test", 302);
    kube.apply(&route("led", "b", "b.test"));
    eventually("the new route is accepted", || {
        (condition(&object(kube, "led", "httproutes/b")["status"]["parents"][0], "Accepted") == "True/Accepted").then_some(())
    });
    first.answers("b.test", 302);
    assert_eq!(address(), "192.0.2.2", "a gateway that was stopped writes although another one leads");
    wrote(kube, "/namespaces/led/httproutes", written + 1);
    // It gives the Lease up when it ends.
    second.signal("TERM");
    eventually("the first one takes over", || (address() == "192.0.2.1").then_some(()));
}

#[test]
fn a_route_serves_by_its_valid_rules() {
    let kube = Kube::shared();
    let wrong = "rules: [{matches: [{path: {value: /wrong}}, {path: {type: RegularExpression, value: '(?P<'}}]}, {filters";
    let partly = route("partly", "a", "a.test").replace("rules: [{filters", wrong);
    kube.apply(&(base("partly") + &partly));
    let gateway = Gateway::ready(kube, 25, &["--namespace", "partly"]);
    gateway.answers("a.test", 302);
    // What the invalid rule also matches is not left to the wider one.
    let answer = kube.get("10.245.0.25:80", "a.test", "/wrong").unwrap();
    assert_eq!(answer.status, 500, "{answer:?}");
    let parent = || object(kube, "partly", "httproutes/a")["status"]["parents"][0].clone();
    eventually("the status names the rule", || (condition(&parent(), "PartiallyInvalid") == "True/UnsupportedValue").then_some(()));
    let parent_now = parent();
    assert_eq!(condition(&parent_now, "Accepted"), "True/Accepted");
    let message = parent_now["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "PartiallyInvalid").unwrap()["message"].clone();
    assert!(message.as_str().unwrap().starts_with("Dropped Rule(s) 0: "), "{message}");
    kube.apply(&route("partly", "a", "a.test"));
    eventually("the condition is gone", || (condition(&parent(), "PartiallyInvalid") == "-").then_some(()));
    gateway.says(&["error", "spec.rules[0].matches[1].path", "HTTPRoute/partly/a"]);
    // The same rules come to the same after a version without errors.
    assert_eq!(kube.get("10.245.0.25:80", "a.test", "/wrong").unwrap().status, 302);
    kube.apply(&partly);
    eventually("the rule is dropped again", || (kube.get("10.245.0.25:80", "a.test", "/wrong").ok()?.status == 500).then_some(()));
    eventually("the status says so", || (condition(&parent(), "PartiallyInvalid") == "True/UnsupportedValue").then_some(()));
    assert_eq!(condition(&parent(), "Accepted"), "True/Accepted");
    gateway.answers("a.test", 302);
}

#[test]
fn entries_of_others_stay_while_they_are_written() {
    const ROUNDS: usize = 25;
    let kube = Kube::shared();
    kube.apply(&(base("disputed") + &route("disputed", "a", "h.test")));
    let _gateway = Gateway::ready(kube, 30, &["--namespace", "disputed"]);
    let path = format!("{API}/namespaces/disputed/httproutes/a");
    let theirs = |round: usize| {
        json!({ "controllerName": "other.test/controller", "parentRef": { "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "web" }, "conditions": [
            { "type": "Accepted", "status": "True", "reason": "Accepted", "message": round.to_string(), "lastTransitionTime": "2020-01-01T00:00:00Z" },
        ] })
    };
    let is_theirs = |entry: &Value| entry["controllerName"] == "other.test/controller";
    // Another controller, which writes its entry as often as it can, and loses none of its writes.
    let other = || {
        for round in 0..ROUNDS {
            let done = || {
                let object = kube.object(&path).unwrap();
                let mut parents = object["status"]["parents"].as_array().cloned().unwrap_or_default();
                match parents.iter_mut().find(|entry| is_theirs(entry)) {
                    Some(entry) => {
                        assert_eq!(*entry, theirs(round - 1), "a write is lost");
                        *entry = theirs(round);
                    }
                    None => {
                        assert_eq!(round, 0, "an entry is lost");
                        parents.push(theirs(round));
                    }
                }
                let version = &object["metadata"]["resourceVersion"];
                let body = json!({ "metadata": { "resourceVersion": version }, "status": { "parents": parents } }).to_string();
                let answer = kube.api("PATCH", &format!("{path}/status"), "application/merge-patch+json", body.as_bytes()).unwrap();
                assert!(matches!(answer.status, 200 | 409), "{answer:?}");
                (answer.status == 200).then_some(())
            };
            eventually("their entry is written", done);
        }
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(other);
        for host in 0.. {
            kube.apply(&route("disputed", "a", &format!("h{host}.test")));
            if other.is_finished() {
                break;
            }
        }
    });
    eventually("both entries are as they should be", || {
        let object = kube.object(&path).unwrap();
        let parents = object["status"]["parents"].as_array().unwrap();
        let [first, ours] = &parents[..] else { return None };
        let (theirs, ours) = if *first == theirs(ROUNDS - 1) { (true, ours) } else { (*ours == theirs(ROUNDS - 1), first) };
        let generation = &ours["conditions"][0]["observedGeneration"];
        (theirs && condition(ours, "Accepted") == "True/Accepted" && *generation == object["metadata"]["generation"]).then_some(())
    });
}
