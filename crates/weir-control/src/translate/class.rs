//! Classes of Gateways and Ingress objects that belong to another controller.
use weir_config::model::Name;

/// Why an object is not Weir's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForeignClass {
    #[error("the {kind} {name} belongs to the controller {controller}")]
    Named { kind: &'static str, name: Box<str>, controller: Box<str> },
    #[error("there is no {kind} {name}")]
    Missing { kind: &'static str, name: Box<str> },
    #[error("it has no class, and there is no default IngressClass")]
    NoDefault,
    #[error("it has no class, and the default IngressClass {name} belongs to the controller {controller}")]
    Default { name: Name, controller: Box<str> },
}
