//! ReferenceGrant: which references across namespaces are allowed.
use weir_config::reader::Object;

/// Who may refer across namespaces.
#[derive(Clone, Debug, PartialEq)]
pub struct ReferenceGrant {
    /// (group, kind, namespace)
    pub from: Vec<(Box<str>, Box<str>, Box<str>)>,
    pub to: Vec<Granted>,
}

/// What a grant opens.
#[derive(Clone, Debug, PartialEq)]
pub struct Granted {
    pub group: Box<str>,
    pub kind: Box<str>,
    /// `None` for any.
    pub name: Option<Box<str>>,
}

pub fn decode(root: &Object<'_>) -> Option<ReferenceGrant> {
    let spec = root.required("spec")?.object()?;
    let mut grant = ReferenceGrant { from: Vec::new(), to: Vec::new() };
    for item in spec.required("from")?.list() {
        let from = item.object()?;
        let (group, kind) = (from.required("group")?.str()?.into(), from.required("kind")?.str()?.into());
        grant.from.push((group, kind, from.required("namespace")?.str()?.into()));
    }
    for item in spec.required("to")?.list() {
        let to = item.object()?;
        // The core group is written as an empty text, so that its absence must be taken as such.
        let (group, kind) = (to.get("group").and_then(|f| f.str()).unwrap_or_default().into(), to.required("kind")?.str()?.into());
        grant.to.push(Granted { group, kind, name: to.str("name").map(Into::into) });
    }
    Some(grant)
}
