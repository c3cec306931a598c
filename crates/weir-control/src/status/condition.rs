//! Status conditions, as Kubernetes defines them.
use std::fmt;

/// The reason of what the proxy has not taken over, or not completely.
pub const PENDING: &str = "Pending";

/// One status condition. A list of conditions has at most one for each scope and type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Condition {
    pub scope: Scope,
    /// Its type, such as `Programmed`.
    pub kind: &'static str,
    pub status: bool,
    pub reason: &'static str,
    /// Translation may leave it empty. The board then takes it from the finding with this reason.
    pub message: Box<str>,
}

/// The part of an object's status that a condition belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// `status.conditions`.
    Object,
    /// The entry of `status.listeners` with this name.
    Listener(Box<str>),
    /// The entry of `status.parents` for `spec.parentRefs[N]`.
    Parent(u32),
    /// The entry of `status.registries` for `spec.registries[N]`.
    Registry(u32),
}

impl Condition {
    /// Of an object that nothing speaks against.
    pub fn accepted() -> Condition {
        Condition { scope: Scope::Object, kind: "Accepted", status: true, reason: "Accepted", message: "".into() }
    }
}

/// The name of the listener, `parentRefs[N]` or `registries[N]`; empty for the object.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Object => Ok(()),
            Scope::Listener(name) => f.write_str(name),
            Scope::Parent(index) => write!(f, "parentRefs[{index}]"),
            Scope::Registry(index) => write!(f, "registries[{index}]"),
        }
    }
}

impl Scope {
    pub fn listener(name: &str) -> Scope {
        Scope::Listener(name.into())
    }
    pub fn parent(index: usize) -> Scope {
        Scope::Parent(index as u32)
    }
}
