use super::*;

fn read(method: &str, target: &str) -> RequestInfo {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    RequestInfo::read(&method.parse().unwrap(), path, query)
}

#[test]
fn resources_are_read_from_paths() {
    // Method, target; verb, resource, namespace, name, subresource.
    let table = [
        ("GET /api/v1/pods", "list pods.v1 - - -"),
        ("GET /api/v1/namespaces/n/pods", "list pods.v1 n - -"),
        ("GET /api/v1/namespaces/n/pods/p", "get pods.v1 n p -"),
        ("GET /api/v1/namespaces/n/pods/p/log", "get pods.v1 n p log"),
        ("POST /api/v1/namespaces/n/pods/p/exec", "create pods.v1 n p exec"),
        ("GET /api/v1/nodes/n/proxy/metrics/x", "get nodes.v1 - n proxy/metrics/x"),
        ("GET /api/v1/namespaces", "list namespaces.v1 - - -"),
        ("GET /api/v1/namespaces/n", "get namespaces.v1 - n -"),
        ("PUT /api/v1/namespaces/n/finalize", "update namespaces.v1 - n finalize"),
        ("PATCH /api/v1/namespaces/n/status", "patch namespaces.v1 - n status"),
        ("GET /api/v1/pods?watch=true", "watch pods.v1 - - -"),
        ("GET /api/v1/pods?watch", "watch pods.v1 - - -"),
        ("GET /api/v1/pods?watch=false", "list pods.v1 - - -"),
        ("GET /api/v1/watch/namespaces/n/pods", "watch pods.v1 n - -"),
        ("GET /api/v1/nodes?fieldSelector=metadata.name%3Dedge-1", "list nodes.v1 - edge-1 -"),
        ("GET /api/v1/nodes?fieldSelector=metadata.name!%3Dedge-1", "list nodes.v1 - - -"),
        (
            "PUT /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/e",
            "update leases.v1.coordination.k8s.io kube-node-lease e -",
        ),
        ("DELETE /apis/apps/v1/namespaces/n/deployments", "deletecollection deployments.v1.apps n - -"),
        ("DELETE /apis/apps/v1/namespaces/n/deployments/d", "delete deployments.v1.apps n d -"),
        ("GET //api/v1//pods/", "list pods.v1 - - -"),
        ("GET /api/v1/namespaces/n/pods/a%2Eb", "get pods.v1 n a.b -"),
    ];
    let or = |text: &str| if text.is_empty() { "-".to_string() } else { text.to_string() };
    for (request, wanted) in table {
        let (method, target) = request.split_once(' ').unwrap();
        let RequestInfo::Resource(r) = read(method, target) else { panic!("{request}: no resource") };
        let found = format!("{} {} {} {} {}", r.verb.name(), r.resource, or(&r.namespace), or(&r.name), or(&r.subresource));
        assert_eq!(found, wanted, "{request}");
    }
}

#[test]
fn everything_else_is_no_resource() {
    let table = [
        "GET /",
        "GET /api",
        "GET /api/v1",
        "GET /apis",
        "GET /apis/apps",
        "GET /apis/apps/v1",
        "GET /openapi/v3",
        "GET /version",
        "GET /healthz",
        "GET /api/v1/namespaces/n/pods/..%2F..%2Fsecrets",
        "GET /api/v1/namespaces/../secrets",
        "GET /api/v1/pods/%zz",
        "OPTIONS /api/v1/pods",
        "GET /api/v1/watch",
    ];
    for request in table {
        let (method, target) = request.split_once(' ').unwrap();
        assert!(matches!(read(method, target), RequestInfo::NonResource { .. }), "{request}");
    }
    let long = format!("/api/v1/pods/{}", "x".repeat(MAX_SEGMENT + 1));
    assert!(matches!(read("GET", &long), RequestInfo::NonResource { .. }));
}

#[test]
fn options_are_read_from_queries() {
    let target = "/api/v1/pods?labelSelector=a%3Db%2Cc&fieldSelector=spec.nodeName%3De&resourceVersion=7&resourceVersionMatch=NotOlderThan\
                  &limit=500&continue=abc&timeoutSeconds=400&allowWatchBookmarks=true&sendInitialEvents=1&pretty=true";
    let RequestInfo::Resource(r) = read("GET", target) else { panic!("no resource") };
    let wanted = Options {
        label_selector: "a=b,c".into(),
        field_selector: "spec.nodeName=e".into(),
        resource_version: "7".into(),
        resource_version_match: "NotOlderThan".into(),
        limit: 500,
        continue_token: "abc".into(),
        timeout_seconds: Some(400),
        allow_watch_bookmarks: true,
        send_initial_events: true,
    };
    assert_eq!(r.options, wanted);
    assert_eq!((field_value("a=b,spec.nodeName==e", "spec.nodeName"), field_value("a!=b", "a")), (Some("e"), None));
}

#[test]
fn resources_are_read_as_flags_spell_them() {
    for (text, wanted) in [
        ("v1/services", Some("services.v1")),
        ("discovery.k8s.io/v1/endpointslices", Some("endpointslices.v1.discovery.k8s.io")),
        ("services", None),
        ("/v1/services", None),
        ("v1/", None),
        ("services/v1", None),
        ("a/b/c/d", None),
        ("apps/v1/Deployments", None),
    ] {
        assert_eq!(GroupVersionResource::read(text).map(|resource| resource.to_string()).as_deref(), wanted, "{text}");
    }
}
