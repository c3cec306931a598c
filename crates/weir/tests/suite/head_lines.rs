//! No value that comes from elsewhere ends the head line that it is written into: what an upstream of HTTP/1 receives is read
//! byte by byte.
use crate::{
    client::Connection,
    frames::{self, END_STREAM, HEADERS, RST_STREAM, Raw},
    harness::{Received, Start, Weir, eventually},
    tls_client::Client,
    yaml::{ToEcho, holder},
};
use weir_test::Ca;

/// What is tried at each place; each contains or is followed by text that must never become a separate line.
pub fn nasty() -> Vec<String> {
    let mut all: Vec<String> = ["\r\n", "\n", "\r", "\0", "\x01", "\x7f", " ", "\t", "\"", "\u{e9}"]
        .iter()
        .map(|bad| format!("ab{bad}x-evil: 1{bad}{bad}GET /evil HTTP/1.1{bad}x-rest: "))
        .collect();
    all.extend(["".to_string(), " ".to_string(), "\"".to_string(), "x".repeat(60_000)]);
    all
}

/// A gateway that edits heads in every way, in front of an upstream of bytes.
fn editing(port: u16) -> Weir {
    let route = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: edits }
spec:
  parentRefs: [{ name: gateway }]
  rules:
  - matches: [{ path: { value: /redirect } }]
    filters: [{ type: RequestRedirect, requestRedirect: { path: { type: ReplacePrefixMatch, replacePrefixMatch: /to } } }]
  - matches: [{ path: { value: /edits } }]
    filters:
    - { type: URLRewrite, urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: /edited } } }
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{ name: x-copy, value: 'a %REQ(x-from)% %REQ(:PATH)% %PROTOCOL%' }, { name: host, value: '%REQ(x-host?:AUTHORITY)%' }]
    - type: ResponseHeaderModifier
      responseHeaderModifier: { set: [{ name: x-copy, value: '%REQ(x-from)% %REQ(:PATH)%' }] }
    sessionPersistence: { sessionName: stick }
    backendRefs: [{ name: echo, port: 80 }]
";
    ToEcho::new().upstream(port).start().file("route.yaml", route).run()
}

/// What an upstream got of one try is at most one request, of the path that was asked for, and no line of ours.
pub fn is_sane(name: &str, got: &str, path: &str) {
    let requests = Received::requests(got);
    assert!(requests.len() <= 1, "{name}: {requests:?}");
    assert!(requests.iter().all(|r| r.split(' ').count() == 3 && r.split(' ').nth(1).unwrap().starts_with(path)), "{name}: {requests:?}");
    let line = |l: &str| l.is_empty() || l == "0" || l.contains(": ") || l.ends_with(" HTTP/1.1");
    for text in got.split("\r\n") {
        assert!(!text.starts_with("x-evil") && !text.starts_with("GET /evil") && line(text), "{name}: the line {text:?}");
        assert!(!text.contains(['\r', '\n', '\0', '\x01', '\x7f']), "{name}: the line {text:?}");
    }
}

#[test]
fn http2_writes_no_line_of_its_own() {
    let (port, received) = Received::start();
    let weir = editing(port);
    let places =
        [":method", ":scheme", ":authority", ":path", ":protocol", "x-from", "x-host", "cookie", "referer", "the name", "a trailer"];
    for place in places {
        for (i, value) in nasty().iter().enumerate() {
            let name = format!("{place} {:?}", value.chars().take(20).collect::<String>());
            received.take();
            // Trailers break off a request that may be on its way: what comes of it then may come late.
            let path = if place == "a trailer" { format!("/edits/x{i}-") } else { "/edits/x".into() };
            let mut fields = vec![(":method", "GET"), (":scheme", "http"), (":authority", "h.test"), (":path", &*path)];
            match place {
                ":protocol" => {
                    fields[0].1 = "CONNECT";
                    fields.push((":protocol", value));
                }
                ":path" => fields[3].1 = Box::leak(format!("/edits/{value}").into_boxed_str()),
                "the name" => fields.push((value, "v")),
                "a trailer" => fields[0].1 = "POST",
                _ => match fields.iter_mut().find(|(n, _)| *n == place) {
                    Some(field) => field.1 = value,
                    None => fields.push((place, value)),
                },
            }
            let mut raw = Raw::open(weir.address());
            let end = if place == "a trailer" { 0 } else { END_STREAM };
            let mut bytes = frames::head(1, end, &frames::block(&fields));
            if place == "a trailer" {
                bytes.extend(frames::head(1, END_STREAM, &frames::block(&[("x-t", value)])));
            }
            // The gateway may end the connection while it is written.
            let _ = raw.send(bytes);
            // An answer, a reset, or the end of the connection.
            let told = std::iter::from_fn(|| raw.next()).find(|f| f.stream == 1 && matches!(f.kind, HEADERS | RST_STREAM));
            let reset = told.is_none_or(|f| f.kind == RST_STREAM);
            let own = path.replace("/edits/", "/edited/");
            let is_own = |connection: &String| place != "a trailer" || connection.contains(&own);
            let got: String = received.connections().into_iter().filter(is_own).collect();
            is_sane(&name, &got, "/edited/");
            if place == ":protocol" || place == ":scheme" && value.is_empty() {
                assert!(reset && got.is_empty(), "{name}: {got}");
            }
        }
    }
    // The same upstream connection is still in step.
    received.take();
    assert_eq!(weir.get("h.test", "/edits/fine").status, 200);
    assert!(received.connections().iter().any(|c| c.starts_with("GET /edited/fine HTTP/1.1\r\n")));
}

#[test]
fn http1_writes_no_line_of_its_own() {
    let (port, received) = Received::start();
    let weir = editing(port);
    for place in ["the method", "the target", "the host", "x-from", "x-host", "cookie", "the name", "an absolute target"] {
        // Text after a line break is a separate line that the client sent.
        for value in nasty().into_iter().filter(|v| !v.contains("\r\n")) {
            let name = format!("{place} {:?}", value.chars().take(20).collect::<String>());
            received.take();
            let mut c = Connection::open(weir.address()).unwrap();
            let text = match place {
                "the method" => format!("{value} /edits/x HTTP/1.1\r\nHost: h.test\r\n\r\n"),
                "the target" => format!("GET /edits/{value} HTTP/1.1\r\nHost: h.test\r\n\r\n"),
                "an absolute target" => format!("GET http://h.test{value}/edits/ HTTP/1.1\r\nHost: h.test\r\n\r\n"),
                "the host" => format!("GET /edits/x HTTP/1.1\r\nHost: {value}\r\n\r\n"),
                "the name" => format!("GET /edits/x HTTP/1.1\r\nHost: h.test\r\n{value}: v\r\n\r\n"),
                field => format!("GET /edits/x HTTP/1.1\r\nHost: h.test\r\n{field}: {value}\r\n\r\n"),
            };
            let _ = c.send(text);
            let _ = c.answer();
            let got = received.take();
            is_sane(&name, &got, "/edited/");
        }
    }
}

#[test]
fn redirects_and_answers_have_whole_lines() {
    let (port, _received) = Received::start();
    let weir = editing(port);
    for path in ["/redirect/a\u{e9}", "/redirect/%0d%0ax-evil:%201", "/redirect/?%0d%0a", "/edits/%0d%0ax-evil:1"] {
        let mut c = Connection::open(weir.address()).unwrap();
        c.send(format!("GET {path} HTTP/1.1\r\nHost: h.test\r\nx-from: %0d%0ax-evil: 1\r\n\r\n")).unwrap();
        let answer = c.answer().unwrap();
        assert!(answer.header("x-evil").is_none(), "{path}: {answer:?}");
        assert!(path.starts_with("/edits") || answer.header("location").is_some_and(|l| l.contains("/to/")), "{answer:?}");
    }
}

/// The owner of a certificate chooses its names, within what the authority signs.
#[test]
fn names_of_client_certificates_stay_within_their_element() {
    let (port, received) = Received::start();
    let (servers, clients) = (Ca::new(), Ca::new());
    let server = servers.sign(&["h.test"]);
    let tls = [("tls.crt", server.pem.as_str()), ("tls.key", server.key.as_str())];
    let validation = "{ caCertificateRefs: [{ kind: ConfigMap, group: '', name: clients }] }";
    let gateway = ToEcho::new()
        .upstream(port)
        .tls("server")
        .gateway(&format!("tls: {{ frontend: {{ default: {{ validation: {validation} }} }} }}"))
        .text();
    let files = holder("Secret", "server", &tls) + &holder("ConfigMap", "clients", &[("ca.crt", &clients.pem())]) + &gateway;
    let weir = Start::new().file("gateway.yaml", files).upstreams(0).run();
    for (names, uri, expected) in [
        (["a.test"], "spiffe://a/b\r\nX-Evil: 1", ";URI=spiffe://a/b%0D%0AX-Evil:%201;DNS=a.test"),
        (["a.test"], "spiffe://a/b\";URI=spiffe://evil", r#";URI="spiffe://a/b\";URI=spiffe://evil";DNS=a.test"#),
        (["a\";URI=evil"], "spiffe://a", r#";URI=spiffe://a;DNS="a\";uri=evil""#),
        (["a,By=evil"], "spiffe://a", r#";URI=spiffe://a;DNS="a,by=evil""#),
    ] {
        received.take();
        let identity = clients.sign_uri(&names, uri);
        let trust = servers.pem();
        let client = Client { trust: Some(&trust), identity: Some(&identity), ..Client::default() };
        let asked = client.ask(weir.address(), "h.test", &[]).unwrap();
        assert_eq!(asked.status, 200, "{uri}");
        let got = eventually("a request", || Some(received.text()).filter(|t| !t.is_empty()));
        is_sane(uri, &got, "/");
        let line = got.split("\r\n").find(|l| l.starts_with("x-forwarded-client-cert: ")).unwrap_or_else(|| panic!("{uri}: {got}"));
        assert!(line.ends_with(expected), "{line}");
        // The subject has the same name, escaped as RFC 2253 does.
        assert!(line.contains(";Subject=\"O=Weir,CN="), "{line}");
    }
}
