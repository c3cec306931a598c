//! `/stats`: counters, gauges and histograms under Envoy's names, as text, JSON or for Prometheus.
mod process;

pub use process::PROCESS;

use super::{Query, Reply};
use crate::{
    Shared,
    stats::{BUCKETS_MS, DOWNSTREAM_CX_ACTIVE, Declared, Kind, ListenerStats, QUANTILES, Scopes, Table, Total, Totals},
};
use hyper::StatusCode;
use serde_json::json;
use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Arc, atomic::Ordering},
};
use weir_net::exposition::{self, Exposition};

/// One value. `listener.0.0.0.0_80.downstream_cx_total` is the series `listener_downstream_cx_total` with a label.
struct Sample {
    name: String,
    /// The metric's name for Prometheus.
    family: String,
    labels: Vec<(&'static str, String)>,
    value: Total,
}

impl Sample {
    fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.labels.iter().map(|(name, value)| (*name, value.as_str()))
    }
    fn is_used(&self) -> bool {
        match &self.value {
            Total::Counter(n) => *n > 0,
            Total::Gauge(n) => *n != 0,
            Total::Histogram(h) => h.count > 0,
            Total::Codes(_) => false,
        }
    }
}

pub(super) fn stats(shared: &Arc<Shared>, query: &Query) -> Reply {
    let render = match query.get("format") {
        None | Some("" | "text") => text,
        Some("json") => json,
        Some("prometheus") => prometheus_text,
        Some(other) => {
            let why = format!("unknown format `{other}`; accepted are text, json and prometheus\n");
            return Reply::error(StatusCode::BAD_REQUEST, why);
        }
    };
    chosen(shared, query).map_or_else(|refused| refused, |samples| render(&samples))
}

pub(super) fn prometheus(shared: &Arc<Shared>, query: &Query) -> Reply {
    chosen(shared, query).map_or_else(|refused| refused, |samples| prometheus_text(&samples))
}

fn text(samples: &[Sample]) -> Reply {
    let mut out = String::new();
    for s in samples {
        let _ = match &s.value {
            Total::Counter(n) => writeln!(out, "{}: {n}", s.name),
            Total::Gauge(n) => writeln!(out, "{}: {n}", s.name),
            Total::Histogram(h) if h.count == 0 => writeln!(out, "{}: No recorded values", s.name),
            Total::Codes(_) => Ok(()),
            // As Envoy: the first figure is of the last interval, which is not kept apart here.
            Total::Histogram(h) => {
                let figures = QUANTILES.map(|q| format!("P{q}(nan,{})", rounded(h.quantile(q))));
                writeln!(out, "{}: {}", s.name, figures.join(" "))
            }
        };
    }
    Reply::text(out)
}

fn rounded(ms: Option<f64>) -> f64 {
    (ms.unwrap_or_default() * 1000.0).round() / 1000.0
}

fn json(samples: &[Sample]) -> Reply {
    let (mut all, mut histograms) = (Vec::new(), Vec::new());
    for s in samples {
        match &s.value {
            Total::Counter(n) => all.push(json!({ "name": s.name, "value": n })),
            Total::Gauge(n) => all.push(json!({ "name": s.name, "value": n })),
            Total::Histogram(h) => {
                let values = QUANTILES.map(|q| json!({ "interval": null, "cumulative": h.quantile(q).map(|v| rounded(Some(v))) }));
                histograms.push(json!({ "name": s.name, "values": values }));
            }
            Total::Codes(_) => {}
        }
    }
    if !histograms.is_empty() {
        all.push(json!({ "histograms": { "supported_quantiles": QUANTILES, "computed_quantiles": histograms } }));
    }
    Reply::json(&json!({ "stats": all }))
}

/// Prometheus' text format: families one after the other, each of one type.
fn prometheus_text(samples: &[Sample]) -> Reply {
    let mut families: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
    for s in samples {
        families.entry(&s.family).or_default().push(s);
    }
    let mut out = Exposition::default();
    for (family, samples) in families {
        let kind = match samples[0].value {
            Total::Counter(_) => "counter",
            Total::Gauge(_) => "gauge",
            Total::Histogram(_) => "histogram",
            Total::Codes(_) => continue,
        };
        out.family(family, kind);
        // Plugins may call two different things by one name.
        let alike = |s: &&Sample| std::mem::discriminant(&s.value) == std::mem::discriminant(&samples[0].value);
        for s in samples.iter().copied().filter(alike) {
            match &s.value {
                Total::Counter(n) => out.sample(family, s.labels(), n),
                Total::Gauge(n) => out.sample(family, s.labels(), n),
                Total::Histogram(h) => series(&mut out, family, s, h),
                Total::Codes(_) => {}
            }
        }
    }
    Reply { kind: exposition::CONTENT_TYPE, ..Reply::text(out.into_text()) }
}

/// The series of one histogram.
fn series(out: &mut Exposition, family: &str, sample: &Sample, h: &Totals) {
    let mut bucket = |le: &str, count| out.sample(&format!("{family}_bucket"), sample.labels().chain([("le", le)]), count);
    for ms in BUCKETS_MS {
        bucket(&ms.to_string(), h.up_to(ms));
    }
    bucket("+Inf", h.count);
    out.sample(&format!("{family}_sum"), sample.labels(), h.sum_ms);
    out.sample(&format!("{family}_count"), sample.labels(), h.count);
}

/// What the query asks for, in the order of names.
fn chosen(shared: &Shared, query: &Query) -> Result<Vec<Sample>, Reply> {
    let filter = query.regex("filter")?;
    let used = query.has("usedonly");
    let wanted: fn(&Total) -> bool = match query.get("type") {
        None | Some("" | "All") => |_| true,
        Some("Counters") => |v| matches!(v, Total::Counter(_)),
        Some("Gauges") => |v| matches!(v, Total::Gauge(_)),
        Some("Histograms") => |v| matches!(v, Total::Histogram(_)),
        Some(other) => {
            let why = format!("unknown type `{other}`; accepted are All, Counters, Gauges and Histograms\n");
            return Err(Reply::error(StatusCode::BAD_REQUEST, why));
        }
    };
    let mut out = collect(shared);
    out.retain(|s| filter.as_ref().is_none_or(|f| f.is_match(&s.name)) && (!used || s.is_used()) && wanted(&s.value));
    out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
}

fn collect(shared: &Shared) -> Vec<Sample> {
    let mut out = Vec::new();
    process::collect(shared, &mut out);
    control(shared, &mut out);
    listeners(shared, &mut out);
    clusters(shared, &mut out);
    scopes(&shared.stats.http, &mut out);
    scopes(&shared.stats.clusters, &mut out);
    plugins(shared, &mut out);
    out
}

/// Those of the control plane: `control.kubernetes.lists.httproutes`, or with a label for Prometheus.
fn control(shared: &Shared, out: &mut Vec<Sample>) {
    let all = shared.options.control_stats.as_ref().map(|stats| (stats.0)()).unwrap_or_default();
    out.extend(all.into_iter().map(|stat| {
        let value = if stat.counter { Total::Counter(stat.value) } else { Total::Gauge(stat.value as i64) };
        let name = stat.label.as_ref().map_or_else(|| stat.name.to_string(), |(_, of)| format!("{}.{of}", stat.name));
        let family = format!("envoy_{}", stat.name.replace('.', "_"));
        Sample { name, family, labels: stat.label.into_iter().collect(), value }
    }));
}

/// A table's statistics under its names. Answers by class are one family with a label for the class.
fn scopes<T: Table>(scopes: &Scopes<T>, out: &mut Vec<Sample>) {
    scopes.sum(&mut |name, declared, value| {
        let mut labels = vec![(T::LABEL, name.to_string())];
        if let Total::Codes(codes) = value {
            let stem = declared.name.trim_end_matches('_');
            return out.extend(codes.into_iter().map(|(status, n)| Sample {
                name: format!("{}.{name}.{stem}_{status}", T::PREFIX),
                family: format!("envoy_{}_{stem}", T::PREFIX),
                labels: vec![("envoy_response_code", status.to_string()), (T::LABEL, name.to_string())],
                value: Total::Counter(n),
            }));
        }
        let mut family = format!("envoy_{}_{}", T::PREFIX, declared.name.replace('.', "_"));
        // As Envoy's own rule: `_rq_5xx`, and no other name that ends so.
        let class = declared.name.strip_suffix("xx").and_then(|n| n.split_at_checked(n.len() - 1));
        if let Some((stem, class)) = class.filter(|(stem, _)| stem.ends_with("_rq_")) {
            family = format!("envoy_{}_{stem}xx", T::PREFIX);
            labels.insert(0, ("envoy_response_code_class", class.to_string()));
        }
        out.push(Sample { name: format!("{}.{name}.{}", T::PREFIX, declared.name), family, labels, value });
    });
}

/// What plugins count, and what is counted of them. Prometheus gets a plugin's own metrics by the plugin's own names, as
/// from Envoy (its stat namespace `wasmcustom`).
fn plugins(shared: &Shared, out: &mut Vec<Sample>) {
    shared.plugins.metrics(&mut |name, labels, value| {
        let bare = name.strip_prefix("wasmcustom.").unwrap_or(name);
        let mut family = bare.replace(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':', "_");
        if family.starts_with(|c: char| c.is_ascii_digit()) || family.is_empty() {
            family.insert(0, '_');
        }
        let name = labels.iter().fold(name.to_string(), |name, (_, value)| format!("{name}.{value}"));
        out.push(Sample { name, family, labels: labels.iter().map(|(l, v)| (*l, v.to_string())).collect(), value });
    });
}

fn listeners(shared: &Shared, out: &mut Vec<Sample>) {
    for slot in shared.listeners.load().iter() {
        let address = slot.address.to_string().replace(':', "_");
        let mut add = |stat: &str, value| {
            let labels = vec![("envoy_listener_address", address.clone())];
            let family = format!("envoy_listener_{}", stat.replace('.', "_"));
            out.push(Sample { name: format!("listener.{address}.{stat}"), family, labels, value });
        };
        add(DOWNSTREAM_CX_ACTIVE.name, Total::Gauge(i64::from(slot.open.load(Ordering::Relaxed))));
        ListenerStats::sum(&[&slot.stats], &mut |declared, total| add(declared.name, total));
    }
}

/// The gauges of a cluster that are read from its endpoints.
pub const MEMBERSHIP: &[Declared; 3] = &[
    Declared { name: "membership_total", kind: Kind::Gauge, help: "endpoints now" },
    Declared { name: "membership_healthy", kind: Kind::Gauge, help: "endpoints that get requests now" },
    Declared { name: "outlier_detection.ejections_active", kind: Kind::Gauge, help: "endpoints ejected by outlier detection now" },
];

/// What is known of clusters without a worker's counting.
fn clusters(shared: &Shared, out: &mut Vec<Sample>) {
    for cluster in shared.clusters.all().iter().filter_map(|s| s.current()) {
        let name = &cluster.config.name;
        let set = cluster.endpoints.load();
        let ejected = set.endpoints.iter().filter(|e| !e.outlier.is_usable()).count();
        let healthy = set.endpoints.iter().filter(|e| e.accepts_requests() && e.outlier.is_usable()).count();
        let values = [set.endpoints.len(), healthy, ejected];
        for (Declared { name: stat, .. }, value) in MEMBERSHIP.iter().zip(values) {
            let labels = vec![("envoy_cluster_name", name.to_string())];
            let family = format!("envoy_cluster_{}", stat.replace('.', "_"));
            out.push(Sample { name: format!("cluster.{name}.{stat}"), family, labels, value: Total::Gauge(value as i64) });
        }
    }
}
