//! WasmPlugin of `extensions.istio.io` and `extensions.higress.io`.
pub mod canary;
pub mod limits;
pub(crate) mod rules;

use crate::object::meta::{Key, Kind, Meta};
use canary::Canary;
use weir_config::{
    model::{FailStrategy, Name, PluginPhase, PullPolicy, WasmLimits},
    node::Chars,
    reader::{self, Field},
};
use weir_net::oci::{Reference, cosign::PublicKey};

/// Of the annotations.
pub(crate) const PREFIX: &str = "weir.dev/";

/// A plugin as it was read; where its code is a file, that file is looked at in translation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plugin {
    pub code: Code,
    pub code_at: Chars,
    pub sha256: Option<String>,
    pub pull_policy: Option<PullPolicy>,
    pub verification_key: Option<(VerificationKey, Chars)>,
    /// The Secret with the credentials of the registry.
    pub pull_secret: Option<(Box<str>, Chars)>,
    pub root_id: Box<str>,
    /// JSON, Higress' rules folded in; `None` where Higress would leave the plugin out.
    pub configuration: Option<String>,
    pub configuration_at: Chars,
    pub environment: Vec<(String, String)>,
    pub fail_strategy: FailStrategy,
    pub phase: PluginPhase,
    pub priority: Option<i32>,
    pub limits: WasmLimits,
    /// `None` for all gateways.
    pub gateways: Option<Vec<(Key, Chars)>>,
    /// The listener of the one gateway, by `sectionName`.
    pub section: Option<(Box<str>, Chars)>,
    /// Routes and Services that it runs for in place of gateways.
    pub routes: Vec<(Key, Chars)>,
    /// Its configuration is made of `defaultConfig` and `matchRules`.
    pub by_rules: bool,
    /// Ports of the listeners; empty for all.
    pub ports: Vec<u16>,
    /// The Ingresses that its rules name.
    pub ingresses: Vec<(Key, Chars)>,
    pub canary: Option<Box<Canary>>,
}

/// Who must have signed the image.
#[derive(Clone, Debug, PartialEq)]
pub enum VerificationKey {
    Pem(Box<str>),
    /// The name of a Secret of the plugin's namespace.
    Secret(Box<str>),
    /// It is in error, and nothing is signed by it.
    Invalid,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Code {
    /// As it was written: relative to the folder of its file.
    File(Box<str>),
    Url(Box<str>),
    Image(Box<Reference>),
    /// The object is in error: why.
    Unusable(Box<str>),
}

impl Default for Code {
    fn default() -> Code {
        Code::Unusable("".into())
    }
}

impl Plugin {
    /// What the object is found by, beside its name.
    pub fn index_keys(&self) -> Vec<Name> {
        self.canary.iter().map(|canary| canary::index_key(&canary.of)).collect()
    }

    /// What stands in for a plugin in error that has no good version: it runs nowhere, and its failStrategy decides.
    pub fn unusable(self, why: &str) -> Plugin {
        Plugin { code: Code::Unusable(why.into()), ..self }
    }
}

/// `higress` says of which API group it is.
pub fn decode(root: &reader::Object<'_>, meta: &Meta, higress: bool) -> Plugin {
    let Some(spec) = root.required("spec").and_then(|f| f.object()) else {
        let canary = canary::read(root, meta).map(Box::new);
        return Plugin { configuration: Some(String::new()), canary, ..Plugin::default() };
    };
    // There is one gateway, which every selector means.
    spec.ignore(&["selector"]);
    spec.describe(&[
        (
            "url",
            "",
            "The code: an image (`oci://`, or without a scheme), `http://`, `https://`, or `file://` (relative to this file; in a cluster, see `--allow-file-references`).",
        ),
        ("sha256", "", "The SHA-256 of the code, or of the image's manifest, which is checked."),
        ("imagePullPolicy", "IfNotPresent, or Always for the tag latest", "When the registry is asked what the tag names."),
        (
            "verificationKey",
            "",
            "The public key that has signed the image with cosign: PEM, or `k8s://NAME` for the key `cosign.pub` of a Secret in the same namespace.",
        ),
        ("imagePullSecret", "", "The Secret with the credentials of the registry (`kubernetes.io/dockerconfigjson`), in the same namespace."),
        ("phase", "UNSPECIFIED_PHASE", "Where in the list of filters the plugin runs."),
        ("priority", "", "Plugins of one phase run from the highest priority to the lowest."),
        ("failStrategy", "FAIL_CLOSE", "What happens to requests when the plugin fails."),
        ("pluginConfig", "", "The configuration that the plugin reads."),
        ("pluginName", "", "The root id of the plugin, for code with several."),
        ("type", "HTTP", "What the plugin handles."),
        ("targetRef", "", "What the plugin runs for. By default all gateways."),
        ("targetRefs", "", "What the plugin runs for: gateways, one listener of a Gateway (`sectionName`), or HTTPRoutes, GRPCRoutes and Services. By default all gateways."),
    ]);
    let words = [
        ("UNSPECIFIED_PHASE", PluginPhase::UnspecifiedPhase),
        ("AUTHN", PluginPhase::Authn),
        ("AUTHZ", PluginPhase::Authz),
        ("STATS", PluginPhase::Stats),
    ];
    let phase = spec.choice("phase", &words).unwrap_or_default();
    let words = [("FAIL_CLOSE", FailStrategy::FailClose), ("FAIL_OPEN", FailStrategy::FailOpen), ("FAIL_RELOAD", FailStrategy::FailReload)];
    let fail_strategy = spec.choice("failStrategy", &words).unwrap_or_default();
    let priority = spec.int("priority", i64::from(i32::MIN)..=i64::from(i32::MAX)).map(|n| n as i32);
    if higress {
        spec.describe(&[
            ("defaultConfig", "", "The configuration for requests that no rule matches."),
            ("defaultConfigDisable", "false", "Leave `defaultConfig` out: the plugin handles only what a rule matches."),
            ("matchRules", "", "Other configurations for some requests; the first rule that matches applies."),
        ]);
    }
    let configuration = rules::configuration(&spec, higress, &meta.key.namespace);
    let names: &[&str] = if higress { &["pluginConfig", "defaultConfig", "matchRules"] } else { &["pluginConfig"] };
    let configured = names.iter().find_map(|name| spec.get(name));
    let configuration_at = configured.map_or(spec.field().node().span, |f| f.node().span);
    let environment = spec.object("vmConfig").map(|vm| vm.list("env").iter().filter_map(variable).collect()).unwrap_or_default();
    let Targets { gateways, section, routes } = targets(&spec, meta);
    let by_rules = higress && !spec.has("pluginConfig");
    let ports = ports(&spec);
    let ingresses = if higress { rules::ingresses(&spec) } else { Vec::new() };
    let limits = limits::read(root);
    let canary = canary::read(root, meta).map(Box::new);
    let sha256 = spec.get("sha256").and_then(|f| digest(&f));
    let root_id = spec.str("pluginName").unwrap_or_default().into();
    if spec.choice("type", &[("UNSPECIFIED_PLUGIN_TYPE", false), ("HTTP", false), ("NETWORK", true)]) == Some(true)
        && let Some(field) = spec.get("type")
    {
        field.error("UnsupportedValue", "plugins of connections (NETWORK) are not supported yet", "HTTP");
    }
    let url = spec.required("url");
    let mut code = url.as_ref().and_then(code_of).unwrap_or_default();
    if let (Some(url), Code::Url(text), None) = (&url, &code, &sha256)
        && text.starts_with("http://")
    {
        url.warning("Unverified", "code over plain HTTP without sha256 can be anybody's", "add sha256, or use https://");
    }
    let policies = [("UNSPECIFIED_POLICY", None), ("IfNotPresent", Some(PullPolicy::IfNotPresent)), ("Always", Some(PullPolicy::Always))];
    let pull_policy = spec.choice("imagePullPolicy", &policies).flatten();
    let pull_secret = spec
        .get("imagePullSecret")
        .and_then(|f| Some((f.str()?.into(), f.node().span)))
        .filter(|(name, _): &(Box<str>, _)| !name.is_empty());
    if let (Code::Image(image), Some(wanted), Some(field)) = (&code, &sha256, spec.get("sha256"))
        && image.digest.as_ref().is_some_and(|digest| digest.hex() != wanted)
    {
        field.invalid("is not the digest in url", "the same digest, or leave it out");
    }
    let verification_key =
        spec.get("verificationKey").filter(|f| f.node().as_str() != Some("")).map(|f| (verification_key(&f, meta), f.node().span));
    if let (Code::Url(_) | Code::File(_), Some(field)) = (&code, spec.get("verificationKey").filter(|_| verification_key.is_some())) {
        field.error("UnsupportedValue", "only images can be verified by a key", "an image (oci://), or sha256 in place of verificationKey");
        code = Code::Unusable("verificationKey is for images".into());
    }
    let code_at = url.map_or(spec.field().node().span, |url| url.node().span);
    Plugin {
        code,
        code_at,
        sha256,
        pull_policy,
        verification_key,
        pull_secret,
        root_id,
        // Where it is in error the plugin is not switched off.
        configuration: configuration.unwrap_or_else(|| Some(String::new())),
        configuration_at,
        environment,
        fail_strategy,
        phase,
        priority,
        limits,
        gateways,
        section,
        routes,
        by_rules,
        ports,
        ingresses,
        canary,
    }
}

/// An image; `file://` with an absolute path or one relative to the folder of the file that says it; `http://` and `https://`.
fn code_of(field: &Field<'_>) -> Option<Code> {
    let text = field.str()?;
    if let Some(path) = text.strip_prefix("file://") {
        return Some(Code::File(path.into()));
    }
    if text.starts_with("http://") || text.starts_with("https://") {
        return Some(Code::Url(text.into()));
    }
    if ["/", "./", "../"].iter().any(|start| text.starts_with(start)) {
        return Some(Code::File(text.into()));
    }
    let help = "oci:// with REGISTRY/REPOSITORY:TAG, http(s)://, or file:// with a path (relative ones start at this file's folder)";
    match text.split_once("://") {
        Some((scheme, _)) if scheme != "oci" => {
            field.invalid(format!("the scheme {scheme} is unknown"), help);
            None
        }
        // As with Istio: without a scheme it is an image.
        _ => match text.parse::<Reference>() {
            Ok(reference) => Some(Code::Image(Box::new(reference))),
            Err(e) => {
                field.invalid(e.to_string(), help);
                None
            }
        },
    }
}

/// PEM, or `k8s://` with the name of a Secret, as cosign writes it.
fn verification_key(field: &Field<'_>, meta: &Meta) -> VerificationKey {
    let help = "a public key in PEM, or k8s://NAME: a Secret of the same namespace with the key cosign.pub";
    let Some(text) = field.str() else { return VerificationKey::Invalid };
    let Some(secret) = text.strip_prefix("k8s://") else {
        return match PublicKey::from_pem(text) {
            Ok(_) => VerificationKey::Pem(text.into()),
            Err(e) => {
                field.invalid(e.to_string(), help);
                VerificationKey::Invalid
            }
        };
    };
    match secret.split_once('/') {
        None if !secret.is_empty() => VerificationKey::Secret(secret.into()),
        Some((namespace, name)) if namespace == &*meta.key.namespace && !name.is_empty() && !name.contains('/') => {
            VerificationKey::Secret(name.into())
        }
        _ => {
            field.invalid("does not name a Secret of the same namespace", help);
            VerificationKey::Invalid
        }
    }
}

/// 64 hexadecimal digits, lower case from here on.
fn digest(field: &Field<'_>) -> Option<String> {
    let text = field.str()?;
    let digits = text.strip_prefix("sha256:").unwrap_or(text).to_ascii_lowercase();
    if digits.is_empty() {
        return None;
    }
    if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        field.invalid("is not a SHA-256", "64 hexadecimal digits");
        return None;
    }
    Some(digits)
}

fn variable(field: &Field<'_>) -> Option<(String, String)> {
    let object = field.object()?;
    let name = object.required("name")?.str()?;
    let value = object.str("value");
    let from_host = object.choice("valueFrom", &[("INLINE", false), ("HOST", true)]).unwrap_or(false);
    if !from_host {
        return Some((name.into(), value.unwrap_or_default().into()));
    }
    let found = std::env::var(name).ok();
    if found.is_none() {
        let message = format!("the environment has no {name}: the plugin does not see it");
        field.warning("NotInEnvironment", message, "set it where Weir is started, or use value");
    }
    Some((name.into(), found?))
}

/// What `targetRef` and `targetRefs` name.
#[derive(Default)]
struct Targets {
    /// `None` for all.
    gateways: Option<Vec<(Key, Chars)>>,
    section: Option<(Box<str>, Chars)>,
    routes: Vec<(Key, Chars)>,
}

fn targets(spec: &reader::Object<'_>, meta: &Meta) -> Targets {
    let mut refs: Vec<Field<'_>> = spec.get("targetRef").into_iter().collect();
    refs.extend(spec.list("targetRefs"));
    let mut targets = Targets::default();
    let mut gateways = Vec::new();
    for field in &refs {
        let Some((key, section)) = target(field, meta) else { continue };
        let place = field.node().span;
        match key.kind {
            Kind::Gateway | Kind::IstioGateway => gateways.push((key, place)),
            _ => targets.routes.push((key, place)),
        }
        targets.section = targets.section.or(section.map(|section| (section, place)));
    }
    if let Some(last) = refs.last() {
        if !gateways.is_empty() && !targets.routes.is_empty() {
            last.invalid("targets are gateways, or routes and Services", "write one WasmPlugin for each");
        }
        if targets.section.is_some() && gateways.len() > 1 {
            last.invalid("a target with sectionName is the only one", "write one WasmPlugin for each");
        }
    }
    // Where all targets are in error it runs nowhere.
    targets.gateways = (!refs.is_empty() && targets.routes.is_empty()).then_some(gateways);
    targets
}

/// With the name of the listener.
fn target(field: &Field<'_>, meta: &Meta) -> Option<(Key, Option<Box<str>>)> {
    let object = field.object()?;
    let (group, kind) = (object.str("group").unwrap_or_default(), object.required("kind")?.str()?);
    let name = object.required("name")?.str()?;
    let section = object.get("sectionName");
    if let Some(other) = object.get("namespace")
        && other.str().is_some_and(|n| n != &*meta.key.namespace)
    {
        other.invalid("a target is in the plugin's own namespace", "leave it out");
    }
    let kind = match (group, kind) {
        ("gateway.networking.k8s.io", "Gateway") => Kind::Gateway,
        ("networking.istio.io", "Gateway") => Kind::IstioGateway,
        ("gateway.networking.k8s.io", "HTTPRoute") => Kind::HttpRoute,
        ("gateway.networking.k8s.io", "GRPCRoute") => Kind::GrpcRoute,
        ("" | "core", "Service") => Kind::Service,
        _ => {
            let message = format!("{kind} of the group \"{group}\" is not supported as a target yet: the plugin does not run for it");
            let help = "a Gateway, HTTPRoute or GRPCRoute of gateway.networking.k8s.io, a Service, or a Gateway of networking.istio.io";
            field.warning("UnsupportedValue", message, help);
            return None;
        }
    };
    let section = section.and_then(|section| {
        if kind != Kind::Gateway {
            section.invalid("only a Gateway of gateway.networking.k8s.io has sections", "leave it out");
        }
        section.str().map(Into::into)
    });
    Some((Key::new(kind, &meta.key.namespace, name), section))
}

/// Ports of `match`; empty for all. A gateway is a client in Istio's words.
fn ports(spec: &reader::Object<'_>) -> Vec<u16> {
    let (mut ports, mut every) = (Vec::new(), true);
    for item in spec.list("match") {
        let Some(object) = item.object() else { continue };
        let here =
            object.choice("mode", &[("UNDEFINED", true), ("CLIENT", true), ("SERVER", false), ("CLIENT_AND_SERVER", true)]).unwrap_or(true);
        let listed = object.list("ports");
        let numbers: Vec<u16> = listed.iter().filter_map(|p| p.object()?.required("number")?.port()).collect();
        if !here {
            item.warning(
                "MeshOnly",
                "SERVER means a sidecar's own side: this match never holds at a gateway",
                "CLIENT or CLIENT_AND_SERVER",
            );
            // Nothing listens on port 0.
            ports.push(0);
        } else if listed.is_empty() {
            every = true;
            ports.clear();
            break;
        } else {
            ports.extend(numbers);
        }
        every = false;
    }
    if every { Vec::new() } else { ports }
}
