//! Which requests reach a plugin that knows nothing of rules: by targets and by the rules of Higress.
use crate::{
    harness::{Start, Weir, eventually, weir},
    plugin_kit::{guest, higress, istio, on_headers},
    yaml::ToEcho,
};

/// More routes and another Service.
const MORE: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: other }
spec:
  parentRefs: [{ name: gateway }]
  rules: [{ name: echo, matches: [{ path: { value: /other } }], backendRefs: [{ name: second, port: 81 }] }]
---
{ apiVersion: v1, kind: Service, metadata: { name: second }, spec: { ports: [{ port: 81, targetPort: $ECHO }] } }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: second, labels: { kubernetes.io/service-name: second } }
addressType: IPv4
ports: [{ port: $ECHO }]
endpoints: [{ addresses: [127.0.0.1] }]
";

fn objects() -> String {
    let http = "name: http, port: $PORT, protocol: HTTP";
    let shop = "name: shop, port: $PORT, protocol: HTTP, hostname: '*.shop.test'";
    let one = "name: one, port: $PORT, protocol: HTTP, hostname: one.shop.test";
    ToEcho::new().listeners(&[http, shop, one]).text() + MORE
}

/// The hosts and paths whose requests reach the plugin, of all that are asked for.
fn reached(weir: &Weir) -> String {
    let all = [("any.test", "/"), ("any.test", "/other"), ("a.shop.test", "/"), ("one.shop.test", "/"), ("ONE.shop.test:80", "/")];
    let marked = all.iter().filter(|(host, path)| {
        let answer = weir.get(host, path);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.header("x-seen").is_some()
    });
    marked.map(|(host, path)| format!("{host}{path}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn targets_and_rules_decide_who_reaches_the_guest() {
    let code = guest(&on_headers("response", "(drop (call $add (i32.const 2) [x-seen] [yes]))"));
    let weir = Start::new().file("objects.yaml", objects()).file("guest.wat", code).file("plugin.yaml", "").run();
    let target = |rest: &str| istio("p", &format!("url: file://guest.wat\ntargetRefs: [{rest}]"));
    let rules = |rest: &str| higress("p", &format!("url: file://guest.wat\n{rest}"));
    let gateway = "group: gateway.networking.k8s.io, kind: Gateway, name: gateway";
    let route = "group: gateway.networking.k8s.io, kind: HTTPRoute, name";
    let all = "any.test/ any.test/other a.shop.test/ one.shop.test/ ONE.shop.test:80/";
    for (plugin, wanted) in [
        (target(&format!("{{ {gateway} }}")), all),
        (target(&format!("{{ {gateway}, sectionName: http }}")), "any.test/ any.test/other"),
        (target(&format!("{{ {gateway}, sectionName: shop }}")), "a.shop.test/"),
        (target(&format!("{{ {gateway}, sectionName: one }}")), "one.shop.test/ ONE.shop.test:80/"),
        (target(&format!("{{ {route}: other }}")), "any.test/other"),
        (target(&format!("{{ {route}: echo }}")), "any.test/ a.shop.test/ one.shop.test/ ONE.shop.test:80/"),
        (target(&format!("{{ {route}: other }}, {{ {route}: echo }}")), all),
        (target("{ kind: Service, name: second }"), "any.test/other"),
        (rules("matchRules: [{ domain: [one.shop.test] }]"), "one.shop.test/ ONE.shop.test:80/"),
        (
            rules("matchRules: [{ domain: ['*.shop.test'] }, { service: ['second.default.svc.cluster.local:81'] }]"),
            "any.test/other a.shop.test/ one.shop.test/ ONE.shop.test:80/",
        ),
        (rules("matchRules: [{ domain: [one.shop.test], configDisable: true }, { domain: [a.shop.test] }]"), "a.shop.test/"),
        // The configuration for all others may switch the plugin on.
        (rules("defaultConfig: { on: true }\nmatchRules: [{ domain: [one.shop.test] }]"), all),
        (
            rules("defaultConfig: { on: true }\ndefaultConfigDisable: true\nmatchRules: [{ domain: [one.shop.test] }]"),
            "one.shop.test/ ONE.shop.test:80/",
        ),
    ] {
        weir.write("plugin.yaml", &plugin);
        // Each worker has it.
        eventually(wanted, || (0..10).all(|_| reached(&weir) == wanted).then_some(()));
    }
    // What does not match runs no callback.
    let count = |name: &str| weir.stat(&format!("weir_wasm_{name}.default/p"));
    let before = (count("streams"), count("calls"), count("unmatched_streams"));
    (0..20).for_each(|_| assert_eq!(weir.get("any.test", "/").status, 200));
    eventually("what did not match", || (count("unmatched_streams") >= before.2 + 20).then_some(()));
    assert_eq!((count("streams"), count("calls")), (before.0, before.1));
}

#[test]
fn targets_that_cannot_be_are_said() {
    let gateway = "group: gateway.networking.k8s.io, kind: Gateway, name: gateway";
    let route = "group: gateway.networking.k8s.io, kind: HTTPRoute, name";
    for (targets, wanted) in [
        (format!("{{ {gateway}, sectionName: absent }}"), "Gateway/default/gateway has no listener absent"),
        (format!("{{ {route}: absent }}"), "there is no HTTPRoute/default/absent"),
        ("{ kind: Service, name: absent }".into(), "there is no Service/default/absent"),
        (format!("{{ {route}: echo, sectionName: x }}"), "only a Gateway of gateway.networking.k8s.io has sections"),
        (format!("{{ {route}: echo }}, {{ {gateway} }}"), "targets are gateways, or routes and Services"),
        (format!("{{ {gateway}, sectionName: http }}, {{ {gateway}, sectionName: shop }}"), "a target with sectionName is the only one"),
        ("{ kind: Pod, name: p }".into(), "Pod of the group \"\" is not supported as a target yet"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("guest.wat"), guest("")).unwrap();
        let text = objects().replace("$PORT", "8080").replace("$ECHO", "9000");
        std::fs::write(folder.path().join("objects.yaml"), text).unwrap();
        let plugin = istio("p", &format!("url: file://guest.wat\ntargetRefs: [{targets}]"));
        std::fs::write(folder.path().join("plugins.yaml"), plugin).unwrap();
        let output = weir().args(["check", "--no-plugins"]).arg(folder.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(wanted) && text.contains("plugins.yaml"), "{wanted}\n{text}");
    }
}
