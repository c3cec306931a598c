//! HTTPRoutes and GRPCRoutes do not share a host of a listener: of two that would, the older one is attached, or the first by
//! namespace and name. One that is not attached itself keeps nobody out.
use super::{
    Gateway, Listener,
    attach::{self, Attached, covers},
    http_route::HttpRoute,
};
use crate::{
    object::{Kind, Object, Spec},
    translate::Cx,
};
use std::{collections::HashMap, sync::Arc};
use weir_config::model::Name;

/// The kind whose routes keep those of `kind` out; `None` for kinds that share nothing.
pub fn rival(kind: Kind) -> Option<Kind> {
    match kind {
        Kind::HttpRoute => Some(Kind::GrpcRoute),
        Kind::GrpcRoute => Some(Kind::HttpRoute),
        _ => None,
    }
}

/// Whether `a` has what both want.
pub fn is_before(a: &Object, b: &Object) -> bool {
    fn order(o: &Object) -> (&str, &str, &str, std::cmp::Reverse<Kind>) {
        // Of the same name as well: gRPC, which says more of its requests.
        (&o.meta.created, &o.key.namespace, &o.key.name, std::cmp::Reverse(o.key.kind))
    }
    order(a) < order(b)
}

/// Leaves the listeners that no route of the other kind has for hosts of `object`; returns one of those that have others.
pub fn yield_to<'a>(
    cx: &Cx<'a>,
    object: &Arc<Object>,
    (owner, gateway): (&Object, &Gateway),
    attached: &mut Vec<Attached<'_>>,
) -> Option<&'a Arc<Object>> {
    let mut found = None;
    attached.retain(|a| {
        let mut at = Place { cx, owner, gateway, listener: a.listener, known: HashMap::new() };
        let holder = at.holder(object, &a.domains);
        found = found.or(holder);
        holder.is_none()
    });
    found
}

/// One listener.
struct Place<'p, 'a> {
    cx: &'p Cx<'a>,
    owner: &'p Object,
    gateway: &'p Gateway,
    listener: &'p Listener,
    /// Whether routes that were looked at are attached here, by title.
    known: HashMap<Name, bool>,
}

impl<'a> Place<'_, 'a> {
    /// The route that keeps `object` out, which has `domains` here.
    fn holder(&mut self, object: &Object, domains: &[Name]) -> Option<&'a Arc<Object>> {
        let mut rivals = self.cx.rivals(object);
        rivals.retain(|r| is_before(r, object));
        rivals.sort_by(|a, b| is_before(b, a).cmp(&is_before(a, b)));
        rivals.into_iter().find(|r| {
            let theirs = self.domains(r);
            let shared = theirs.iter().any(|t| domains.iter().any(|d| covers(t, d) || covers(d, t)));
            shared && self.is_attached(r, &theirs)
        })
    }

    fn is_attached(&mut self, object: &Arc<Object>, domains: &[Name]) -> bool {
        if let Some(known) = self.known.get(&object.title) {
            return *known;
        }
        let attached = self.holder(object, domains).is_none();
        self.known.insert(object.title.clone(), attached);
        attached
    }

    /// What a route would have here, were it alone.
    fn domains(&self, object: &Object) -> Vec<Name> {
        let Spec::HttpRoute(route) = &object.spec else { return Vec::new() };
        let parents = route.parents.iter().filter(|p| !p.foreign && p.is(object, &self.owner.key));
        let of = (object.key.kind, &*object.key.namespace);
        let found = parents.filter_map(|p| attach::attach(self.cx, self.gateway, &self.owner.key.namespace, p, of, &route.hostnames).ok());
        found.flatten().filter(|a| std::ptr::eq(a.listener, self.listener)).flat_map(|a| a.domains).collect()
    }
}

/// Whether two routes name a Gateway that is the same: without one they meet nowhere.
pub fn meet(a: (&Object, &HttpRoute), b: (&Object, &HttpRoute)) -> bool {
    let parents = |(object, route): (&Object, &HttpRoute)| -> Vec<(Name, Name)> {
        let own = &object.key.namespace;
        route.parents.iter().map(|p| (p.namespace.clone().unwrap_or_else(|| own.clone()), p.name.clone())).collect()
    };
    let of_b = parents(b);
    parents(a).iter().any(|p| of_b.contains(p))
}
