//! Tables, a model, and damage, against stores in folders of their own.
mod basics;
mod concurrent;
mod crash;
mod damage;
mod limits;
mod model;

use super::ObjectName;

fn name(namespace: &str, name: &str) -> ObjectName {
    ObjectName { namespace: namespace.into(), name: name.into() }
}
