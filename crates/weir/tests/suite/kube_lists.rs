//! How `weir gateway` lists a kind: by a streaming list, by a plain list where the API server has no streaming lists, and what a list
//! that is not complete does.
use crate::{
    harness::{Kube, Start, eventually, raw_upstream},
    kube_gateway::{Gateway, base, route},
};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};
use weir_test::kube::programs::{API, programs};

/// The sum of a counter of kube-apiserver over the series with these labels.
fn counted(kube: &Kube, name: &str, labels: &[&str]) -> f64 {
    let metrics = kube.api("GET", "/metrics", "text/plain", b"").unwrap().body;
    let series = metrics.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once("} "));
    let wanted = series.filter(|(found, _)| labels.iter().all(|label| found.contains(label)));
    wanted.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
}

#[test]
fn lists_are_streamed_where_the_server_can() {
    for (flags, streams) in [(&[][..], true), (&["-apiserver-arg", "--feature-gates=WatchList=false"][..], false)] {
        let programs = programs(API).unwrap();
        let definitions = programs.definitions.clone();
        let kube = Kube::with(programs, &[&["-api-only"], flags].concat(), &definitions);
        kube.apply(&(base("lists") + &route("lists", "a", "a.test")));
        let gateway = Gateway::ready(&kube, 16, &[]);
        gateway.answers("a.test", 302);
        // Nobody else reads these kinds.
        for resource in ["resource=\"httproutes\"", "resource=\"virtualservices\""] {
            let streamed = || counted(&kube, "apiserver_watch_list_duration_seconds_count", &[resource]);
            let listed = || counted(&kube, "apiserver_request_total", &[resource, "verb=\"LIST\""]);
            // A request is counted behind its answer.
            eventually(&format!("{resource} of {flags:?}: {} streamed, {} listed", streamed(), listed()), || {
                ((streamed() > 0.0) == streams && (listed() > 0.0) != streams).then_some(())
            });
        }
        // What is created later comes by the watch behind the list.
        kube.apply(&route("lists", "b", "b.test"));
        gateway.answers("b.test", 302);
    }
}

/// How the scripted API server lists HTTPRoutes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lists {
    /// `a` and `b`, on two pages.
    Both,
    /// `a` with another host, and the second page is refused with this status.
    Refused(u16),
    /// As before, but the connection breaks within the second page.
    Cut,
    /// The connection breaks within the first page.
    CutFirst,
    /// `a` alone.
    One,
}

struct State {
    lists: Lists,
    /// How often it has listed so, up to the end or the failure.
    times: usize,
    /// The last list that was complete.
    complete: Option<Lists>,
}

struct Script {
    state: Mutex<State>,
    changed: Condvar,
}

impl Script {
    fn set(&self, lists: Lists) {
        let mut state = self.state.lock().unwrap();
        (state.lists, state.times) = (lists, 0);
        self.changed.notify_all();
    }

    fn listed(&self, times: usize) {
        eventually(&format!("{times} lists"), || (self.state.lock().unwrap().times >= times).then_some(()));
    }

    /// A watch of HTTPRoutes says nothing until the lists are others than the one that it follows, and ends as one that is too old.
    fn watch(&self) -> String {
        drop(self.changed.wait_while(self.state.lock().unwrap(), |state| state.complete == Some(state.lists)).unwrap());
        response(200, &json!({ "type": "ERROR", "object": failure(410) }))
    }

    fn routes(&self, target: &str) -> String {
        let mut state = self.state.lock().unwrap();
        let second = target.contains("continue=next");
        let lists = state.lists;
        let (page, all) = match (lists, second) {
            (Lists::Both, false) => (vec![item("a", "a.test")], false),
            (Lists::Both, true) => (vec![item("b", "b.test")], true),
            (Lists::One, _) => (vec![item("a", "a.test")], true),
            (Lists::CutFirst, _) | (_, true) => (Vec::new(), false),
            (_, false) => (vec![item("a", "changed.test")], false),
        };
        let page = json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRouteList", "items": page,
            "metadata": { "resourceVersion": "7", "continue": if all { "" } else { "next" } } });
        let failed = second || lists == Lists::CutFirst;
        state.times += usize::from(failed || all);
        if all {
            state.complete = Some(lists);
        }
        match lists {
            Lists::Refused(status) if second => response(status, &failure(status)),
            Lists::Cut | Lists::CutFirst if failed => {
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n9\r\n{\"items\":\r\nbroken\r\n"
                    .into()
            }
            _ => response(200, &page),
        }
    }

    fn answer(&self, head: &str) -> String {
        let (method, target) = head.split_once(' ').unwrap();
        let target = target.split(' ').next().unwrap();
        if method != "GET" {
            // Nobody reads the body: the connection is of no more use.
            return response(403, &failure(403)).replacen("\r\n", "\r\nconnection: close\r\n", 1);
        }
        let path = target.split('?').next().unwrap();
        let watches = target.contains("watch=true");
        match path {
            "/version" => response(
                200,
                &json!({ "major": "1", "minor": "34", "gitVersion": "v1.34.0", "gitCommit": "", "gitTreeState": "",
                "buildDate": "", "goVersion": "", "compiler": "", "platform": "" }),
            ),
            _ if target.contains("sendInitialEvents=true") => response(422, &failure(422)),
            _ if path.ends_with("/httproutes") && watches => self.watch(),
            _ if path.ends_with("/httproutes") => self.routes(target),
            _ if path.contains("/leases/") => response(404, &failure(404)),
            // An open watch of nothing.
            _ if watches => "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n".into(),
            _ => response(200, &json!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": "7" }, "items": [] })),
        }
    }
}

fn response(status: u16, body: &Value) -> String {
    let body = body.to_string();
    format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn failure(code: u16) -> Value {
    json!({ "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "Scripted", "message": "scripted", "code": code })
}

fn item(name: &str, host: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": { "name": name, "namespace": "default", "uid": name, "resourceVersion": "7" },
        "spec": {
            "parentRefs": [{ "name": "web" }],
            "hostnames": [host],
            "rules": [{ "filters": [{ "type": "RequestRedirect", "requestRedirect": { "hostname": "elsewhere.test", "statusCode": 302 } }] }],
        },
    })
}

/// Nothing is removed or changed before a list is complete, however it fails.
#[test]
fn a_list_that_is_not_complete_removes_nothing() {
    let script = Arc::new(Script { state: Mutex::new(State { lists: Lists::Both, times: 0, complete: None }), changed: Condvar::new() });
    let api = raw_upstream({
        let script = script.clone();
        move |head| script.answer(head)
    });
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    let config = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{{ name: a, context: {{ cluster: a }} }}]\n\
         clusters: [{{ name: a, cluster: {{ server: 'http://127.0.0.1:{api}' }} }}]\n"
    );
    std::fs::write(&kubeconfig, config).unwrap();
    let gateway = base("default").replace("port: 80", "port: $PORT");
    let weir = Start::new().upstreams(0).file("gateway.yaml", gateway).gateway(kubeconfig).run();
    let answers = |host: &str, status: u16| drop(weir.get_until(host, "/", |a| a.status == status));
    answers("a.test", 302);
    answers("b.test", 302);
    for lists in [Lists::Refused(500), Lists::Cut, Lists::Refused(410), Lists::CutFirst] {
        let began = Instant::now();
        script.set(lists);
        // Before the third list, all of the first two was taken in.
        script.listed(3);
        assert!(began.elapsed() >= Duration::from_millis(250), "{lists:?}: it is listed again at once");
        let statuses = ["a.test", "b.test", "changed.test"].map(|host| weir.get(host, "/").status);
        assert_eq!(statuses, [302, 302, 404], "{lists:?}");
        // After a complete one, the waits begin again.
        script.set(Lists::Both);
        script.listed(1);
    }
    // A complete one counts.
    script.set(Lists::One);
    answers("b.test", 404);
    answers("a.test", 302);
}
