//! Configuration that changes while requests pass.
use crate::{
    client::Connection,
    harness::{Start, TO_ECHO, eventually},
    yaml::ToEcho,
};
use std::time::{Duration, Instant};

fn redirect(name: &str, to: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {name} }}\nspec:\n  parentRefs: [{{ name: gateway }}]\n  hostnames: [{name}.test]\n  rules:\n  - filters: [{{ type: RequestRedirect, requestRedirect: {{ hostname: {to} }} }}]\n"
    )
}

#[test]
fn files_come_change_break_and_go() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).file("one.yaml", redirect("one", "a.test")).run();
    // One connection sees it all: a change of routes closes nothing.
    let mut c = Connection::open(weir.address()).unwrap();
    let location = |c: &mut Connection, host: &str| {
        let answer = c.request("GET", host, "/", &[], b"").unwrap();
        // The port is the listener's (Gateway API, HTTPRequestRedirectFilter).
        (answer.status, answer.header("location").unwrap_or_default().replace(&format!(":{}", weir.ports[0]), ""))
    };
    assert_eq!(location(&mut c, "one.test"), (302, "http://a.test/".into()));

    let closed = {
        weir.write("one.yaml", &redirect("one", "b.test"));
        Instant::now()
    };
    eventually("the change", || (location(&mut c, "one.test").1 == "http://b.test/").then_some(()));
    // 50 ms are the aim; this only notices when something waits for a tick.
    assert!(closed.elapsed() < Duration::from_secs(30), "{:?}", closed.elapsed());

    weir.write("two.yaml", &redirect("two", "c.test"));
    eventually("the new file", || (location(&mut c, "two.test").1 == "http://c.test/").then_some(()));

    // Half a document, then a wrong one: what was good keeps serving, and the finding is printed with its place.
    weir.write("one.yaml", "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {na");
    eventually("a word about the broken file", || weir.lines("one.yaml:3").first().cloned());
    assert_eq!(location(&mut c, "one.test").1, "http://b.test/");
    weir.write("one.yaml", &redirect("one", "d.test").replace("RequestRedirect,", "RequestRedirekt,"));
    eventually("a word about the bad field", || weir.lines("RequestRedirekt").first().cloned());
    assert_eq!(location(&mut c, "one.test").1, "http://b.test/");
    weir.write("one.yaml", &redirect("one", "d.test"));
    eventually("the mended file", || (location(&mut c, "one.test").1 == "http://d.test/").then_some(()));

    // What editors leave behind does no harm.
    weir.write(".one.yaml.swp", "{");
    weir.write("one.yaml~", "{");
    weir.remove("two.yaml");
    eventually("the removal", || (location(&mut c, "two.test").0 == 200).then_some(()));
    assert_eq!(weir.lines("swp").len() + weir.lines("yaml~").len(), 0);
}

#[test]
fn a_listener_comes_and_goes_beside_open_connections() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).run();
    let mut c = Connection::open(weir.address()).unwrap();
    assert_eq!(c.request("GET", "h", "/", &[], b"").unwrap().status, 200);
    let second = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: { name: second }\nspec:\n  gatewayClassName: weir\n  listeners: [{ name: http, port: $PORT2, protocol: HTTP }]\n";
    weir.write("second.yaml", second);
    let to = std::net::SocketAddr::from(([127, 0, 0, 1], weir.ports[1]));
    eventually("the second listener", || crate::client::get(to, "h", "/").ok().filter(|a| a.status == 404));
    weir.remove("second.yaml");
    eventually("the second listener's end", || std::net::TcpStream::connect(to).is_err().then_some(()));
    assert_eq!(c.request("GET", "h", "/", &[], b"").unwrap().status, 200, "a connection of the first listener was cut");
}

#[test]
fn an_endpoint_moves_without_an_error() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).upstreams(2).run();
    assert_eq!(weir.get("h", "/").json()["name"], "echo");
    weir.write("gateway.yaml", &ToEcho::new().upstream("$ECHO2").text());
    weir.get_until("h", "/", |a| {
        assert_eq!(a.status, 200, "{a:?}");
        a.json()["name"] == "echo2"
    });
}

/// Ten thousand routes; most of them in one file of megabytes, some in files of their own, half of all with one host.
#[test]
fn one_route_among_ten_thousand_changes_alone() {
    const COUNT: usize = 10_000;
    const OWN: usize = 10;
    let route = |i: usize, to: &str| {
        let host = if i.is_multiple_of(2) { format!("h{i}") } else { "all".to_string() };
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: r{i} }}\nspec:\n  parentRefs: [{{ name: gateway }}]\n  hostnames: [{host}.test]\n  rules:\n  - matches: [{{ path: {{ type: PathPrefix, value: /p{i} }} }}]\n    filters: [{{ type: RequestRedirect, requestRedirect: {{ hostname: {to}, port: 80 }} }}]\n"
        )
    };
    let big = |changed: usize, to: &str| (OWN..COUNT).map(|i| route(i, if i == changed { to } else { "a.test" })).collect::<String>();
    let names: Vec<String> = (0..OWN).map(|i| format!("r{i}.yaml")).collect();
    let start = Start::new().file("gateway.yaml", TO_ECHO).file("big.yaml", big(0, ""));
    let weir = names.iter().enumerate().fold(start, |s, (i, name)| s.file(name, route(i, "a.test"))).run();
    let mut c = Connection::open(weir.address()).unwrap();
    let mut location = |host: &str, path: &str| {
        let answer = c.request("GET", host, path, &[], b"").unwrap();
        answer.header("location").unwrap_or_default().to_string()
    };
    assert_eq!(location("all.test", "/p9999/x"), "http://a.test/p9999/x");
    for (i, file) in [(2_usize, "r2.yaml"), (3, "r3.yaml"), (5000, "big.yaml"), (5001, "big.yaml")] {
        let (host, path) = (if i.is_multiple_of(2) { format!("h{i}.test") } else { "all.test".to_string() }, format!("/p{i}"));
        let text = if file == "big.yaml" { big(i, "b.test") } else { route(i, "b.test") };
        let (before, cpu) = (weir.lines("changed, live after").len(), weir.cpu_time());
        weir.write(file, &text);
        let lines = eventually("a word about it", || Some(weir.lines("changed, live after")).filter(|l| l.len() > before));
        // 50 ms are the aim, of a release build; this notices work that grows with what did not change.
        let took = weir.cpu_time() - cpu;
        println!("{i} of {COUNT} in {file}: {took:?}");
        assert!(took < Duration::from_secs(2), "{took:?}");
        eventually("the change", || (location(&host, &path) == format!("http://b.test{path}")).then_some(()));
        // In the big file the one before changes back.
        let changed = if i == 5001 { 2 } else { 1 };
        assert!(lines.last().unwrap().contains(&format!(": {changed} object")), "{lines:?}");
    }
    assert_eq!(location("h5000.test", "/p5000"), "http://a.test/p5000");
    assert_eq!(location("all.test", "/p9999"), "http://a.test/p9999");
}

/// What moves in its file is shown where it stands now, also after it was changed in between.
#[test]
fn the_configuration_dump_shows_lines_as_they_are() {
    let weir = Start::new().file("all.yaml", TO_ECHO).run();
    let line = |object: &str| -> Option<u64> {
        let dump = weir.admin("/config_dump").body;
        let at = dump.find(&format!("\"object\": \"{object}\"")).or_else(|| dump.find(&format!("\"object\":\"{object}\"")))?;
        let rest = &dump[at..];
        let number = rest[rest.find("\"line\":")? + 7..].trim_start().split(|c: char| !c.is_ascii_digit()).next()?;
        number.parse().ok()
    };
    let first = line("HTTPRoute/default/echo").unwrap();
    let at = |wanted: u64| eventually(&format!("line {wanted}"), || (line("HTTPRoute/default/echo") == Some(wanted)).then_some(()));
    weir.write("all.yaml", &format!("# one\n# two\n---\n{TO_ECHO}"));
    at(first + 3);
    // A change within its document, and another move after that.
    let changed =
        TO_ECHO.replace("metadata: { name: echo }\nspec:\n  parentRefs", "metadata: { name: echo } # changed\nspec:\n  parentRefs");
    assert_ne!(changed, TO_ECHO);
    weir.write("all.yaml", &changed);
    at(first);
    weir.write("all.yaml", &format!("# one\n---\n{changed}"));
    at(first + 2);
    assert_eq!(weir.get("h", "/").status, 200);
}
