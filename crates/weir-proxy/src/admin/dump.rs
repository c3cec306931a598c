//! `/config_dump`: the served configuration in the frame of Envoy's `envoy.admin.v3.ConfigDump`, its resources in the shapes of
//! Envoy's messages, with the objects that they come from in their metadata.
mod cluster;
mod filter;
mod listener;
mod route;
mod sensitive;
mod shape;

use super::{Query, Reply};
use crate::{Shared, app_log::rfc3339};
use hyper::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::UNIX_EPOCH};
use weir_config::model::Name;

const TYPE: &str = "type.googleapis.com/envoy.admin.v3.";

/// What `resource` may name.
pub(super) const RESOURCES: &[&str] = &[
    "dynamic_listeners",
    "dynamic_route_configs",
    "dynamic_active_clusters",
    "dynamic_active_secrets",
    "ecds_filters",
    "dynamic_endpoint_configs",
];

/// One list of resources.
struct List {
    /// Message of the dump that holds it.
    dump: &'static str,
    /// Its field there; what `resource` names.
    field: &'static str,
    /// Message of an entry.
    entry: &'static str,
    entries: Vec<Value>,
}

pub(super) fn config_dump(shared: &Arc<Shared>, query: &Query) -> Reply {
    let names = match query.regex("name_regex") {
        Ok(names) => names,
        Err(reply) => return reply,
    };
    let wanted = |name: &str| names.as_ref().is_none_or(|r| r.is_match(name));
    let eds = query.has("include_eds") || query.get("resource") == Some("dynamic_endpoint_configs");
    let mut lists = lists(shared, &wanted, eds);
    if !shared.options.admin_show_secrets {
        lists.iter_mut().flat_map(|list| &mut list.entries).for_each(sensitive::hide);
    }
    let Some(resource) = query.get("resource") else {
        let sections = lists.into_iter().map(|l| json!({ "@type": format!("{TYPE}{}", l.dump), l.field: l.entries }));
        let configs: Vec<_> = std::iter::once(bootstrap(shared)).chain(sections).collect();
        return Reply::json(&json!({ "configs": configs }));
    };
    let Some(list) = lists.into_iter().find(|l| l.field == resource) else {
        let fields = RESOURCES.join(", ");
        return Reply::error(StatusCode::NOT_FOUND, format!("{resource} not found in config dump; there are {fields}\n"));
    };
    let typed = |entry: Value| {
        let mut out = json!({ "@type": format!("{TYPE}{}.{}", list.dump, list.entry) });
        if let (Value::Object(out), Value::Object(entry)) = (&mut out, entry) {
            out.extend(entry);
        }
        out
    };
    Reply::json(&json!({ "configs": list.entries.into_iter().map(typed).collect::<Vec<_>>() }))
}

fn lists(shared: &Shared, wanted: &dyn Fn(&str) -> bool, eds: bool) -> Vec<List> {
    let (summary, config) = (shared.summary.load(), shared.config());
    let version = summary.version.to_string();
    let at = rfc3339(summary.made_at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64));
    let entry = |field: &'static str, shape: fn(Value) -> Value| {
        let (version, at) = (version.clone(), at.clone());
        move |_: &str, resource: Value| json!({ "version_info": version, field: shape(resource), "last_updated": at })
    };
    let listener = |name: &str, resource: Value| json!({ "name": name, "active_state": { "version_info": version, "listener": listener::listener(resource), "last_updated": at } });
    let secret = |name: &str, resource: Value| json!({ "name": name, "version_info": version, "last_updated": at, "secret": shape::secret(resource) });
    let routes = entry("route_config", route::route_configuration);
    let (clusters, plugins) = (entry("cluster", cluster::cluster), entry("ecds_filter", shape::plugin));
    let mut lists = vec![
        list("ListenersConfigDump", "dynamic_listeners", "DynamicListener", &config.listeners, wanted, &listener),
        list("RoutesConfigDump", "dynamic_route_configs", "DynamicRouteConfig", &config.routes, wanted, &routes),
        list("ClustersConfigDump", "dynamic_active_clusters", "DynamicCluster", &config.clusters, wanted, &clusters),
        list("SecretsConfigDump", "dynamic_active_secrets", "DynamicSecret", &config.secrets, wanted, &secret),
        list("EcdsConfigDump", "ecds_filters", "EcdsFilterConfig", &config.plugins, wanted, &plugins),
    ];
    if eds {
        let endpoints = entry("endpoint_config", cluster::endpoints);
        lists.push(list("EndpointsConfigDump", "dynamic_endpoint_configs", "DynamicEndpointConfig", &config.endpoints, wanted, &endpoints));
    }
    lists
}

/// What was said on the command line, as `BootstrapConfigDump`.
fn bootstrap(shared: &Shared) -> Value {
    let mut bootstrap = json!({ "node": { "user_agent_name": "weir", "user_agent_version": env!("CARGO_PKG_VERSION") } });
    if let Some(admin) = shared.options.admin {
        bootstrap["admin"] = json!({ "address": shape::address(admin.to_string().into()) });
    }
    json!({ "@type": format!("{TYPE}BootstrapConfigDump"), "bootstrap": bootstrap })
}

fn list<T: Serialize>(
    dump: &'static str,
    field: &'static str,
    entry: &'static str,
    resources: &BTreeMap<Name, Arc<T>>,
    wanted: &dyn Fn(&str) -> bool,
    make: &dyn Fn(&str, Value) -> Value,
) -> List {
    let resources = resources.iter().filter(|(name, _)| wanted(name));
    let entries = resources.map(|(name, r)| make(name, serde_json::to_value(r).unwrap_or_default())).collect();
    List { dump, field, entry, entries }
}
