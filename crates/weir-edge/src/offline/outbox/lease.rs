//! The Lease of the node while the API server cannot be reached: in memory only, as kubelet renews it every few seconds.
use crate::apimachinery::{object::Object, reported::LEASE, schema::ContentError};
use serde_json::Value;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub struct Lease(Mutex<State>);

#[derive(Default)]
struct State {
    /// As it was last written or read.
    object: Option<Object>,
    /// It was written here, and the API server does not have it.
    waits: bool,
}

impl Lease {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The API server has answered with it: nothing older needs to be sent.
    pub fn is(&self, object: Object) {
        *self.state() = State { object: Some(object), waits: false };
    }

    /// Written in place of the API server.
    pub fn write(&self, object: Object) {
        *self.state() = State { object: Some(object), waits: true };
    }

    pub fn waits(&self) -> bool {
        self.state().waits
    }

    pub fn object(&self) -> Option<Object> {
        self.state().object.clone()
    }

    /// Its spec, if it is to be sent.
    pub fn waiting(&self) -> Option<Result<Value, ContentError>> {
        let object = {
            let state = self.state();
            state.object.clone().filter(|_| state.waits)?
        };
        Some(LEASE.read(&object).map(|mut report| report[LEASE.part].take()))
    }

    /// It is not sent, until it is written again.
    pub fn forget(&self) {
        self.state().waits = false;
    }

    /// What waited was sent, or need not be: unless it was written again since then.
    pub fn done(&self, spec: Option<&Value>) {
        let now = self.waiting().and_then(Result::ok);
        if now.as_ref() == spec {
            self.state().waits = false;
        }
    }
}
