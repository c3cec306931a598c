//! A change reaches only what reads what changed: objects that many routes refer to change in ways that no route reads, and the
//! number of translations says who noticed.
#![allow(clippy::unwrap_used)]

use std::{fmt::Write, fs, path::PathBuf, time::Duration};
use weir_config::model::Config;
use weir_control::{Control, Options, Update};

const ROUTES: usize = 40;

struct Folder {
    dir: tempfile::TempDir,
    control: Control,
    config: Config,
}

impl Folder {
    fn new(files: &[(&str, String)]) -> Folder {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let mut folder = Folder { dir, control: Control::new(Options::default()), config: Config::default() };
        let first = folder.control.load_and_watch(&[folder.path("")]);
        assert_eq!(folder.control.findings(), []);
        folder.config.apply(&first.delta);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes as a careful program does, and waits for the one update that comes of it; compares with a reading of the whole.
    fn change(&mut self, name: &str, text: &str) -> Update {
        fs::write(self.path(".new"), text).unwrap();
        fs::rename(self.path(".new"), self.path(name)).unwrap();
        let update = self.control.next(Duration::from_secs(20)).expect("an update");
        self.config.apply(&update.delta);
        let mut fresh = Control::new(Options::default());
        fresh.load(&[self.path("")]);
        assert_eq!(self.config, fresh.config(), "after {text}");
        assert_eq!(self.control.findings(), fresh.findings(), "after {text}");
        update
    }

    /// How many units were translated for a change, and how many resources it changed.
    fn costs(&mut self, name: &str, text: &str) -> (usize, usize) {
        let update = self.change(name, text);
        (update.translated, update.delta.set.len() + update.delta.gone.len())
    }
}

fn gateway(annotation: &str, listeners: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: gw, namespace: infra, annotations: {{note: {annotation}}}}}\nspec:\n  gatewayClassName: weir\n  listeners:\n  - {{name: http, port: 8080, protocol: HTTP, allowedRoutes: {{namespaces: {{from: Selector, selector: {{matchLabels: {{web: \"yes\"}}}}}}}}}}\n{listeners}"
    )
}

fn namespace(labels: &str) -> String {
    format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: apps, labels: {{{labels}}}}}}}")
}

fn grant(name: &str, from: &str, to: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {{name: {name}, namespace: backends}}, spec: {{from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: {from}}}], to: [{{group: \"\", kind: Service, name: {to}}}]}}}}"
    )
}

fn service(annotation: &str, ports: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: s, namespace: backends, annotations: {{note: {annotation}}}}}, spec: {{ports: [{ports}]}}}}"
    )
}

fn slice(address: &str) -> String {
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: s-1, namespace: backends, labels: {{kubernetes.io/service-name: s}}}}, addressType: IPv4, ports: [{{name: web, port: 3000}}], endpoints: [{{addresses: [{address}]}}]}}"
    )
}

fn routes(parent: &str) -> String {
    let mut text = String::new();
    for i in 0..ROUTES {
        writeln!(text, "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r{i}, namespace: apps}}\nspec: {{parentRefs: [{{name: gw, namespace: infra{parent}}}], hostnames: [h{i}.test], rules: [{{backendRefs: [{{name: s, namespace: backends, port: 80}}]}}]}}").unwrap();
    }
    text
}

const PORT: &str = "{name: web, port: 80}";

fn folder(parent: &str) -> Folder {
    Folder::new(&[
        ("gateway.yaml", gateway("a", "")),
        ("namespace.yaml", namespace("web: \"yes\"")),
        ("grant.yaml", grant("ours", "apps", "s")),
        ("service.yaml", service("a", PORT)),
        ("slice.yaml", slice("10.0.0.1")),
        ("routes.yaml", routes(parent)),
    ])
}

#[test]
fn what_no_route_reads_translates_no_route() {
    let mut folder = folder("");
    assert_eq!(folder.config.routes["http.8080"].virtual_hosts.len(), ROUTES);
    // The Gateway itself is translated, and nothing comes of it.
    assert_eq!(folder.costs("gateway.yaml", &gateway("b", "")), (1, 0));
    assert_eq!(folder.costs("gateway.yaml", &format!("# a remark\n{}", gateway("b", ""))), (1, 1), "the origin of the listener moves");
    assert_eq!(folder.costs("namespace.yaml", &namespace("web: \"yes\", team: a")), (0, 0));
    assert_eq!(folder.costs("others.yaml", &grant("theirs", "elsewhere", "s")), (0, 0));
    assert_eq!(folder.costs("others.yaml", &grant("theirs", "apps", "another")), (0, 0));
    // Of a Service and its endpoints there is one cluster.
    assert_eq!(folder.costs("service.yaml", &service("b", PORT)), (1, 0));
    assert_eq!(folder.costs("service.yaml", &service("b", &format!("{PORT}, {{name: other, port: 81}}"))), (1, 0));
    assert_eq!(folder.costs("slice.yaml", &slice("10.0.0.2")), (1, 1));
    // Another GatewayClass, a Secret and an object of another kind.
    let class = "{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: other}, spec: {controllerName: example.com/other}}";
    assert_eq!(folder.costs("class.yaml", class), (1, 0));
}

#[test]
fn what_routes_read_translates_them() {
    let mut folder = folder("");
    let all = ROUTES + 1;
    // They attach to each listener: the Gateway, and all routes.
    let another = "  - {name: more, port: 8081, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}\n";
    assert_eq!(folder.costs("gateway.yaml", &gateway("a", another)), (all, ROUTES + 1), "a listener, and a virtual host each");
    assert_eq!(folder.costs("gateway.yaml", &gateway("a", "")), (all, ROUTES + 1));
    // Their namespace loses its label, and the Service its port; the Service goes with the last route.
    let update = folder.change("namespace.yaml", &namespace("web: \"no\""));
    assert_eq!((update.translated, update.delta.gone.len()), (ROUTES, ROUTES + 2));
    assert_eq!(folder.control.findings().len(), ROUTES);
    let update = folder.change("namespace.yaml", &namespace("web: \"yes\""));
    assert_eq!((update.translated, update.delta.set.len()), (all, ROUTES + 2));
    let update = folder.change("grant.yaml", &grant("ours", "apps", "another"));
    assert_eq!((update.translated, folder.control.findings().len()), (ROUTES, ROUTES));
    folder.change("grant.yaml", &grant("ours", "apps", "s"));
    let update = folder.change("service.yaml", &service("a", "{name: web, port: 81}"));
    assert_eq!((folder.control.findings().len(), update.delta.gone.len()), (ROUTES, 2));
    let class =
        "{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: weir}, spec: {controllerName: example.com/other}}";
    let update = folder.change("class.yaml", class);
    assert_eq!(update.translated, ROUTES + 2, "the class, the Gateway, and all routes");
}

#[test]
fn a_route_of_one_listener_does_not_see_the_others() {
    let mut folder = folder(", sectionName: http");
    let another = |port: u16| format!("  - {{name: more, port: {port}, protocol: HTTP, hostname: more.test}}\n");
    assert_eq!(folder.costs("gateway.yaml", &gateway("a", &another(8081))), (1, 2), "a listener, and its own host");
    assert_eq!(folder.costs("gateway.yaml", &gateway("a", &another(8080))), (ROUTES + 1, 3), "it may take hosts from them");
}

#[test]
fn a_new_certificate_is_a_change_of_the_secret_alone() {
    let secret = |name: &str| {
        let made = weir_test::self_signed(&[name]);
        let indent = |pem: &str| pem.lines().map(|l| format!("    {l}\n")).collect::<String>();
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: cert}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
            indent(&made.pem),
            indent(&made.key)
        )
    };
    let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: gw}\nspec: {gatewayClassName: weir, listeners: [{name: a, port: 8443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}]}\n";
    let mut folder = Folder::new(&[("gateway.yaml", gateway.into()), ("secret.yaml", secret("a.test"))]);
    assert_eq!(folder.costs("secret.yaml", &secret("b.test")), (1, 1));
}

#[test]
fn thousands_of_listeners_share_a_port() {
    let text = |last: &str| {
        let mut text = String::new();
        for g in 0..40 {
            writeln!(text, "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g{g}}}\nspec:\n  gatewayClassName: weir\n  listeners:").unwrap();
            for l in 0..50 {
                let host = if (g, l) == (39, 49) { last.to_string() } else { format!("h{l}.g{g}.test") };
                writeln!(text, "  - {{name: l{l}, port: 8443, protocol: TLS, hostname: {host}, tls: {{mode: Passthrough}}}}").unwrap();
            }
        }
        for g in 0..40 {
            writeln!(text, "---\napiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {{name: r{g}}}\nspec: {{parentRefs: [{{name: g{g}}}], rules: [{{backendRefs: [{{name: s, port: 443}}]}}]}}").unwrap();
        }
        text
    };
    let service =
        "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {type: ExternalName, externalName: up.test, ports: [{port: 443}]}}";
    let mut folder = Folder::new(&[("all.yaml", text("last.test")), ("service.yaml", service.into())]);
    let listener = folder.config.listeners["0.0.0.0_8443"].clone();
    assert_eq!(listener.filter_chains.len(), 2000);
    // One chain is new; one of another Gateway's hostname is in conflict, and that is all that is said.
    let update = folder.change("all.yaml", &text("h7.g3.test"));
    assert_eq!((update.objects, folder.control.findings().len()), (1, 1), "{:?}", folder.control.findings());
    assert_eq!(folder.config.listeners["0.0.0.0_8443"].filter_chains.len(), 1999);
}
