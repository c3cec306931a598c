//! What a registry may have, and where its services may lead.
use super::{answers, bridge, ingress, server};
use crate::harness::{Start, eventually};
use serde_json::{Value, json};
use std::{
    future::pending,
    sync::{Arc, Mutex},
};
use weir_test::DnsServer;

/// A name, and the addresses and ports of its instances.
type Application = (String, Vec<(String, u16)>);

/// A Eureka server whose applications each have these instances. Its delta names another state, so that all is read again each time.
struct Eureka {
    server: server::Server,
    applications: Arc<Mutex<Vec<Application>>>,
}

impl Eureka {
    fn start() -> Eureka {
        let applications: Arc<Mutex<Vec<Application>>> = Arc::default();
        let all = applications.clone();
        let server = server::http(move |request, _| {
            let all = all.clone();
            async move {
                let application = |(name, instances): &Application| {
                    let instance = |(address, port): &(String, u16)| {
                        json!({ "instanceId": format!("{address}:{port}"), "hostName": address, "ipAddr": address, "status": "UP",
                            "port": { "$": port, "@enabled": "true" } })
                    };
                    json!({ "name": name, "instance": instances.iter().map(instance).collect::<Vec<_>>() })
                };
                let body = match request.uri().path() {
                    "/eureka/apps" => all.lock().unwrap().iter().map(application).collect::<Vec<Value>>(),
                    _ => Vec::new(),
                };
                (200, vec![], json!({ "applications": { "apps__hashcode": "other", "application": body } }).to_string())
            }
        });
        Eureka { server, applications }
    }

    fn set(&self, applications: &[(&str, &[(&str, u16)])]) {
        let instances = |all: &[(&str, u16)]| all.iter().map(|(address, port)| (address.to_string(), *port)).collect();
        *self.applications.lock().unwrap() = applications.iter().map(|(name, all)| (name.to_string(), instances(all))).collect();
    }

    fn bridge(&self) -> String {
        bridge(&[format!("{{ type: eureka, name: main, domain: 127.0.0.1, port: {} }}", self.server.port)])
    }
}

#[test]
fn names_of_a_registry_lead_to_no_protected_address() {
    let dns = DnsServer::start();
    // An address of this machine that is protected.
    dns.set("unspecified.registry.test", &["0.0.0.0"], 60);
    let entry = "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: own }
spec: { hosts: [own.test], resolution: DNS, ports: [{ number: 80, name: http, protocol: HTTP }], endpoints: [{ address: unspecified.registry.test, ports: { http: $ECHO } }] }
";
    let eureka = Eureka::start();
    let all = [eureka.bridge(), ingress("registered.test", "shop.eureka", ""), ingress("own.test", "own.test", ""), entry.into()];
    let start = |allowed: &[&str]| {
        let start = Start::new().file("all.yaml", all.concat()).arg("--http-port").arg("$PORT");
        let start = start.arg("--dns-resolver").arg(dns.address.to_string());
        allowed.iter().fold(start, |start, arg| start.arg(*arg)).run()
    };
    let weir = start(&[]);
    eureka.set(&[("SHOP", &[("unspecified.registry.test", weir.echo_port(1))])]);
    weir.says("the name `unspecified.registry.test` cannot be resolved: 0.0.0.0 is not reached");
    assert_eq!(answers(&weir, "registered.test", 3).into_keys().collect::<Vec<_>>(), ["503"]);
    // Objects of files may name any.
    assert_eq!(answers(&weir, "own.test", 1).into_keys().collect::<Vec<_>>(), ["echo"]);
    drop(weir);
    let weir = start(&["--allow-upstream-address", "0.0.0.0"]);
    eureka.set(&[("SHOP", &[("unspecified.registry.test", weir.echo_port(1))])]);
    let answered = || answers(&weir, "registered.test", 1).into_keys().next().filter(|name| name == "echo");
    eventually("the address is allowed", answered);
}

#[test]
fn what_a_registry_has_beyond_its_limits_is_left_out() {
    let eureka = Eureka::start();
    let instances: &[(&str, u16)] = &[("10.0.0.1", 80), ("10.0.0.2", 80)];
    eureka.set(&[("A", instances), ("B", instances), ("C", instances)]);
    let start = |args: &[&str]| {
        let start = Start::new().file("all.yaml", eureka.bridge());
        args.iter().fold(start, |start, arg| start.arg(*arg)).run()
    };
    let weir = start(&["--max-registry-services", "2", "--max-registry-endpoints", "1"]);
    weir.says("has more than 2 services: the others are left out");
    let stat = |name: &str| weir.stat(&format!("control.registry.{name}.main"));
    eventually("all was read", || (stat("connected") == 1).then_some(()));
    assert_eq!((stat("services"), stat("endpoints"), stat("refused")), (2, 2, 3));
    drop(weir);
    let weir = start(&["--max-registry-answer", "256"]);
    weir.says("cannot be followed: an answer is larger than 256 bytes");
    assert!(weir.stat("control.registry.errors.main") > 0);
}

#[test]
fn a_registry_that_does_not_answer_in_time_is_given_up() {
    let server = server::http(|_, _| pending());
    let registry = format!("{{ type: eureka, name: main, domain: 127.0.0.1, port: {} }}", server.port);
    let weir = Start::new().file("all.yaml", bridge(&[registry])).arg("--registry-request-timeout").arg("250ms").run();
    weir.says("cannot be followed: no answer within 0.25 s");
    assert!(weir.stat("control.registry.errors.main") > 0);
}
