//! Reads the Ingress objects and Services of a cluster once, for `weir migrate`.
use super::{
    client::{Connection, chain},
    fetched::{Fetched, Reader, Served},
};
use crate::{
    api::gateway_api::CONTROLLER,
    object::{Kind, Object},
};
use kube::{Api, api::ListParams};
use std::sync::Arc;
use weir_config::diagnostic::Diagnostic;

#[derive(Debug, thiserror::Error)]
#[error("cannot list {what} at {server}: {why}")]
pub struct ListError {
    what: String,
    server: String,
    why: String,
}

/// What a cluster has, and what was found in reading it.
pub type Found = (Vec<Arc<Object>>, Vec<Arc<Diagnostic>>);

impl Connection {
    /// Of the namespaces of the connection, or of all.
    pub fn ingresses(&self) -> Result<Found, ListError> {
        let reader = Reader::new(CONTROLLER.into());
        let (mut objects, mut findings) = (Vec::new(), Vec::new());
        for kind in [Kind::Ingress, Kind::Service] {
            let info = kind.info();
            let served = Served { info, version: info.versions[0] };
            let apis: Vec<Api<Fetched>> = match &self.access.namespaces[..] {
                [] => vec![Api::all_with(self.client.clone(), &served)],
                some => some.iter().map(|namespace| Api::namespaced_with(self.client.clone(), namespace, &served)).collect(),
            };
            for api in apis {
                let list = self.runtime.block_on(api.list(&ListParams::default()));
                let error = |e: kube::Error| ListError { what: info.plural(), server: self.server.clone(), why: chain(&e) };
                for fetched in list.map_err(error)?.items {
                    let read = reader.read(info, fetched);
                    objects.extend(read.object);
                    findings.extend(read.findings.into_iter().map(Arc::new));
                }
            }
        }
        objects.sort_by(|a: &Arc<Object>, b| a.key.cmp(&b.key));
        Ok((objects, findings))
    }
}
