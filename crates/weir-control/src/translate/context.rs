//! What translators may look at. Each look is noted, whether or not something was there: a unit is translated again when
//! something that it looked at changes.
use crate::{
    Options,
    addresses::Addresses,
    api::kubernetes,
    artifact::{Artifact, ArtifactError, Artifacts},
    aspect::Aspect,
    object::{Key, Kind, Object, Spec},
    store::Store,
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashSet},
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    path::Path,
    sync::Arc,
};
use weir_config::{
    diagnostic::Diagnostic,
    model::{Name, Secret, SocketProtocol},
    reader::nearest,
};

/// Something that a unit looked at.
#[derive(Hash)]
pub enum Look<'a> {
    /// An object: its kind, namespace and name.
    Object(Kind, &'a str, &'a str),
    /// All objects of a kind.
    Kind(Kind),
    /// Which objects of a kind there are, whatever they say.
    Names(Kind),
    /// All objects of a kind that are filed under a word; see [`Object::index_keys`].
    Word(Kind, &'a str),
    /// What one aspect of an object says.
    Aspect(Kind, &'a str, &'a str, Aspect<'a>),
    File(&'a Path),
}

/// The fingerprint of a [`Look`]. It is short, because each unit keeps several: two looks that share one by chance cost an
/// unnecessary translation, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dep(pub u32);

#[derive(Default)]
pub struct Fingerprints(RandomState);

impl Fingerprints {
    pub fn of(&self, look: &Look<'_>) -> Dep {
        Dep(self.0.hash_one(look) as u32)
    }
}

/// What a unit looked at.
#[derive(Default)]
pub struct Looks {
    pub deps: HashSet<Dep>,
    /// These are watched.
    pub files: BTreeSet<Arc<Path>>,
}

/// The input of a translation.
pub struct Cx<'a> {
    store: &'a Store,
    artifacts: &'a Artifacts,
    fingerprints: &'a Fingerprints,
    /// Secrets as they are served now.
    secrets: &'a BTreeMap<Name, Arc<Secret>>,
    addresses: &'a Addresses,
    pub options: &'a Options,
    looks: RefCell<Looks>,
}

impl<'a> Cx<'a> {
    pub fn new(
        store: &'a Store,
        artifacts: &'a Artifacts,
        fingerprints: &'a Fingerprints,
        secrets: &'a BTreeMap<Name, Arc<Secret>>,
        addresses: &'a Addresses,
        options: &'a Options,
    ) -> Cx<'a> {
        Cx { store, artifacts, fingerprints, secrets, addresses, options, looks: RefCell::default() }
    }
    pub fn into_looks(self) -> Looks {
        self.looks.into_inner()
    }
    fn note(&self, look: &Look<'_>) {
        self.looks.borrow_mut().deps.insert(self.fingerprints.of(look));
    }

    /// The address that was given to a Gateway without `spec.addresses`. It stays as long as the Gateway has none: no look to note.
    pub fn gateway_address(&self, gateway: &Key) -> Option<IpAddr> {
        self.addresses.of(gateway)
    }

    /// The port of this process that a Service maps a listener's port to; `None` as long as none was chosen.
    pub fn target_port(&self, uid: &str, port: u16, protocol: SocketProtocol) -> Option<u16> {
        let key = self.options.target_ports.as_ref()?;
        let found = self.aspects(key.kind, &key.namespace, &key.name, &[Aspect::TargetPorts(uid)])?;
        let Spec::ConfigMap(map) = &found.spec else { return None };
        map.target_ports.as_ref()?.of(uid, port, protocol)
    }

    pub fn find(&self, key: &Key) -> Option<&'a Arc<Object>> {
        self.note(&Look::Object(key.kind, &key.namespace, &key.name));
        self.store.get(key)
    }
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<&'a Arc<Object>> {
        self.find(&Key::new(kind, namespace, name))
    }
    /// An object of which only these aspects are read.
    pub fn aspects(&self, kind: Kind, namespace: &str, name: &str, aspects: &[Aspect<'_>]) -> Option<&'a Arc<Object>> {
        let key = Key::new(kind, namespace, name);
        for aspect in aspects {
            self.note(&Look::Aspect(kind, &key.namespace, name, *aspect));
        }
        self.store.get(&key)
    }
    /// All objects of a kind: the unit is translated again when any of them changes. Prefer [`Cx::by_word`] for kinds
    /// that come by the thousand.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
        self.note(&Look::Kind(kind));
        self.store.all(kind)
    }
    /// What to say of a reference to an object that is not there: an error where its name is nearly that of another one.
    pub fn missing(&self, kind: Kind, namespace: &str, name: &str, reason: &'static str) -> Diagnostic {
        let message = format!("there is no {} {namespace}/{name}", kind.info().name);
        self.note(&Look::Names(kind));
        let all: Vec<&Key> = self.store.all(kind).map(|o| &o.key).collect();
        let here = all.iter().filter(|key| *key.namespace == *namespace).map(|key| &*key.name);
        if let Some(near) = nearest(name, here) {
            return Diagnostic::error(reason, message).help(format!("did you mean {near}?"));
        }
        match all.iter().find(|key| *key.name == *name) {
            Some(key) => Diagnostic::warning(reason, message).help(format!("there is one in the namespace {}", key.namespace)),
            None => Diagnostic::warning(reason, message).help("add it, or change the name or namespace"),
        }
    }
    /// The objects filed under a word, as the slices of a service or the DestinationRules of a host.
    pub fn by_word(&self, kind: Kind, word: &str) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
        self.note(&Look::Word(kind, word));
        self.store.by_word(kind, word)
    }
    /// The ReferenceGrants that may let objects `from` (kind of Gateway API, namespace) refer `to` (group, kind, namespace, name).
    pub fn grants(&self, from: (&str, &str), to: (&str, &str, &str, &str)) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
        let (group, kind, namespace, name) = to;
        for name in [None, Some(name)] {
            let granted = Aspect::Grant { from, to: (group, kind, name) };
            self.note(&Look::Aspect(Kind::ReferenceGrant, namespace, "", granted));
        }
        self.store.by_word(Kind::ReferenceGrant, namespace)
    }
    /// A file that an object names, as a plugin's code: its digest. The unit is translated again when the file changes.
    pub fn artifact(&self, path: &Path) -> Artifact {
        self.note(&Look::File(path));
        self.looks.borrow_mut().files.insert(path.into());
        self.artifacts.read(path)
    }
    /// As [`Cx::artifact`], its text.
    pub fn text(&self, path: &Path) -> Result<String, ArtifactError> {
        self.artifact(path)?;
        std::fs::read_to_string(path).map_err(ArtifactError::Io)
    }
    /// A secret as it is served now: what goes on where the files that it is made of are in error.
    pub fn served(&self, secret: &str) -> Option<&'a Arc<Secret>> {
        self.secrets.get(secret)
    }

    pub fn service(&self, namespace: &str, name: &str) -> Option<&'a kubernetes::Service> {
        as_service(self.get(Kind::Service, namespace, name)?)
    }
    /// A Service of which only one port is read, and whether it has an external name.
    pub fn service_port(&self, namespace: &str, name: &str, port: u16) -> Option<&'a kubernetes::Service> {
        as_service(self.aspects(Kind::Service, namespace, name, &[Aspect::General, Aspect::Port(port)])?)
    }
}

fn as_service(object: &Object) -> Option<&kubernetes::Service> {
    match &object.spec {
        Spec::Service(s) => Some(s),
        _ => None,
    }
}
