//! Who may attach to a Gateway, by namespace.
use crate::{
    api::gateway_api::namespaces::From,
    aspect::Aspect,
    object::{Key, Kind, Meta},
    translate::Cx,
};

/// Whether something in a `namespace` may attach to what is in `own`.
pub fn allows(cx: &Cx<'_>, from: &From, own: &str, namespace: &str) -> bool {
    match from {
        From::None => false,
        From::Same => own == namespace,
        From::All => true,
        From::Selector(requirements) => {
            let labels: Vec<Aspect<'_>> = requirements.iter().map(|r| Aspect::Label(&r.key)).collect();
            match cx.aspects(Kind::Namespace, "", namespace, &labels) {
                Some(object) => requirements.iter().all(|r| r.holds(&object.meta)),
                // Folders seldom hold Namespace objects: requirements on the name alone still apply.
                None => {
                    let meta = Meta::new(Key::new(Kind::Namespace, "", namespace));
                    requirements.iter().all(|r| r.holds(&meta))
                }
            }
        }
    }
}
