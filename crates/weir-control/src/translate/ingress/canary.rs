//! Canaries: Ingress objects that take a part of the requests of another one with the same hosts and paths.
use super::class;
use crate::{
    api::ingress::{
        Ingress, Path, Rule,
        annotations::{Annotations, Canary, Matching},
        index_keys::{CANARIES_BY_HEADER, canary_key, host_key},
        route_name,
    },
    object::{Kind, Object, Spec},
    translate::{Cx, Part},
};
use std::sync::Arc;
use weir_config::{diagnostic::Diagnostic, model::Name};

/// A canary for one path of a host.
pub struct Found<'a> {
    pub object: &'a Arc<Object>,
    pub canary: &'a Canary,
    pub notes: &'a Annotations,
    pub path: &'a Path,
}

/// The names of those routes, after the names of the routes that they take requests of.
pub fn names(cx: &Cx<'_>) -> Vec<(Name, Name)> {
    let mut names = Vec::new();
    for object in cx.by_word(Kind::Ingress, CANARIES_BY_HEADER) {
        let Spec::Ingress(ingress) = &object.spec else { continue };
        for rule in &ingress.rules {
            for base in cx.by_word(Kind::Ingress, &host_key(rule.host.as_ref())) {
                let Spec::Ingress(other) = &base.spec else { continue };
                if rule.paths.iter().any(|path| same(other, rule.host.as_ref(), path, ingress).next().is_some()) {
                    names.push((of_object(base), of_object(object)));
                }
            }
        }
    }
    names.sort();
    names.dedup();
    names
}

fn of_object(object: &Object) -> Name {
    route_name(&object.key.namespace, &object.key.name)
}

/// The canaries of a path, the oldest first.
pub fn of<'a>(cx: &Cx<'a>, ingress: &Ingress, host: Option<&Name>, path: &Path) -> Vec<Found<'a>> {
    let mut objects: Vec<&Arc<Object>> = cx.by_word(Kind::Ingress, &canary_key(host)).collect();
    objects.sort_by_key(|object| object.age());
    let mut found = Vec::new();
    for object in objects {
        let Spec::Ingress(other) = &object.spec else { continue };
        let Some(notes) = other.annotations.as_deref().filter(|notes| notes.refused.is_none() && !other.closed) else { continue };
        let Some(canary) = &notes.canary else { continue };
        if class(cx, object, other).is_ok() {
            let paths = same(other, host, path, ingress);
            found.extend(paths.map(|path| Found { object, canary, notes, path }));
        }
    }
    found
}

/// The paths of `of` under the same host, with the same conditions, as a path of `ingress`.
fn same<'a, 'b>(
    of: &'a Ingress,
    host: Option<&'b Name>,
    path: &'b Path,
    ingress: &'b Ingress,
) -> impl Iterator<Item = &'a Path> + use<'a, 'b> {
    let none = Matching::default();
    let [theirs, own] = [of, ingress].map(|i| i.annotations.as_deref().map_or(&none, |notes| &notes.matching));
    let fits = theirs == own;
    let rules = of.rules.iter().filter(move |rule: &&Rule| fits && rule.host.as_ref() == host);
    rules.flat_map(|rule| &rule.paths).filter(|p| p.matches == path.matches)
}

/// Reports paths of a canary that no other Ingress has.
pub fn check(cx: &Cx<'_>, object: &Arc<Object>, ingress: &Ingress, notes: &Annotations, part: &mut Part) {
    if notes.guards && notes.refused.is_none() {
        let message = "what guards access has no effect on a canary: it is guarded as the Ingress that it takes requests of";
        let found = Diagnostic::warning("UnusedField", message).help("say it there, for both");
        part.report(object, notes.canary_place, "metadata.annotations", found);
    }
    for rule in &ingress.rules {
        for path in &rule.paths {
            let has = |other: &&Arc<Object>| {
                let Spec::Ingress(base) = &other.spec else { return false };
                same(base, rule.host.as_ref(), path, ingress).next().is_some()
            };
            if cx.by_word(Kind::Ingress, &host_key(rule.host.as_ref())).find(has).is_none() {
                let host = rule.host.as_deref().unwrap_or("any host");
                let message = format!("no other Ingress has this path of {host}: this canary takes no requests of it");
                let found = Diagnostic::warning("NoPrimaryIngress", message)
                    .help("add an Ingress with the same host, path and pathType, without the annotation canary");
                part.report(object, path.backend.place, "spec.rules", found);
            }
        }
    }
}
