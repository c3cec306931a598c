#![allow(clippy::unwrap_used)]
use super::{matcher::Patterns, rewrite::*, *};
use crate::{
    cluster::ClusterSlot,
    core::Random,
    head_access::{RequestView, fake::Request},
};
use std::{collections::BTreeMap, sync::Arc};
use weir_config::{diagnostic::Diagnostic, model::*};

fn route(name: &str, path: PathMatch) -> Route {
    let origin = Origin::named(&format!("Test/default/{name}"));
    Route::new(name.into(), RouteMatch::path(path), RouteAction::direct_response(200, ""), origin)
}
fn exact(p: &str) -> PathMatch {
    PathMatch::Exact(p.into())
}
fn prefix(p: &str) -> PathMatch {
    PathMatch::Prefix(p.into())
}
fn segments(p: &str) -> PathMatch {
    PathMatch::PathSeparatedPrefix(p.into())
}
fn regex(p: &str) -> PathMatch {
    PathMatch::Regex(p.into())
}
fn host(name: &str, domains: &[&str], routes: Vec<Route>) -> Arc<VirtualHost> {
    let domains = domains.iter().map(|d| Name::from(*d)).collect();
    let routes = routes.into_iter().map(Arc::new).collect();
    Arc::new(VirtualHost::new(name.into(), domains, routes))
}
fn slots() -> impl FnMut(&Name) -> Arc<ClusterSlot> {
    |name| Arc::new(ClusterSlot::new(name.clone(), 0))
}
/// Takes over the hosts, and tells what is wrong with them.
fn set(config: &mut RouteConfigRt, hosts: &[Arc<VirtualHost>]) -> Vec<Diagnostic> {
    for host in hosts {
        config.set(host, &mut slots(), &mut Patterns::default());
    }
    hosts.iter().flat_map(|h| config.findings(&h.name)).collect()
}
fn compile(hosts: Vec<Arc<VirtualHost>>) -> (Arc<RouteTable>, Vec<Diagnostic>) {
    let mut config = RouteConfigRt::new("r".into());
    let findings = set(&mut config, &hosts);
    (config.table().clone(), findings)
}
fn table(routes: Vec<Route>) -> Arc<RouteTable> {
    let (table, findings) = compile(vec![host("v", &["*"], routes)]);
    assert_eq!(findings, []);
    table
}
fn name<'a>(table: &'a RouteTable, request: &Request) -> Option<&'a str> {
    table.find(request, true).1.map(|r| &**r.name())
}

#[test]
fn hosts_by_exactness_and_length() {
    let domains: &[&[&str]] = &[
        &["shop.test", "WWW.shop.test"],
        &["*.shop.test"],
        &["*.eu.shop.test"],
        &["shop.*"],
        &["shop.eu.*"],
        &["*"],
        &["*-api.shop.test"],
        &["[::1]"],
        &["port.test:8080"],
    ];
    let hosts = domains.iter().map(|d| host(d[0], d, vec![route(d[0], prefix("/"))])).collect();
    let (table, findings) = compile(hosts);
    assert_eq!(findings, []);
    let expected = [
        ("shop.test", "shop.test"),
        ("SHOP.test", "shop.test"),
        ("www.shop.test", "shop.test"),
        ("shop.test:8080", "shop.test"),
        ("a.shop.test", "*.shop.test"),
        ("a.b.shop.test", "*.shop.test"),
        ("a.eu.shop.test", "*.eu.shop.test"),
        ("eu.shop.test", "*.shop.test"),
        (".shop.test", "*"),
        ("x-api.shop.test", "*-api.shop.test"),
        ("-api.shop.test", "*.shop.test"),
        ("shop.com", "shop.*"),
        ("shop.eu.com", "shop.eu.*"),
        ("shop.", "*"),
        ("other", "*"),
        ("", "*"),
        ("[::1]:80", "[::1]"),
        ("xshop.test", "*"),
    ];
    for (authority, host) in expected {
        assert_eq!(name(&table, &Request::get(authority, "/")), Some(host), "{authority}");
    }
    let long = "a".repeat(400) + ".shop.test";
    assert_eq!(name(&table, &Request::get(&long, "/")), Some("*"));
    assert_eq!(&**table.find(&Request::get("port.test:8080", "/"), false).1.unwrap().name(), "port.test:8080");
    assert_eq!(name(&table, &Request::get("port.test:8080", "/")), Some("*"));
}

#[test]
fn duplicate_domains_are_told_and_the_first_keeps_them() {
    let hosts = vec![
        host("one", &["a.test", "*"], vec![route("one", prefix("/"))]),
        host("two", &["A.test", "*", "b.test", "b.test"], vec![route("two", prefix("/"))]),
    ];
    let (table, findings) = compile(hosts);
    let told: Vec<_> = findings.iter().map(|f| (f.message.as_str(), f.object.as_deref().unwrap())).collect();
    assert_eq!(
        told,
        [
            ("the domain `A.test` of virtual host `two` is already taken by `one`", "Test/default/two"),
            ("the domain `*` of virtual host `two` is already taken by `one`", "Test/default/two"),
            ("the domain `b.test` of virtual host `two` is already taken by `two`", "Test/default/two"),
        ]
    );
    assert_eq!(name(&table, &Request::get("a.test", "/")), Some("one"));
}

#[test]
fn the_first_route_that_matches_is_taken() {
    let mut no_case = route("no-case", segments("/Case"));
    Arc::make_mut(&mut no_case.matches).ignore_case = true;
    let table = table(vec![
        route("exact", exact("/a/b")),
        route("segments", segments("/a")),
        route("shadowed", exact("/a/c")),
        route("text", prefix("/al")),
        route("regex", regex("/users/[0-9]+(/.*)?")),
        route("late", exact("/users/7")),
        route("users", segments("/users/")),
        route("png", regex(".*\\.png")),
        route("alternatives", regex("/x|/y")),
        no_case,
        route("deep", prefix("/deep/er/")),
        route("deep-short", prefix("/deep")),
        route("any", prefix("/")),
    ]);
    let expected = [
        ("/a/b", "exact"),
        ("/a", "segments"),
        ("/a/", "segments"),
        ("/a/c", "segments"),
        ("/a/b/", "segments"),
        ("/a?x=/b", "segments"),
        ("/ab", "any"),
        ("/alpha", "text"),
        ("/al", "text"),
        ("/users/7", "regex"),
        ("/users/7/x", "regex"),
        ("/users/x", "users"),
        ("/users", "users"),
        ("/usersx", "any"),
        ("/pic.png", "png"),
        ("/users/a.png", "users"),
        ("/x", "alternatives"),
        ("/xy", "any"),
        ("/cAsE/1", "no-case"),
        ("/cases", "any"),
        ("/deep/er/x", "deep"),
        ("/deep/er", "deep-short"),
        ("/deep/es", "deep-short"),
        ("/dee", "any"),
        ("/", "any"),
    ];
    for (path, route) in expected {
        assert_eq!(name(&table, &Request::get("h", path)), Some(route), "{path}");
    }
    let empty = compile(vec![host("v", &["h"], vec![])]).0;
    assert_eq!(name(&empty, &Request::get("h", "/")), None);
    assert_eq!(name(&empty, &Request::get("other", "/")), None);
    assert_eq!(name(&RouteTable::default(), &Request::get("h", "/")), None);
}

/// The index must find what a walk over the list would.
#[test]
fn the_index_agrees_with_a_walk() {
    let mut random = crate::core::Random::new(3);
    let words = ["a", "ab", "b", "abc", "", "c-d", "x"];
    for _ in 0..300 {
        let path = |random: &mut crate::core::Random| {
            (0..=random.below(3)).map(|_| format!("/{}", words[random.below(7) as usize])).collect::<String>()
        };
        let paths: Vec<PathMatch> = (0..random.below(25))
            .map(|_| {
                let p = path(&mut random);
                match random.below(4) {
                    0 => exact(&p),
                    1 => prefix(&p),
                    2 => segments(&p),
                    _ => regex(&format!("{p}[a-c]*")),
                }
            })
            .collect();
        let routes: Vec<_> = paths.iter().enumerate().map(|(i, p)| route(&i.to_string(), p.clone())).collect();
        let table = table(routes);
        for _ in 0..20 {
            let asked = path(&mut random);
            let walk = paths.iter().position(|p| match p {
                PathMatch::Exact(p) => *p == asked,
                PathMatch::Prefix(p) => asked.starts_with(p.as_str()),
                PathMatch::PathSeparatedPrefix(p) => {
                    let p = p.trim_end_matches('/');
                    asked.strip_prefix(p).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                }
                PathMatch::Regex(p) => ::regex::Regex::new(&format!("^(?:{p})$")).unwrap().is_match(&asked),
            });
            assert_eq!(name(&table, &Request::get("h", &asked)), walk.map(|i| i.to_string()).as_deref(), "{asked} in {paths:?}");
        }
    }
}

#[test]
fn headers_and_queries_are_conditions() {
    let text = |m: StringMatch| ValueMatch::Text(m);
    let eq = |s: &str| text(StringMatch::Exact(s.into()));
    let header = |name: &str, value, invert, ignore_case| HeaderMatch { name: name.into(), value, invert, ignore_case };
    let base = || Request::get("shop.test", "/?q=1&flag&enc=a%20b+c");
    let with = |v: &str| base().with("x", v);
    let post = || Request { method: "POST", ..base() };
    let table_of: Vec<(HeaderMatch, Vec<Request>, Vec<Request>)> = vec![
        (header("x", eq("1"), false, false), vec![with("1")], vec![with("2"), base()]),
        (header("x", eq("1"), true, false), vec![with("2"), base()], vec![with("1")]),
        (header("x", eq("Ab"), false, true), vec![with("aB")], vec![with("abc")]),
        (header("x", text(StringMatch::Prefix("Ab".into())), false, true), vec![with("ABc")], vec![with("cab")]),
        (header("x", text(StringMatch::Suffix("z".into())), false, false), vec![with("xyz")], vec![with("zx"), with("Z")]),
        (header("x", text(StringMatch::Contains("Mid".into())), false, true), vec![with("a-mid-b")], vec![with("mi-d")]),
        (header("x", text(StringMatch::Regex("[0-9]+".into())), false, false), vec![with("42")], vec![with("42x"), with("x42")]),
        (
            header("x", ValueMatch::Range { start: -1, end: 10 }, false, false),
            vec![with("-1"), with("9")],
            vec![with("10"), with("x"), with("1.5")],
        ),
        (header("x", ValueMatch::Present, false, false), vec![with("")], vec![base()]),
        (header("x", ValueMatch::Present, true, false), vec![base()], vec![with("1")]),
        (header(":method", eq("GET"), false, false), vec![base()], vec![post()]),
        (header(":authority", eq("shop.test"), false, false), vec![base()], vec![Request::get("x", "/")]),
        (header(":scheme", eq("https"), true, false), vec![base()], vec![]),
        (header(":path", text(StringMatch::Contains("q=1".into())), false, false), vec![base()], vec![Request::get("shop.test", "/")]),
        // Each line by itself: one match is enough, and an inverted condition requires none.
        (header("x", eq("1,2"), false, false), vec![with("1,2"), with("3").with("x", "1,2")], vec![with("1").with("x", "2")]),
        (header("x", eq("2"), false, false), vec![with("1").with("x", "2"), with("2").with("x", "1")], vec![with("1,2"), with("2,1")]),
        (
            header("x", eq("2"), true, false),
            vec![with("1").with("x", "3"), with("1,2")],
            vec![with("1").with("x", "2"), with("2").with("x", "1")],
        ),
        (
            header("x", text(StringMatch::Prefix("b".into())), false, false),
            vec![with("ab").with("x", "ba")],
            vec![with("a").with("x", "ab")],
        ),
        (
            header("x", text(StringMatch::Suffix("a".into())), false, false),
            vec![with("ba").with("x", "c")],
            vec![with("ab").with("x", "ac")],
        ),
        (header("x", text(StringMatch::Contains("a,b".into())), false, false), vec![with("xa,bx")], vec![with("a").with("x", "b")]),
        (
            header("x", text(StringMatch::Regex("a|b".into())), true, false),
            vec![with("c").with("x", "a,b")],
            vec![with("c").with("x", "b")],
        ),
        (header("x", ValueMatch::Range { start: 5, end: 9 }, false, false), vec![with("1").with("x", "7")], vec![with("1").with("x", "9")]),
        (header("x", ValueMatch::Present, true, false), vec![base()], vec![with("1").with("x", "2")]),
    ];
    for (matcher, yes, no) in table_of {
        let mut r = route("r", prefix("/"));
        Arc::make_mut(&mut r.matches).headers = vec![matcher.clone()];
        let t = table(vec![r]);
        yes.iter().for_each(|r| assert!(name(&t, r).is_some(), "{matcher:?} {r:?}"));
        no.iter().for_each(|r| assert!(name(&t, r).is_none(), "{matcher:?} {r:?}"));
    }
    for (name_, value, fits) in [
        ("q", eq("1"), true),
        ("q", eq("2"), false),
        ("flag", ValueMatch::Present, true),
        ("none", ValueMatch::Present, false),
        ("enc", eq("a b c"), true),
    ] {
        let mut r = route("r", prefix("/"));
        Arc::make_mut(&mut r.matches).query_parameters = vec![QueryMatch { name: name_.into(), value }];
        assert_eq!(name(&table(vec![r]), &base()).is_some(), fits, "{name_}");
    }
}

#[test]
fn what_did_not_change_is_taken_over_and_bad_routes_keep_their_last_version() {
    let (a, b) =
        (host("a", &["a"], vec![route("a", prefix("/"))]), host("b", &["b"], vec![route("one", exact("/1")), route("two", exact("/2"))]));
    let mut config = RouteConfigRt::new("r".into());
    set(&mut config, &[a.clone(), b.clone()]);
    let first = config.table().clone();
    let mut routes = b.routes.to_vec();
    routes[0] = Arc::new(route("one", regex("(")));
    routes.push(Arc::new(route("three", regex("/3/["))));
    let findings = set(&mut config, &[Arc::new(VirtualHost { routes: routes.into(), ..(*b).clone() })]);
    let second = config.table().clone();
    assert!(Arc::ptr_eq(first.host(b"a").unwrap(), second.host(b"a").unwrap()));
    let at = |t: &RouteTable, p: &str| t.find(&Request::get("b", p), true).1.cloned();
    assert!(Arc::ptr_eq(&at(&first, "/1").unwrap(), &at(&second, "/1").unwrap()));
    assert!(Arc::ptr_eq(&at(&first, "/2").unwrap(), &at(&second, "/2").unwrap()));
    assert!(at(&second, "/3/").is_none());
    assert_eq!(findings.len(), 2);
    assert!(
        findings[0].message.contains("route `one`: match") && findings[0].object.as_deref() == Some("Test/default/one"),
        "{findings:?}"
    );
    assert_eq!(config.findings(&"b".into()), findings);
    assert_eq!(config.findings(&"a".into()), []);
}

/// Hosts that are set and removed in any order lead to the table that the hosts that are left lead to, one by one.
#[test]
fn edits_equal_a_fresh_build() {
    let mut random = Random::new(3);
    let domains: Vec<String> = (0..40)
        .map(|n| match n % 4 {
            0 => format!("h{n}.test"),
            1 => format!("*.w{}.test", n % 3),
            2 => format!("p{}.*", "x".repeat(n % 5)),
            _ => format!("H{}.test", n % 7),
        })
        .chain(["*".to_string()])
        .collect();
    let probes: Vec<String> = domains.iter().map(|d| d.replace('*', "some")).chain(["other".into(), "a.b.w1.test".into()]).collect();
    let (mut config, mut left) = (RouteConfigRt::new("r".into()), BTreeMap::new());
    for step in 0..3000 {
        let name = format!("v{}", random.next() % 12);
        let mut touched = if random.next().is_multiple_of(4) {
            left.remove(&name);
            config.remove(&name.as_str().into())
        } else {
            let own: Vec<&str> = (0..1 + random.next() % 4).map(|_| &*domains[(random.next() % 41) as usize]).collect();
            let host = host(&name, &own, vec![route(&format!("{name}-{step}"), prefix("/"))]);
            left.insert(name, host.clone());
            config.set(&host, &mut slots(), &mut Patterns::default())
        };
        if step % 10 != 0 {
            continue;
        }
        let mut fresh = RouteConfigRt::new("r".into());
        let mut findings = BTreeMap::new();
        set(&mut fresh, &left.values().cloned().collect::<Vec<_>>());
        for name in left.keys() {
            let name: Name = name.as_str().into();
            findings.insert(name.clone(), fresh.findings(&name));
            assert_eq!(config.findings(&name), fresh.findings(&name), "step {step}, {name}");
        }
        for probe in &probes {
            let route = |t: &RouteTable| t.find(&Request::get(probe, "/"), true).1.map(|r| r.name().to_string());
            assert_eq!(route(config.table()), route(fresh.table()), "step {step}, {probe}");
        }
        touched.retain(|n| left.contains_key(&**n));
        assert!(touched.iter().all(|n| findings.contains_key(n)));
    }
}

#[test]
fn a_change_compiles_one_host_and_shares_the_rest() {
    let mut config = RouteConfigRt::new("r".into());
    let make = |n: usize, path: &str| host(&format!("h{n}.test"), &[&format!("h{n}.test")], vec![route("r", prefix(path))]);
    for n in 0..10_000 {
        config.set(&make(n, "/"), &mut slots(), &mut Patterns::default());
    }
    let (before, compiled) = (config.table().clone(), config.compiled);
    config.set(&make(7, "/new"), &mut slots(), &mut Patterns::default());
    assert_eq!(config.compiled, compiled + 1);
    let same = |n: usize| {
        let name = format!("h{n}.test").into_bytes();
        Arc::ptr_eq(before.host(&name).unwrap(), config.table().host(&name).unwrap())
    };
    assert!(!same(7) && (0..10_000).filter(|n| *n != 7).all(same));
    assert_eq!(name(&before, &Request::get("h7.test", "/")), Some("r"), "the table of before stays as it was");
    assert_eq!(name(config.table(), &Request::get("h7.test", "/")), None);
}

#[test]
fn a_rewrite_to_no_host_is_reported() {
    for (literal, accepted) in
        [("shop.test", true), ("[::1]:80", true), ("shop.test:8080", true), ("a b", false), ("a/b", false), ("u@h", false)]
    {
        let mut forward = Forward::to(Vec::new());
        forward.host_rewrite = Some(HostRewrite::Literal(literal.into()));
        let mut r = route("r", prefix("/"));
        r.action = RouteAction::Forward(forward.into());
        let findings = compile(vec![host("v", &["*"], vec![r])]).1;
        let reasons: Vec<_> = findings.iter().map(|f| (f.reason, f.object.as_deref())).collect();
        let expected: &[_] = if accepted { &[] } else { &[("InvalidValue", Some("Test/default/r"))] };
        assert_eq!(reasons, expected, "{literal}");
    }
}

#[test]
fn paths_are_rewritten() {
    let of = |r: PathRewrite| PathRewriteRt::compile(&r, &mut Patterns::default()).unwrap();
    let replace = |s: &str| PathRewrite::ReplacePrefixMatch(s.into());
    let pattern = |p: &str, s: &str| PathRewrite::Regex { pattern: p.into(), substitution: s.into() };
    // Rewrite, the route's prefix, the path with its query, what comes of it. The first twelve are Gateway API's own.
    let expected = [
        (replace("/xyz"), "/foo", "/foo/bar", "/xyz/bar"),
        (replace("/xyz/"), "/foo", "/foo/bar", "/xyz/bar"),
        (replace("/xyz"), "/foo/", "/foo/bar", "/xyz/bar"),
        (replace("/xyz/"), "/foo/", "/foo/bar", "/xyz/bar"),
        (replace("/xyz"), "/foo", "/foo", "/xyz"),
        (replace("/xyz"), "/foo", "/foo/", "/xyz/"),
        (replace(""), "/foo", "/foo/bar", "/bar"),
        (replace(""), "/foo", "/foo/", "/"),
        (replace(""), "/foo", "/foo", "/"),
        (replace("/"), "/foo", "/foo/", "/"),
        (replace("/"), "/foo", "/foo", "/"),
        (replace("/"), "/foo", "/foo/bar", "/bar"),
        (replace("/xyz"), "/", "/foo?q=1", "/xyz/foo?q=1"),
        (PathRewrite::Full("/new".into()), "/foo", "/foo/bar?q=1", "/new?q=1"),
        (PathRewrite::Full("/new?a=1".into()), "/", "/x?q=1", "/new?a=1"),
        (PathRewrite::Prefix("/v2/".into()), "/foo/", "/foo/bar", "/v2/bar"),
        (PathRewrite::Prefix("".into()), "/foo", "/foo/bar", "/bar"),
        (pattern("^/service/([^/]+)(/.*)$", "\\2/instance/\\1"), "/", "/service/foo/v1/api?q", "/v1/api/instance/foo?q"),
        (pattern("one", "$1\\0"), "/", "/xone/one", "/x$1one/$1one"),
        (pattern("^/", ""), "/", "/a", "/a"),
    ];
    for (rewrite, prefix, target, expected) in expected {
        let mut r = route("r", if matches!(rewrite, PathRewrite::Prefix(_)) { PathMatch::Prefix(prefix.into()) } else { segments(prefix) });
        r.name = "r".into();
        let t = table(vec![r]);
        let request = Request::get("h", target);
        let (path, query) = (request.path().to_vec(), request.query());
        let mut out = Vec::new();
        of(rewrite.clone()).apply(&path, query, t.find(&request, true).1.unwrap().matched(&path), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{rewrite:?} {target}");
    }
    for bad in [pattern("(", ""), pattern("a(b)", "\\2")] {
        assert!(PathRewriteRt::compile(&bad, &mut Patterns::default()).is_err(), "{bad:?}");
    }
}

#[test]
fn redirects_say_where() {
    let plain = || Redirect { scheme: None, host: None, port: None, path: None, status: 301, strip_query: false };
    let text = |s: &str| Some(s.to_string());
    let expected = [
        (plain(), "http://h.test/a?q=1"),
        (Redirect { scheme: text("https"), ..plain() }, "https://h.test/a?q=1"),
        (Redirect { host: text("o.test"), ..plain() }, "http://o.test/a?q=1"),
        (Redirect { port: Some(RedirectPort::Literal(8443)), scheme: text("https"), ..plain() }, "https://h.test:8443/a?q=1"),
        (Redirect { port: Some(RedirectPort::Literal(443)), scheme: text("https"), ..plain() }, "https://h.test/a?q=1"),
        (Redirect { port: Some(RedirectPort::FromRequest), host: text("o.test"), ..plain() }, "http://o.test:8080/a?q=1"),
        (Redirect { path: Some(PathRewrite::Full("/b".into())), strip_query: true, ..plain() }, "http://h.test/b"),
        (Redirect { path: Some(PathRewrite::ReplacePrefixMatch("/b".into())), ..plain() }, "http://h.test/b?q=1"),
    ];
    for (redirect, location) in expected {
        let mut out = Vec::new();
        RedirectRt::compile(&redirect, &mut Patterns::default()).unwrap().location(&Request::get("h.test", "/a?q=1"), 2, 8080, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), location, "{redirect:?}");
    }
    let ports = [
        ("h.test:8080", None, "http://h.test:8080/"),
        ("h.test:80", Some("https"), "https://h.test/"),
        ("h.test:8080", Some("https"), "https://h.test:8080/"),
        ("[::1]:81", None, "http://[::1]:81/"),
    ];
    for (authority, scheme, location) in ports {
        let (mut out, redirect) = (Vec::new(), Redirect { scheme: scheme.map(str::to_string), ..plain() });
        RedirectRt::compile(&redirect, &mut Patterns::default()).unwrap().location(&Request::get(authority, "/"), 1, 8080, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), location);
    }
}

#[test]
fn requests_are_split_by_weight() {
    let forward = |weights: &[u32]| {
        let clusters =
            weights.iter().enumerate().map(|(i, w)| WeightedCluster { weight: *w, ..WeightedCluster::only(format!("c{i}").into()) });
        let forward = Forward::to(clusters.collect());
        table(vec![Route { action: RouteAction::Forward(Box::new(forward)), ..route("r", prefix("/")) }])
    };
    for weights in [&[90, 10][..], &[1, 0, 3], &[5], &[0, 1]] {
        let t = forward(weights);
        let ActionRt::Forward(f) = &t.find(&Request::get("h", "/"), true).1.unwrap().action else { panic!("forward") };
        let (mut random, mut counts) = (crate::core::Random::new(1), vec![0.0; weights.len()]);
        for _ in 0..10_000 {
            let target = f.choose(random.next()).unwrap();
            counts[f.targets().iter().position(|t| std::ptr::eq(t, target)).unwrap()] += 1.0;
        }
        let total: u32 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(weights) {
            let expected = 10_000.0 * f64::from(*weight) / f64::from(total);
            assert!((count - expected).abs() <= 200.0 && (*weight > 0 || *count == 0.0), "{counts:?} for {weights:?}");
        }
        assert!(f.choose(u64::MAX).is_some() && f.choose(0).is_some());
    }
    for weights in [&[0][..], &[0, 0]] {
        let t = forward(weights);
        let ActionRt::Forward(f) = &t.find(&Request::get("h", "/"), true).1.unwrap().action else { panic!("forward") };
        assert!(f.choose(7).is_none());
    }
}

#[test]
fn what_there_are_many_of_is_small_and_equal_edits_are_one() {
    let sizes = [size_of::<RouteRt>(), size_of::<Target>(), size_of::<HostRt>()];
    assert!(sizes.iter().zip([80, 40, 40]).all(|(size, most)| *size <= most), "{sizes:?}");
    let edits = |value: &str| HeaderEdits::new(Vec::new(), vec![("x".into(), value.into())], Vec::new());
    let (mut patterns, mut findings) = (Patterns::default(), Vec::new());
    let first = patterns.edits(&edits("1"), &mut findings).unwrap();
    assert!(Arc::ptr_eq(&first, &patterns.edits(&edits("1"), &mut findings).unwrap()));
    assert!(!Arc::ptr_eq(&first, &patterns.edits(&edits("2"), &mut findings).unwrap()));
    assert!(patterns.edits(&HeaderEdits::default(), &mut findings).is_none());
    // Each route with wrong edits reports them.
    for reported in [1, 2] {
        assert!(patterns.edits(&edits("%NO%"), &mut findings).is_none());
        assert_eq!(findings.len(), reported);
    }
}
