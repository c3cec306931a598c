//! Which route a request takes and how it is handled there: tables of requests for each API, against the running gateway.
mod annotations;
mod gateways;
mod grpc_route;
mod http_route;
mod ingress;
mod ingress_conformance;
mod repeated_headers;
mod session;
mod upstreams;
mod virtual_service;

use crate::{
    client::{Answer, Connection},
    harness::Weir,
};
use std::net::SocketAddr;

/// A request as `METHOD HOST/PATH`, with fields behind bars: `GET a.test/x | x-env: prod`.
fn ask(c: &mut Connection, line: &str) -> Answer {
    let mut parts = line.split(" | ");
    let (method, target) = parts.next().unwrap().split_once(' ').unwrap();
    let (host, path) = target.split_at(target.find('/').unwrap());
    let fields: Vec<(&str, &str)> = parts.map(|field| field.split_once(": ").unwrap()).collect();
    c.request(method, host, path, &fields, b"").unwrap_or_else(|e| panic!("{line}: {e}"))
}

/// What a request came to: the field `x-route` and the name of the upstream that saw it, or the status and what says more.
fn came_to(answer: &Answer) -> String {
    match answer.status {
        200 if answer.header("content-type") == Some("application/json") => {
            let told = answer.json();
            told["headers"]["x-route"].as_str().or(told["name"].as_str()).unwrap_or_default().to_string()
        }
        status => match answer.header("location") {
            Some(location) => format!("{status} {location}"),
            None => status.to_string(),
        },
    }
}

/// The host and target that the upstream saw: `HOST/PATH?QUERY`.
fn seen(answer: &Answer) -> String {
    if answer.status != 200 {
        return answer.status.to_string();
    }
    let told = answer.json();
    let text = |name: &str| told[name].as_str().unwrap_or_default();
    let query = told["query"].as_str().map(|q| format!("?{q}")).unwrap_or_default();
    format!("{}{}{query}", text("host"), text("path"))
}

/// Asks for every row of a table over one connection; names all rows that came to something else.
#[track_caller]
fn check(to: SocketAddr, what: impl Fn(&Answer) -> String, table: &[(&str, &str)]) {
    let mut c = Connection::open(to).unwrap();
    let mut wrong = Vec::new();
    for (line, wanted) in table {
        let answer = ask(&mut c, line);
        let got = what(&answer);
        if got != *wanted {
            wrong.push(format!("{line}\n  wanted {wanted}\n  got    {got}"));
        }
        if answer.header("connection") == Some("close") {
            c = Connection::open(to).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), table.len(), wrong.join("\n"));
}

/// Services `echo`, `echo2`, … of the upstreams, in a namespace.
fn services(namespace: &str, count: usize) -> String {
    let number = |i: usize| if i == 0 { String::new() } else { (i + 1).to_string() };
    let one = |i: usize| {
        let n = number(i);
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: echo{n}, namespace: {namespace} }}\nspec: {{ ports: [{{ port: 80 }}] }}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: echo{n}, namespace: {namespace}, labels: {{ kubernetes.io/service-name: echo{n} }} }}\naddressType: IPv4\nports: [{{ port: $ECHO{n} }}]\nendpoints: [{{ addresses: [127.0.0.1] }}]\n"
        )
    };
    (0..count).map(one).collect::<Vec<_>>().join("---\n")
}

/// The gateway said nothing about its files.
#[track_caller]
fn no_findings(weir: &Weir) {
    let printed = weir.printed();
    let found: Vec<&str> = printed.lines().filter(|l| l.starts_with("error") || l.starts_with("warning")).collect();
    assert!(found.is_empty(), "{printed}");
}
