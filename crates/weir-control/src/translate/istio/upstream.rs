//! Clusters: those of ServiceEntries, and what DestinationRules make of any.
use super::{
    files::{self, lacking},
    locality::{self, Locality},
};
use crate::{
    api::{
        istio::{
            destination_rule::{DestinationRule, EVERY_SERVICE, Originate, Policy, Settings, Subset},
            service_entry::{self, EndpointAddress, Port, Resolution, ServiceEntry},
        },
        labels::{Labels, selects},
    },
    object::{Key, Kind, Object, Spec},
    translate::{
        ClusterKey, Cx, Part, Purpose, SecretKey, SecretUse,
        draft::{Draft, FoundBy},
        secret::{self, Lacks},
    },
};
use std::{net::SocketAddr, sync::Arc};
use weir_config::{
    diagnostic::Diagnostic,
    model::{
        Address, Cluster, Discovery, Endpoint, EndpointOptions, HashPolicy, Name, UpstreamProtocol, UpstreamTls, UpstreamVerification,
    },
};

/// The ServiceEntries of a host, the oldest first.
pub fn entries<'a>(cx: &Cx<'a>, host: &str) -> Vec<(&'a Arc<Object>, &'a ServiceEntry)> {
    let mut found: Vec<_> = cx
        .by_word(Kind::ServiceEntry, host)
        .filter_map(|object| match &object.spec {
            Spec::ServiceEntry(entry) => Some((object, &**entry)),
            _ => None,
        })
        .collect();
    found.sort_by_key(|(object, _)| object.age());
    found
}

/// The cluster of a ServiceEntry's host; `None` where there is no entry for it. Several entries for a port share it.
pub fn service_entry(cx: &Cx<'_>, key: &ClusterKey, part: &mut Part) -> Option<Draft> {
    let mut draft: Option<Draft> = None;
    for (object, entry) in entries(cx, key.host()) {
        let Some(port) = entry.ports.iter().find(|p| p.number == key.port) else { continue };
        let selected = entry.selector.as_ref().map(|selector| workloads(cx, &object.key.namespace, selector));
        let used: Vec<Key> = selected.iter().flatten().map(|(workload, _)| workload.key.clone()).collect();
        let listed = selected.map(|all| all.into_iter().map(|(_, endpoint)| endpoint).collect());
        let (found_by, endpoints) = endpoints(listed, entry, key, port);
        if draft.as_ref().is_none_or(|first| first.found_by == found_by) {
            part.uses.extend(used);
            // What comes of a registry is no object of anybody.
            part.uses.extend((!entry.registered).then(|| object.key.clone()));
        }
        match &mut draft {
            None => {
                let mut cluster = Cluster::new(key.name.clone(), Discovery::Eds);
                cluster.origin = Some(object.origin());
                cluster.protocol = port.protocol;
                cluster.guard_names = entry.registered;
                draft = Some(Draft { cluster, endpoints, found_by });
            }
            Some(first) if first.found_by == found_by => {
                first.endpoints.extend(endpoints);
                first.cluster.guard_names |= entry.registered;
            }
            Some(_) => {}
        }
    }
    draft
}

/// `selected`: the endpoints that a `workloadSelector` found.
fn endpoints(
    selected: Option<Vec<&service_entry::Endpoint>>,
    entry: &ServiceEntry,
    key: &ClusterKey,
    port: &Port,
) -> (FoundBy, Vec<Endpoint>) {
    let listed: Vec<&service_entry::Endpoint> = selected.unwrap_or_else(|| entry.endpoints.iter().collect());
    let names = listed.iter().any(|e| matches!(e.address, EndpointAddress::Name(_)));
    let found_by = match entry.resolution {
        // Of WorkloadEntries: a list may not hold names.
        Resolution::Static if names => FoundBy::StrictDns,
        Resolution::Static => FoundBy::List,
        Resolution::DnsRoundRobin => FoundBy::LogicalDns,
        Resolution::Dns => FoundBy::StrictDns,
        Resolution::None | Resolution::DynamicDns if key.host().contains('*') => FoundBy::Request,
        // A gateway has no original destination: one host means that host.
        Resolution::None | Resolution::DynamicDns => FoundBy::StrictDns,
    };
    let by_host = matches!(entry.resolution, Resolution::None | Resolution::DynamicDns) || (listed.is_empty() && entry.selector.is_none());
    if by_host {
        let own = Endpoint::new(Address::Name { host: key.host().into(), port: port.target });
        let listed = found_by == FoundBy::List || found_by == FoundBy::Request;
        return (found_by, if listed { Vec::new() } else { vec![own] });
    }
    let made = listed.into_iter().map(|endpoint| {
        let number = endpoint.ports.iter().find(|(name, _)| *name == port.name).map_or(port.target, |(_, n)| *n);
        let address = match &endpoint.address {
            EndpointAddress::Ip(ip) => Address::Socket(SocketAddr::new(*ip, number)),
            EndpointAddress::Name(name) => Address::Name { host: name.clone(), port: number },
        };
        let (weight, locality, labels) = (endpoint.weight, endpoint.locality.clone(), endpoint.labels.clone());
        let options = EndpointOptions { weight, locality, labels, ..EndpointOptions::default() }.into();
        Endpoint { options, ..Endpoint::new(address) }
    });
    (found_by, made.collect())
}

/// The WorkloadEntries of a namespace that a selector means.
fn workloads<'a>(cx: &Cx<'a>, namespace: &str, selector: &Labels) -> Vec<(&'a Arc<Object>, &'a service_entry::Endpoint)> {
    let all = cx.by_word(Kind::WorkloadEntry, namespace).filter_map(|object| match &object.spec {
        Spec::WorkloadEntry(entry) => Some((object, &entry.0)),
        _ => None,
    });
    all.filter(|(_, e)| selects(selector, &e.labels)).collect()
}

/// The DestinationRules of a host: all of the narrowest pattern that has any, those of the host's namespace first.
fn rules<'a>(cx: &Cx<'a>, key: &ClusterKey) -> Vec<(&'a Arc<Object>, &'a DestinationRule)> {
    let namespace: Name = match key.kubernetes() {
        Some((namespace, _)) => namespace.into(),
        None => entries(cx, key.host()).first().map(|(o, _)| o.key.namespace.clone()).unwrap_or_else(|| "default".into()),
    };
    for word in words(key) {
        let mut found: Vec<_> = cx
            .by_word(Kind::DestinationRule, &word)
            .filter_map(|object| match &object.spec {
                Spec::DestinationRule(rule) if applies(cx, object, rule, &namespace) => Some((object, &**rule)),
                _ => None,
            })
            .collect();
        if !found.is_empty() {
            let narrowest = found.iter().map(|(_, rule)| rule.host.len()).max();
            found.retain(|(_, rule)| Some(rule.host.len()) == narrowest);
            found.sort_by_key(|(object, _)| (object.key.namespace != namespace, object.meta.created, &object.key));
            return found;
        }
    }
    Vec::new()
}

/// Whether a rule is seen from a namespace and means the workload that runs here.
fn applies(cx: &Cx<'_>, object: &Object, rule: &DestinationRule, namespace: &str) -> bool {
    let here = rule.selector.as_ref().is_none_or(|(selector, _)| selects(selector, &cx.options.labels));
    here && rule.export_to.sees(&object.key.namespace, namespace)
}

/// What the DestinationRules of a host are filed under, the narrowest first. Services have one word for all patterns that each of them
/// matches: there are many clusters, and they keep what they looked at.
fn words(key: &ClusterKey) -> Vec<String> {
    match key.kubernetes() {
        Some((namespace, _)) => vec![key.host().to_string(), format!("*.{namespace}.svc.cluster.local"), EVERY_SERVICE.to_string()],
        None => patterns(key.host()),
    }
}

/// `a.b.c`, `*.b.c`, `*.c`, `*`
fn patterns(host: &str) -> Vec<String> {
    let mut all = vec![host.to_string()];
    let mut rest = host.strip_prefix("*.").unwrap_or(host);
    while let Some((_, after)) = rest.split_once('.') {
        all.push(format!("*.{after}"));
        rest = after;
    }
    all.push("*".into());
    all
}

fn subset<'a>(rules: &[(&'a Arc<Object>, &'a DestinationRule)], name: &str) -> Option<(&'a Arc<Object>, &'a Subset)> {
    rules.iter().find_map(|(object, rule)| Some((*object, rule.subsets.iter().find(|s| *s.name == *name)?)))
}

/// Whether a DestinationRule has the subset.
pub fn has_subset(cx: &Cx<'_>, key: &ClusterKey) -> bool {
    subset(&rules(cx, key), key.subset()).is_some()
}

/// The names of a host's subsets.
pub fn subsets(cx: &Cx<'_>, key: &ClusterKey) -> Vec<Name> {
    rules(cx, key).iter().flat_map(|(_, rule)| rule.subsets.iter().map(|s| s.name.clone())).collect()
}

/// Whether connections to a cluster go through a tunnel.
pub fn is_tunnel(cx: &Cx<'_>, key: &ClusterKey) -> bool {
    let rules = rules(cx, key);
    let own = subset(&rules, key.subset()).map(|(_, s)| &s.policy);
    rules.first().is_some_and(|(_, rule)| rule.policy.tunnel(own).is_some())
}

/// What the DestinationRules say of a cluster.
pub fn settings(cx: &Cx<'_>, key: &ClusterKey) -> Settings {
    let rules = rules(cx, key);
    merged(&rules, key)
}

fn merged(rules: &[(&Arc<Object>, &DestinationRule)], key: &ClusterKey) -> Settings {
    let none = Policy::default();
    let base = rules.first().map_or(&none, |(_, rule)| &rule.policy);
    base.merged(subset(rules, key.subset()).map(|(_, s)| &s.policy), key.port)
}

/// Applies the DestinationRules for the host: the subset's labels select among the endpoints, the traffic policy sets the
/// cluster's fields. A subset that no rule has leaves no endpoints; the objects that refer to it report it.
pub fn traffic_policy(cx: &Cx<'_>, key: &ClusterKey, draft: &mut Draft, part: &mut Part) {
    let rules = rules(cx, key);
    part.uses.extend(rules.iter().map(|(object, _)| object.key.clone()));
    if !key.subset().is_empty() {
        match subset(&rules, key.subset()) {
            Some((object, subset)) => {
                draft.endpoints.retain(|e| selects(&subset.labels, &e.labels));
                if draft.endpoints.is_empty() && draft.found_by != FoundBy::Request {
                    let message = format!(
                        "no endpoint of {} has the labels of the subset {}: requests to it are answered with 503",
                        key.host(),
                        subset.name
                    );
                    let found = Diagnostic::warning("NoEndpoints", message)
                        .help("labels are those of the Pods, of the EndpointSlice, or of a ServiceEntry's endpoint");
                    part.report(object, subset.at.span, &*subset.at.field, found);
                }
            }
            None => draft.endpoints.clear(),
        }
    }
    without_labels(cx, key, part);
    let settings = merged(&rules, key);
    let own = subset(&rules, key.subset()).map(|(_, s)| &s.policy);
    if let Some((_, rule)) = rules.first() {
        draft.cluster.proxy_protocol = rule.policy.proxy_protocol(own);
        draft.cluster.tunneling_config = rule.policy.tunnel(own).map(Box::new);
    }
    let setting = settings.balancer.as_ref().and_then(|b| b.locality.as_ref());
    let own = Locality::of(&cx.options.labels);
    if let (Some(setting), Some((owner, _)), false) = (setting.filter(|s| s.enabled), rules.first(), own.is_known()) {
        let message = "the locality of this gateway is unknown: endpoints are not chosen by it";
        let help = "run it with --labels topology.kubernetes.io/region=R,topology.kubernetes.io/zone=Z";
        part.report(owner, setting.at.span, &*setting.at.field, Diagnostic::warning("UnknownLocality", message).help(help));
    }
    locality::apply(setting, &own, &cx.options.labels, settings.outlier_detection.is_some(), &mut draft.endpoints);
    let cluster = &mut draft.cluster;
    if let Some(balancer) = &settings.balancer {
        cluster.lb_policy = balancer.policy.clone();
        cluster.slow_start = balancer.slow_start.map(Box::new);
        cluster.hash_policy = balancer.hash.iter().map(|of| HashPolicy { of: of.clone(), terminal: false }).collect();
    }
    if let Some(pool) = &settings.pool {
        cluster.circuit_breakers = pool.breakers.clone();
        cluster.connect_timeout = pool.connect_timeout.unwrap_or(cluster.connect_timeout);
        cluster.tcp_keepalive = pool.keepalive.clone().map(Box::new);
        cluster.max_requests_per_connection = pool.max_requests_per_connection;
        if let Some(idle) = pool.http_idle_timeout {
            cluster.idle_timeout = (!idle.is_zero()).then_some(idle);
            part.own_idle_timeout = true;
        }
        if pool.upgrade {
            cluster.protocol = UpstreamProtocol::Http2;
        }
        if pool.use_client_protocol {
            cluster.protocol = UpstreamProtocol::UseDownstream;
        }
    }
    if let Some(budget) = settings.retry_budget {
        cluster.circuit_breakers.retry_budget = Some(Box::new(budget));
    }
    if let Some(found) = &settings.outlier_detection {
        cluster.outlier_detection = Some(Box::new(found.clone()));
    }
    if key.purpose() == Purpose::ServerName {
        return;
    }
    let by_registry = || entries(cx, key.host()).into_iter().find_map(|(object, entry)| Some((object, originates(entry, key.port)?)));
    let originate = match &settings.tls {
        // Settings come from the first rule, or from the rule that has the subset.
        Some(tls) => {
            let owner = subset(&rules, key.subset()).map(|(object, _)| object).or(rules.first().map(|(object, _)| *object));
            owner.zip(tls.originate.as_ref())
        }
        None if key.kubernetes().is_some() => None,
        None => by_registry(),
    };
    if let Some((owner, originate)) = originate {
        cluster.tls = Some(Box::new(upstream_tls(cx, key, owner, originate, part)));
    }
}

fn originates(entry: &ServiceEntry, port: u16) -> Option<&Originate> {
    entry.ports.iter().find(|p| p.number == port)?.originate.as_deref()
}

/// Reports rules for workloads with certain labels where this one was given none.
fn without_labels(cx: &Cx<'_>, key: &ClusterKey, part: &mut Part) {
    if !cx.options.labels.is_empty() {
        return;
    }
    for object in cx.by_word(Kind::DestinationRule, key.host()) {
        if let Spec::DestinationRule(rule) = &object.spec
            && let Some((_, at)) = &rule.selector
        {
            let found = Diagnostic::warning("NoLabels", "this gateway was given no labels: this rule does not apply here");
            part.report(object, at.span, &*at.field, found.help("start it with --labels"));
        }
    }
}

fn upstream_tls(cx: &Cx<'_>, key: &ClusterKey, owner: &Object, tls: &Originate, part: &mut Part) -> UpstreamTls {
    let namespace = &owner.key.namespace;
    let secret_of =
        |name: &str, content: SecretUse| SecretKey { source: Kind::Secret, namespace: namespace.clone(), name: name.into(), content };
    let mut certificate = None;
    let mut roots = None;
    if let Some(name) = &tls.credential {
        if tls.mutual {
            let secret = secret_of(name, SecretUse::Certificate);
            // Used even where it is missing: without its certificate the cluster must not be talked to as if it had none.
            if let Err(lacks) = secret::check(cx, &secret) {
                lacking(owner, &tls.at, lacks, &format!("{namespace}/{name}"), "tls.crt and tls.key", part);
            }
            certificate = Some(part.use_secret(secret));
        }
        let candidates = [format!("{name}-cacert"), name.to_string()].map(|n| secret_of(&n, SecretUse::Roots));
        let found = candidates.into_iter().find(|k| secret::check(cx, k).is_ok());
        if found.is_none() && !tls.mutual && !tls.insecure_skip_verify {
            lacking(owner, &tls.at, Lacks::Content, &format!("{namespace}/{name}"), "ca.crt", part);
            roots = Some(part.use_secret(secret_of(name, SecretUse::Roots)));
        } else {
            roots = found.map(|key| part.use_secret(key));
        }
    }
    if let Some(files) = tls.files.as_ref().filter(|_| tls.mutual && certificate.is_none()) {
        certificate = Some(files::certificate(cx, owner, files, part).unwrap_or_else(|key| part.use_secret(key)));
    }
    let ca_file = tls.ca_file.as_deref().filter(|file| *file != "system" && roots.is_none() && !tls.insecure_skip_verify);
    if let Some(file) = ca_file {
        // Where the file cannot be read nothing is trusted, rather than the system's roots.
        let found = files::roots(cx, owner, file, tls.ca_crl.as_deref(), &tls.at, part);
        roots = Some(found.unwrap_or_else(|key| part.use_secret(key)));
    }
    let verification = if tls.insecure_skip_verify {
        UpstreamVerification::Skip
    } else if let Some(secret) = roots {
        UpstreamVerification::Secret(secret)
    } else {
        UpstreamVerification::System
    };
    let mut subject_alt_names = tls.subject_alt_names.clone();
    if subject_alt_names.is_empty() {
        subject_alt_names = entries(cx, key.host()).iter().flat_map(|(_, e)| e.subject_alt_names.clone()).collect();
    }
    UpstreamTls { sni: tls.sni.clone(), verification, subject_alt_names, certificate, min_version: None }
}
