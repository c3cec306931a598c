//! WasmPlugin of `extensions.istio.io` and `extensions.higress.io`.
mod canaries;
mod canary;
mod image;
mod scope;
mod secrets;

use super::{Cx, Part, PluginPart, file_reference, ingress};
use crate::{
    api::plugin::{Code, Plugin},
    object::Object,
};
use std::{path::Path, sync::Arc};
use weir_config::{
    diagnostic::Diagnostic,
    model::{WasmCode, WasmPlugin},
};

pub fn translate(cx: &Cx<'_>, object: &Arc<Object>, plugin: &Plugin, part: &mut Part) {
    let Some(configuration) = plugin.configuration.clone() else { return };
    let Ok(canary) = canary::translate(cx, object, plugin, part) else { return };
    let configuration = canaries::with_canaries(configuration, || ingress::canary_names(cx));
    let resolved = secrets::resolve(cx, &object.key.namespace, &configuration);
    for problem in resolved.as_ref().err().into_iter().flatten() {
        let found = Diagnostic::error("SecretNotFound", problem.to_string()).help("${secret.NAME.KEY} or ${secret.NAMESPACE/NAME.KEY}");
        part.report(object, plugin.configuration_at, "spec", found);
    }
    let code = match &plugin.code {
        _ if resolved.is_err() => WasmCode::Unusable {
            why: resolved.as_ref().err().into_iter().flatten().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        },
        Code::Url(url) => WasmCode::Http { url: url.to_string(), sha256: plugin.sha256.clone() },
        Code::File(path) => match file_reference::resolve(cx, object, path) {
            Ok(path) => file(cx, object, plugin, &path, part),
            Err(why) => {
                part.report(object, plugin.code_at, "spec.url", why.diagnostic());
                WasmCode::Unusable { why: why.to_string() }
            }
        },
        Code::Image(reference) => match image::resolve(cx, object, plugin, reference) {
            Ok(image) => WasmCode::Image(Box::new(image)),
            Err(e) => {
                let (why, at, path) = (e.to_string(), e.place(plugin), e.path());
                part.report(object, at, path, e.diagnostic());
                WasmCode::Unusable { why }
            }
        },
        Code::Unusable(why) => WasmCode::Unusable { why: why.to_string() },
    };
    let scope = scope::of(cx, object, plugin, plugin.canary.as_deref(), &configuration, part);
    let gateways = plugin.gateways.as_ref().map(|targets| targets.iter().map(|(key, _)| key.clone()).collect());
    for (key, span) in plugin.gateways.iter().flatten() {
        if cx.find(key).is_none() {
            let found = Diagnostic::warning("TargetNotFound", format!("there is no {key}: the plugin does not run for it"))
                .help("see its name and namespace");
            part.report(object, *span, "spec.targetRefs", found);
        }
    }
    for (key, span) in &plugin.ingresses {
        if cx.find(key).is_none() {
            let message = format!("there is no {key}: this rule matches no request of it");
            let found = Diagnostic::warning("IngressNotFound", message).help("see its name and namespace");
            part.report(object, *span, "spec.matchRules", found);
        }
    }
    let ports = scope.ports.unwrap_or_else(|| plugin.ports.clone());
    let plugin = Arc::new(WasmPlugin {
        name: format!("{}/{}", object.key.namespace, object.key.name).into(),
        root_id: plugin.root_id.to_string(),
        // What the other plugin keeps is there for its canary, as for its next version.
        vm_id: canary.as_ref().map(|canary| canary.of.to_string()).unwrap_or_default(),
        code,
        configuration: resolved.unwrap_or_else(|_| configuration.clone().into()),
        environment: plugin.environment.clone(),
        fail_strategy: plugin.fail_strategy,
        phase: plugin.phase,
        priority: plugin.priority,
        limits: plugin.limits.clone(),
        scope: scope.scope.map(Arc::new),
        canary: canary.map(Arc::new),
        origin: object.origin(),
    });
    part.calls = true;
    part.plugins.push(PluginPart { plugin, gateways, ports });
}

/// The code in a file by its digest. A plugin whose file is missing or is not the right one is passed on all the same: it
/// fails to load, and what that means for requests is its failStrategy's to say.
fn file(cx: &Cx<'_>, object: &Object, plugin: &Plugin, path: &Path, part: &mut Part) -> WasmCode {
    let shown = path.display().to_string();
    let digest = cx.artifact(path);
    let trouble = match (&digest, &plugin.sha256) {
        (Err(why), _) => Some(("CodeNotFound", format!("cannot read {shown}: {why}"), "a relative path starts at the folder of this file")),
        (Ok(found), Some(wanted)) if found != wanted => {
            Some(("ChecksumMismatch", format!("{shown} has another SHA-256: {found}"), "mend sha256, or put the right file there"))
        }
        _ => None,
    };
    if let Some((reason, message, help)) = trouble {
        part.report(object, plugin.code_at, "spec.url", Diagnostic::error(reason, message).help(help));
    }
    let sha256 = plugin.sha256.clone().or(digest.ok()).unwrap_or_default();
    WasmCode::File { path: shown, sha256 }
}
