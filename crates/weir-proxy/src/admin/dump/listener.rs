//! Listeners and network filters in the shapes of Envoy's messages.
use super::{
    filter,
    shape::{Message, address, downstream_tls, variant},
};
use serde_json::{Value, json};

/// `config.listener.v3.Listener`.
pub fn listener(value: Value) -> Value {
    let mut listener = Message::of(value, "config.listener.v3.Listener");
    listener.sources();
    let protocol = listener.take("protocol");
    listener.map("address", |value| {
        let mut address = address(value);
        if let Some(protocol) = &protocol {
            address["socket_address"]["protocol"] = protocol.clone();
        }
        address
    });
    if listener.take("proxy_protocol").is_some() {
        listener.put("listener_filters", json!([{ "name": "envoy.filters.listener.proxy_protocol" }]));
    }
    listener.each("filter_chains", "filter_chains", filter_chain);
    listener.done()
}

fn filter_chain(value: Value) -> Value {
    let mut chain = Message::of(value, "");
    chain.rename("server_names", "filter_chain_match", |names| json!({ "server_names": names }));
    chain.rename("tls", "transport_socket", downstream_tls);
    chain.each("filters", "filters", |filter| match variant(filter) {
        (kind, inner) if kind == "http_connection_manager" => connection_manager(inner),
        (kind, inner) if kind == "tcp_proxy" => tcp_proxy(inner),
        (kind, inner) if kind == "udp_proxy" => udp_proxy(inner),
        (_, inner) => rbac(inner),
    });
    chain.done()
}

fn rbac(value: Value) -> Value {
    let rbac = Message::of(value, "extensions.filters.network.rbac.v3.RBAC");
    json!({ "name": "envoy.filters.network.rbac", "typed_config": rbac.done() })
}

fn tcp_proxy(value: Value) -> Value {
    let mut proxy = Message::of(value, "extensions.filters.network.tcp_proxy.v3.TcpProxy");
    put_clusters(&mut proxy);
    json!({ "name": "envoy.filters.network.tcp_proxy", "typed_config": proxy.done() })
}

fn udp_proxy(value: Value) -> Value {
    let mut proxy = Message::of(value, "extensions.filters.udp.udp_proxy.v3.UdpProxyConfig");
    put_clusters(&mut proxy);
    json!({ "name": "envoy.filters.udp_listener.udp_proxy", "typed_config": proxy.done() })
}

fn put_clusters(proxy: &mut Message) {
    let clusters = proxy.list("clusters");
    match &clusters[..] {
        [only] => proxy.put("cluster", only[0].clone()),
        some => {
            let weighted: Vec<Value> = some.iter().map(|c| json!({ "name": c[0], "weight": c[1] })).collect();
            proxy.put("weighted_clusters", json!({ "clusters": weighted }));
        }
    }
}

fn connection_manager(value: Value) -> Value {
    let mut manager = Message::of(value, "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager");
    manager.rename("route_config", "rds", |name| json!({ "route_config_name": name }));
    let mut filters: Vec<Value> = manager.list("http_filters").into_iter().map(filter::http_filter).collect();
    filters.push(json!({ "name": "envoy.filters.http.router" }));
    manager.put("http_filters", filters);
    manager.rename("normalize_path", "normalize_path", |v| v);
    manager.rename("escaped_slashes", "path_with_escaped_slashes_action", |v| v);
    json!({ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager.done() })
}
