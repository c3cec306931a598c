//! Answers of a backend that the default backend of an Ingress replaces.
use super::{PREFIXES, ingress, start};
use crate::{
    client::{Answer, Connection},
    harness::Weir,
};

/// Who answered, and what it was told of the error.
fn told(answer: &Answer) -> String {
    if answer.status != 200 {
        return answer.status.to_string();
    }
    let json = answer.json();
    let text = |name: &str| json["headers"][name].as_str().unwrap_or("-").to_string();
    let names = ["x-code", "x-original-uri", "x-format", "x-namespace", "x-ingress-name", "x-service-name", "x-service-port"].map(text);
    let body = json["body"].as_str().unwrap_or_default();
    format!(
        "{} {} {} {} {body}",
        answer.status,
        json["name"].as_str().unwrap_or("-"),
        json["path"].as_str().unwrap_or("-"),
        names.join(" ")
    )
}

fn request(weir: &Weir, method: &str, host: &str, path: &str, body: &[u8]) -> Answer {
    Connection::open(weir.address()).unwrap().request(method, host, path, &[("accept", "text/html")], body).unwrap()
}

#[test]
fn the_default_backend_answers_for_errors() {
    let nobody = "---\n{ apiVersion: v1, kind: Service, metadata: { name: down }, spec: { ports: [{ port: 80 }] } }\n---\n{ apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: { name: down, labels: { kubernetes.io/service-name: down } }, addressType: IPv4, ports: [{ port: 1 }], endpoints: [{ addresses: [127.0.0.1] }] }\n";
    let mut all = nobody.to_string();
    for (short, prefix) in PREFIXES {
        let annotations = "default-backend: echo2\ncustom-http-errors: 404, 503\nrewrite-target: /status";
        let paths = ["Prefix /s echo", "Prefix /down down"];
        all += &ingress(&format!("{short}-a"), &format!("{short}.test"), prefix, annotations, &paths);
        let whole = "default-backend: echo2\ncustom-http-errors: 404";
        all += &ingress(&format!("{short}-c"), &format!("whole.{short}.test"), prefix, whole, &["Prefix / echo"]);
        let missing = "default-backend: none\ncustom-http-errors: 404";
        all += &ingress(&format!("{short}-b"), &format!("missing.{short}.test"), prefix, missing, &["Prefix / echo"]);
    }
    let weir = start(2, &all).workers(1).run();
    weir.says("there is no Service default/none: errors are not replaced");
    for (short, _) in PREFIXES {
        let host = format!("{short}.test");
        let by = |code: u16, uri: &str, service: &str, body: &str| {
            format!("200 echo2 / {code} {uri} text/html default {short}-a {service} 80 {body}")
        };
        let table = [
            ("GET", "/s/404?q=1", "", by(404, "/s/404?q=1", "echo", "")),
            ("POST", "/s/503", "a body", by(503, "/s/503", "echo", "a body")),
            ("GET", "/down/x", "", by(503, "/down/x", "down", "")),
            ("POST", "/down/x", "a body", by(503, "/down/x", "down", "a body")),
            ("GET", "/s/500", "", "500".into()),
        ];
        for (method, path, body, wanted) in table {
            assert_eq!(told(&request(&weir, method, &host, path, body.as_bytes())), wanted, "{short} {method} {path}");
        }
        // What cannot be sent again keeps its answer.
        let fields = [("x-echo-status", "404")];
        let mut c = Connection::open(weir.address()).unwrap();
        let answer = c.request("POST", &format!("whole.{short}.test"), "/", &fields, &vec![b'x'; 3 << 20]).unwrap();
        assert_eq!((answer.status, answer.json()["name"].as_str()), (404, Some("echo")));
        assert_eq!(told(&request(&weir, "GET", &format!("missing.{short}.test"), "/status/404", b"")), "404");
    }
    let stat = |service: &str| weir.stat(&format!("cluster.outbound|80||{service}.default.svc.cluster.local.upstream_rq_total"));
    assert_eq!(stat("echo2"), 8);
}
