//! What the first configuration waits for, and how long the cluster has not been followed since.
use super::{Scope, Shared};
use crate::kubernetes::trouble::Trouble;
use std::time::Duration;

/// Kinds that were not read yet, for one reason.
#[derive(Debug, PartialEq)]
pub struct Waiting {
    /// As `httproutes.gateway.networking.k8s.io`.
    pub resources: Vec<String>,
    pub reason: &'static str,
    pub message: String,
    /// How long it has been so, of the one that waits longest.
    pub since: Duration,
}

#[derive(Debug, Default, PartialEq)]
pub struct Readiness {
    /// Empty once every kind was read.
    pub waiting: Vec<Waiting>,
    /// Why the API server cannot be reached, and how long it has been so.
    pub down: Option<(String, Duration)>,
}

impl Shared {
    pub fn readiness(&self) -> Readiness {
        let state = self.state();
        let down = state
            .down
            .as_ref()
            .map(|(why, since)| (format!("the Kubernetes API at {} cannot be reached: {why}", self.server), since.elapsed()));
        if state.complete {
            return Readiness { waiting: Vec::new(), down };
        }
        let mut waiting: Vec<Waiting> = Vec::new();
        let waits = |scope: &&Scope| !state.is_settled(scope);
        for scope in state.scopes.iter().filter(waits) {
            let (reason, message) = scope.waits_for(down.as_ref().map(|(why, _)| why.as_str()));
            let since = scope.waits_since.elapsed();
            let resource = scope.resource();
            match waiting.iter_mut().find(|same| same.reason == reason && same.message == message) {
                Some(same) => {
                    same.resources.push(resource);
                    same.since = same.since.max(since);
                }
                None => waiting.push(Waiting { resources: vec![resource], reason, message, since }),
            }
        }
        Readiness { waiting, down }
    }
}

impl Scope {
    fn resource(&self) -> String {
        let resource = self.info.crd();
        let resource = resource.trim_end_matches('.');
        match &self.namespace {
            Some(namespace) => format!("{resource} in the namespace {namespace}"),
            None => resource.to_string(),
        }
    }

    /// The reason, as in the findings, and the message.
    fn waits_for(&self, down: Option<&str>) -> (&'static str, String) {
        match (&self.trouble, down) {
            (Some(Trouble::Forbidden(why)), _) => ("Forbidden", why.clone()),
            (Some(Trouble::Unauthorized(why)), _) => ("Unauthorized", why.clone()),
            (_, Some(why)) => ("NotConnected", why.to_string()),
            (Some(Trouble::Other(why)), None) => ("WatchFailed", why.clone()),
            _ => ("NotSynced", "the list is not complete yet".to_string()),
        }
    }
}
