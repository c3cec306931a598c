//! Ingress objects as Gateways and HTTPRoutes.
use crate::{
    api::ingress::{
        Backend, Ingress, Path, PortRef, Rule,
        annotations::{Annotations, ServiceRef, UpstreamTls, keys, verdict},
    },
    object::{Kind, Object, Spec},
};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use weir_config::model::{
    HeaderEdits, HeaderMatch, Name, PathMatch, PathRewrite, Redirect, RedirectPort, RetryOn, StringMatch, ValueMatch,
};

/// How the Gateway is to be.
#[derive(Clone, Debug)]
pub struct Options {
    pub class: String,
    pub http_port: u16,
    pub https_port: u16,
}

/// The name of the Gateway of each namespace.
const GATEWAY: &str = "ingress";

pub struct Converted {
    /// With the title of the Ingress that it is made of.
    pub documents: Vec<(Option<String>, Value)>,
    /// `(title, key)` of what has no equivalent.
    pub lost: BTreeSet<(String, String)>,
}

/// One Gateway for each namespace, and HTTPRoutes for the hosts of each Ingress.
pub fn convert(objects: &[&Arc<Object>], options: &Options) -> Converted {
    let ingresses: Vec<(&Arc<Object>, &Ingress)> = objects
        .iter()
        .filter_map(|object| match &object.spec {
            Spec::Ingress(ingress) => Some((*object, &**ingress)),
            _ => None,
        })
        .collect();
    let mut converted = Converted { documents: Vec::new(), lost: BTreeSet::new() };
    for (namespace, listeners) in listeners(&ingresses, options) {
        let spec = json!({ "gatewayClassName": options.class, "listeners": listeners });
        converted.documents.push((None, document("Gateway", &namespace, GATEWAY, spec)));
    }
    let none = Annotations::default();
    let mut policies: BTreeMap<(Name, Box<str>), Value> = BTreeMap::new();
    for (object, ingress) in &ingresses {
        let notes = ingress.annotations.as_deref().unwrap_or(&none);
        let mut maker =
            Maker { objects, ingresses: &ingresses, object, ingress, notes, lost: BTreeSet::new(), options, title: object.key.to_string() };
        maker.note_lost();
        // What guards access must not be lost: such an Ingress is left as it is.
        if notes.refused.is_none() && !ingress.closed && notes.canary.is_none() && !maker.loses_guard() {
            let routes = maker.routes();
            converted.documents.extend(routes.into_iter().map(|route| (Some(maker.title.clone()), route)));
            for (service, policy) in maker.tls_policies() {
                policies.entry((object.key.namespace.clone(), service)).or_insert(policy);
            }
        } else if notes.canary.is_none() {
            maker.lost.insert((maker.title.clone(), "spec (it stays an Ingress, as its access would be open)".into()));
        }
        converted.lost.extend(maker.lost);
    }
    converted.documents.extend(policies.into_values().map(|policy| (None, policy)));
    converted
}

/// What a BackendTLSPolicy says.
const TLS: [&str; 4] = ["proxy-ssl-name", "proxy-ssl-secret", "proxy-ssl-server-name", "proxy-ssl-verify"];

fn document(kind: &str, namespace: &str, name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": { "name": name, "namespace": namespace }, "spec": spec })
}

fn section(host: &str) -> String {
    format!("https-{}", host.replace('*', "any").replace('.', "-"))
}

fn listeners(ingresses: &[(&Arc<Object>, &Ingress)], options: &Options) -> BTreeMap<String, Vec<Value>> {
    let mut all: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
    for (object, ingress) in ingresses {
        let here = all.entry(object.key.namespace.to_string()).or_default();
        here.insert(String::new(), json!({ "name": "http", "port": options.http_port, "protocol": "HTTP" }));
        for tls in &ingress.tls {
            let Some(secret) = &tls.secret else { continue };
            for host in tls.all_hosts() {
                let mut listener = json!({
                    "name": section(&host), "port": options.https_port, "protocol": "HTTPS",
                    "tls": { "certificateRefs": [{ "name": &**secret }] },
                });
                if &*host != "*" {
                    listener["hostname"] = json!(&*host);
                }
                here.entry(host.to_string()).or_insert(listener);
            }
        }
    }
    all.into_iter().map(|(namespace, listeners)| (namespace, listeners.into_values().collect())).collect()
}

struct Maker<'a> {
    objects: &'a [&'a Arc<Object>],
    ingresses: &'a [(&'a Arc<Object>, &'a Ingress)],
    object: &'a Arc<Object>,
    ingress: &'a Ingress,
    notes: &'a Annotations,
    lost: BTreeSet<(String, String)>,
    options: &'a Options,
    title: String,
}

impl Maker<'_> {
    /// Notes the annotations that never have an equivalent.
    fn note_lost(&mut self) {
        for (key, value) in self.object.meta.annotations.iter() {
            let Some((name, _)) = verdict(key, value) else { continue };
            let read = keys::find(name).filter(|entry| entry.support.is_read());
            let upstream = self.notes.upstream.as_deref().filter(|_| self.verified().is_some());
            let of_policy = TLS.contains(&name) || name == "backend-protocol" && upstream.is_some_and(|u| u.protocol.is_none());
            if of_policy && upstream.is_some() {
                // A client's certificate is the Gateway's there.
                if name == "proxy-ssl-secret" {
                    self.lost.insert((self.title.clone(), format!("the client certificate of {key}")));
                }
                continue;
            }
            if read.is_some_and(|entry| !entry.portable) {
                self.lost.insert((self.title.clone(), key.to_string()));
            }
        }
    }

    /// TLS to the backends, with the name in their certificate. A BackendTLSPolicy always verifies it.
    fn verified(&self) -> Option<(&UpstreamTls, &str)> {
        let tls = self.notes.upstream.as_deref()?.tls.as_ref().filter(|tls| tls.verify)?;
        let elsewhere = |(namespace, _): &(Option<Name>, Name)| namespace.as_ref().is_some_and(|n| *n != self.object.key.namespace);
        let tls = Some(tls).filter(|tls| !tls.secret.as_ref().is_some_and(elsewhere))?;
        Some((tls, tls.sni.as_deref()?))
    }

    /// A policy for each Service of the backends.
    fn tls_policies(&self) -> Vec<(Box<str>, Value)> {
        let Some((tls, hostname)) = self.verified() else { return Vec::new() };
        let mut validation = json!({ "hostname": hostname });
        match &tls.secret {
            Some((_, secret)) => validation["caCertificateRefs"] = json!([{ "group": "", "kind": "Secret", "name": &**secret }]),
            None => validation["wellKnownCACertificates"] = json!("System"),
        }
        let paths = self.ingress.rules.iter().flat_map(|rule| &rule.paths).map(|path| &path.backend);
        let services = paths.chain(&self.ingress.default_backend).filter_map(|backend| Some(backend.service.as_ref()?.0.to_string()));
        let services: BTreeSet<String> = services.collect();
        let policy = |service: String| {
            let spec = json!({ "targetRefs": [{ "group": "", "kind": "Service", "name": service }], "validation": validation });
            (service.as_str().into(), document("BackendTLSPolicy", &self.object.key.namespace, &service, spec))
        };
        services.into_iter().map(policy).collect()
    }

    fn loses_guard(&self) -> bool {
        self.object.meta.annotations.iter().any(|(key, value)| {
            verdict(key, value).and_then(|(name, _)| keys::find(name)).is_some_and(|entry| entry.guards && !entry.portable)
        })
    }

    /// One annotation has no equivalent as it is used here.
    fn lose(&mut self, name: &str) {
        for (key, value) in self.object.meta.annotations.iter() {
            if verdict(key, value).is_some_and(|(found, _)| found == name) {
                self.lost.insert((self.title.clone(), key.to_string()));
            }
        }
    }

    fn routes(&mut self) -> Vec<Value> {
        let mut routes = Vec::new();
        let ingress = self.ingress;
        for (index, rule) in ingress.rules.iter().enumerate() {
            self.host(index, rule, &mut routes);
        }
        if let Some(backend) = &ingress.default_backend {
            let path = Path { matches: PathMatch::Prefix("/".into()), length: 1, backend: backend.clone(), line: 0 };
            let rules = self.rules(None, &path);
            routes.push(self.route("default", None, None, rules));
        }
        routes
    }

    fn host(&mut self, index: usize, rule: &Rule, routes: &mut Vec<Value>) {
        let host = rule.host.as_ref();
        let mut rules = Vec::new();
        if let Some(root) = &self.notes.redirects.app_root {
            let redirect = json!({ "statusCode": 302, "path": { "type": "ReplaceFullPath", "replaceFullPath": &**root } });
            rules.push(json!({
                "matches": [{ "path": { "type": "Exact", "value": "/" } }],
                "filters": [{ "type": "RequestRedirect", "requestRedirect": redirect }],
            }));
        }
        for path in &rule.paths {
            rules.extend(self.rules(host, path));
        }
        let secured = self.secured(host);
        if !self.notes.redirects.https {
            return routes.push(self.route(&index.to_string(), host, None, rules));
        }
        let port = if secured.is_some() { self.options.https_port } else { 443 };
        let redirect = json!({ "scheme": "https", "statusCode": 308, "port": port });
        let paths: Vec<Value> = rule.paths.iter().map(|path| json!({ "path": path_match(&path.matches) })).collect();
        let to_https = json!({ "matches": paths, "filters": [{ "type": "RequestRedirect", "requestRedirect": redirect }] });
        routes.push(self.route(&format!("{index}-redirect"), host, Some("http".into()), vec![to_https]));
        if let Some(secured) = secured {
            routes.push(self.route(&index.to_string(), host, Some(section(&secured)), rules));
        }
    }

    /// The host of the listener with a certificate for a host.
    fn secured(&self, host: Option<&Name>) -> Option<String> {
        let host = host.map_or("*", |host| &**host);
        let wild = host.split_once('.').map(|(_, parent)| format!("*.{parent}"));
        let here = self.ingresses.iter().filter(|(object, _)| object.key.namespace == self.object.key.namespace);
        let hosts: BTreeSet<String> = here
            .flat_map(|(_, i)| i.tls.iter().filter(|tls| tls.secret.is_some()).flat_map(|tls| tls.all_hosts()))
            .map(|h| h.to_string())
            .collect();
        [Some(host.to_string()), wild, Some("*".to_string())].into_iter().flatten().find(|name| hosts.contains(name))
    }

    fn route(&self, suffix: &str, host: Option<&Name>, section: Option<String>, rules: Vec<Value>) -> Value {
        let mut parent = json!({ "name": GATEWAY });
        if let Some(section) = section {
            parent["sectionName"] = json!(section);
        }
        let mut spec = json!({ "parentRefs": [parent] });
        if let Some(host) = host {
            spec["hostnames"] = json!([&**host]);
        }
        spec["rules"] = json!(rules);
        document("HTTPRoute", &self.object.key.namespace, &format!("{}-{suffix}", self.object.key.name), spec)
    }

    /// The rules of a path: one for each canary by header or cookie, then its own.
    fn rules(&mut self, host: Option<&Name>, path: &Path) -> Vec<Value> {
        let matches = self.matches(&path.matches);
        let notes = self.notes;
        if let Some(redirect) = &notes.redirects.to {
            let filter = json!({ "type": "RequestRedirect", "requestRedirect": redirect_filter(redirect) });
            return vec![json!({ "matches": matches, "filters": [filter] })];
        }
        let mut rules = Vec::new();
        let mut backends = vec![self.backend(&path.backend, None)];
        let mut taken = 0;
        for (canary, backend) in canaries(self.ingresses, self.object, self.notes, host, path) {
            let Some(of) = &canary.canary else { continue };
            match &of.header {
                Some(header) => {
                    let mut narrower = matches.clone();
                    for one in &mut narrower {
                        let mut headers = one["headers"].as_array().cloned().unwrap_or_default();
                        headers.extend(header_match(header));
                        one["headers"] = json!(headers);
                    }
                    let target = self.backend(backend, None);
                    rules.push(self.rule(narrower, path, vec![target], &canary.request_headers));
                }
                None if of.weight > 0 => {
                    taken += of.weight;
                    backends[0]["weight"] = json!(of.weight_total.saturating_sub(taken));
                    let target = self.backend(backend, Some(of.weight));
                    backends.push(target);
                }
                None => {}
            }
        }
        rules.push(self.rule(matches, path, backends, &notes.request_headers));
        rules
    }

    fn rule(&mut self, matches: Vec<Value>, path: &Path, backends: Vec<Value>, headers: &HeaderEdits) -> Value {
        let mut rule = json!({ "matches": matches });
        let filters = self.filters(path, headers);
        if !filters.is_empty() {
            rule["filters"] = json!(filters);
        }
        rule["backendRefs"] = json!(backends);
        let mut timeouts = Map::new();
        if let Some(timeout) = self.notes.traffic.timeout {
            timeouts.insert("request".into(), json!(format!("{}s", timeout.as_secs())));
        }
        if let Some(retry) = &self.notes.traffic.retry {
            let mut codes = retry.status_codes.clone();
            if retry.conditions.contains(&RetryOn::ServerError) {
                codes.extend(500..=504);
            }
            codes.sort_unstable();
            codes.dedup();
            rule["retry"] = json!({ "attempts": retry.num_retries, "codes": codes });
            if let Some(timeout) = retry.per_try_timeout {
                timeouts.insert("backendRequest".into(), json!(format!("{}s", timeout.as_secs())));
            }
        }
        if !timeouts.is_empty() {
            rule["timeouts"] = timeouts.into();
        }
        rule
    }

    fn matches(&mut self, path: &PathMatch) -> Vec<Value> {
        let notes = &self.notes.matching;
        let mut one = json!({ "path": path_match(path) });
        let (mut headers, mut methods) = (Vec::new(), Vec::new());
        for header in &notes.headers {
            match (&*header.name, &header.value) {
                (":method", ValueMatch::Text(StringMatch::Exact(method))) => methods.push(method.clone()),
                (":method", ValueMatch::Text(StringMatch::Regex(all))) if all.bytes().all(|b| b.is_ascii_uppercase() || b == b'|') => {
                    methods.extend(all.split('|').map(str::to_string));
                }
                _ => headers.extend(header_match(header)),
            }
        }
        if !headers.is_empty() {
            one["headers"] = json!(headers);
        }
        let query = notes.query_parameters.iter().filter_map(|q| typed(&q.name, &q.value));
        let query: Vec<Value> = query.collect();
        if !query.is_empty() {
            one["queryParams"] = json!(query);
        }
        if methods.is_empty() {
            return vec![one];
        }
        let with = |method| {
            let mut one = one.clone();
            one["method"] = json!(method);
            one
        };
        methods.into_iter().map(with).collect()
    }

    fn filters(&mut self, path: &Path, request: &HeaderEdits) -> Vec<Value> {
        let mut filters = Vec::new();
        let notes = self.notes;
        if !request.is_empty() {
            filters.push(json!({ "type": "RequestHeaderModifier", "requestHeaderModifier": edits(request) }));
        }
        if !notes.response_headers.is_empty() {
            filters.push(json!({ "type": "ResponseHeaderModifier", "responseHeaderModifier": edits(&notes.response_headers) }));
        }
        let mut rewrite = Map::new();
        if let Some(host) = &notes.rewrite.host {
            rewrite.insert("hostname".into(), json!(&**host));
        }
        match (&notes.rewrite.path, &notes.rewrite.target, &path.matches) {
            (None, Some(target), PathMatch::Regex(_)) if target.contains('\\') => self.lose("rewrite-target"),
            (Some(new), ..) | (None, Some(new), _) => _ = rewrite.insert("path".into(), rewritten(&path.matches, new)),
            (None, None, _) => {}
        }
        if !rewrite.is_empty() {
            filters.push(json!({ "type": "URLRewrite", "urlRewrite": rewrite }));
        }
        if let Some(mirror) = notes.traffic.mirror.as_deref() {
            match self.service(&mirror.service) {
                Some(backend) => {
                    let mut of = json!({ "backendRef": backend });
                    if mirror.fraction.0 < 1_000_000 {
                        of["fraction"] = json!({ "numerator": mirror.fraction.0, "denominator": 1_000_000 });
                    }
                    filters.push(json!({ "type": "RequestMirror", "requestMirror": of }));
                }
                None => self.lose("mirror-target-service"),
            }
        }
        if let Some(cors) = &notes.cors {
            let given = self.object.meta.annotations.iter().find(|(key, _)| key.ends_with("/cors-allow-origin"));
            let origins: Vec<&str> =
                given.map_or("*", |(_, text)| text).split(',').map(str::trim).filter(|origin| !origin.is_empty()).collect();
            let mut of = json!({
                "allowOrigins": origins, "allowMethods": cors.allow_methods, "allowHeaders": cors.allow_headers,
                "allowCredentials": cors.allow_credentials,
            });
            if !cors.expose_headers.is_empty() {
                of["exposeHeaders"] = json!(cors.expose_headers);
            }
            if let Some(age) = cors.max_age.filter(|age| age.as_secs() > 0) {
                of["maxAge"] = json!(age.as_secs());
            }
            filters.push(json!({ "type": "CORS", "cors": of }));
        }
        filters
    }

    fn backend(&mut self, backend: &Backend, weight: Option<u32>) -> Value {
        let Some((name, port)) = &backend.service else {
            self.lost.insert((self.title.clone(), "a backend that is no Service".into()));
            return json!({ "name": "none", "port": 80, "weight": 0 });
        };
        let number = match port {
            PortRef::Number(number) => Some(*number),
            PortRef::Name(port) => {
                self.ports(&self.object.key.namespace, name).into_iter().find(|(n, _)| n == port).map(|(_, number)| number)
            }
        };
        let Some(number) = number else {
            self.lost.insert((self.title.clone(), format!("the port {port} of the Service {name}, whose number is not known")));
            return json!({ "name": &**name, "port": 80, "weight": weight.unwrap_or(1) });
        };
        let mut made = json!({ "name": &**name, "port": number });
        if let Some(weight) = weight {
            made["weight"] = json!(weight);
        }
        made
    }

    fn ports(&self, namespace: &str, name: &str) -> Vec<(Box<str>, u16)> {
        let found = self.objects.iter().find(|o| o.key.kind == Kind::Service && *o.key.namespace == *namespace && *o.key.name == *name);
        match found.map(|object| &object.spec) {
            Some(Spec::Service(service)) => service.ports.iter().map(|port| (port.name.as_ref().into(), port.port)).collect(),
            _ => Vec::new(),
        }
    }

    /// A Service that an annotation names; in another namespace it needs a ReferenceGrant, which is not ours to give.
    fn service(&self, of: &ServiceRef) -> Option<Value> {
        let namespace = of.namespace.as_ref().unwrap_or(&self.object.key.namespace);
        let port = of.port.or_else(|| self.ports(namespace, &of.name).first().map(|(_, port)| *port))?;
        (*namespace == self.object.key.namespace).then(|| json!({ "name": &*of.name, "port": port }))
    }
}

/// The canaries of a path, and where each sends its requests.
fn canaries<'a>(
    ingresses: &[(&'a Arc<Object>, &'a Ingress)],
    object: &Object,
    notes: &Annotations,
    host: Option<&Name>,
    path: &Path,
) -> Vec<(&'a Annotations, &'a Backend)> {
    let mut found = Vec::new();
    for (other, ingress) in ingresses.iter().filter(|(other, _)| other.key.namespace == object.key.namespace) {
        let Some(canary) = ingress.annotations.as_deref().filter(|n| n.canary.is_some() && n.refused.is_none()) else { continue };
        if canary.matching != notes.matching || ingress.closed {
            continue;
        }
        let rules = ingress.rules.iter().filter(|rule| rule.host.as_ref() == host);
        let paths = rules.flat_map(|rule| &rule.paths).filter(|p| p.matches == path.matches);
        found.extend(paths.map(|p| (other.age(), canary, &p.backend)));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found.into_iter().map(|(_, canary, backend)| (canary, backend)).collect()
}

fn path_match(path: &PathMatch) -> Value {
    match path {
        PathMatch::Exact(path) => json!({ "type": "Exact", "value": path }),
        PathMatch::Prefix(path) | PathMatch::PathSeparatedPrefix(path) => json!({ "type": "PathPrefix", "value": path }),
        PathMatch::Regex(pattern) => json!({ "type": "RegularExpression", "value": pattern }),
    }
}

fn rewritten(path: &PathMatch, new: &str) -> Value {
    match path {
        PathMatch::Exact(_) | PathMatch::Regex(_) => json!({ "type": "ReplaceFullPath", "replaceFullPath": new }),
        PathMatch::Prefix(_) | PathMatch::PathSeparatedPrefix(_) => json!({ "type": "ReplacePrefixMatch", "replacePrefixMatch": new }),
    }
}

fn redirect_filter(of: &Redirect) -> Value {
    let mut made = Map::new();
    if let Some(scheme) = &of.scheme {
        made.insert("scheme".into(), json!(scheme));
    }
    if let Some(host) = &of.host {
        made.insert("hostname".into(), json!(host));
    }
    if let Some(RedirectPort::Literal(port)) = of.port {
        made.insert("port".into(), json!(port));
    }
    if let Some(PathRewrite::Full(path)) = &of.path {
        made.insert("path".into(), json!({ "type": "ReplaceFullPath", "replaceFullPath": path }));
    }
    made.insert("statusCode".into(), json!(of.status));
    made.into()
}

fn edits(of: &HeaderEdits) -> Value {
    let list = |pairs: &[(String, String)]| pairs.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect::<Vec<_>>();
    let mut made = Map::new();
    for (key, pairs) in [("set", &of.set), ("add", &of.add)] {
        if !pairs.is_empty() {
            made.insert(key.into(), json!(list(pairs)));
        }
    }
    if !of.remove.is_empty() {
        made.insert("remove".into(), json!(of.remove));
    }
    made.into()
}

fn header_match(of: &HeaderMatch) -> Option<Value> {
    (!of.name.starts_with(':')).then(|| typed(&of.name, &of.value)).flatten()
}

fn typed(name: &str, value: &ValueMatch) -> Option<Value> {
    let (kind, value) = match value {
        ValueMatch::Text(StringMatch::Exact(text)) => ("Exact", text.clone()),
        ValueMatch::Text(StringMatch::Regex(pattern)) => ("RegularExpression", pattern.clone()),
        ValueMatch::Text(StringMatch::Prefix(text)) => ("RegularExpression", format!("{}.*", regex::escape(text))),
        _ => return None,
    };
    Some(json!({ "type": kind, "name": name, "value": value }))
}
