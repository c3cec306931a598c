use super::*;
use serde_json::json;

const STRATEGIC: &str = "application/strategic-merge-patch+json";

fn pod() -> Value {
    json!({
        "metadata": { "labels": { "a": "1" }, "annotations": {} },
        "status": {
            "phase": "Pending",
            "conditions": [
                { "type": "Ready", "status": "False", "reason": "ContainersNotReady" },
                { "type": "Gate", "status": "True" },
            ],
            "podIPs": [{ "ip": "10.0.0.1" }],
            "containerStatuses": [{ "name": "a", "ready": false, "state": { "waiting": {} } }],
        },
    })
}

#[test]
fn strategic_patches_merge_as_the_api_server_does() {
    let with = |pointer: &str, value: Value| {
        let mut pod = pod();
        *pod.pointer_mut(pointer).unwrap() = value;
        pod
    };
    let table = [
        (json!({}), pod()),
        (json!({ "status": { "phase": "Running" } }), with("/status/phase", json!("Running"))),
        // Conditions by their type; what an entry does not name stays.
        (
            json!({ "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": null }, { "type": "Initialized", "status": "True" }] } }),
            with(
                "/status/conditions",
                json!([{ "type": "Ready", "status": "True" }, { "type": "Gate", "status": "True" }, { "type": "Initialized", "status": "True" }]),
            ),
        ),
        (
            json!({ "status": { "$setElementOrder/conditions": [{ "type": "Gate" }, { "type": "Ready" }], "conditions": [{ "type": "Ready", "$patch": "delete" }] } }),
            with("/status/conditions", json!([{ "type": "Gate", "status": "True" }])),
        ),
        (
            json!({ "status": { "$setElementOrder/conditions": [{ "type": "Gate" }, { "type": "Ready" }] } }),
            with(
                "/status/conditions",
                json!([{ "type": "Gate", "status": "True" }, { "type": "Ready", "status": "False", "reason": "ContainersNotReady" }]),
            ),
        ),
        // Container statuses are replaced.
        (
            json!({ "status": { "containerStatuses": [{ "name": "b", "ready": true }] } }),
            with("/status/containerStatuses", json!([{ "name": "b", "ready": true }])),
        ),
        (
            json!({ "status": { "podIPs": [{ "$patch": "replace" }, { "ip": "10.0.0.2" }] } }),
            with("/status/podIPs", json!([{ "ip": "10.0.0.2" }])),
        ),
        (
            json!({ "status": { "podIPs": [{ "ip": "10.0.0.2" }] } }),
            with("/status/podIPs", json!([{ "ip": "10.0.0.1" }, { "ip": "10.0.0.2" }])),
        ),
        (json!({ "status": { "$patch": "replace", "phase": "Failed" } }), with("/status", json!({ "phase": "Failed" }))),
        (json!({ "status": { "$retainKeys": ["phase"], "phase": "Failed" } }), with("/status", json!({ "phase": "Failed" }))),
        (json!({ "metadata": { "labels": { "a": null, "b": "2" } } }), with("/metadata/labels", json!({ "b": "2" }))),
    ];
    for (patch, wanted) in table {
        let applied = Patch::read(STRATEGIC, patch.to_string().as_bytes()).unwrap().apply(pod()).unwrap();
        assert_eq!(applied, wanted, "{patch}");
    }
}

#[test]
fn other_patches_are_applied_and_bad_ones_say_why() {
    let table = [
        ("application/merge-patch+json; charset=utf-8", r#"{"status":{"conditions":[],"podIPs":null}}"#, "/status/conditions", json!([])),
        (
            "application/json-patch+json",
            r#"[{"op":"replace","path":"/status/conditions/0/status","value":"True"}]"#,
            "/status/conditions/0/status",
            json!("True"),
        ),
    ];
    for (content_type, patch, pointer, wanted) in table {
        let applied = Patch::read(content_type, patch.as_bytes()).unwrap().apply(pod()).unwrap();
        assert_eq!(applied.pointer(pointer), Some(&wanted), "{patch}");
    }
    let table = [
        ("application/apply-patch+yaml", "{}", "patches of content type \"application/apply-patch+yaml\" are not applied"),
        ("application/json", "{}", "patches of content type"),
        (STRATEGIC, "{", "the patch is not JSON: EOF"),
        (STRATEGIC, "[]", "the patch of : expected an object"),
        (STRATEGIC, r#"{"status":{"conditions":[{"status":"True"}]}}"#, "the patch of status.conditions.type: expected a value"),
        (STRATEGIC, r#"{"status":{"conditions":[1]}}"#, "the patch of status.conditions: expected a list of objects"),
        (STRATEGIC, r#"{"status":{"$patch":"other"}}"#, "the patch of status.$patch: expected merge, replace or delete"),
        (STRATEGIC, r#"{"status":{"$retainKeys":1}}"#, "the patch of status.$retainKeys: expected a list of names"),
        ("application/json-patch+json", r#"[{"op":"test","path":"/status/phase","value":"Running"}]"#, "the patch does not apply"),
        ("application/json-patch+json", r#"[{"op":"jump"}]"#, "the patch is not JSON"),
    ];
    for (content_type, patch, wanted) in table {
        let error = Patch::read(content_type, patch.as_bytes()).and_then(|patch| patch.apply(pod())).unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{patch}: {error}");
    }
}

#[test]
fn a_difference_leads_from_one_report_to_the_other() {
    let change = |patch: Value| Patch::Strategic(patch).apply(pod()).unwrap();
    let table = [
        (pod(), None),
        (change(json!({ "status": { "phase": "Running" } })), Some(json!({ "status": { "phase": "Running" } }))),
        // An entry as a whole, and what it lost.
        (
            change(json!({ "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": null }] } })),
            Some(json!({ "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": null, "message": null }] } })),
        ),
        (
            change(json!({ "status": { "conditions": [{ "type": "Gate", "$patch": "delete" }] } })),
            Some(json!({ "status": { "conditions": [{ "type": "Gate", "$patch": "delete" }] } })),
        ),
        (
            change(json!({ "status": { "podIPs": [{ "ip": "10.0.0.2" }] } })),
            Some(json!({ "status": { "podIPs": [{ "$patch": "replace" }, { "ip": "10.0.0.1" }, { "ip": "10.0.0.2" }] } })),
        ),
        (
            change(json!({ "status": { "containerStatuses": [] }, "metadata": { "labels": { "a": null } } })),
            Some(json!({ "metadata": { "labels": { "a": null } }, "status": { "containerStatuses": [] } })),
        ),
    ];
    for (to, wanted) in table {
        let found = difference(&pod(), &to);
        // An order of fields says nothing.
        assert_eq!(found, wanted, "{to}");
        if let Some(patch) = found {
            assert_eq!(strategic(pod(), &patch).unwrap(), to, "{patch}");
        }
    }
    // The first condition, and none any more: those of others stay.
    let (none, one) = (
        json!({ "status": {} }),
        json!({ "status": { "conditions": [{ "type": "A", "status": "True", "reason": "r", "message": "m" }] } }),
    );
    assert_eq!(difference(&none, &one), Some(one.clone()));
    assert_eq!(difference(&one, &none), Some(json!({ "status": { "conditions": [{ "type": "A", "$patch": "delete" }] } })));
    // What the cloud has meanwhile written beside it stays.
    let cloud = change(
        json!({ "status": { "conditions": [{ "type": "Ready", "status": "Unknown", "message": "lost" }, { "type": "Other", "status": "True" }] } }),
    );
    let local = change(json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } }));
    let merged = strategic(cloud, &difference(&pod(), &local).unwrap()).unwrap();
    assert_eq!(
        merged["status"]["conditions"],
        json!([
            { "type": "Ready", "status": "True", "reason": "ContainersNotReady" },
            { "type": "Gate", "status": "True" },
            { "type": "Other", "status": "True" },
        ])
    );
}

#[test]
fn merge_patches_of_one_object_are_joined() {
    let table = [
        (json!({ "count": 2, "lastTimestamp": "a" }), json!({ "count": 3 }), json!({ "lastTimestamp": "a", "count": 3 })),
        (json!({ "series": { "count": 2 } }), json!({ "series": { "state": "x" } }), json!({ "series": { "count": 2, "state": "x" } })),
        (json!({ "note": "x" }), json!({ "note": null }), json!({ "note": null })),
        (json!({ "a": 1 }), json!({ "a": { "b": null } }), json!({ "a": { "b": null } })),
    ];
    for (first, second, wanted) in table {
        assert_eq!(joined(first.clone(), second.clone()), wanted, "{first} {second}");
    }
}
