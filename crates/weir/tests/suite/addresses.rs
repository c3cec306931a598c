//! Listeners with an address of their own: Gateways that share a port and nothing else.
use crate::{
    client,
    harness::{Start, Weir, eventually},
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

/// A Gateway of Gateway API with a route that redirects everything to the Gateway's name.
fn gateway(name: &str, addresses: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: {name} }}\nspec:\n  gatewayClassName: weir\n{addresses}  listeners: [{{ name: http, port: $PORT, protocol: HTTP }}]\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {name} }}\nspec:\n  parentRefs: [{{ name: {name} }}]\n  hostnames: [same.test]\n  rules: [{{ filters: [{{ type: RequestRedirect, requestRedirect: {{ hostname: {name}.test }} }}] }}]\n"
    )
}

/// The same, of Istio.
fn istio(name: &str, bind: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{ name: {name} }}\nspec: {{ servers: [{{ {bind}port: {{ number: $PORT2, name: http, protocol: HTTP }}, hosts: [\"*\"] }}] }}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: {name} }}\nspec: {{ hosts: [same.test], gateways: [{name}], http: [{{ redirect: {{ authority: {name}.test }} }}] }}\n"
    )
}

fn at(address: &str) -> String {
    format!("  addresses: [{{ value: {address} }}]\n")
}

/// Waits until a request at an address for the host that all have is redirected to a name.
fn answers(weir: &Weir, address: &str, port: usize, name: &str) {
    let at = SocketAddr::new(address.parse::<IpAddr>().unwrap(), weir.ports[port]);
    let wanted = format!("http://{name}.test");
    eventually(&format!("{name} at {at}"), || {
        let answer = client::get(at, "same.test", "/").ok()?;
        answer.header("location").is_some_and(|l| l.starts_with(&wanted)).then_some(())
    });
}

#[test]
fn gateways_share_a_port_and_have_an_address_each() {
    let all = gateway("first", &at("127.0.0.1")) + &gateway("second", &at("127.0.0.2")) + &gateway("shared", "");
    let istio_all = istio("one", "bind: 127.0.0.1, ") + &istio("two", "bind: 127.0.0.2, ") + &istio("three", "");
    let weir = Start::new().file("all.yaml", all.clone()).file("istio.yaml", istio_all).run();
    for (address, name, istio_name) in [("127.0.0.1", "first", "one"), ("127.0.0.2", "second", "two"), ("127.0.0.3", "shared", "three")] {
        answers(&weir, address, 0, name);
        answers(&weir, address, 1, istio_name);
    }
    // Those without an address have the names that they always had.
    let [port, ..] = weir.ports;
    let dump = weir.admin("/config_dump").body;
    for name in ["0.0.0.0_", "127.0.0.1_", "127.0.0.2_"] {
        assert!(dump.contains(&format!("\"{name}{port}\"")), "{name}{port}: {dump}");
    }
    for name in [format!("http.{port}"), format!("http.{port}.127.0.0.1"), format!("http.{port}.127.0.0.2")] {
        assert!(dump.contains(&format!("\"{name}\"")), "{name}: {dump}");
    }
    // A Gateway moves to another address; what it leaves is the shared one's.
    weir.write("all.yaml", &all.replace("127.0.0.2", "127.0.0.4"));
    answers(&weir, "127.0.0.4", 0, "second");
    answers(&weir, "127.0.0.2", 0, "shared");
    answers(&weir, "127.0.0.1", 0, "first");
}

#[test]
fn an_address_that_is_the_default_one_is_shared() {
    let all = gateway("first", &at("127.0.0.1")) + &gateway("second", "").replace("same.test", "other.test");
    let weir = Start::new().file("all.yaml", all).arg("--bind").arg("127.0.0.1").run();
    answers(&weir, "127.0.0.1", 0, "first");
    let port = weir.ports[0];
    let dump = weir.admin("/config_dump").body;
    assert!(dump.contains(&format!("\"http.{port}\"")) && !dump.contains(&format!("http.{port}.127")), "{dump}");
}

#[test]
fn addresses_that_cannot_be_used_are_said() {
    let hostname = "  addresses: [{ type: Hostname, value: gw.test }]\n";
    let all = gateway("shared", "") + &gateway("named", hostname) + &gateway("away", &at("192.0.2.1"));
    let weir = Start::new().file("all.yaml", all).unready().run();
    answers(&weir, "127.0.0.1", 0, "shared");
    weir.says("addresses of the type Hostname are not supported: the Gateway is not opened");
    weir.says("192.0.2.1");
    let objects = weir.admin("/objects?filter=Gateway/default/named$").body;
    assert!(objects.contains("UnsupportedAddress"), "{objects}");
    // Not even where the shared one listens.
    answers(&weir, "127.0.0.2", 0, "shared");
}

#[test]
fn gateways_without_addresses_get_one_each_from_a_range() {
    let all = gateway("first", "") + &gateway("second", "") + &gateway("third", &at("127.0.0.1"));
    let weir = Start::new().file("all.yaml", all).arg("--gateway-address-pool").arg("127.77.0.0/24").run();
    answers(&weir, "127.0.0.1", 0, "third");
    let dump = weir.admin("/config_dump").body;
    let end = format!("_{}\"", weir.ports[0]);
    let given: BTreeSet<&str> = dump.split("\"127.77.0.").skip(1).filter_map(|rest| Some(rest.split_once(&end)?.0)).collect();
    let given: Vec<&str> = given.into_iter().filter(|host| host.len() <= 3).collect();
    let mut names: Vec<String> = given
        .iter()
        .map(|host| {
            let at = SocketAddr::new(format!("127.77.0.{host}").parse().unwrap(), weir.ports[0]);
            client::get(at, "same.test", "/").unwrap().header("location").unwrap().to_string()
        })
        .collect();
    names.sort();
    assert_eq!(names.len(), 2, "{dump}");
    assert!(names[0].starts_with("http://first.test") && names[1].starts_with("http://second.test"), "{names:?}");
}

#[test]
fn a_gateway_for_which_there_is_no_address_left_is_not_opened() {
    let all = gateway("first", "") + &gateway("second", "");
    let weir = Start::new().file("all.yaml", all).arg("--gateway-address-pool").arg("127.77.1.1/32").run();
    weir.says("all addresses of 127.77.1.1/32 belong to other Gateways");
    answers(&weir, "127.77.1.1", 0, "first");
}
