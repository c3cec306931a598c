//! `nodeportisolation`: kube-proxy opens the node ports of a Service only in the node pools that its annotation names.
use super::{context::Context, draft::Draft, outcome::Outcome};
use crate::apimachinery::{object::Object, schema::ContentError};
use std::collections::BTreeSet;

pub const NAME: &str = "nodeportisolation";
/// `pool`, `-pool` or `*`, with commas between them.
pub const ANNOTATION: &str = "nodeport.openyurt.io/listen";

pub fn concerns(object: &Object) -> bool {
    object.annotations().is_ok_and(|all| all.contains_key(ANNOTATION))
}

pub fn apply(draft: &mut Draft<'_>, context: &Context) -> Result<Outcome, ContentError> {
    // A node without a pool is like any node of Kubernetes.
    let Some(pool) = &context.pool else { return Ok(Outcome::Keep) };
    let annotations = draft.object.annotations()?;
    let listens = annotations.get(ANNOTATION).is_none_or(|listen| listens(listen, pool));
    let kind = draft.value()?["spec"]["type"].as_str().unwrap_or_default();
    let concerned = matches!(kind, "NodePort" | "LoadBalancer");
    Ok(if concerned && !listens { Outcome::Drop } else { Outcome::Keep })
}

fn listens(listen: &str, pool: &str) -> bool {
    let (mut seen, mut named) = (BTreeSet::new(), BTreeSet::new());
    for name in listen.split(',').map(str::trim) {
        let bare = name.strip_prefix('-').unwrap_or(name);
        // The first of two that contradict each other counts.
        if !bare.is_empty() && seen.insert(bare) {
            named.insert(name);
        }
    }
    named.contains(pool) || !named.contains(format!("-{pool}").as_str()) && named.contains("*")
}
