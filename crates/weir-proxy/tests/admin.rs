//! The admin listener, asked over a real connection.
#![allow(clippy::unwrap_used)]
mod common;
use common::*;
use serde_json::Value;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weir_proxy::{Proxy, admin::ENDPOINTS};

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

async fn ask(address: SocketAddr, method: &str, path: &str) -> Answer {
    ask_with(address, method, path, "").await
}

async fn ask_with(address: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    let mut io = connect(address).await;
    // A body may follow the headers.
    let end = if headers.contains("\r\n\r\n") { "" } else { "\r\n" };
    let text = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}{end}");
    io.write_all(text.as_bytes()).await.unwrap();
    let mut text = String::new();
    within(io.read_to_string(&mut text)).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Answer { status: head[9..12].parse().unwrap(), head: head.to_ascii_lowercase(), body: body.to_string() }
}

async fn running() -> (Proxy, SocketAddr) {
    let (proxy, ca) = (start(), Ca::new());
    let mut conf = Conf::default();
    let up = upstream("a:").await;
    conf.cluster("outbound|80||a.test", up).cluster("b", up).certificate("shop", &ca.sign(&["shop.test"]));
    conf.listener("l", loopback(), vec![tcp("c", &[], &[], "b")]);
    proxy.apply(conf.delta()).await;
    expect(&mut connect(address_of(&proxy, "l")).await, "a:").await;
    let admin = proxy.admin_address().unwrap();
    (proxy, admin)
}

#[tokio::test]
async fn every_endpoint_answers_its_method_only() {
    let (proxy, admin) = running().await;
    for e in ENDPOINTS {
        let wrong = if e.changes { "GET" } else { "POST" };
        let got = ask(admin, wrong, e.path).await;
        assert_eq!(got.status, 405, "{wrong} {}", e.path);
        assert!(
            got.body.contains(&format!("{} required", e.method()))
                && got.head.contains(&format!("allow: {}", e.method().to_ascii_lowercase()))
        );
        // What would end the test is tried elsewhere.
        if e.path != "/drain_listeners" && e.path != "/quitquitquit" {
            let got = ask(admin, e.method(), e.path).await;
            assert_eq!(got.status, 200, "{} {}: {}", e.method(), e.path, got.body);
            ask(admin, "POST", "/healthcheck/ok").await;
        }
    }
    let got = ask(admin, "GET", "/nothing").await;
    assert_eq!(got.status, 404);
    assert!(ENDPOINTS.iter().all(|e| got.body.contains(e.path)));
    let page = ask(admin, "GET", "/").await;
    assert!(
        page.head.contains("content-type: text/html") && page.head.contains("content-security-policy: default-src 'none'"),
        "{}",
        page.head
    );
    for e in ENDPOINTS {
        let named = if e.changes { format!("<form action=\"{}\" method=\"post\">", e.path) } else { format!("<a href=\"{}\">", e.path) };
        assert!(page.body.contains(&named), "no {named}");
    }
    // As a form posts it, with fields left empty.
    let form = "content-type: application/x-www-form-urlencoded\r\ncontent-length: 29\r\n\r\nlevel=&paths=dns%3Adebug&dns=";
    assert!(ask_with(admin, "POST", "/logging", form).await.body.contains("dns: debug"));
    assert_eq!(ask_with(admin, "POST", "/logging", "sec-fetch-site: cross-site\r\n").await.status, 403);
    drop(proxy);
}

#[tokio::test]
async fn readiness_follows_the_state() {
    let proxy = start();
    let admin = proxy.admin_address().unwrap();
    let ready = async || {
        let a = ask(admin, "GET", "/ready").await;
        (a.status, a.body)
    };
    assert_eq!(ready().await, (503, "PRE_INITIALIZING\n".into()));
    proxy.apply(Conf::default().delta()).await;
    assert_eq!(ready().await, (200, "LIVE\n".into()));
    assert_eq!(ask(admin, "POST", "/healthcheck/fail").await.body, "OK\n");
    assert_eq!(ready().await, (503, "DRAINING\n".into()));
    ask(admin, "POST", "/healthcheck/ok").await;
    assert_eq!(ready().await, (200, "LIVE\n".into()));
    ask(admin, "POST", "/quitquitquit").await;
    within(proxy.quit_requested()).await;
}

#[tokio::test]
async fn statistics_in_three_forms() {
    let (proxy, admin) = running().await;
    let address = address_of(&proxy, "l");
    let key = format!("listener.{}.downstream_cx_total", address.to_string().replace(':', "_"));
    let text = ask(admin, "GET", "/stats").await.body;
    assert!(text.contains(&format!("{key}: 1\n")), "{text}");
    assert!(text.contains("cluster.outbound|80||a.test.membership_total: 1\n"), "{text}");
    assert!(text.lines().is_sorted());
    assert_eq!(ask(admin, "GET", "/stats?filter=downstream_cx_total$").await.body, format!("{key}: 1\n"));
    let used = ask(admin, "GET", "/stats?usedonly&filter=^listener").await.body;
    assert!(used.contains("cx_total") && !used.contains(": 0\n"), "{used}");
    let json = ask(admin, "GET", "/stats?format=json&filter=downstream_cx_total").await.json();
    assert_eq!(json["stats"][0], serde_json::json!({ "name": key, "value": 1 }));
    let series = format!("envoy_listener_downstream_cx_total{{envoy_listener_address=\"{}\"}} 1\n", address.to_string().replace(':', "_"));
    for path in ["/stats/prometheus", "/stats?format=prometheus"] {
        let got = ask(admin, "GET", path).await.body;
        assert!(got.contains("# TYPE envoy_listener_downstream_cx_total counter\n") && got.contains(&series), "{got}");
        let kinds: Vec<_> = got.lines().filter(|l| l.starts_with("# TYPE")).collect();
        assert_eq!(kinds.len(), kinds.iter().collect::<std::collections::HashSet<_>>().len(), "a family is declared once");
    }
    // What workers count by name.
    let shard = proxy.shared().stats.cluster(&"b".into(), 0);
    shard.answered(503);
    shard.upstream_rq_time.record(3_000_000);
    let text = ask(admin, "GET", "/stats?filter=^cluster.b.&usedonly").await.body;
    assert!(text.contains("cluster.b.upstream_rq_5xx: 1\n") && text.contains(" P50(nan,3.008) "), "{text}");
    let json = ask(admin, "GET", "/stats?format=json&filter=upstream_rq_time$").await.json();
    assert_eq!(json["stats"][0]["histograms"]["computed_quantiles"][0]["name"], "cluster.b.upstream_rq_time");
    let got = ask(admin, "GET", "/stats/prometheus?filter=^cluster").await.body;
    for line in [
        "envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"5\",envoy_cluster_name=\"b\"} 1\n",
        "# TYPE envoy_cluster_upstream_rq_time histogram\n",
        "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"b\",le=\"1\"} 0\n",
        "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"b\",le=\"5\"} 1\n",
        "envoy_cluster_upstream_rq_time_count{envoy_cluster_name=\"b\"} 1\n",
    ] {
        assert!(got.contains(line), "{line}: {got}");
    }
    let got = ask(admin, "GET", "/stats?filter=(").await;
    assert!(got.status == 400 && got.body.contains("invalid regular expression"), "{}", got.body);
}

#[tokio::test]
async fn what_is_served_is_shown() {
    let (proxy, admin) = running().await;
    let address = address_of(&proxy, "l");
    assert_eq!(ask(admin, "GET", "/listeners").await.body, format!("l::{address}\n"));
    let json = ask(admin, "GET", "/listeners?format=json").await.json();
    assert_eq!(json["listener_statuses"][0]["local_address"]["socket_address"]["port_value"], address.port());
    let text = ask(admin, "GET", "/clusters?filter=^b$").await.body;
    assert!(
        text.contains("b::default_priority::max_connections::") && text.contains("::health_flags::healthy\n") && !text.contains("a.test"),
        "{text}"
    );
    let json = ask(admin, "GET", "/clusters?format=json").await.json();
    assert_eq!(json["cluster_statuses"].as_array().unwrap().len(), 2);
    assert_eq!(json["cluster_statuses"][0]["host_statuses"][0]["health_status"]["eds_health_status"], "HEALTHY");
    let json = ask(admin, "GET", "/certs").await.json();
    let cert = &json["certificates"][0]["cert_chain"][0];
    assert_eq!((&cert["path"], &cert["subject_alt_names"][0]["dns"]), (&Value::from("shop"), &Value::from("shop.test")));
    let json = ask(admin, "GET", "/server_info").await.json();
    assert_eq!((&json["state"], &json["command_line_options"]["concurrency"]), (&Value::from("LIVE"), &Value::from(2)));
    assert!(ask(admin, "GET", "/memory").await.json()["total_physical_bytes"].as_str().unwrap().parse::<u64>().unwrap() > 1 << 20);
}

#[tokio::test]
async fn the_configuration_is_dumped_in_envoys_frame() {
    let (_proxy, admin) = running().await;
    let all = ask(admin, "GET", "/config_dump").await;
    let json = all.json();
    let types: Vec<_> =
        json["configs"].as_array().unwrap().iter().map(|c| c["@type"].as_str().unwrap().rsplit('.').next().unwrap().to_string()).collect();
    assert_eq!(
        types,
        ["BootstrapConfigDump", "ListenersConfigDump", "RoutesConfigDump", "ClustersConfigDump", "SecretsConfigDump", "EcdsConfigDump"]
    );
    assert_eq!(json["configs"][1]["dynamic_listeners"][0]["active_state"]["listener"]["name"], "l");
    assert!(all.body.contains("[redacted]") && !all.body.contains("PRIVATE KEY"), "a private key is shown");
    let json = ask(admin, "GET", "/config_dump?resource=dynamic_active_clusters&name_regex=a.test").await.json();
    let configs = json["configs"].as_array().unwrap();
    assert_eq!(configs.len(), 1);
    assert_eq!(configs[0]["@type"], "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.DynamicCluster");
    assert_eq!(configs[0]["cluster"]["name"], "outbound|80||a.test");
    assert_eq!(ask(admin, "GET", "/config_dump?resource=nothing").await.status, 404);
}

#[tokio::test]
async fn log_levels_are_shown_and_set() {
    let (_proxy, admin) = running().await;
    let got = ask(admin, "POST", "/logging?paths=admin:debug,wasm:off").await.body;
    assert!(got.contains("  admin: debug\n") && got.contains("  wasm: off\n"), "{got}");
    let got = ask(admin, "POST", "/logging?admin=warning").await.body;
    assert!(got.contains("  admin: warning\n"), "{got}");
    for bad in ["level=loud", "nobody=info", "paths=admin", "admin=error&wasm=loud"] {
        let got = ask(admin, "POST", &format!("/logging?{bad}")).await;
        assert!(
            got.status == 400 && (got.body.contains("there are") || got.body.contains("accepted") || got.body.contains("form")),
            "{}",
            got.body
        );
    }
    assert!(ask(admin, "POST", "/logging").await.body.contains("  admin: warning\n"), "one wrong word changes nothing");
}

#[tokio::test]
async fn listeners_are_drained_by_hand() {
    let (proxy, admin) = running().await;
    let address = address_of(&proxy, "l");
    let mut open = connect(address).await;
    expect(&mut open, "a:").await;
    assert_eq!(ask(admin, "POST", "/drain_listeners?graceful").await.body, "OK\n");
    until("the listener is closed", || std::net::TcpStream::connect(address).is_err()).await;
    ping(&mut open, "still").await;
    assert_eq!(ask(admin, "GET", "/ready").await.status, 200);
}

#[tokio::test]
async fn a_plugin_that_cannot_be_loaded_is_said_and_shown() {
    use weir_config::{diagnostic::Severity, model::*};
    let proxy = start();
    let code = WasmCode::File { path: "/nonexistent/plugin.wasm".into(), sha256: "0".repeat(64) };
    let origin = Origin::named("WasmPlugin/default/gone");
    let plugin = WasmPlugin {
        fail_strategy: FailStrategy::FailOpen,
        phase: PluginPhase::Authn,
        ..WasmPlugin::new("default/gone".into(), code, origin)
    };
    let mut conf = Conf::default();
    conf.0.plugins.insert("default/gone".into(), plugin.into());
    let mut hcm = HttpConnectionManager::new("http".into(), "none".into());
    hcm.http_filters = HttpFilter::list(None, [(PluginPhase::Authn, "default/gone".into())]);
    let filter = NetworkFilter::HttpConnectionManager(hcm.into());
    conf.listener("l", loopback(), vec![FilterChain { name: "c".into(), server_names: vec![], tls: None, filters: vec![filter] }.into()]);
    let report = within(proxy.apply(conf.delta())).await;
    let diagnostics = report.diagnostics();
    let d = diagnostics.iter().find(|d| d.reason == "PluginCodeUnavailable").unwrap();
    assert!(d.severity == Severity::Error && d.message.contains("default/gone") && d.message.contains("/nonexistent/plugin.wasm"), "{d:?}");
    let json = ask(proxy.admin_address().unwrap(), "GET", "/plugins").await.json();
    assert_eq!((&json["plugins"][0]["name"], &json["plugins"][0]["state"]), (&Value::from("default/gone"), &Value::from("failed")));
    let key = weir_proxy::snapshot::HcmKey { listener: "l".into(), chain: "c".into() };
    assert_eq!(&*proxy.shared().connection_managers.get(&key).unwrap().filters.plugins().next().unwrap().name, "default/gone");
}
