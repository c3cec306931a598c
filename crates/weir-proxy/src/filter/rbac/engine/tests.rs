#![allow(clippy::unwrap_used)]
use super::*;
use crate::head_access::fake;
use weir_config::model::{HeaderMatch, StringMatch, ValueMatch};

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.into())
}

fn header(name: &str, value: ValueMatch) -> RbacMatch {
    RbacMatch::Header(HeaderMatch { name: name.into(), value, invert: false, ignore_case: false })
}

fn policy(name: &str, permissions: Vec<RbacMatch>, principals: Vec<RbacMatch>) -> RbacPolicy {
    RbacPolicy { name: name.into(), permissions, principals }
}

fn subject(request: &fake::Request) -> Subject<'_> {
    Subject {
        request: Some(request),
        direct_remote: "10.0.0.1".parse().unwrap(),
        remote: "::ffff:192.0.2.7".parse().unwrap(),
        local: "127.0.0.1:8080".parse().unwrap(),
        server_name: Some("shop.test"),
        principals: &[],
    }
}

fn holds(of: &RbacMatch, subject: &Subject<'_>) -> bool {
    Match::compile(of, &mut Patterns::default()).unwrap().holds(subject)
}

#[test]
fn conditions_hold() {
    use RbacMatch::*;
    let range = |text: &str| text.parse::<CidrRange>().unwrap();
    let request = fake::Request::get("Shop.test.:8080", "/a/b/c?x=1").with("x-role", "admin").with("x-role", "user");
    let no = || Or(vec![]);
    let table = [
        (Any, true),
        (And(vec![]), true),
        (Or(vec![]), false),
        (And(vec![Any, no()]), false),
        (Or(vec![no(), Any]), true),
        (Not(Box::new(Any)), false),
        (header(":method", ValueMatch::Text(exact("GET"))), true),
        (header(":method", ValueMatch::Text(exact("get"))), false),
        (header("x-role", ValueMatch::Text(exact("user"))), true),
        (header("x-role", ValueMatch::Text(exact("root"))), false),
        (header("x-role", ValueMatch::Present), true),
        (header("x-none", ValueMatch::Present), false),
        (Host(exact("shop.test")), true),
        (Host(exact("SHOP.test:8080")), true),
        (Host(exact("shop.test:80")), false),
        (Host(StringMatch::Suffix(".test".into())), true),
        (Host(StringMatch::Prefix("shop.".into())), true),
        (UrlPath(exact("/a/b/c")), true),
        (UrlPath(exact("/a/b/c?x=1")), false),
        (UrlPath(StringMatch::Prefix("/a/".into())), true),
        (UrlPath(StringMatch::Suffix("/c".into())), true),
        (DestinationIp(range("127.0.0.0/8")), true),
        (DestinationIp(range("10.0.0.0/8")), false),
        (DestinationPort(8080), true),
        (DestinationPort(80), false),
        (RequestedServerName(exact("SHOP.test")), true),
        (RequestedServerName(exact("other.test")), false),
        (DirectRemoteIp(range("10.0.0.0/8")), true),
        (DirectRemoteIp(range("192.0.2.0/24")), false),
        (RemoteIp(range("192.0.2.0/24")), true),
        (RemoteIp(range("10.0.0.0/8")), false),
        (Authenticated(StringMatch::Regex(".+".into())), false),
    ];
    for (of, wanted) in table {
        assert_eq!(holds(&of, &subject(&request)), wanted, "{of:?}");
    }
    let names = ["spiffe://cluster.local/ns/shop/sa/web".to_string()];
    let known = Subject { principals: &names, ..subject(&request) };
    assert!(holds(&Authenticated(exact(&names[0])), &known));
    assert!(holds(&Authenticated(StringMatch::Regex(".*/ns/shop/.*".into())), &known));
    assert!(!holds(&Authenticated(StringMatch::Regex(".*/ns/sho/.*".into())), &known));
    // Without a request, what is asked of one does not hold.
    let bytes = Subject { request: None, ..subject(&request) };
    assert!(!holds(&UrlPath(StringMatch::Prefix("/".into())), &bytes) && holds(&DestinationPort(8080), &bytes));
}

#[test]
fn templates_match_segments() {
    let table = [
        ("/foo/*", "/foo/a", true),
        ("/foo/*", "/foo/", false),
        ("/foo/*", "/foo/a/b", false),
        ("/foo/*", "/foo/a/", false),
        ("/foo/*/bar", "/foo/a/bar", true),
        ("/foo/*/bar", "/foo/a/b/bar", false),
        ("/foo/**", "/foo/", true),
        ("/foo/**", "/foo/a/b/", true),
        ("/foo/**", "/foo", false),
        ("/**/bar", "/a/b/bar", true),
        ("/**/bar", "/bar", false),
        ("/a.b/*", "/axb/c", false),
    ];
    for (template, path, wanted) in table {
        let request = fake::Request::get("h", path);
        assert_eq!(holds(&RbacMatch::UriTemplate(template.into()), &subject(&request)), wanted, "{template} {path}");
    }
}

#[test]
fn rules_decide_in_order() {
    let path = |text: &str| RbacMatch::UrlPath(StringMatch::Prefix(text.into()));
    let rules = |action, policies| RbacRules { action, policies };
    let deny = || rules(RbacAction::Deny, vec![policy("no-admin", vec![path("/admin")], vec![RbacMatch::Any])]);
    let allow = || {
        let inner = RbacMatch::RemoteIp("192.0.2.0/24".parse().unwrap());
        rules(RbacAction::Allow, vec![policy("inner", vec![path("/a"), path("/b")], vec![inner])])
    };
    let nothing = || rules(RbacAction::Allow, vec![policy("none", vec![RbacMatch::Or(vec![])], vec![RbacMatch::Any])]);
    let denied = |name: &'static str| Err(Denied { policy: Some(name) });
    let table = [
        (vec![], "/x", Ok(())),
        (vec![deny()], "/x", Ok(())),
        (vec![deny()], "/admin", denied("no-admin")),
        (vec![allow()], "/b", Ok(())),
        (vec![allow()], "/x", Err(Denied { policy: None })),
        (vec![deny(), allow()], "/admin", denied("no-admin")),
        (vec![deny(), allow()], "/a", Ok(())),
        (vec![nothing()], "/a", Err(Denied { policy: None })),
    ];
    for (rules, path, wanted) in table {
        let engine = Engine::compile(&rules, &mut Patterns::default()).unwrap();
        assert_eq!(engine.decide(&subject(&fake::Request::get("h", path))), wanted, "{rules:?} {path}");
    }
    let outer = "198.51.100.1".parse().unwrap();
    let request = fake::Request::get("h", "/a");
    let engine = Engine::compile(&[allow()], &mut Patterns::default()).unwrap();
    assert_eq!(engine.decide(&Subject { remote: outer, ..subject(&request) }), Err(Denied { policy: None }));
}
