//! What to say of one object: the conditions of its translation, corrected by the proxy's verdicts and explained by the findings.
use super::condition::{Condition, PENDING, Scope};
use crate::{
    api::gateway_api::listener::Listener,
    object::{Kind, Object, Spec},
};
use std::sync::Arc;
use weir_config::{
    delta::{ResourceKind, State, Verdict},
    diagnostic::{Diagnostic, Severity},
};

/// A finding about an object, with the verdict that it comes from, if the proxy made it.
pub struct Found<'a> {
    pub finding: &'a Arc<Diagnostic>,
    /// It was made when the object was read.
    pub reading: bool,
    pub verdict: Option<&'a Verdict>,
}

impl Found<'_> {
    /// The newest version of the object is not used: its last good version is.
    fn rejects(&self) -> bool {
        self.reading && self.finding.severity == Severity::Error
    }
}

/// Why clients cannot reach a Gateway by the Service that it has.
pub const IS_OF_ADDRESS: [&str; 3] = ["AddressNotAssigned", "AddressNotUsable", "NoResources"];
/// Warnings that an object as a whole has no effect.
const NO_EFFECT: [&str; 3] = ["NotAccepted", "MeshOnly", "NoParents"];

/// Kinds whose status Gateway API defines. The translation makes their conditions.
fn has_conditions(kind: Kind) -> bool {
    use Kind::*;
    matches!(kind, GatewayClass | Gateway | ListenerSet | HttpRoute | GrpcRoute | TlsRoute | TcpRoute | UdpRoute | BackendTlsPolicy)
}

/// Conditions that are true when something is wrong.
fn is_negative(kind: &str) -> bool {
    matches!(kind, "Conflicted" | "InsecureFrontendValidationMode" | "PartiallyInvalid")
}

/// The listeners of a Gateway or ListenerSet.
fn listeners(spec: &Spec) -> Option<&[Listener]> {
    match spec {
        Spec::Gateway(gateway) => Some(&gateway.listeners),
        Spec::ListenerSet(set) => Some(&set.listeners),
        _ => None,
    }
}

/// The conditions of an object as of now. `pending`: the proxy has not taken over what the object became.
///
/// Objects without conditions of their own are accepted unless something speaks against it. Nothing is said of classes of other
/// controllers.
pub fn conditions(object: Option<&Object>, translated: &[Condition], pending: bool, found: &[Found<'_>]) -> Vec<Condition> {
    if translated.is_empty() {
        let foreign = object.is_some_and(|o| o.key.kind == Kind::GatewayClass) && found.is_empty();
        return if foreign { Vec::new() } else { vec![own(found)] };
    }
    let shown = translated.iter().map(|condition| {
        let mut shown = condition.clone();
        if let Some(why) = object.filter(|_| shown.status).and_then(|object| contradiction(object, condition, pending, found)) {
            (shown.status, shown.reason) = (false, why.reason);
            shown.message = why.finding.map(|finding| finding.text()).unwrap_or_default().into();
        }
        if shown.message.is_empty() {
            shown.message = message(object, &shown, translated, found);
        }
        shown
    });
    let mut shown: Vec<Condition> = shown.collect();
    // It says something of routes that are accepted only.
    let accepted: Vec<Scope> = shown.iter().filter(|c| c.kind == "Accepted" && c.status).map(|c| c.scope.clone()).collect();
    shown.retain(|c| c.kind != "PartiallyInvalid" || accepted.contains(&c.scope));
    shown
}

/// Whether the status of an object is Weir's to write: not that of a Gateway of another controller's class.
pub fn is_ours(kind: Kind, translated: &[Condition], found: &[Found<'_>]) -> bool {
    !has_conditions(kind) || !translated.is_empty() || found.iter().any(|f| f.finding.severity == Severity::Error)
}

fn own(found: &[Found<'_>]) -> Condition {
    // Errors come first.
    let against = found.iter().find(|f| f.finding.severity == Severity::Error || NO_EFFECT.contains(&f.finding.reason));
    let (status, reason, message) = match against {
        Some(f) => (false, f.finding.reason, f.finding.text().into()),
        None => (true, "Accepted", sentence("Accepted", true, "Accepted", &Scope::Object).into()),
    };
    Condition { scope: Scope::Object, kind: "Accepted", status, reason, message }
}

/// Why a condition does not hold although the translation says so.
struct Contradiction<'a> {
    reason: &'static str,
    finding: Option<&'a Diagnostic>,
}

/// An object whose newest version is in error is not accepted, although its last good version serves. A Gateway and its listeners are
/// programmed while the proxy serves by them; other objects are not accepted if the proxy refuses a part of them.
fn contradiction<'a>(object: &Object, of: &Condition, pending: bool, found: &[Found<'a>]) -> Option<Contradiction<'a>> {
    let error = |f: &&Found<'_>| f.finding.severity == Severity::Error;
    let verdicts = || found.iter().filter(|f| f.verdict.is_some());
    let because = |f: &Found<'a>| {
        let reason = if f.finding.reason == "ListenFailed" { "AddressNotUsable" } else { f.finding.reason };
        Contradiction { reason, finding: Some(f.finding) }
    };
    let is_partial = matches!(&object.spec, Spec::HttpRoute(route) if route.is_partial());
    if of.kind == "Accepted"
        && !is_partial
        && let Some(rejected) = found.iter().find(|f| f.rejects())
    {
        return Some(because(rejected));
    }
    match listeners(&object.spec) {
        Some(_)
            if of.kind == "Programmed"
                && of.scope == Scope::Object
                && let Some(found) = found.iter().find(|f| is_of_address(f)) =>
        {
            Some(because(found))
        }
        Some(listeners) if of.kind == "Programmed" => {
            let concerned = |f: &&Found<'_>| f.verdict.is_some_and(|v| v.state != State::Live && concerns(v, listeners, &of.scope));
            let waits = || verdicts().find(concerned).map(|f| Contradiction { reason: PENDING, finding: Some(f.finding) });
            let refused = verdicts().filter(concerned).find(error).map(because).or_else(waits);
            refused.or_else(|| pending.then_some(Contradiction { reason: PENDING, finding: None }))
        }
        Some(_) => None,
        None => (of.kind == "Accepted").then(|| verdicts().find(error).map(because)).flatten(),
    }
}

/// Whether a finding says why clients cannot reach a Gateway by the Service that it has.
fn is_of_address(found: &Found<'_>) -> bool {
    found.verdict.is_none() && IS_OF_ADDRESS.contains(&found.finding.reason)
}

/// Whether a verdict is about this part of an object with listeners. The names of listeners end with their port.
fn concerns(verdict: &Verdict, listeners: &[Listener], scope: &Scope) -> bool {
    if verdict.id.kind != ResourceKind::Listener {
        return *scope == Scope::Object;
    }
    let port = verdict.id.name.rsplit('_').next().and_then(|port| port.parse::<u16>().ok());
    match scope {
        Scope::Object => true,
        Scope::Listener(name) => listeners.iter().any(|l| l.name == *name && Some(l.port) == port),
        Scope::Parent(_) | Scope::Registry(_) => false,
    }
}

/// The text of a condition: that of the finding that gives its reason, else a sentence.
fn message(object: Option<&Object>, of: &Condition, all: &[Condition], found: &[Found<'_>]) -> Box<str> {
    if of.status != is_negative(of.kind) {
        return sentence(of.kind, of.status, of.reason, &of.scope).into();
    }
    if let ("PartiallyInvalid", Some(Spec::HttpRoute(route))) = (of.kind, object.map(|o| &o.spec)) {
        return dropped(&route.refused_rules(), found).into();
    }
    let field = field(object, &of.scope);
    let here = |f: &&Found<'_>| field.is_empty() || f.finding.field.starts_with(&field);
    let with = |reason: &'static str| move |f: &&Found<'_>| f.finding.reason == reason;
    let search = |reason| found.iter().filter(here).find(with(reason)).or_else(|| found.iter().find(with(reason)));
    // `Invalid` says that another condition of the same part has the reason.
    let mut others = all.iter().filter(|c| c.scope == of.scope && c.status == is_negative(c.kind)).map(|c| c.reason);
    let found = search(of.reason).or_else(|| others.find_map(search));
    match found {
        Some(f) => f.finding.text().into(),
        None => sentence(of.kind, of.status, of.reason, &of.scope).into(),
    }
}

/// Which rules of a route are dropped, and why. Gateway API prescribes how the text begins.
fn dropped(rules: &[usize], found: &[Found<'_>]) -> String {
    let numbers: Vec<String> = rules.iter().map(usize::to_string).collect();
    let mut text = format!("Dropped Rule(s) {}: their requests are refused", numbers.join(", "));
    for rule in rules {
        let field = format!("spec.rules[{rule}].");
        let why = |f: &&Found<'_>| f.finding.severity == Severity::Error || f.finding.reason == "UnsupportedValue";
        if let Some(f) = found.iter().filter(|f| f.finding.field.starts_with(&field)).find(why) {
            text += &format!("; {}: {}", f.finding.field, f.finding.text());
        }
    }
    text
}

/// The path of the field that a part of the status belongs to; empty for the object.
fn field(object: Option<&Object>, scope: &Scope) -> String {
    match (scope, object.map(|o| &o.spec)) {
        (Scope::Parent(_) | Scope::Registry(_), _) => format!("spec.{scope}"),
        (Scope::Listener(name), Some(spec)) => {
            let index = listeners(spec).and_then(|listeners| listeners.iter().position(|l| l.name == *name));
            index.map(|index| format!("spec.listeners[{index}]")).unwrap_or_default()
        }
        _ => String::new(),
    }
}

/// What a condition means, where no finding says it.
fn sentence(kind: &str, status: bool, reason: &str, scope: &Scope) -> &'static str {
    match (kind, status, scope) {
        ("Accepted", true, _) if reason == "ListenersNotValid" => "Some listeners are not accepted; see their conditions",
        ("Accepted", true, Scope::Object) => "The object is accepted",
        ("Accepted", true, Scope::Listener(_)) => "The listener is accepted",
        ("Accepted", true, Scope::Parent(_)) => "The route is attached to this parent",
        ("Programmed", true, Scope::Listener(_)) => "The listener is open",
        ("Programmed", true, _) => "The proxy serves this version",
        ("ResolvedRefs", true, _) => "All references are resolved",
        ("Programmed", false, _) if reason == PENDING => "The proxy has not taken over this version yet",
        ("Programmed", false, Scope::Listener(_)) => "The listener is not open",
        ("Programmed", false, _) => "No listener is open",
        ("ResolvedRefs", false, _) => "Some references are not resolved; see the conditions of the listeners",
        ("Accepted", false, _) if reason == "ListenersNotValid" => "No listener is accepted; see their conditions",
        ("Conflicted", false, _) => "The listener conflicts with no other",
        ("InsecureFrontendValidationMode", true, _) => "Clients without a valid certificate are let in",
        ("Accepted", false, _) => "The object is not accepted; see its findings",
        _ => "",
    }
}
