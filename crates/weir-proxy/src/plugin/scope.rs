//! Which streams reach a plugin. The others do not enter the guest: no context is made for them.
use crate::{
    head_access::{canonical_authority, host_without_port},
    stream::Stream,
};
use weir_config::model::{Name, PluginMatch, PluginScope};

/// What is compared of a stream.
struct Seen<'a> {
    /// Lower case, without port.
    host: &'a [u8],
    route_name: Option<&'a str>,
    /// Whether the object of the route is called so.
    object: &'a dyn Fn(&str) -> bool,
    cluster: Option<&'a str>,
}

/// Whether any rule matches the request of this stream and the route that it has now.
pub fn covers(scope: &PluginScope, stream: &Stream) -> bool {
    stream.refresh_route();
    let request = stream.req.borrow();
    let authority = canonical_authority(request.authority());
    let (route_name, object, cluster) = (stream.route_name.borrow(), stream.route_object.borrow(), stream.cluster.borrow());
    let seen = Seen {
        host: host_without_port(&authority),
        route_name: route_name.as_deref(),
        object: &|name: &str| object.as_ref().is_some_and(|object| object.is(name)),
        cluster: cluster.as_ref().map(|cluster| &*cluster.name),
    };
    scope.rules.iter().any(|rule| matches(rule, &seen))
}

/// Whether the rule matches by any of its lists. An SDK may ask for more; it is asked then.
fn matches(rule: &PluginMatch, seen: &Seen<'_>) -> bool {
    let in_domains = |list: &[Name]| list.iter().any(|domain| in_domain(domain.as_bytes(), seen.host));
    rule.route_names.iter().any(|name| seen.route_name == Some(&**name))
        || rule.routes.iter().any(|name| (seen.object)(name))
        || in_domains(&rule.domains) && !in_domains(&rule.except_domains)
        || seen.cluster.is_some_and(|cluster| rule.services.iter().any(|service| is_of(cluster, service)))
}

/// `*` at one end stands for any text.
fn in_domain(domain: &[u8], host: &[u8]) -> bool {
    match (domain.strip_prefix(b"*"), domain.strip_suffix(b"*")) {
        (Some(end), _) => host.ends_with(end),
        (None, Some(start)) => host.starts_with(start),
        (None, None) => host == domain,
    }
}

/// Whether `outbound|80|subset|host` is of the service `host` or `host:80`.
fn is_of(cluster: &str, service: &str) -> bool {
    let mut parts = cluster.split('|').skip(1);
    let (port, host) = (parts.next().unwrap_or_default(), parts.nth(1).unwrap_or_default());
    match service.split_once(':') {
        Some((name, wanted)) => name == host && wanted == port,
        None => service == host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_list_of_a_rule_matches() {
        let names = |list: &[&str]| list.iter().map(|n| Name::from(*n)).collect::<Vec<_>>();
        let none = PluginMatch::default;
        let seen = Seen {
            host: b"a.shop.test",
            route_name: Some("team/shop"),
            object: &|name| name == "HTTPRoute/team/shop",
            cluster: Some("outbound|80||one.default.svc.cluster.local"),
        };
        for (rule, wanted) in [
            (none(), false),
            (PluginMatch { route_names: names(&["shop", "team/shop"]), ..none() }, true),
            (PluginMatch { route_names: names(&["shop"]), ..none() }, false),
            (PluginMatch { routes: names(&["HTTPRoute/team/shop"]), ..none() }, true),
            (PluginMatch { routes: names(&["GRPCRoute/team/shop"]), ..none() }, false),
            (PluginMatch { domains: names(&["a.shop.test"]), ..none() }, true),
            (PluginMatch { domains: names(&["shop.test", "b.shop.test"]), ..none() }, false),
            (PluginMatch { domains: names(&["*.shop.test"]), ..none() }, true),
            (PluginMatch { domains: names(&["a.shop.*"]), ..none() }, true),
            (PluginMatch { domains: names(&["*"]), ..none() }, true),
            (PluginMatch { domains: names(&["*.test"]), except_domains: names(&["*.shop.test"]), ..none() }, false),
            (PluginMatch { services: names(&["one.default.svc.cluster.local"]), ..none() }, true),
            (PluginMatch { services: names(&["one.default.svc.cluster.local:80"]), ..none() }, true),
            (PluginMatch { services: names(&["one.default.svc.cluster.local:81"]), ..none() }, false),
            (PluginMatch { services: names(&["two.default.svc.cluster.local"]), ..none() }, false),
        ] {
            assert_eq!(matches(&rule, &seen), wanted, "{rule:?}");
        }
        let lost = Seen { host: b"", route_name: None, object: &|_| false, cluster: None };
        assert!(!matches(&PluginMatch { services: names(&["x"]), route_names: names(&["x"]), ..none() }, &lost));
    }
}
