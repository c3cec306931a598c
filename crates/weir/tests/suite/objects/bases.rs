//! One document of each kind with all of the fields that it can have at once.
use serde_json::{Value, json};

pub struct Base {
    /// How its objects' titles begin.
    pub kind: &'static str,
    pub document: Value,
    /// Ways to fields that must be there, with `/` between.
    pub required: &'static [&'static str],
    /// Fields with a list of words that are accepted; without places in lists, with `.` between.
    pub words: &'static [&'static str],
    /// Maps with free keys.
    pub free: &'static [&'static str],
    /// Fields that are known and have no effect, with all below them: nobody looks what they say.
    pub quiet: &'static [&'static str],
}

fn object(version: &str, kind: &str, more: Value) -> Value {
    let mut document = json!({ "apiVersion": version, "kind": kind, "metadata": { "name": "m" } });
    document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    document
}

const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";
const ISTIO: &str = "networking.istio.io/v1";

pub fn all() -> Vec<Base> {
    vec![
        gateway_class(),
        gateway(),
        http_route(),
        grpc_route(),
        tls_route(),
        tcp_route(),
        backend_tls_policy(),
        reference_grant(),
        istio_gateway(),
        virtual_service(),
        destination_rule(),
        service_entry(),
        workload_entry(),
        ingress(),
        ingress_class(),
        service(),
        endpoint_slice(),
        endpoints(),
    ]
}

fn gateway_class() -> Base {
    Base {
        kind: "GatewayClass",
        document: object(
            GATEWAY_API,
            "GatewayClass",
            json!({ "spec": { "controllerName": "weir.dev/gateway-controller", "description": "d" } }),
        ),
        required: &["spec", "spec/controllerName"],
        words: &[],
        free: &[],
        quiet: &["spec.description"],
    }
}

fn gateway() -> Base {
    Base {
        kind: "Gateway",
        document: object(
            GATEWAY_API,
            "Gateway",
            json!({ "spec": {
                "gatewayClassName": "weir",
                "addresses": [{ "type": "IPAddress", "value": "127.0.0.1" }],
                "infrastructure": { "labels": { "a": "b" }, "annotations": { "a": "b" } },
                "tls": { "backend": { "clientCertificateRef": { "group": "", "kind": "Secret", "name": "c", "namespace": "n" } } },
                "listeners": [
                    { "name": "http", "port": 80, "protocol": "HTTP", "hostname": "*.a.test", "allowedRoutes": {
                        "kinds": [{ "group": GATEWAY_API.split('/').next(), "kind": "HTTPRoute" }],
                        "namespaces": { "from": "Selector", "selector": { "matchLabels": { "a": "b" }, "matchExpressions": [{ "key": "k", "operator": "In", "values": ["v"] }] } },
                    } },
                    { "name": "https", "port": 443, "protocol": "HTTPS", "tls": { "mode": "Terminate", "certificateRefs": [{ "group": "", "kind": "Secret", "name": "c", "namespace": "n" }] } },
                ],
            } }),
        ),
        required: &[
            "spec",
            "spec/gatewayClassName",
            "spec/listeners",
            "spec/tls/backend/clientCertificateRef/name",
            "spec/listeners/0/name",
            "spec/listeners/0/port",
            "spec/listeners/0/protocol",
            "spec/listeners/0/allowedRoutes/kinds/0/kind",
            "spec/listeners/0/allowedRoutes/namespaces/selector",
            "spec/listeners/0/allowedRoutes/namespaces/selector/matchExpressions/0/key",
            "spec/listeners/0/allowedRoutes/namespaces/selector/matchExpressions/0/operator",
            "spec/listeners/1/tls",
            "spec/listeners/1/tls/certificateRefs/0/name",
        ],
        words: &[
            "spec.listeners.protocol",
            "spec.listeners.tls.mode",
            "spec.listeners.allowedRoutes.namespaces.from",
            "spec.listeners.allowedRoutes.namespaces.selector.matchExpressions.operator",
        ],
        free: &["spec.listeners.allowedRoutes.namespaces.selector.matchLabels"],
        quiet: &["spec.infrastructure.labels", "spec.infrastructure.annotations"],
    }
}

fn edits() -> Value {
    json!({ "set": [{ "name": "x", "value": "v" }], "add": [{ "name": "x", "value": "v" }], "remove": ["y"] })
}

fn http_route() -> Base {
    Base {
        kind: "HTTPRoute",
        document: object(
            GATEWAY_API,
            "HTTPRoute",
            json!({ "spec": {
                "parentRefs": [{ "group": GATEWAY_API.split('/').next(), "kind": "Gateway", "namespace": "default", "name": "m", "sectionName": "http", "port": 80 }],
                "hostnames": ["a.test"],
                "rules": [
                    {
                        "name": "rule",
                        "matches": [{
                            "path": { "type": "PathPrefix", "value": "/a" },
                            "method": "GET",
                            "headers": [{ "type": "Exact", "name": "h", "value": "v" }],
                            "queryParams": [{ "type": "RegularExpression", "name": "q", "value": "v" }],
                        }],
                        "filters": [
                            { "type": "RequestHeaderModifier", "requestHeaderModifier": edits() },
                            { "type": "ResponseHeaderModifier", "responseHeaderModifier": edits() },
                            { "type": "RequestMirror", "requestMirror": { "backendRef": { "name": "a", "port": 80 }, "percent": 5 } },
                            { "type": "RequestMirror", "requestMirror": { "backendRef": { "name": "a", "port": 80 }, "fraction": { "numerator": 1, "denominator": 2 } } },
                            { "type": "URLRewrite", "urlRewrite": { "hostname": "b.test", "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": "/b" } } },
                            { "type": "CORS", "cors": { "allowOrigins": ["*"], "allowMethods": ["GET"], "allowHeaders": ["x"], "exposeHeaders": ["y"], "maxAge": 5, "allowCredentials": true } },
                        ],
                        "backendRefs": [{ "group": "", "kind": "Service", "name": "a", "namespace": "n", "port": 80, "weight": 1, "filters": [{ "type": "RequestHeaderModifier", "requestHeaderModifier": edits() }] }],
                        "timeouts": { "request": "10s", "backendRequest": "2s" },
                        "sessionPersistence": { "type": "Cookie", "absoluteTimeout": "1h", "cookie": { "name": "c", "path": "/", "lifetimeType": "Permanent" } },
                        "retry": { "codes": [503], "attempts": 2, "backoff": "10ms" },
                    },
                    { "filters": [{ "type": "RequestRedirect", "requestRedirect": { "scheme": "https", "hostname": "c.test", "port": 443, "statusCode": 301, "path": { "type": "ReplaceFullPath", "replaceFullPath": "/c" } } }] },
                ],
            } }),
        ),
        required: &[
            "spec",
            "spec/parentRefs/0/name",
            "spec/rules/0/matches/0/headers/0/name",
            "spec/rules/0/matches/0/headers/0/value",
            "spec/rules/0/matches/0/queryParams/0/name",
            "spec/rules/0/matches/0/queryParams/0/value",
            "spec/rules/0/filters/0/type",
            "spec/rules/0/filters/0/requestHeaderModifier",
            "spec/rules/0/filters/0/requestHeaderModifier/set/0/name",
            "spec/rules/0/filters/0/requestHeaderModifier/set/0/value",
            "spec/rules/0/filters/1/responseHeaderModifier",
            "spec/rules/0/filters/2/requestMirror",
            "spec/rules/0/filters/2/requestMirror/backendRef",
            "spec/rules/0/filters/2/requestMirror/backendRef/name",
            "spec/rules/0/filters/3/requestMirror/fraction/numerator",
            "spec/rules/0/filters/4/urlRewrite",
            "spec/rules/0/filters/4/urlRewrite/path/type",
            "spec/rules/0/filters/4/urlRewrite/path/replacePrefixMatch",
            "spec/rules/0/filters/5/cors",
            "spec/rules/0/backendRefs/0/name",
            "spec/rules/1/filters/0/requestRedirect",
        ],
        words: &[
            "spec.rules.matches.path.type",
            "spec.rules.matches.method",
            "spec.rules.matches.headers.type",
            "spec.rules.matches.queryParams.type",
            "spec.rules.filters.type",
            "spec.rules.filters.urlRewrite.path.type",
            "spec.rules.filters.requestRedirect.scheme",
            "spec.rules.sessionPersistence.type",
            "spec.rules.sessionPersistence.cookie.lifetimeType",
            "spec.rules.filters.requestRedirect.path.type",
            "spec.rules.backendRefs.filters.type",
        ],
        free: &[],
        quiet: &[],
    }
}

fn grpc_route() -> Base {
    Base {
        kind: "GRPCRoute",
        document: object(
            GATEWAY_API,
            "GRPCRoute",
            json!({ "spec": {
                "parentRefs": [{ "name": "m" }],
                "hostnames": ["a.test"],
                "rules": [{
                    "name": "rule",
                    "matches": [{ "method": { "type": "Exact", "service": "a.B", "method": "C" }, "headers": [{ "type": "RegularExpression", "name": "h", "value": "v" }] }],
                    "filters": [{ "type": "RequestHeaderModifier", "requestHeaderModifier": edits() }],
                    "backendRefs": [{ "name": "a", "port": 80, "weight": 1, "filters": [{ "type": "ResponseHeaderModifier", "responseHeaderModifier": edits() }] }],
                }],
            } }),
        ),
        required: &[
            "spec",
            "spec/parentRefs/0/name",
            "spec/rules/0/matches/0/headers/0/name",
            "spec/rules/0/filters/0/requestHeaderModifier",
            "spec/rules/0/backendRefs/0/name",
        ],
        words: &["spec.rules.matches.method.type", "spec.rules.matches.headers.type", "spec.rules.filters.type"],
        free: &[],
        quiet: &[],
    }
}

fn tls_route() -> Base {
    Base {
        kind: "TLSRoute",
        document: object(
            GATEWAY_API,
            "TLSRoute",
            json!({ "spec": { "parentRefs": [{ "name": "m" }], "hostnames": ["a.test"], "rules": [{ "backendRefs": [{ "name": "a", "port": 80, "weight": 1 }] }] } }),
        ),
        required: &["spec", "spec/rules", "spec/parentRefs/0/name", "spec/rules/0/backendRefs/0/name"],
        words: &[],
        free: &[],
        quiet: &[],
    }
}

fn tcp_route() -> Base {
    Base {
        kind: "TCPRoute",
        document: object(
            GATEWAY_API,
            "TCPRoute",
            json!({ "spec": { "parentRefs": [{ "name": "m", "sectionName": "tcp" }], "rules": [{ "backendRefs": [{ "name": "a", "port": 80, "weight": 1 }] }] } }),
        ),
        required: &["spec", "spec/rules", "spec/parentRefs/0/name", "spec/rules/0/backendRefs/0/name"],
        words: &[],
        free: &[],
        quiet: &[],
    }
}

fn backend_tls_policy() -> Base {
    Base {
        kind: "BackendTLSPolicy",
        document: object(
            GATEWAY_API,
            "BackendTLSPolicy",
            json!({ "spec": {
                "targetRefs": [{ "group": "", "kind": "Service", "name": "a", "sectionName": "https" }],
                "validation": { "hostname": "a.test", "caCertificateRefs": [{ "group": "", "kind": "ConfigMap", "name": "ca" }], "subjectAltNames": [{ "type": "Hostname", "hostname": "b.test" }] },
            } }),
        ),
        required: &[
            "spec",
            "spec/targetRefs",
            "spec/targetRefs/0/kind",
            "spec/targetRefs/0/name",
            "spec/validation",
            "spec/validation/hostname",
            "spec/validation/caCertificateRefs",
            "spec/validation/subjectAltNames/0/type",
            "spec/validation/subjectAltNames/0/hostname",
        ],
        words: &["spec.validation.subjectAltNames.type"],
        free: &[],
        quiet: &[],
    }
}

fn reference_grant() -> Base {
    Base {
        kind: "ReferenceGrant",
        document: object(
            GATEWAY_API,
            "ReferenceGrant",
            json!({ "spec": { "from": [{ "group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "n" }], "to": [{ "group": "", "kind": "Service", "name": "a" }] } }),
        ),
        required: &["spec", "spec/from", "spec/to", "spec/from/0/group", "spec/from/0/kind", "spec/from/0/namespace", "spec/to/0/kind"],
        words: &[],
        free: &[],
        quiet: &[],
    }
}

fn istio_gateway() -> Base {
    Base {
        kind: "Gateway",
        document: object(
            ISTIO,
            "Gateway",
            json!({ "spec": {
                "selector": { "istio": "ingressgateway" },
                "servers": [
                    { "port": { "number": 80, "name": "http", "protocol": "HTTP" }, "hosts": ["*.a.test"], "bind": "127.0.0.1", "name": "s", "tls": { "httpsRedirect": true } },
                    { "port": { "number": 443, "name": "https", "protocol": "HTTPS" }, "hosts": ["./b.test"], "tls": {
                        "mode": "MUTUAL", "credentialName": "c", "caCertCredentialName": "ca", "caCertificates": "ca.pem", "caCrl": "crl.pem", "subjectAltNames": ["s"], "minProtocolVersion": "TLSV1_2", "maxProtocolVersion": "TLSV1_3",
                    } },
                ],
            } }),
        ),
        required: &[
            "spec",
            "spec/servers",
            "spec/servers/0/port",
            "spec/servers/0/port/number",
            "spec/servers/0/port/protocol",
            "spec/servers/0/hosts",
            "spec/servers/1/tls",
        ],
        words: &[
            "spec.servers.port.protocol",
            "spec.servers.tls.mode",
            "spec.servers.tls.minProtocolVersion",
            "spec.servers.tls.maxProtocolVersion",
            "spec.servers.bind",
        ],
        free: &["spec.selector"],
        quiet: &["spec.servers.name", "spec.servers.port.name"],
    }
}

fn virtual_service() -> Base {
    let to = json!({ "host": "a", "subset": "v1", "port": { "number": 80 } });
    let headers = json!({ "request": { "set": { "a": "b" }, "add": { "a": "b" }, "remove": ["c"] }, "response": { "set": { "a": "b" } } });
    Base {
        kind: "VirtualService",
        document: object(
            ISTIO,
            "VirtualService",
            json!({ "spec": {
                "hosts": ["a.test"],
                "gateways": ["m"],
                "exportTo": ["."],
                "http": [
                    {
                        "name": "r",
                        "match": [{
                            "name": "m", "uri": { "prefix": "/a" }, "scheme": { "exact": "http" }, "method": { "exact": "GET" }, "authority": { "regex": "a.*" },
                            "headers": { "h": { "exact": "v" } }, "withoutHeaders": { "w": { "prefix": "v" } }, "queryParams": { "q": { "exact": "v" } },
                            "ignoreUriCase": true, "port": 80, "sourceLabels": { "a": "b" }, "sourceNamespace": "n", "gateways": ["m"],
                        }],
                        "route": [{ "destination": to, "weight": 10, "headers": headers }, { "destination": { "host": "b" }, "weight": 90 }],
                        "rewrite": { "uri": "/b", "authority": "b.test" },
                        "timeout": "5s",
                        "retries": { "attempts": 2, "perTryTimeout": "1s", "retryOn": "5xx,connect-failure", "backoff": "10ms", "retryIgnorePreviousHosts": true },
                        "fault": { "delay": { "fixedDelay": "1s", "percentage": { "value": 1 } }, "abort": { "httpStatus": 503, "percentage": { "value": 1 } } },
                        "mirrors": [{ "destination": to, "percentage": { "value": 1 } }],
                        "corsPolicy": { "allowOrigins": [{ "exact": "https://a.test" }], "allowMethods": ["GET"], "allowHeaders": ["x"], "exposeHeaders": ["y"], "maxAge": "1h", "allowCredentials": true, "unmatchedPreflights": "IGNORE" },
                        "headers": headers,
                    },
                    { "redirect": { "uri": "/b", "authority": "b.test", "scheme": "https", "derivePort": "FROM_PROTOCOL_DEFAULT", "redirectCode": 302 } },
                    { "directResponse": { "status": 404, "body": { "string": "no" } } },
                    { "delegate": { "name": "d", "namespace": "n" } },
                    { "route": [{ "destination": to }], "rewrite": { "uriRegexRewrite": { "match": "^/a", "rewrite": "/b" } }, "mirror": to, "mirrorPercentage": { "value": 3 } },
                ],
                "tls": [{ "match": [{ "sniHosts": ["a.test"], "port": 443, "gateways": ["m"] }], "route": [{ "destination": to, "weight": 1 }] }],
                "tcp": [{ "match": [{ "port": 9000 }], "route": [{ "destination": to }] }],
            } }),
        ),
        required: &[
            "spec",
            "spec/http/0/route/0/destination",
            "spec/http/0/route/0/destination/host",
            "spec/http/0/mirrors/0/destination",
            "spec/http/2/directResponse/status",
            "spec/http/3/delegate/name",
            "spec/http/4/rewrite/uriRegexRewrite/match",
            "spec/tls/0/match",
            "spec/tls/0/match/0/sniHosts",
            "spec/tls/0/route",
            "spec/tcp/0/route",
        ],
        words: &[
            "spec.http.redirect.scheme",
            "spec.http.redirect.derivePort",
            "spec.http.corsPolicy.unmatchedPreflights",
            "spec.http.retries.retryOn",
        ],
        free: &[
            "spec.http.match.headers",
            "spec.http.match.withoutHeaders",
            "spec.http.match.queryParams",
            "spec.http.match.sourceLabels",
            "spec.http.headers.request.set",
            "spec.http.headers.request.add",
            "spec.http.headers.response.set",
            "spec.http.route.headers.request.set",
            "spec.http.route.headers.request.add",
            "spec.http.route.headers.response.set",
        ],
        quiet: &[],
    }
}

fn destination_rule() -> Base {
    let pool = json!({
        "tcp": { "maxConnections": 1, "connectTimeout": "1s", "idleTimeout": "1h", "tcpKeepalive": { "probes": 3, "time": "1h", "interval": "1m" } },
        "http": { "http1MaxPendingRequests": 1, "http2MaxRequests": 1, "maxRetries": 1, "maxRequestsPerConnection": 1, "idleTimeout": "1h", "h2UpgradePolicy": "UPGRADE", "useClientProtocol": false },
    });
    Base {
        kind: "DestinationRule",
        document: object(
            ISTIO,
            "DestinationRule",
            json!({ "spec": {
                "host": "a",
                "exportTo": ["*"],
                "workloadSelector": { "matchLabels": { "a": "b" } },
                "trafficPolicy": {
                    "loadBalancer": { "simple": "ROUND_ROBIN" },
                    "connectionPool": pool,
                    "outlierDetection": {
                        "consecutive5xxErrors": 1, "consecutiveGatewayErrors": 1, "consecutiveLocalOriginFailures": 1, "splitExternalLocalOriginErrors": true,
                        "interval": "1s", "baseEjectionTime": "1s", "maxEjectionPercent": 50, "minHealthPercent": 10,
                    },
                    "tls": { "mode": "SIMPLE", "caCertificates": "system", "caCrl": "crl.pem", "sni": "a.test", "subjectAltNames": ["a"], "insecureSkipVerify": true },
                    "retryBudget": { "percent": 20, "minRetryConcurrency": 3 },
                    "tunnel": { "protocol": "CONNECT", "targetHost": "a.test", "targetPort": 443 },
                    "portLevelSettings": [{ "port": { "number": 80 }, "loadBalancer": { "consistentHash": { "httpCookie": { "name": "c", "path": "/", "ttl": "1h" } } } }],
                },
                "subsets": [{ "name": "v1", "labels": { "version": "v1" }, "trafficPolicy": { "loadBalancer": { "simple": "RANDOM" } } }],
            } }),
        ),
        required: &[
            "spec",
            "spec/host",
            "spec/subsets/0/name",
            "spec/trafficPolicy/portLevelSettings/0/port",
            "spec/trafficPolicy/tunnel/targetHost",
            "spec/trafficPolicy/tunnel/targetPort",
            "spec/trafficPolicy/portLevelSettings/0/port/number",
        ],
        words: &[
            "spec.trafficPolicy.loadBalancer.simple",
            "spec.trafficPolicy.tls.mode",
            "spec.trafficPolicy.tunnel.protocol",
            "spec.trafficPolicy.connectionPool.http.h2UpgradePolicy",
            "spec.subsets.trafficPolicy.loadBalancer.simple",
        ],
        free: &["spec.workloadSelector.matchLabels", "spec.subsets.labels"],
        quiet: &[],
    }
}

fn service_entry() -> Base {
    Base {
        kind: "ServiceEntry",
        document: object(
            ISTIO,
            "ServiceEntry",
            json!({ "spec": {
                "hosts": ["a.ext"], "addresses": ["240.0.0.1"], "location": "MESH_EXTERNAL", "resolution": "STATIC", "exportTo": ["*"], "subjectAltNames": ["s"],
                "ports": [{ "number": 80, "name": "http", "protocol": "HTTP", "targetPort": 8080 }],
                "endpoints": [{ "address": "127.0.0.1", "ports": { "http": 80 }, "labels": { "a": "b" }, "weight": 1, "locality": "a/b", "network": "n", "serviceAccount": "s" }],
            } }),
        ),
        required: &["spec", "spec/hosts", "spec/ports", "spec/ports/0/number", "spec/ports/0/name", "spec/endpoints/0/address"],
        words: &["spec.resolution", "spec.ports.protocol", "spec.endpoints.address"],
        free: &["spec.endpoints.ports", "spec.endpoints.labels"],
        quiet: &["spec.addresses", "spec.location", "spec.endpoints.network", "spec.endpoints.serviceAccount"],
    }
}

fn workload_entry() -> Base {
    Base {
        kind: "WorkloadEntry",
        document: object(
            ISTIO,
            "WorkloadEntry",
            json!({ "spec": { "address": "127.0.0.1", "ports": { "http": 80 }, "labels": { "a": "b" }, "weight": 1, "locality": "a/b" } }),
        ),
        required: &["spec", "spec/address"],
        words: &[],
        free: &["spec.ports", "spec.labels"],
        quiet: &[],
    }
}

fn ingress() -> Base {
    let backend = json!({ "service": { "name": "a", "port": { "number": 80 } } });
    Base {
        kind: "Ingress",
        document: object(
            "networking.k8s.io/v1",
            "Ingress",
            json!({ "spec": {
                "ingressClassName": "weir",
                "defaultBackend": { "service": { "name": "a", "port": { "name": "web" } } },
                "tls": [{ "hosts": ["a.test"], "secretName": "s" }],
                "rules": [{ "host": "a.test", "http": { "paths": [{ "path": "/a", "pathType": "Prefix", "backend": backend }] } }],
            } }),
        ),
        required: &[
            "spec",
            "spec/rules/0/http/paths",
            "spec/rules/0/http/paths/0/pathType",
            "spec/rules/0/http/paths/0/backend",
            "spec/rules/0/http/paths/0/backend/service",
            "spec/rules/0/http/paths/0/backend/service/name",
            "spec/rules/0/http/paths/0/backend/service/port",
        ],
        words: &["spec.rules.http.paths.pathType"],
        free: &[],
        quiet: &[],
    }
}

fn ingress_class() -> Base {
    Base {
        kind: "IngressClass",
        document: object("networking.k8s.io/v1", "IngressClass", json!({ "spec": { "controller": "weir.dev/ingress-controller" } })),
        required: &["spec", "spec/controller"],
        words: &[],
        free: &[],
        quiet: &[],
    }
}

fn service() -> Base {
    Base {
        kind: "Service",
        document: object(
            "v1",
            "Service",
            json!({ "spec": { "type": "ExternalName", "externalName": "a.test", "selector": { "a": "b" }, "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "appProtocol": "http", "targetPort": 80 }] } }),
        ),
        required: &["spec", "spec/externalName", "spec/ports/0/port"],
        words: &["spec.type", "spec.ports.protocol"],
        free: &["spec.selector"],
        quiet: &[],
    }
}

fn endpoint_slice() -> Base {
    let mut document = object(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        json!({
            "addressType": "IPv4",
            "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "appProtocol": "http" }],
            "endpoints": [{ "addresses": ["127.0.0.1"], "conditions": { "ready": true, "serving": true, "terminating": false }, "zone": "z", "nodeName": "n", "hostname": "h" }],
        }),
    );
    document["metadata"]["labels"] = json!({ "kubernetes.io/service-name": "a" });
    Base {
        kind: "EndpointSlice",
        document,
        required: &["addressType"],
        words: &["addressType", "ports.protocol", "endpoints.addresses"],
        free: &[],
        quiet: &["ports.appProtocol", "endpoints.nodeName", "endpoints.hostname"],
    }
}

fn endpoints() -> Base {
    let pod = json!({ "kind": "Pod", "name": "p", "namespace": "n" });
    Base {
        kind: "Endpoints",
        document: object(
            "v1",
            "Endpoints",
            json!({ "subsets": [{
                "addresses": [{ "ip": "127.0.0.1", "hostname": "h", "nodeName": "n", "targetRef": pod }],
                "notReadyAddresses": [{ "ip": "127.0.0.2" }],
                "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "appProtocol": "http" }],
            }] }),
        ),
        required: &["subsets/0/addresses/0/ip", "subsets/0/ports/0/port"],
        words: &["subsets.addresses.ip", "subsets.ports.protocol"],
        free: &[],
        quiet: &["subsets.notReadyAddresses", "subsets.ports.appProtocol", "subsets.addresses.hostname", "subsets.addresses.nodeName"],
    }
}
