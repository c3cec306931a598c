//! Route configurations in the shapes of `config.route.v3`.
use super::{
    filter,
    shape::{Message, string_match, variant},
};
use serde_json::{Value, json};

/// `RouteConfiguration`.
pub fn route_configuration(value: Value) -> Value {
    let mut table = Message::of(value, "config.route.v3.RouteConfiguration");
    table.each("virtual_hosts", "virtual_hosts", |host| {
        let mut host = Message::of(host, "");
        host.each("routes", "routes", route);
        host.rename("per_filter_config", "typed_per_filter_config", filter::per_filter_config);
        host.done()
    });
    table.done()
}

fn route(value: Value) -> Value {
    let mut route = Message::of(value, "");
    route.sources();
    route.map("match", route_match);
    let (kind, inner) = variant(route.take("action").unwrap_or_default());
    match kind.as_str() {
        "forward" => route.put("route", forward(inner)),
        "redirect" => route.put("redirect", redirect(inner)),
        _ => {
            let mut answer = Message::of(inner, "");
            answer.map("body", |body| json!({ "inline_string": body }));
            route.put("direct_response", answer.done());
        }
    }
    header_edits(&mut route);
    route.rename("per_filter_config", "typed_per_filter_config", filter::per_filter_config);
    route.done()
}

fn route_match(value: Value) -> Value {
    let mut matched = Message::of(value, "");
    let (kind, path) = variant(matched.take("path").unwrap_or_default());
    match kind.as_str() {
        "exact" => matched.put("path", path),
        "regex" => matched.put("safe_regex", json!({ "regex": path })),
        kind => matched.put(kind, path),
    }
    if matched.take("ignore_case").is_some() {
        matched.put_default("case_sensitive", false);
    }
    matched.each("headers", "headers", condition);
    matched.each("query_parameters", "query_parameters", condition);
    matched.done()
}

/// On a header or a query parameter.
fn condition(value: Value) -> Value {
    let mut condition = Message::of(value, "");
    condition.rename("invert", "invert_match", |v| v);
    let ignore_case = condition.take("ignore_case").is_some();
    match variant(condition.take("match").unwrap_or_default()) {
        (kind, text) if kind == "text" => {
            let mut text = string_match(text);
            if ignore_case {
                text["ignore_case"] = true.into();
            }
            condition.put("string_match", text);
        }
        (kind, range) if kind == "range" => condition.put("range_match", range),
        _ => condition.put("present_match", true),
    }
    condition.done()
}

fn header_edits(of: &mut Message) {
    for (from, kind) in [("request_headers", "request"), ("response_headers", "response")] {
        let mut edits = Message::of(of.take(from).unwrap_or_else(|| json!({})), "");
        let mut all = Vec::new();
        for (list, action) in [("set", "OVERWRITE_IF_EXISTS_OR_ADD"), ("add", "APPEND_IF_EXISTS_OR_ADD")] {
            let edit = |pair: Value| json!({ "header": { "key": pair[0], "value": pair[1] }, "append_action": action });
            all.extend(edits.list(list).into_iter().map(edit));
        }
        of.put(&format!("{kind}_headers_to_add"), all);
        of.put(&format!("{kind}_headers_to_remove"), edits.list("remove"));
    }
}

fn rewrites(of: &mut Message, whole: &str) {
    if let Some(rewrite) = of.take("path_rewrite").or_else(|| of.take("path")) {
        match variant(rewrite) {
            (kind, path) if kind == "full" => of.put(whole, path),
            (kind, rewrite) if kind == "regex" => {
                let pattern = json!({ "regex": rewrite["pattern"] });
                of.put("regex_rewrite", json!({ "pattern": pattern, "substitution": rewrite["substitution"] }));
            }
            (_, prefix) => of.put("prefix_rewrite", prefix),
        }
    }
    match of.take("host_rewrite").map(variant) {
        Some((kind, host)) if kind == "literal" => of.put("host_rewrite_literal", host),
        Some(_) => of.put("auto_host_rewrite", true),
        None => {}
    }
}

/// `RouteAction`.
fn forward(value: Value) -> Value {
    let mut action = Message::of(value, "");
    let mut clusters: Vec<Value> = action.list("clusters").into_iter().map(weighted).collect();
    match &mut clusters[..] {
        // Nothing but a name.
        [only] if only.as_object().is_some_and(|o| o.keys().all(|k| matches!(k.as_str(), "name" | "weight"))) => {
            action.put("cluster", only["name"].take());
        }
        _ => action.put("weighted_clusters", json!({ "clusters": clusters })),
    }
    rewrites(&mut action, "path_rewrite");
    action.rename("retry", "retry_policy", retry);
    action.each("mirrors", "request_mirror_policies", mirror);
    action.done()
}

fn weighted(value: Value) -> Value {
    let mut cluster = Message::of(value, "");
    match cluster.take("cluster") {
        Some(name) => {
            cluster.put("name", name);
            cluster.take("unresolved_status");
        }
        // Leads nowhere: `unresolved_status` stays and says what it is answered with.
        None => cluster.put("name", "<unresolved>"),
    }
    header_edits(&mut cluster);
    rewrites(&mut cluster, "path_rewrite");
    cluster.map("redirect", redirect);
    cluster.each("mirrors", "request_mirror_policies", mirror);
    cluster.done()
}

fn mirror(value: Value) -> Value {
    let mut mirror = Message::of(value, "");
    let fraction = |millionths| json!({ "default_value": { "numerator": millionths, "denominator": "MILLION" } });
    mirror.rename("fraction", "runtime_fraction", fraction);
    mirror.done()
}

fn retry(value: Value) -> Value {
    let mut policy = Message::of(value, "");
    let words: Vec<String> = policy.list("conditions").iter().filter_map(|c| c.as_str().map(str::to_string)).collect();
    policy.put("retry_on", words.join(","));
    policy.rename("status_codes", "retriable_status_codes", |v| v);
    let (base, max) = (policy.take("backoff_base"), policy.take("backoff_max"));
    policy.put("retry_back_off", json!({ "base_interval": base, "max_interval": max }));
    if policy.take("avoid_previous_hosts").is_some() {
        policy.put("retry_host_predicate", json!([{ "name": "envoy.retry_host_predicates.previous_hosts" }]));
    }
    policy.done()
}

fn redirect(value: Value) -> Value {
    let mut redirect = Message::of(value, "");
    redirect.rename("scheme", "scheme_redirect", |v| v);
    redirect.rename("host", "host_redirect", |v| v);
    if let Some((kind, port)) = redirect.take("port").map(variant) {
        match kind.as_str() {
            "literal" => redirect.put("port_redirect", port),
            _ => redirect.put("port", kind),
        }
    }
    rewrites(&mut redirect, "path_redirect");
    redirect.rename("status", "response_code", |status| {
        match status.as_u64() {
            Some(301) => "MOVED_PERMANENTLY",
            Some(302) => "FOUND",
            Some(303) => "SEE_OTHER",
            Some(307) => "TEMPORARY_REDIRECT",
            _ => "PERMANENT_REDIRECT",
        }
        .into()
    });
    redirect.done()
}
