//! References across namespaces, which a ReferenceGrant must allow.
use crate::{api::gateway_api::GROUP, object::Spec, translate::Cx};

/// What is referred to: (group, kind, namespace, name).
pub type Target<'a> = (&'a str, &'a str, &'a str, &'a str);

/// Whether an object of `from` (kind of this API, namespace) may refer to `to`: within its namespace always.
pub fn permitted(cx: &Cx<'_>, from: (&str, &str), to: Target<'_>) -> bool {
    let (kind, namespace) = from;
    let (to_group, to_kind, to_namespace, to_name) = to;
    namespace == to_namespace
        || cx.grants(from, to).any(|object| {
            let Spec::ReferenceGrant(grant) = &object.spec else { return false };
            grant.from.iter().any(|(g, k, n)| (&**g, &**k, &**n) == (GROUP, kind, namespace))
                && grant
                    .to
                    .iter()
                    .any(|to| (&*to.group, &*to.kind) == (to_group, to_kind) && to.name.as_deref().is_none_or(|n| n == to_name))
        })
}
