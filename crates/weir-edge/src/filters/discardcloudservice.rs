//! `discardcloudservice`: Services that only make sense in the cloud are hidden from kube-proxy.
use super::{context::Context, draft::Draft, outcome::Outcome};
use crate::apimachinery::{object::Object, schema::ContentError};

pub const NAME: &str = "discardcloudservice";
const ANNOTATION: &str = "svc.openyurt.io/discard";
/// Services without the annotation that are hidden, too.
const CLOUD: &[(&str, &str)] = &[("kube-system", TUNNEL)];
const TUNNEL: &str = "x-tunnel-server-internal-svc";
/// One of these is in each Service that matters.
pub const TEXTS: &[&str] = &[ANNOTATION, TUNNEL];

fn is_cloud(object: &Object) -> bool {
    CLOUD.contains(&(object.meta.namespace.as_str(), object.meta.name.as_str()))
}

pub fn concerns(object: &Object) -> bool {
    is_cloud(object) || object.annotations().is_ok_and(|all| all.get(ANNOTATION).is_some_and(|value| value == "true"))
}

pub fn apply(draft: &mut Draft<'_>, _: &Context) -> Result<Outcome, ContentError> {
    let discard = is_cloud(draft.object) || draft.value()?["spec"]["type"] == "LoadBalancer";
    Ok(if discard { Outcome::Drop } else { Outcome::Keep })
}
