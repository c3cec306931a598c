//! `/ready`: whether requests are served, and what they wait for.
use super::{Query, Reply, show};
use crate::{Shared, SourceState, Waiting};
use serde_json::json;
use std::sync::Arc;
use weir_config::{
    delta::{self, ResourceKind},
    diagnostic::{Diagnostic, Severity},
};

pub(super) fn ready(shared: &Arc<Shared>, query: &Query) -> Reply {
    let source = shared.options.control_state.as_ref().map(|state| (state.0)()).unwrap_or_default();
    let plugins = shared.verdicts.of_kind(ResourceKind::Plugin);
    let refused = plugins.iter().filter(|v| v.state == delta::State::Refused);
    let errors: Vec<&Diagnostic> = refused.flat_map(|v| &v.findings).filter(|d| d.severity == Severity::Error).collect();
    let mut reply = show::state(shared);
    if query.get("format") == Some("json") {
        let waiting =
            |w: &Waiting| json!({ "resources": w.resources, "reason": w.reason, "message": w.message, "seconds": w.since.as_secs() });
        let body = json!({
            "state": show::state_word(shared.state()),
            "waiting": source.waiting.iter().map(waiting).collect::<Vec<_>>(),
            "configuration_age_seconds": source.stale.as_ref().map_or(0, |(_, age)| age.as_secs()),
            "stale": source.stale.as_ref().map(|(why, _)| why),
            "refused": errors,
        });
        return Reply { status: reply.status, ..Reply::json(&body) };
    }
    reply.body += &lines(&source);
    errors.into_iter().for_each(|d| reply.body += &format!("{}\n", d.line()));
    reply
}

/// A line for each reason.
fn lines(source: &SourceState) -> String {
    let waiting = source.waiting.iter().map(|Waiting { resources, reason, message, since }| {
        format!("waiting for {} for {} s: {reason}: {message}\n", resources.join(", "), since.as_secs())
    });
    let stale = source.stale.iter().filter(|_| source.waiting.is_empty());
    let stale = stale.map(|(why, age)| format!("the configuration is {} s old: {why}\n", age.as_secs()));
    waiting.chain(stale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn each_reason_has_a_line() {
        let waiting = |resources: &[&str], reason| Waiting {
            resources: resources.iter().map(|r| r.to_string()).collect(),
            reason,
            message: "m".into(),
            since: Duration::from_millis(2900),
        };
        let stale = Some(("the API cannot be reached".to_string(), Duration::from_secs(35)));
        for (waits, stale, want) in [
            (vec![], None, ""),
            (vec![], stale.clone(), "the configuration is 35 s old: the API cannot be reached\n"),
            (
                vec![waiting(&["pods", "secrets"], "Forbidden"), waiting(&["services"], "NotSynced")],
                stale,
                "waiting for pods, secrets for 2 s: Forbidden: m\nwaiting for services for 2 s: NotSynced: m\n",
            ),
        ] {
            assert_eq!(lines(&SourceState { waiting: waits, stale }), want);
        }
    }
}
