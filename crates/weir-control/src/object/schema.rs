//! The fields of every kind, as the decoders know them: for the reference pages.
use super::{Key, KindInfo, Meta, decode_spec};
use crate::api::settings::Settings;
use serde_json::json;
use weir_config::{
    node::Node,
    schema::{Schema, explore},
};

/// What the decoder of a kind reads, without metadata but for the annotations that it acts on.
pub fn of(info: &KindInfo) -> Schema {
    let meta = Meta::new(Key::new(info.kind, "default", "x"));
    // Annotations are looked at where there is one for an ingress controller.
    let start = json!({ "kind": info.name, "metadata": { "name": "x", "annotations": { "nginx.ingress.kubernetes.io/x": "x" } } });
    explore(Node::from_json(&start), &|root| {
        root.ignore_rest();
        decode_spec(info.kind, root, &meta);
    })
}

/// The texts of settings in the ConfigMap `higress-config`, by key.
pub fn of_settings() -> [(&'static str, Schema); 2] {
    let start = Node::from_json(&json!({}));
    [
        ("higress", explore(start.clone(), &|root| Settings::default().higress(root))),
        ("mesh", explore(start, &|root| Settings::default().mesh(root))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::ingress::annotations::keys::KEYS,
        object::{KINDS, Kind},
    };
    use std::collections::BTreeSet;
    use weir_config::reader::record::{NoEffect, Step};

    #[test]
    fn what_is_described_is_read() {
        let (mut described, mut unread) = (0, Vec::new());
        for schema in KINDS.iter().map(of).chain(of_settings().map(|(_, schema)| schema)) {
            for (steps, known) in schema.into_iter().filter(|(_, known)| known.description.is_some()) {
                described += 1;
                if !known.is_read {
                    unread.push(steps);
                }
            }
        }
        assert!(unread.is_empty(), "{unread:?}");
        assert!(described > 200, "{described}");
    }

    /// The table of annotations says of each whether it has an effect.
    #[test]
    fn annotations_are_read_as_their_table_says() {
        let prefix = "nginx.ingress.kubernetes.io/";
        let schema = of(Kind::Ingress.info());
        let read: BTreeSet<&str> = schema
            .keys()
            .filter_map(|steps| match &steps[..] {
                [.., Step::Field(name)] => name.strip_prefix(prefix).filter(|name| *name != "x"),
                _ => None,
            })
            .collect();
        let listed: BTreeSet<&str> = KEYS.iter().filter(|key| key.support.is_read()).map(|key| key.name).collect();
        assert_eq!(read, listed);
    }

    #[test]
    fn fields_behind_every_choice_are_found() {
        let shown = |schema: &Schema| -> Vec<String> {
            let step = |step: &Step| match step {
                Step::Field(name) => name.to_string(),
                Step::Index(_) => "[]".into(),
            };
            schema.keys().map(|steps| steps.iter().map(step).collect::<Vec<_>>().join(" ")).collect()
        };
        for (kind, fields) in [
            (Kind::Gateway, &["spec listeners [] tls certificateRefs [] name", "spec tls frontend perPort [] tls validation mode"][..]),
            (
                Kind::HttpRoute,
                &["spec rules [] filters [] urlRewrite path replaceFullPath", "spec rules [] sessionPersistence cookieConfig lifetimeType"],
            ),
            (Kind::GrpcRoute, &["spec rules [] matches [] method service"]),
            (Kind::BackendTlsPolicy, &["spec validation caCertificateRefs [] name", "spec validation subjectAltNames [] uri"]),
            (
                Kind::VirtualService,
                &["spec http [] match [] headers KEY prefix", "spec http [] delegate name", "spec tls [] match [] sniHosts []"],
            ),
            (Kind::DestinationRule, &["spec subsets [] trafficPolicy loadBalancer consistentHash maglev tableSize"]),
            (
                Kind::Ingress,
                &["spec rules [] http paths [] backend service port name", "metadata annotations nginx.ingress.kubernetes.io/canary"],
            ),
            (Kind::HigressWasmPlugin, &["spec matchRules [] domain []", "metadata annotations weir.dev/memory-limit"]),
        ] {
            let all = shown(&of(kind.info()));
            for field in fields {
                assert!(all.iter().any(|f| f == field), "{kind:?} {field}: {all:#?}");
            }
        }
        let settings = of_settings();
        assert!(shown(&settings[0].1).contains(&"downstream http2 maxConcurrentStreams".to_string()));
        let unsupported = settings[1].1.values().filter(|known| known.asked.no_effect == Some(NoEffect::Unsupported)).count();
        assert!(unsupported > 50, "{unsupported}");
        for info in KINDS.iter().filter(|info| info.kind != Kind::Namespace) {
            assert!(of(info).len() > 2, "{}", info.name);
        }
    }
}
