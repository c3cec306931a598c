//! `weir gateway` in a cluster: objects come from a real Kubernetes API, requests through addresses of the cluster.
use crate::harness::{Kube, Start, eventually};
use std::process::{Child, Stdio};

/// A namespace with a Gateway that has an address of its own, a route, and a Service whose endpoint is an echo server.
pub struct Shop<'k> {
    kube: &'k Kube,
    namespace: &'static str,
    /// Where the Gateway listens.
    pub gateway: String,
    backend: String,
    echo: Child,
}

impl<'k> Shop<'k> {
    pub fn new(kube: &'k Kube, namespace: &'static str) -> Shop<'k> {
        let backend = kube.free_address().to_string();
        let mut echo = kube.command(env!("CARGO_BIN_EXE_weir"));
        let echo = echo.args(["echo", "--listen", &format!("{backend}:3000")]).stdout(Stdio::null()).spawn().unwrap();
        let shop = Shop { kube, namespace, gateway: format!("{}:80", kube.free_address()), backend, echo };
        kube.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}"));
        kube.apply(&shop.text());
        shop
    }

    fn text(&self) -> String {
        let Shop { namespace, gateway, backend, .. } = self;
        let address = gateway.trim_end_matches(":80");
        format!(
            "\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{ name: weir }}
spec: {{ controllerName: weir.dev/gateway-controller }}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: gateway, namespace: {namespace} }}
spec:
  gatewayClassName: weir
  addresses: [{{ type: IPAddress, value: {address} }}]
  listeners: [{{ name: http, port: 80, protocol: HTTP }}]
---
apiVersion: v1
kind: Service
metadata: {{ name: echo, namespace: {namespace} }}
spec: {{ ports: [{{ port: 80, targetPort: 3000 }}] }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: echo, namespace: {namespace}, labels: {{ kubernetes.io/service-name: echo }} }}
addressType: IPv4
ports: [{{ name: '', port: 3000 }}]
endpoints: [{{ addresses: [{backend}] }}]
---
{}",
            self.route("a.test")
        )
    }

    /// The route, for a host.
    pub fn route(&self, host: &str) -> String {
        format!(
            "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: echo, namespace: {} }}
spec:
  parentRefs: [{{ name: gateway }}]
  hostnames: [{host}]
  rules: [{{ backendRefs: [{{ name: echo, port: 80 }}] }}]
",
            self.namespace
        )
    }

    /// Waits for an answer with this status.
    #[track_caller]
    pub fn answers(&self, host: &str, status: u16) {
        let what = format!("{host} answers {status}");
        eventually(&what, || self.kube.get(&self.gateway, host, "/").ok().filter(|a| a.status == status));
    }
}

impl Drop for Shop<'_> {
    fn drop(&mut self) {
        let _ = self.echo.kill();
        let _ = self.echo.wait();
    }
}

#[test]
fn a_route_of_the_cluster_is_served_and_follows_its_object() {
    let kube = Kube::shared();
    let shop = Shop::new(kube, "follows");
    let _weir = Start::new().cluster(kube).arg("--namespace").arg("follows").run();
    shop.answers("a.test", 200);
    kube.apply(&shop.route("b.test"));
    shop.answers("b.test", 200);
    shop.answers("a.test", 404);
    kube.delete(&shop.route("b.test"));
    shop.answers("b.test", 404);
}

#[test]
fn an_api_that_stands_still_changes_nothing_until_it_is_back() {
    let kube = Kube::start();
    let shop = Shop::new(&kube, "still");
    let _weir = Start::new().cluster(&kube).run();
    shop.answers("a.test", 200);
    kube.signal("kube-apiserver", "STOP");
    shop.answers("a.test", 200);
    kube.signal("kube-apiserver", "CONT");
    kube.apply(&shop.route("b.test"));
    shop.answers("b.test", 200);
    // Gone, and back without the versions that the watches began with.
    kube.forget_history();
    kube.apply(&shop.route("c.test"));
    shop.answers("c.test", 200);
    shop.answers("b.test", 404);
}
