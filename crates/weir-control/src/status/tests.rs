#![allow(clippy::unwrap_used)]
use super::*;
use crate::{Control, Options, object::Kind};
use std::fs;
use weir_config::{
    delta::{Id, ResourceKind, State, Verdict},
    model::Origin,
};

const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, generation: 3}
spec: {gatewayClassName: weir, listeners: [{name: a, port: 80, protocol: HTTP}, {name: b, port: 81, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec: {parentRefs: [{name: gw}, {name: gw, sectionName: c}], rules: [{backendRefs: [{name: nobody, port: 80}]}]}
";

/// The conditions that say no, as `scope type reason: message`.
fn denied(status: &Status, kind: Kind, name: &str) -> Vec<String> {
    let all = status.conditions(&Key::new(kind, "default", name));
    all.iter()
        .filter(|c| c.status == (c.kind == "Conflicted"))
        .map(|c| format!("{} {} {}: {}", c.scope, c.kind, c.reason, c.message).trim().to_string())
        .collect()
}

/// A verdict on a listener of the Gateway.
fn verdict(name: &str, state: State, finding: Diagnostic, object: &str) -> VerdictChanges {
    let origin = Origin::named(object);
    let id = Id::new(ResourceKind::Listener, name.into());
    let verdict = Verdict { id, revision: 1, state, findings: vec![finding.from_origin(&origin)] };
    VerdictChanges { revision: 1, verdicts: vec![Arc::new(verdict)], ..VerdictChanges::default() }
}

fn cleared(name: &str) -> VerdictChanges {
    VerdictChanges { revision: 1, cleared: vec![Id::new(ResourceKind::Listener, name.into())], ..VerdictChanges::default() }
}

/// What is on the board, by reading these objects.
fn board(text: &str) -> (Status, tempfile::TempDir, Control) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), text).unwrap();
    let status = Status::default();
    status.apply_verdicts(VerdictChanges { whole: true, ..VerdictChanges::default() });
    let mut control = Control::new(Options { status: status.clone(), ..Options::default() });
    control.load(&[dir.path().into()]);
    (status, dir, control)
}

#[test]
fn conditions_say_what_the_proxy_says() {
    let (status, _dir, _control) = board(GATEWAY);
    let gateway = |status: &Status| denied(status, Kind::Gateway, "gw");
    let pending = "The proxy has not taken over this version yet";
    assert_eq!(
        gateway(&status),
        ["a Programmed", "b Programmed", "Programmed"].map(|c| format!("{c} Pending: {pending}")),
        "not yet taken over"
    );
    let taken = || Diagnostic::error("ListenFailed", "cannot listen on port 80").help("free it");
    let waits = || Diagnostic::new(weir_config::diagnostic::Severity::Info, "PluginNotStarted", "waits for a plugin");
    let fine: [&str; 0] = [];
    let denied_by = |listener: &str, why: &str| vec![format!("{listener} Programmed {why}"), format!("Programmed {why}")];
    let object = "Gateway/default/gw";
    let table: &[(&str, VerdictChanges, Vec<String>)] = &[
        ("nothing", VerdictChanges { revision: 1, ..VerdictChanges::default() }, fine.map(String::from).to_vec()),
        (
            "a port that is taken",
            verdict("0.0.0.0_80", State::Warming, taken(), object),
            denied_by("a", "AddressNotUsable: cannot listen on port 80; free it"),
        ),
        ("its end", cleared("0.0.0.0_80"), vec![]),
        (
            "a plugin that has not started",
            verdict("0.0.0.0_81", State::Warming, waits(), object),
            denied_by("b", "Pending: waits for a plugin"),
        ),
        ("another state with the same finding", verdict("0.0.0.0_81", State::Live, waits(), object), vec![]),
        ("another Gateway", verdict("0.0.0.0_80", State::Refused, taken(), "Gateway/default/other"), vec![]),
        ("all that stands", VerdictChanges { whole: true, ..verdict("0.0.0.0_80", State::Refused, taken(), object) }, {
            denied_by("a", "AddressNotUsable: cannot listen on port 80; free it")
        }),
        ("none that stands", VerdictChanges { revision: 1, whole: true, ..VerdictChanges::default() }, vec![]),
    ];
    for (what, changes, want) in table {
        status.apply_verdicts(changes.clone());
        assert_eq!(gateway(&status), *want, "{what}");
    }
    assert_eq!(status.status(&Key::new(Kind::Gateway, "default", "gw")).unwrap().observed_generation, 3);
}

#[test]
fn messages_are_those_of_the_findings() {
    let (status, _dir, _control) = board(GATEWAY);
    let want = [
        "parentRefs[1] Accepted NoMatchingParent: the Gateway default/gw has no listener of this name or port; sectionName is the name of a listener, port its port",
        "parentRefs[1] ResolvedRefs BackendNotFound: there is no Service default/nobody: its requests are answered with 500; add it, or change the name",
        "parentRefs[0] ResolvedRefs BackendNotFound: there is no Service default/nobody: its requests are answered with 500; add it, or change the name",
    ];
    assert_eq!(denied(&status, Kind::HttpRoute, "r"), want);
    // A part that the proxy refuses makes the route not accepted.
    status.apply_verdicts(verdict("0.0.0.0_80", State::Refused, Diagnostic::error("InvalidRegex", "no regex"), "HTTPRoute/default/r"));
    assert_eq!(denied(&status, Kind::HttpRoute, "r")[1], "parentRefs[0] Accepted InvalidRegex: no regex");
}

#[test]
fn readers_learn_of_changes_when_the_proxy_has_taken_them_over() {
    let (status, dir, mut control) = board(GATEWAY);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut stream = status.stream();
    let mut next = || {
        let next = async { tokio::time::timeout(std::time::Duration::ZERO, stream.next()).await };
        let changed = runtime.block_on(next).ok()?;
        Some((changed.whole, changed.keys.iter().map(Key::to_string).collect::<Vec<_>>().join(" ")))
    };
    let item = |whole, keys: &str| Some((whole, keys.to_string()));
    let taken_over = |revision| status.apply_verdicts(VerdictChanges { revision, ..VerdictChanges::default() });
    assert_eq!(next(), item(true, "Gateway/default/gw HTTPRoute/default/r"));
    assert_eq!(next(), None);
    taken_over(1);
    assert_eq!(next(), item(false, "Gateway/default/gw HTTPRoute/default/r"));
    let mut load = |text: &str| {
        fs::write(dir.path().join("a.yaml"), text).unwrap();
        control.load(&[dir.path().into()]);
    };
    load(&GATEWAY.replace("nobody", "somebody"));
    assert_eq!(next(), None, "not yet taken over");
    taken_over(2);
    // All is read again.
    assert_eq!(next(), item(false, "Gateway/default/gw HTTPRoute/default/r"));
    // A verdict tells of its object; one on an object that waits does not.
    let finding = || Diagnostic::error("ListenFailed", "taken");
    status.apply_verdicts(VerdictChanges { revision: 2, ..verdict("0.0.0.0_80", State::Warming, finding(), "Gateway/default/gw") });
    assert_eq!(next(), item(false, "Gateway/default/gw"));
    load(GATEWAY.split("---").next().unwrap());
    status.apply_verdicts(VerdictChanges { revision: 2, ..verdict("0.0.0.0_80", State::Warming, finding(), "HTTPRoute/default/r") });
    assert_eq!(next(), None);
    taken_over(3);
    assert_eq!(next(), item(false, "Gateway/default/gw HTTPRoute/default/r"));
    assert_eq!(next(), None);
}

#[test]
fn a_version_in_error_is_not_accepted_although_the_last_good_one_serves() {
    let (status, dir, mut control) = board(GATEWAY);
    control.load_and_watch(&[dir.path().into()]);
    let status_of = |kind, name| {
        let revision = u64::MAX - 1;
        status.apply_verdicts(VerdictChanges { revision, ..VerdictChanges::default() });
        denied(&status, kind, name)
    };
    fs::write(dir.path().join("a.yaml"), GATEWAY.replace("port: 81", "port: many").replace("port: 80}]}]", "port: 80, weight: x}]}]"))
        .unwrap();
    let update = control.next(std::time::Duration::from_secs(20)).unwrap();
    assert_eq!(update.delta.set.len(), 0, "the last good versions serve");
    let wrong = "InvalidType: expected a whole number, found a string; write a whole number";
    assert_eq!(status_of(Kind::Gateway, "gw"), ["a ", "b ", ""].map(|scope| format!("{scope}Accepted {wrong}")));
    let route = status_of(Kind::HttpRoute, "r");
    assert!(route[1].starts_with("parentRefs[0] Accepted InvalidType: "), "{route:?}");
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let other = GATEWAY.replace("gatewayClassName: weir", "gatewayClassName: other");
    let broken = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: broken}\nspec: {rules: 5}\n";
    let class = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: other}\nspec: {controllerName: example.com/other}\n";
    let (status, _dir, _control) = board(&(other + broken + class));
    let ours = |kind, name| status.status(&Key::new(kind, "default", name)).map(|s| (s.is_ours, s.conditions.len()));
    assert_eq!(ours(Kind::Gateway, "gw"), Some((false, 1)));
    assert_eq!(ours(Kind::GatewayClass, "other"), Some((false, 0)));
    assert_eq!(ours(Kind::HttpRoute, "broken"), Some((true, 1)));
    assert_eq!(ours(Kind::HttpRoute, "nobody"), None);
    assert_eq!(denied(&status, Kind::HttpRoute, "broken"), ["Accepted InvalidType: expected a list, found a number; write a list"]);
}

#[test]
fn findings_are_counted_once() {
    let found = |object: &str, text: &str| Arc::new(Diagnostic::error("A", text).object(&object.into()));
    let status = Status::default();
    let edit = |findings: &[(u32, &[&Arc<Diagnostic>])]| {
        let owner = |n: u32| if n == 0 { Owner::Cluster } else { Owner::Resource(Id::new(ResourceKind::Cluster, n.to_string().into())) };
        let findings = findings.iter().map(|(n, all)| (owner(*n), all.iter().map(|d| (*d).clone()).collect())).collect();
        status.edit(Edit { findings, ..Edit::default() });
        let words = |all: Vec<Arc<Diagnostic>>| all.iter().map(|d| d.message.clone()).collect::<Vec<_>>().join(" ");
        (words(status.findings()), words(status.take_new_findings()), status.errors())
    };
    let (a, again, b, c) = (found("x", "a"), found("x", "a"), found("x", "b"), found("y", "c"));
    let line = |all: &str, new: &str, errors| (all.to_string(), new.to_string(), errors);
    assert_eq!(edit(&[(0, &[&b, &a])]), line("a b", "a b", 2));
    assert_eq!(edit(&[(1, &[&again, &c])]), line("a b c", "c", 3), "one that another owner has as well");
    assert_eq!(edit(&[(0, &[&a, &b])]), line("a b c", "", 3), "another order");
    assert_eq!(edit(&[(0, &[&again, &c, &b])]), line("a b c", "", 3));
    assert_eq!(edit(&[(0, &[])]), line("a c", "", 2));
    assert_eq!(edit(&[(0, &[&b]), (1, &[])]), line("b", "b", 1));
    assert_eq!(edit(&[(0, &[])]), line("", "", 0));
    assert!(status.json(&|_| true).as_array().unwrap().is_empty());
}

#[test]
fn a_plugin_whose_code_is_missing_is_said_once() {
    let status = Status::default();
    let object: Arc<str> = "WasmPlugin/default/p".into();
    let (read, tried) =
        (Diagnostic::error("CodeNotFound", "read"), Diagnostic::error(weir_config::delta::PLUGIN_CODE_UNAVAILABLE, "tried"));
    let id = Id::new(ResourceKind::Plugin, "default/p".into());
    let verdict = Arc::new(Verdict { id, revision: 1, state: State::Refused, findings: vec![tried.object(&object)] });
    status.apply_verdicts(VerdictChanges { verdicts: vec![verdict], ..VerdictChanges::default() });
    let words = || status.findings().iter().map(|d| d.message.clone()).collect::<Vec<_>>().join(" ");
    assert_eq!((words(), status.errors()), ("tried".into(), 1));
    let edit = |findings| status.edit(Edit { findings: vec![(Owner::Cluster, findings)], ..Edit::default() });
    edit(vec![Arc::new(read.object(&object))]);
    assert_eq!((words(), status.errors()), ("read".into(), 1));
    edit(vec![]);
    assert_eq!((words(), status.errors()), ("tried".into(), 1));
}

#[test]
fn rules_that_are_refused_are_said_of_the_route() {
    const GOOD: &str = "{matches: [{path: {value: /good}}]}";
    const WRONG: &str = "{matches: [{path: {type: RegularExpression, value: '('}}]}";
    const UNSUPPORTED: &str = "{filters: [{type: ExtensionRef, extensionRef: {group: g, kind: K, name: n}}]}";
    let accepted = "Accepted true Accepted: The route is attached to this parent";
    let dropped = "PartiallyInvalid true UnsupportedValue: Dropped Rule(s) ";
    // The rules, and how each condition begins.
    let table: [(&[&str], &[&str]); 5] = [
        (&[GOOD, GOOD], &[accepted]),
        (&[GOOD, WRONG], &[accepted, &format!("{dropped}1: their requests are refused; spec.rules[1].matches[0].path.value: ")]),
        (
            &[WRONG, UNSUPPORTED, GOOD],
            &[accepted, &format!("{dropped}0, 1: their requests are refused; spec.rules[0].matches[0].path.value: ")],
        ),
        // Nothing is left.
        (&[WRONG], &["Accepted false InvalidValue: is not a regular expression"]),
        (&[UNSUPPORTED], &["Accepted false UnsupportedValue: the filter ExtensionRef is not supported"]),
    ];
    for (rules, want) in table {
        let (gateway, _) = GATEWAY.split_once("---").unwrap();
        let route = format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec: {{parentRefs: [{{name: gw}}], rules: [{}]}}\n",
            rules.join(", ")
        );
        let (status, _dir, control) = board(&format!("{gateway}{route}"));
        status.apply_verdicts(VerdictChanges { revision: 1, ..VerdictChanges::default() });
        let shown = status.conditions(&Key::new(Kind::HttpRoute, "default", "r"));
        let shown: Vec<String> = shown
            .iter()
            .filter(|c| c.kind != "ResolvedRefs")
            .map(|c| format!("{} {} {}: {}", c.kind, c.status, c.reason, c.message))
            .collect();
        assert!(shown.len() == want.len() && shown.iter().zip(want).all(|(s, w)| s.starts_with(w)), "{rules:?}: {shown:#?}");
        // A version in error is reported as such, whatever of it serves.
        assert_eq!(control.findings().iter().any(|f| f.severity == weir_config::diagnostic::Severity::Error), rules.contains(&WRONG));
    }
}
