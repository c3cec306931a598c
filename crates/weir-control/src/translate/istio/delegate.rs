//! Delegation: a route of one VirtualService stands for the routes of another one that has no hosts of its own.
use crate::{
    api::istio::{
        VirtualService,
        read::Headers,
        virtual_service::{Action, Forward, HttpMatch, HttpRoute, Retry},
    },
    object::{Kind, Object, Spec},
    translate::{Cx, Part},
};
use std::{borrow::Cow, sync::Arc};
use weir_config::{
    diagnostic::Diagnostic,
    model::{HeaderEdits, PathMatch},
};

/// A route with the object that says it: the VirtualService itself or one that it delegates to.
pub struct Said<'a> {
    pub object: &'a Arc<Object>,
    pub route: Cow<'a, HttpRoute>,
    /// In the list of its object.
    pub index: usize,
}

/// The routes of a VirtualService with those of its delegates in their places.
pub fn unfold<'a>(cx: &Cx<'a>, object: &'a Arc<Object>, service: &'a VirtualService, part: &mut Part) -> Vec<Said<'a>> {
    let mut all = Vec::with_capacity(service.http.len());
    for (index, route) in service.http.iter().enumerate() {
        let Action::Delegate { namespace, name, at, forward } = &route.action else {
            all.push(Said { object, route: Cow::Borrowed(route), index });
            continue;
        };
        let found = cx.get(Kind::VirtualService, namespace, name).and_then(|o| match &o.spec {
            Spec::VirtualService(spec) if spec.hosts.is_empty() && spec.export_to.sees(namespace, &object.key.namespace) => {
                Some((o, &**spec))
            }
            _ => None,
        });
        let Some((delegate, spec)) = found else {
            let message =
                format!("there is no VirtualService {namespace}/{name} without hosts: requests of this route are answered with 503");
            let found = Diagnostic::warning("DelegateNotFound", message).help("a delegate has http routes and no hosts");
            part.report(object, at.span, &*at.field, found);
            all.push(Said { object, route: Cow::Borrowed(route), index });
            continue;
        };
        for (index, inner) in spec.http.iter().enumerate() {
            if let Action::Delegate { at, .. } = &inner.action {
                let found = Diagnostic::warning("InvalidValue", "a delegate does not delegate").help("route to a destination");
                part.report(delegate, at.span, &*at.field, found);
                continue;
            }
            match merge(route, forward, inner) {
                Some(merged) => all.push(Said { object: delegate, route: Cow::Owned(merged), index }),
                None => {
                    let message = format!("route {index} of {} matches nothing that this route does: it is left out", delegate.title());
                    let found = Diagnostic::warning("DelegateConflict", message).help("a delegate narrows the matches of its root");
                    part.report(object, at.span, &*at.field, found);
                }
            }
        }
    }
    all
}

/// What the delegate leaves open it has from its root. `None` where their matches exclude each other.
fn merge(root: &HttpRoute, inherited: &Forward, leaf: &HttpRoute) -> Option<HttpRoute> {
    let matches = match (&root.matches, &leaf.matches) {
        (None, other) | (other, None) => other.clone(),
        (Some(roots), Some(leaves)) => {
            let all: Vec<HttpMatch> = roots.iter().flat_map(|r| leaves.iter().filter_map(|l| narrow(r, l))).collect();
            if all.is_empty() {
                return None;
            }
            Some(all)
        }
    };
    let mut action = leaf.action.clone();
    if let Action::Forward(forward) = &mut action {
        if forward.rewrite.is_none() && forward.authority.is_none() {
            forward.rewrite.clone_from(&inherited.rewrite);
            forward.authority.clone_from(&inherited.authority);
        }
        forward.timeout = forward.timeout.or(inherited.timeout);
        if forward.retry == Retry::Unset {
            forward.retry = inherited.retry.clone();
        }
        if forward.mirrors.is_empty() {
            forward.mirrors.clone_from(&inherited.mirrors);
        }
    }
    let name = match (&*root.name, &*leaf.name) {
        ("", name) | (name, "") => name.into(),
        (root, leaf) => format!("{root}-{leaf}").into(),
    };
    Some(HttpRoute {
        name,
        line: leaf.line,
        matches,
        action,
        headers: Headers {
            request: joined(&root.headers.request, &leaf.headers.request),
            response: joined(&root.headers.response, &leaf.headers.response),
            host: leaf.headers.host.clone().or_else(|| root.headers.host.clone()),
        },
        cors: leaf.cors.clone().or_else(|| root.cors.clone()),
        fault: leaf.fault.clone().or_else(|| root.fault.clone()),
    })
}

fn joined(root: &HeaderEdits, leaf: &HeaderEdits) -> HeaderEdits {
    let both = |a: &[(String, String)], b: &[(String, String)]| -> Vec<(String, String)> {
        // The delegate's word for a header comes after its root's.
        a.iter().filter(|(name, _)| !b.iter().any(|(n, _)| n == name)).chain(b).cloned().collect()
    };
    let remove = root.remove.iter().chain(&leaf.remove).cloned().collect();
    HeaderEdits::new(remove, both(&root.set, &leaf.set), both(&root.add, &leaf.add))
}

/// Both at once; `None` where that is never.
fn narrow(root: &HttpMatch, leaf: &HttpMatch) -> Option<HttpMatch> {
    let mut both = leaf.clone();
    both.path = match (&root.path, &leaf.path) {
        (None, path) => path.clone(),
        (path, None) => {
            both.ignore_case = root.ignore_case;
            path.clone()
        }
        (Some(a), Some(b)) if a == b => Some(b.clone()),
        (Some(PathMatch::Prefix(prefix)), Some(PathMatch::Prefix(path) | PathMatch::Exact(path))) if path.starts_with(&**prefix) => {
            leaf.path.clone()
        }
        _ => return None,
    };
    for header in &root.headers {
        match leaf.headers.iter().find(|h| h.name == header.name && h.invert == header.invert) {
            None => both.headers.push(header.clone()),
            Some(same) if same == header => {}
            Some(_) => return None,
        }
    }
    for query in &root.query_parameters {
        match leaf.query_parameters.iter().find(|q| q.name == query.name) {
            None => both.query_parameters.push(query.clone()),
            Some(same) if same == query => {}
            Some(_) => return None,
        }
    }
    if let (Some(a), Some(b)) = (root.scope.port, leaf.scope.port)
        && a != b
    {
        return None;
    }
    both.scope.port = leaf.scope.port.or(root.scope.port);
    both.scope.gateways.clone_from(&root.scope.gateways);
    if let Some(outer) = &root.scope.source {
        let source = both.scope.source.get_or_insert_with(|| outer.clone());
        let differs = |(name, value)| source.labels.get(name).is_some_and(|own| own != value);
        if outer.labels.iter().any(differs)
            || outer.namespace.is_some() && source.namespace.is_some() && outer.namespace != source.namespace
        {
            return None;
        }
        source.labels.extend(outer.labels.clone());
        source.namespace = source.namespace.take().or_else(|| outer.namespace.clone());
    }
    if !root.name.is_empty() {
        both.name = if leaf.name.is_empty() { root.name.clone() } else { format!("{}-{}", root.name, leaf.name).into() };
    }
    Some(both)
}
