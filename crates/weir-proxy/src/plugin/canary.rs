//! Which streams of a plugin meet its canary.
use super::PluginSlot;
use crate::head_access::{Fields, cookie};
use std::{collections::BTreeMap, sync::Arc};
use weir_config::model::{Name, PluginCanary, Title};

/// The canary of a plugin.
pub struct Canary {
    pub slot: Arc<PluginSlot>,
    pub takes: Arc<PluginCanary>,
}

/// Whether the canary takes a stream: the header decides before the cookie, and the cookie before the weight, as for the canaries of an
/// Ingress. `route`: the object of its route.
pub fn takes(canary: &PluginCanary, request: &dyn Fields, route: Option<&Title>, random: impl FnOnce() -> u64) -> bool {
    if !canary.routes.is_empty() && !route.is_some_and(|title| canary.routes.iter().any(|wanted| title.is(wanted))) {
        return false;
    }
    let word = |value: &[u8]| match value {
        b"always" => Some(true),
        b"never" => Some(false),
        _ => None,
    };
    let by_header = canary.by_header.as_ref().and_then(|header| {
        let found = request.first(&header.name)?;
        match &header.value {
            Some(value) => (found == value.as_bytes()).then_some(true),
            None => word(found),
        }
    });
    let by_cookie = || canary.by_cookie.as_ref().and_then(|name| cookie(request, name, word)?);
    by_header.or_else(by_cookie).unwrap_or_else(|| canary.weight > 0 && random() % 100 < canary.weight.into())
}

/// Which plugin has which canary, by the name of the canary.
#[derive(Default)]
pub(super) struct Canaries(BTreeMap<Name, Name>);

impl Canaries {
    /// Takes over what a plugin is a canary of; `None` for one that is none or is gone. Returns the plugins whose canaries may have changed.
    pub fn set(&mut self, name: &Name, of: Option<&Name>) -> impl Iterator<Item = Name> + use<> {
        let before = match of {
            Some(of) => self.0.insert(name.clone(), of.clone()),
            None => self.0.remove(name),
        };
        before.into_iter().chain(of.cloned()).chain([name.clone()])
    }

    /// The canary of a plugin.
    pub fn of(&self, plugin: &Name) -> Option<&Name> {
        self.0.iter().find(|(_, of)| *of == plugin).map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head_access::fake::List;
    use weir_config::model::CanaryHeader;

    #[test]
    fn header_then_cookie_then_weight_decide() {
        let by = |header: Option<Option<&str>>, cookie: Option<&str>, weight: u32, routes: &[&str]| PluginCanary {
            of: "ns/p".into(),
            routes: routes.iter().map(|r| (*r).into()).collect(),
            by_header: header.map(|value| CanaryHeader { name: "x-canary".into(), value: value.map(Into::into) }),
            by_cookie: cookie.map(Into::into),
            weight,
        };
        let route = Title::from("HTTPRoute/ns/shop");
        for (canary, request, random, wanted) in [
            (by(None, None, 0, &[]), &[][..], 0, false),
            (by(None, None, 10, &[]), &[], 9, true),
            (by(None, None, 10, &[]), &[], 10, false),
            (by(None, None, 10, &[]), &[], 109, true),
            (by(None, None, 100, &[]), &[], 99, true),
            (by(Some(None), None, 0, &[]), &[("x-canary", "always")], 99, true),
            (by(Some(None), None, 100, &[]), &[("x-canary", "never")], 0, false),
            (by(Some(None), None, 10, &[]), &[("x-canary", "1")], 9, true),
            (by(Some(Some("1")), None, 0, &[]), &[("x-canary", "1")], 99, true),
            (by(Some(Some("1")), None, 0, &[]), &[("x-canary", "always")], 99, false),
            (by(None, Some("c"), 0, &[]), &[("cookie", "a=b; c=always")], 99, true),
            (by(None, Some("c"), 100, &[]), &[("cookie", "c=never")], 0, false),
            (by(None, Some("c"), 0, &[]), &[("cookie", "cc=always")], 0, false),
            (by(Some(None), Some("c"), 0, &[]), &[("x-canary", "never"), ("cookie", "c=always")], 0, false),
            (by(Some(None), Some("c"), 0, &[]), &[("x-canary", "?"), ("cookie", "c=always")], 99, true),
            (by(None, None, 100, &["HTTPRoute/ns/shop"]), &[], 0, true),
            (by(None, None, 100, &["HTTPRoute/ns/sho", "HTTPRoute/ns/shops", "GRPCRoute/ns/shop"]), &[], 0, false),
            (by(Some(None), None, 0, &["HTTPRoute/ns/other"]), &[("x-canary", "always")], 0, false),
        ] {
            assert_eq!(takes(&canary, &List::of(request), Some(&route), || random), wanted, "{canary:?} {request:?} {random}");
        }
        assert!(!takes(&by(None, None, 100, &["HTTPRoute/ns/shop"]), &List::of(&[]), None, || 0), "no route at all");
    }

    #[test]
    fn canaries_follow_their_plugins() {
        let (mut all, [p, q, c]) = (Canaries::default(), ["p", "q", "c"].map(Name::from));
        let touched = |names: Vec<Name>| names.iter().map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(touched(all.set(&c, Some(&p)).collect()), "p c");
        assert_eq!((all.of(&p), all.of(&q)), (Some(&c), None));
        assert_eq!(touched(all.set(&c, Some(&q)).collect()), "p q c");
        assert_eq!((all.of(&p), all.of(&q)), (None, Some(&c)));
        assert_eq!(touched(all.set(&c, None).collect()), "q c");
        assert_eq!(all.of(&q), None);
    }
}
