//! Objects of Kubernetes and Gateway API in few words.
use crate::harness::Start;
use std::fmt::Display;

/// A gateway on `$PORT` that sends everything to the echo upstream: [`ToEcho`] as it begins.
pub const TO_ECHO: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: gateway }
spec:
  gatewayClassName: weir
  listeners: [{ name: http, port: $PORT, protocol: HTTP }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: echo }
spec:
  parentRefs: [{ name: gateway }]
  rules: [{ backendRefs: [{ name: echo, port: 80 }] }]
---
apiVersion: v1
kind: Service
metadata: { name: echo }
spec: { ports: [{ port: 80, targetPort: $ECHO }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: echo, labels: { kubernetes.io/service-name: echo } }
addressType: IPv4
ports: [{ port: $ECHO }]
endpoints: [{ addresses: [127.0.0.1] }]
";

/// A Gateway, an HTTPRoute `echo`, and the Service `echo` that it leads to.
#[derive(Clone)]
pub struct ToEcho {
    listeners: Vec<String>,
    gateway: String,
    parents: String,
    hostnames: String,
    rules: Vec<String>,
    service: Service,
    own_upstream: bool,
}

impl ToEcho {
    pub fn new() -> ToEcho {
        ToEcho {
            listeners: vec!["name: http, port: $PORT, protocol: HTTP".into()],
            gateway: String::new(),
            parents: "{ name: gateway }".into(),
            hostnames: String::new(),
            rules: vec!["backendRefs: [{ name: echo, port: 80 }]".into()],
            service: Service::new("echo", "$ECHO"),
            own_upstream: false,
        }
    }
    /// The port of the listener.
    pub fn port(self, port: impl Display) -> ToEcho {
        self.listeners(&[&format!("name: http, port: {port}, protocol: HTTP")])
    }
    /// The listener speaks HTTPS, with the certificate of this Secret.
    pub fn tls(self, secret: &str) -> ToEcho {
        self.listeners(&[&format!("name: https, port: $PORT, protocol: HTTPS, tls: {{ certificateRefs: [{{ name: {secret} }}] }}")])
    }
    /// One listener more.
    pub fn listener(mut self, listener: &str) -> ToEcho {
        self.listeners.push(listener.into());
        self
    }
    /// These listeners only.
    pub fn listeners(mut self, listeners: &[&str]) -> ToEcho {
        self.listeners = listeners.iter().map(ToString::to_string).collect();
        self
    }
    /// Another field of the Gateway's spec.
    pub fn gateway(mut self, field: &str) -> ToEcho {
        self.gateway += &format!("  {field}\n");
        self
    }
    /// Another parent of the route.
    pub fn parent(mut self, parent: &str) -> ToEcho {
        self.parents += &format!(", {{ {parent} }}");
        self
    }
    pub fn hostnames(mut self, names: &str) -> ToEcho {
        self.hostnames = format!("  hostnames: [{names}]\n");
        self
    }
    /// One rule more, before the others.
    pub fn rule(mut self, rule: &str) -> ToEcho {
        self.rules.insert(0, rule.into());
        self
    }
    /// These rules only.
    pub fn rules(mut self, rules: &[&str]) -> ToEcho {
        self.rules = rules.iter().map(ToString::to_string).collect();
        self
    }
    /// The port of the upstream in place of the echo upstream's.
    pub fn upstream(mut self, port: impl Display) -> ToEcho {
        self.service.port = port.to_string();
        self.own_upstream = true;
        self
    }
    /// Changes the Service.
    pub fn service(mut self, change: impl FnOnce(Service) -> Service) -> ToEcho {
        self.service = change(self.service);
        self
    }
    /// HTTP/2 without TLS towards the upstream.
    pub fn h2c(self) -> ToEcho {
        self.service(Service::h2c)
    }
    /// The Gateway and the HTTPRoute.
    pub fn routes(&self) -> String {
        let listed = |items: &[String]| items.iter().map(|i| format!("{{ {i} }}")).collect::<Vec<_>>().join(", ");
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: gateway }}\nspec:\n  gatewayClassName: weir\n  \
             listeners: [{}]\n{}---\n{}",
            listed(&self.listeners),
            self.gateway,
            self.route()
        )
    }
    fn route(&self) -> String {
        let rules: Vec<_> = self.rules.iter().map(|r| format!("{{ {r} }}")).collect();
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: echo }}\nspec:\n  parentRefs: [{}]\n{}  rules: [{}]\n---\n",
            self.parents,
            self.hostnames,
            rules.join(", ")
        )
    }
    /// The HTTPRoute and the Service, for a Gateway of the test's own.
    pub fn backend(&self) -> String {
        self.route() + &self.service.text()
    }
    /// The whole file.
    pub fn text(&self) -> String {
        let text = self.routes() + &self.service.text();
        text.strip_suffix("---\n").unwrap_or(&text).to_string()
    }
    /// The file of one that sends `/sized` to `$SIZED`.
    pub fn and_sized() -> String {
        let rule = "matches: [{ path: { value: /sized } }], backendRefs: [{ name: sized, port: 80 }]";
        ToEcho::new().rule(rule).text() + "---\n" + &Service::new("sized", "$SIZED").text()
    }
    /// A gateway on it; without an echo upstream, if it has another.
    pub fn start<'a>(&self) -> Start<'a> {
        Start::new().file("gateway.yaml", self.text()).upstreams(usize::from(!self.own_upstream))
    }
}

/// A Service whose port 80 leads to a port of the loopback.
#[derive(Clone)]
pub struct Service {
    name: String,
    port: String,
    port_name: String,
    app_protocol: String,
    labels: String,
    endpoints: String,
}

impl Service {
    pub fn new(name: &str, port: impl Display) -> Service {
        Service {
            name: name.into(),
            port: port.to_string(),
            port_name: String::new(),
            app_protocol: String::new(),
            labels: String::new(),
            endpoints: "{ addresses: [127.0.0.1] }".into(),
        }
    }
    /// The port's name, of the Service and of its endpoints.
    pub fn port_name(mut self, name: &str) -> Service {
        self.port_name = format!("name: {name}, ");
        self
    }
    /// `appProtocol: kubernetes.io/h2c`.
    pub fn h2c(mut self) -> Service {
        self.app_protocol = ", appProtocol: kubernetes.io/h2c".into();
        self
    }
    /// Labels of its endpoints, each with a comma behind it.
    pub fn labels(mut self, labels: &str) -> Service {
        self.labels = labels.into();
        self
    }
    pub fn endpoints(mut self, endpoints: &str) -> Service {
        self.endpoints = endpoints.into();
        self
    }
    /// The EndpointSlice alone, and the start of the next document.
    pub fn slice(&self, slice: &str) -> String {
        let Service { name, port, port_name, labels, endpoints, .. } = self;
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: {slice}, labels: {{ {labels}kubernetes.io/service-name: {name} }} }}\n\
             addressType: IPv4\nports: [{{ {port_name}port: {port} }}]\nendpoints: [{endpoints}]\n---\n"
        )
    }
    /// The Service and its EndpointSlice, and the start of the next document.
    pub fn text(&self) -> String {
        let Service { name, port, port_name, app_protocol, .. } = self;
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec: {{ ports: [{{ {port_name}port: 80, targetPort: {port}{app_protocol} }}] }}\n---\n{}",
            self.slice(name)
        )
    }
}

/// A Secret or ConfigMap with these texts, and the start of the next document.
pub fn holder(kind: &str, name: &str, texts: &[(&str, &str)]) -> String {
    let field = if kind == "Secret" { "stringData" } else { "data" };
    let texts: String = texts.iter().map(|(key, text)| format!("  {key}: |\n{}", indented(text))).collect();
    format!("apiVersion: v1\nkind: {kind}\nmetadata: {{ name: {name} }}\n{field}:\n{texts}---\n")
}

/// Lines of a block text in a field.
pub fn indented(text: &str) -> String {
    text.lines().map(|l| format!("    {l}\n")).collect()
}

#[test]
fn a_builder_begins_with_the_constant() {
    assert_eq!(ToEcho::new().text(), TO_ECHO);
}
