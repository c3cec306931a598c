//! An Ingress names no port: it is served on the port for HTTP,
//! and on the one for HTTPS for the hosts that any Ingress has a certificate for.
mod auth;
mod canary;
mod routes;
mod tls;
mod upstream;

pub use canary::names as canary_names;
pub use upstream::apply as apply_to_cluster;

use super::{Bind, Cx, Part, PortKind, PortPart, class::ForeignClass};
use crate::{
    api::ingress::{
        CONTROLLERS, Ingress, IngressClass,
        annotations::{Annotations, Unsupported},
    },
    object::{Created, Kind, Object, Spec},
};
use std::sync::Arc;
use weir_config::diagnostic::Diagnostic;

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

pub fn translate(cx: &Cx<'_>, object: &Arc<Object>, ingress: &Ingress, part: &mut Part) {
    if let Err(why) = class(cx, object, ingress) {
        let found = Diagnostic::warning("NotAccepted", format!("Weir does not serve this Ingress: {why}"))
            .help("use another class, or write controller: weir.dev/ingress-controller in that IngressClass");
        return part.report(object, ingress.class_place, "spec.ingressClassName", found);
    }
    let none = Annotations::default();
    let notes = ingress.annotations.as_deref().unwrap_or(&none);
    report(object, notes, part);
    if notes.refused.as_ref().is_some_and(|refused| refused.canary) {
        return;
    }
    part.ports.push(PortPart {
        bind: Bind::port(cx.options.http_port),
        gateway: object.key.clone(),
        object: object.title(),
        line: 0,
        created: Created::default(),
        kind: PortKind::Http,
    });
    for (index, tls) in ingress.tls.iter().enumerate() {
        tls::translate(cx, object, tls, index, part);
    }
    if notes.canary.is_some() {
        // Its routes are made with those of the Ingress that it is a canary of.
        return canary::check(cx, object, ingress, notes, part);
    }
    routes::Maker::new(cx, object, ingress, notes, part).translate(part);
}

/// Says what of the annotations is not honoured.
fn report(object: &Object, notes: &Annotations, part: &mut Part) {
    let field = |key: &str| format!("metadata.annotations[\"{key}\"]");
    if let Some(refused) = &notes.refused {
        let (so, help) = match (refused.canary, &notes.canary) {
            (true, _) => {
                ("its Ingress takes no requests", "remove the Ingress, or use canary-by-header, canary-by-cookie or canary-weight")
            }
            (false, Some(_)) => {
                ("this canary takes no requests", "remove it: a canary is guarded as the Ingress that it takes requests of")
            }
            (false, None) => (
                "requests of its Ingress are answered with 503",
                refused.instead.unwrap_or("remove it where it is not needed, or guard the route by a WasmPlugin"),
            ),
        };
        let message = format!("{} is not supported, and without it access would be open: {so}", refused.key);
        let message = if refused.canary { format!("{} is not supported: {so}", refused.key) } else { message };
        part.report(object, refused.place, field(&refused.key), Diagnostic::error("UnsupportedAnnotation", message).help(help));
    }
    for Unsupported { key, place, instead } in &notes.unsupported {
        let message = format!("{key} is not supported and has no effect");
        part.report(object, *place, field(key), Diagnostic::warning("UnsupportedAnnotation", message).help(instead.clone()));
    }
}

/// Whether an Ingress is Weir's; else why not. See [`Options::needs_class`](crate::Options::needs_class).
fn class(cx: &Cx<'_>, object: &Object, ingress: &Ingress) -> Result<(), ForeignClass> {
    let named = ingress.class.as_deref().or_else(|| object.meta.annotation(CLASS_ANNOTATION));
    let ours = |class: &IngressClass| CONTROLLERS.contains(&&*class.controller);
    match named {
        Some(name) => match cx.get(Kind::IngressClass, "", name).map(|o| &o.spec) {
            Some(Spec::IngressClass(class)) if !ours(class) => {
                Err(ForeignClass::Named { kind: "IngressClass", name: name.into(), controller: class.controller.clone() })
            }
            None if cx.options.needs_class => Err(ForeignClass::Missing { kind: "IngressClass", name: name.into() }),
            _ => Ok(()),
        },
        // Without a class: Weir's, unless another controller's class is the default one.
        None => {
            let default = cx.all(Kind::IngressClass).find(|o| o.meta.annotation(DEFAULT_CLASS) == Some("true"));
            match default.map(|o| (&o.key.name, &o.spec)) {
                Some((name, Spec::IngressClass(class))) if !ours(class) => {
                    Err(ForeignClass::Default { name: name.clone(), controller: class.controller.clone() })
                }
                None if cx.options.needs_class => Err(ForeignClass::NoDefault),
                _ => Ok(()),
            }
        }
    }
}
