//! What few of many have.
use serde::{Serialize, Serializer};
use std::ops::{Deref, DerefMut};

/// What most have.
pub trait Common: Default + PartialEq + 'static {
    fn common() -> &'static Self;
}

/// Takes no more room than a pointer where it is what is common.
#[derive(Clone, Debug, Default)]
pub struct Rare<T>(Option<Box<T>>);

impl<T: Common> From<T> for Rare<T> {
    fn from(value: T) -> Rare<T> {
        Rare((value != *T::common()).then(|| Box::new(value)))
    }
}

impl<T: Common> Deref for Rare<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or_else(|| T::common())
    }
}

impl<T: Common> DerefMut for Rare<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

impl<T: Common> PartialEq for Rare<T> {
    fn eq(&self, other: &Rare<T>) -> bool {
        **self == **other
    }
}

impl<T: Common + Serialize> Serialize for Rare<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        T::serialize(self, s)
    }
}
