//! Istio objects in few words, for the tests of traffic policy: hosts, their routes, and what their upstreams are.
use crate::{
    client::Answer,
    harness::{Start, Weir, eventually},
};
use std::fmt::Write;

/// The format of the access log in these tests: what a record says is found by the request's path.
pub const FORMAT: &str = "log %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% code=%RESPONSE_CODE% flags=%RESPONSE_FLAGS% details=%RESPONSE_CODE_DETAILS% \
    attempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT% cluster=%UPSTREAM_CLUSTER% failure=%UPSTREAM_TRANSPORT_FAILURE_REASON% .";

/// A file in the making.
pub struct Mesh(String);

impl Mesh {
    /// With a Gateway on `$PORT` for every host.
    pub fn new() -> Mesh {
        Mesh(
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: { name: gateway }\nspec:\n  selector: { istio: ingressgateway }\n  \
             servers: [{ port: { number: $PORT, name: http, protocol: HTTP }, hosts: ['*'] }]\n"
                .into(),
        )
    }
    /// A host of static endpoints, each a port and perhaps labels: `$ECHO`, `$ECHO2 { version: v2 }`.
    pub fn upstream(mut self, host: &str, endpoints: &[&str]) -> Mesh {
        let _ = writeln!(
            self.0,
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {} }}\nspec:\n  hosts: [{host}]\n  \
             resolution: STATIC\n  ports: [{{ number: 80, name: http, protocol: HTTP }}]\n  endpoints:",
            object_name(host)
        );
        for endpoint in endpoints {
            let (port, labels) = endpoint.split_once(' ').unwrap_or((endpoint, "{}"));
            let _ = writeln!(self.0, "  - {{ address: 127.0.0.1, ports: {{ http: {port} }}, labels: {labels} }}");
        }
        self
    }
    /// The spec of a VirtualService's `http`, for a host of requests.
    pub fn routes(mut self, host: &str, http: &str) -> Mesh {
        let _ = writeln!(
            self.0,
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: {} }}\nspec:\n  hosts: [{host}]\n  \
             gateways: [gateway]\n  http:\n{}",
            object_name(host),
            indented(http, 2)
        );
        self
    }
    /// A host of requests and its upstream of the same name; `more` is the rest of the route.
    pub fn to(self, host: &str, endpoints: &[&str], more: &str) -> Mesh {
        let more = indented(more, 2);
        self.upstream(host, endpoints).routes(host, &format!("- route: [{{ destination: {{ host: {host} }} }}]\n{more}"))
    }
    /// The spec of a DestinationRule beside its host.
    pub fn rule(mut self, host: &str, spec: &str) -> Mesh {
        let _ = writeln!(
            self.0,
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: {} }}\nspec:\n  host: {host}\n{}",
            object_name(host),
            indented(spec, 2)
        );
        self
    }
    /// A `trafficPolicy`.
    pub fn policy(self, host: &str, policy: &str) -> Mesh {
        self.rule(host, &format!("trafficPolicy:\n{}", indented(policy, 2)))
    }
    /// Objects as they stand, each behind `---`.
    pub fn raw(mut self, text: &str) -> Mesh {
        self.0 += text;
        self
    }
    /// The whole file.
    pub fn text(self) -> String {
        self.0
    }
    /// A gateway on it, with the access log of [`FORMAT`] on its standard output.
    pub fn start<'a>(self) -> Start<'a> {
        Start::new().file("mesh.yaml", self.0).arg("--access-log-format").arg(FORMAT)
    }
}

/// The name of a host's objects.
fn object_name(host: &str) -> String {
    host.trim_matches('\'').replace('.', "-").replace('*', "any")
}

fn indented(text: &str, by: usize) -> String {
    text.lines().map(|l| format!("{:by$}{l}\n", "")).collect()
}

/// The access log's record of a request, by its path; `count` of them.
#[track_caller]
pub fn records(weir: &Weir, path: &str, count: usize) -> Vec<String> {
    let start = format!("log {path} ");
    eventually(&format!("{count} records of {path}"), || {
        let found: Vec<String> = weir.lines(&start).into_iter().filter(|l| l.starts_with(&start)).collect();
        (found.len() >= count).then_some(found)
    })
}

/// The only record of a request, of which it must hold all `parts`.
#[track_caller]
pub fn record(weir: &Weir, path: &str, parts: &[&str]) -> String {
    let record = records(weir, path, 1).remove(0);
    for part in parts {
        assert!(record.contains(&format!("{part} ")), "no {part} in {record}");
    }
    record
}

/// A statistic of the cluster of port 80 of a host.
pub fn of_cluster(weir: &Weir, host: &str, stat: &str) -> u64 {
    weir.stat(&format!("cluster.outbound|80||{host}.{stat}"))
}

/// Waits until a statistic of a cluster is as expected.
#[track_caller]
pub fn cluster_becomes(weir: &Weir, host: &str, stat: &str, expected: u64) {
    let mut last = 0;
    let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
    while std::time::Instant::now() < deadline {
        last = of_cluster(weir, host, stat);
        if last == expected {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("{host}: {stat} is {last}, not {expected}");
}

/// Which echo upstream answered.
#[track_caller]
pub fn name(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["name"].as_str().unwrap().to_string()
}
