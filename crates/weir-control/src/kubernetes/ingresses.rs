//! Reads the Ingress objects and Services of a cluster once, for `weir migrate`.
use super::{
    client::{Connection, text},
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
#[error("cannot list {what} at {server}: {why}{help}")]
pub struct ListError {
    what: String,
    server: String,
    why: String,
    help: String,
}

/// Objects that are asked for at a time.
const PAGE: u32 = 500;

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
                let list = self.runtime.block_on(list(&api));
                for fetched in list.map_err(|e| self.list_error(&info.plural(), &e))? {
                    let read = reader.read(info, fetched);
                    objects.extend(read.object);
                    findings.extend(read.findings.into_iter().map(Arc::new));
                }
            }
        }
        objects.sort_by(|a: &Arc<Object>, b| a.key.cmp(&b.key));
        Ok((objects, findings))
    }

    fn list_error(&self, what: &str, e: &kube::Error) -> ListError {
        let help = match e {
            kube::Error::Api(status) if status.is_forbidden() => {
                format!("; grant list on {what}, or name the namespaces that you may read by --namespace")
            }
            _ => String::new(),
        };
        ListError { what: what.into(), server: self.server.clone(), why: text(e), help }
    }
}

/// All objects, page by page.
async fn list(api: &Api<Fetched>) -> kube::Result<Vec<Fetched>> {
    let mut params = ListParams::default().limit(PAGE);
    let mut all = Vec::new();
    loop {
        match api.list(&params).await {
            Ok(page) => {
                all.extend(page.items);
                params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
                if params.continue_token.is_none() {
                    return Ok(all);
                }
            }
            // The server has forgotten the version that the pages are of: all at once cannot expire.
            Err(kube::Error::Api(status)) if status.code == 410 && params.continue_token.is_some() => {
                all.clear();
                params = ListParams::default();
            }
            Err(e) => return Err(e),
        }
    }
}
