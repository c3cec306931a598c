//! Objects like those in the samples of other projects are served unchanged, with any class name.
use crate::harness::{Start, eventually};

/// The Services of the samples, at the echo upstream.
const SERVICES: &str = "\
{ apiVersion: v1, kind: Service, metadata: { name: foo-svc }, spec: { type: ExternalName, externalName: 127.0.0.1, ports: [{ port: 8080, targetPort: $ECHO }] } }
---
{ apiVersion: v1, kind: Service, metadata: { name: http-svc }, spec: { type: ExternalName, externalName: 127.0.0.1, ports: [{ name: http, port: 80, targetPort: $ECHO }] } }
---
apiVersion: v1
kind: Service
metadata: { name: productpage, labels: { app: productpage, service: productpage } }
spec: { ports: [{ port: 9080, name: http, targetPort: $ECHO }], selector: { app: productpage } }
---
apiVersion: v1
kind: Pod
metadata: { name: productpage-v1-1, labels: { app: productpage, version: v1 } }
spec: { serviceAccountName: bookinfo-productpage, containers: [{ name: productpage, image: docker.io/istio/examples-bookinfo-productpage-v1, ports: [{ containerPort: 9080 }] }] }
status: { phase: Running, podIP: 127.0.0.1, conditions: [{ type: Ready, status: 'True' }] }
";

/// As the examples of Gateway API.
const GATEWAY_API: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: example-gateway
spec:
  gatewayClassName: example-gateway-class
  listeners:
  - name: http
    protocol: HTTP
    port: $PORT
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: foo-route
spec:
  parentRefs:
  - name: example-gateway
  hostnames:
  - \"foo.example.com\"
  rules:
  - matches:
    - path:
        type: PathPrefix
        value: /login
    backendRefs:
    - name: foo-svc
      port: 8080
";

/// As Bookinfo with Gateway API in Istio.
const ISTIO_GATEWAY_API: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: bookinfo-gateway
spec:
  gatewayClassName: istio
  listeners:
  - name: http
    port: $PORT
    protocol: HTTP
    allowedRoutes:
      namespaces:
        from: Same
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: bookinfo
spec:
  parentRefs:
  - name: bookinfo-gateway
  rules:
  - matches:
    - path:
        type: Exact
        value: /productpage
    - path:
        type: PathPrefix
        value: /static
    backendRefs:
    - name: productpage
      port: 9080
";

/// As Istio's samples with its own API, with a flow list whose bracket is on the line below its key.
const ISTIO: &str = "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata:
  name: bookinfo-gateway
spec:
  selector:
    istio: ingressgateway
  servers:
  - port:
      number: $PORT
      name: http
      protocol: HTTP
    hosts: [
      \"*\"
    ]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: bookinfo
spec:
  hosts:
  - \"*\"
  gateways:
  - bookinfo-gateway
  http:
  - match:
    - uri:
        exact: /productpage
    route:
    - destination:
        host: productpage
        port:
          number: 9080
";

/// As the examples of ingress-nginx, with `class` as the class of an Ingress.
fn ingress(annotations: &str, class: &str) -> String {
    format!(
        "\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: ingress-http
{annotations}spec:
{class}  rules:
  - host: foo.bar.com
    http:
      paths:
      - path: /
        pathType: Prefix
        backend:
          service:
            name: http-svc
            port:
              number: 80
"
    )
}

#[test]
fn samples_of_others_are_served_as_they_are() {
    let by_field = ingress("", "  ingressClassName: nginx\n");
    let by_annotation = ingress("  annotations:\n    kubernetes.io/ingress.class: nginx\n", "");
    for (what, sample, host, path) in [
        ("Gateway API", GATEWAY_API, "foo.example.com", "/login"),
        ("Istio by Gateway API", ISTIO_GATEWAY_API, "bookinfo.test", "/productpage"),
        ("Istio", ISTIO, "bookinfo.test", "/productpage"),
        ("ingress-nginx by field", &by_field, "foo.bar.com", "/"),
        ("ingress-nginx by annotation", &by_annotation, "foo.bar.com", "/"),
        ("an Ingress without a class", &ingress("", ""), "foo.bar.com", "/"),
    ] {
        let weir = Start::new().file("services.yaml", SERVICES).file("sample.yaml", sample).arg("--http-port").arg("$PORT").run();
        let answer = weir.get(host, path);
        assert_eq!(answer.status, 200, "{what}: {}", weir.printed());
        let said = weir.printed();
        assert!(!said.contains("error:") && !said.contains("warning:"), "{what}: {said}");
    }
}

#[test]
fn a_class_of_another_controller_is_left_to_it() {
    let by_field = ingress("", "  ingressClassName: nginx\n");
    let class = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: { name: istio }\nspec: { controllerName: istio.io/gateway-controller }\n";
    let ingress_class =
        "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: { name: nginx }\nspec: { controller: k8s.io/ingress-nginx }\n";
    for (what, sample, class, ours, host, path) in [
        ("a Gateway", ISTIO_GATEWAY_API, class, "weir.dev/gateway-controller", "bookinfo.test", "/productpage"),
        ("an Ingress", &by_field, ingress_class, "weir.dev/ingress-controller", "foo.bar.com", "/"),
    ] {
        let own = class.replace("istio.io/gateway-controller", ours).replace("k8s.io/ingress-nginx", ours);
        let start = Start::new().file("services.yaml", SERVICES).file("sample.yaml", sample).file("class.yaml", own);
        let weir = start.arg("--http-port").arg("$PORT").run();
        assert_eq!(weir.get(host, path).status, 200, "{what}: {}", weir.printed());
        weir.write("class.yaml", class);
        eventually("a word about the class", || weir.lines("belongs to the controller").first().cloned());
        // Nothing listens there any more.
        eventually(what, || crate::client::get(weir.address(), host, path).is_err().then_some(()));
        weir.remove("class.yaml");
        eventually(what, || crate::client::get(weir.address(), host, path).is_ok_and(|a| a.status == 200).then_some(()));
    }
}
