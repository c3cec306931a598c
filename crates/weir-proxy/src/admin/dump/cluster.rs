//! Clusters and endpoints in the shapes of `config.cluster.v3` and `config.endpoint.v3`.
use super::shape::{Message, address, upstream_tls, variant};
use serde_json::{Value, json};

/// `Cluster`.
pub fn cluster(value: Value) -> Value {
    let mut cluster = Message::of(value, "config.cluster.v3.Cluster");
    cluster.sources();
    let (kind, found) = variant(cluster.take("discovery").unwrap_or_default());
    match kind.as_str() {
        "EDS" => cluster.put("eds_cluster_config", json!({ "eds_config": { "ads": {} } })),
        "DYNAMIC_FORWARD_PROXY" => {
            cluster.put("cluster_type", json!({ "name": "envoy.clusters.dynamic_forward_proxy", "typed_config": found }));
        }
        _ => cluster.put("load_assignment", assignment(found)),
    }
    if kind != "DYNAMIC_FORWARD_PROXY" {
        cluster.put("type", kind);
    }
    if let Some((policy, settings)) = cluster.take("lb_policy").map(variant) {
        cluster.put(&format!("{}_lb_config", policy.to_ascii_lowercase()), settings);
        cluster.put("lb_policy", policy);
    }
    let socket = cluster.take("tls").map(upstream_tls);
    let socket = match cluster.take("proxy_protocol") {
        None => socket,
        Some(version) => {
            let mut outer = Message::of(json!({}), "extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport");
            outer.put("config", json!({ "version": version }));
            outer.put("transport_socket", socket.unwrap_or_else(|| json!({ "name": "envoy.transport_sockets.raw_buffer" })));
            Some(json!({ "name": "envoy.transport_sockets.upstream_proxy_protocol", "typed_config": outer.done() }))
        }
    };
    cluster.put("transport_socket", socket.unwrap_or_default());
    protocol(&mut cluster);
    cluster.map("circuit_breakers", |limits| {
        let mut limits = Message::of(limits, "");
        limits.map("retry_budget", |mut budget| {
            budget["budget_percent"] = json!({ "value": budget["budget_percent"] });
            budget
        });
        json!({ "thresholds": [limits.done()] })
    });
    cluster.rename("tcp_keepalive", "upstream_connection_options", |keepalive| {
        let mut settings = Message::of(keepalive, "");
        for (from, to) in [("probes", "keepalive_probes"), ("time", "keepalive_time"), ("interval", "keepalive_interval")] {
            settings.rename(from, to, |v| v);
        }
        json!({ "tcp_keepalive": settings.done() })
    });
    cluster.done()
}

fn protocol(cluster: &mut Message) {
    const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let mut options = Message::of(json!({}), "extensions.upstreams.http.v3.HttpProtocolOptions");
    let protocols = json!({ "http_protocol_options": {}, "http2_protocol_options": {} });
    match cluster.text("protocol").as_deref() {
        Some("http2") => options.put("explicit_http_config", json!({ "http2_protocol_options": {} })),
        Some("auto") => options.put("auto_config", protocols),
        Some("use_downstream") => options.put("use_downstream_protocol_config", protocols),
        _ => options.put("explicit_http_config", json!({ "http_protocol_options": {} })),
    }
    let mut common = Message::of(json!({}), "");
    for name in ["idle_timeout", "max_requests_per_connection"] {
        common.put(name, cluster.take(name).filter(|v| v != 0).unwrap_or_default());
    }
    if let Some(limits) = cluster.take("response_limits") {
        common.put("max_response_headers_kb", json!(limits["max_response_headers_bytes"].as_u64().map(|n| n / 1024)));
        common.put("max_headers_count", limits["max_headers_count"].clone());
    }
    options.put("common_http_protocol_options", common.done());
    cluster.put("typed_extension_protocol_options", json!({ OPTIONS: options.done() }));
}

/// `ClusterLoadAssignment`, without its type: it stands in clusters too.
pub fn assignment(value: Value) -> Value {
    let mut assignment = Message::of(value, "");
    assignment.rename("cluster", "cluster_name", |v| v);
    // Localities in the order in which they come.
    let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
    for value in assignment.list("endpoints") {
        let mut endpoint = Message::of(value, "");
        let (locality, priority) = (endpoint.take("locality").unwrap_or_default(), endpoint.take("priority").unwrap_or_default());
        let mut made = Message::of(json!({}), "");
        made.put("endpoint", json!({ "address": endpoint.take("address").map(address) }));
        made.put("load_balancing_weight", endpoint.take("weight").unwrap_or_default());
        made.put("health_status", endpoint.take("health").unwrap_or_default());
        if let Some(labels) = endpoint.take("labels") {
            made.put("metadata", json!({ "filter_metadata": { "envoy.lb": labels } }));
        }
        let rest = endpoint.done();
        let mut made = made.done();
        if let (Value::Object(made), Value::Object(rest)) = (&mut made, rest) {
            made.extend(rest);
        }
        match groups.iter_mut().find(|(l, p, _)| *l == locality && *p == priority) {
            Some((_, _, list)) => list.push(made),
            None => groups.push((locality, priority, vec![made])),
        }
    }
    let locality = |(locality, priority, list): (Value, Value, Vec<Value>)| {
        let mut group = Message::of(json!({}), "");
        let mut parts = locality.as_str().unwrap_or_default().splitn(3, '/');
        let mut place = Message::of(json!({}), "");
        for name in ["region", "zone", "sub_zone"] {
            place.put(name, parts.next().unwrap_or_default());
        }
        group.put("locality", place.done());
        group.put("priority", if priority == 0 { Value::Null } else { priority });
        group.put("lb_endpoints", list);
        group.done()
    };
    let groups: Vec<Value> = groups.into_iter().map(locality).collect();
    assignment.put("endpoints", groups);
    assignment.done()
}

/// `ClusterLoadAssignment` as a resource.
pub fn endpoints(value: Value) -> Value {
    let mut typed = Message::of(assignment(value), "config.endpoint.v3.ClusterLoadAssignment");
    typed.rename("cluster_name", "cluster_name", |v| v);
    typed.done()
}
