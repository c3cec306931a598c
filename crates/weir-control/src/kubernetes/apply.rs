//! Creates or updates objects by server-side apply: each document of a text of YAML, in its order.
use super::client::{Connection, chain};
use kube::core::{ApiResource, GroupVersionKind};
use std::sync::Arc;
use weir_config::{
    diagnostic::Diagnostic,
    node::{self, Node},
    source::Source,
};

/// Who owns the fields that are applied.
const FIELD_MANAGER: &str = "weir-install";

#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("{}", .0.line())]
    NotYaml(Box<Diagnostic>),
    #[error("document {0} lacks apiVersion, kind or metadata.name")]
    Unnamed(usize),
    #[error("{object}: the cluster has no {kind} of {api_version}; install its CustomResourceDefinition first")]
    UnknownKind { object: String, kind: String, api_version: String },
    #[error("{object}: {error}")]
    Refused { object: String, error: String },
}

impl Connection {
    /// Applies every document; calls `done` after each of them with its kind and name.
    pub fn apply(&self, name: &str, documents: &str, mut done: impl FnMut(&str)) -> Result<(), ApplyError> {
        let source = Arc::new(Source::new(name, documents, 1));
        let nodes = node::parse(&source).map_err(|found| ApplyError::NotYaml(Box::new(found)))?;
        for (index, node) in nodes.iter().enumerate() {
            let object = self.runtime.block_on(self.apply_one(index, node))?;
            done(&object);
        }
        Ok(())
    }

    async fn apply_one(&self, index: usize, node: &Node) -> Result<String, ApplyError> {
        let text = |of: Option<&Node>, key: &str| of.and_then(|n| n.get(key)).and_then(Node::as_str).map(str::to_string);
        let metadata = node.get("metadata");
        let named = text(Some(node), "apiVersion").zip(text(Some(node), "kind")).zip(text(metadata, "name"));
        let ((api_version, kind), name) = named.ok_or(ApplyError::Unnamed(index))?;
        let object = format!("{kind}/{name}");
        let refused = |error: String| ApplyError::Refused { object: object.clone(), error };
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", &api_version));
        let plural = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind)).plural;
        let root = if group.is_empty() { "api" } else { "apis" };
        let namespace = text(metadata, "namespace").map(|n| format!("/namespaces/{n}")).unwrap_or_default();
        let uri = format!("/{root}/{api_version}{namespace}/{plural}/{name}?fieldManager={FIELD_MANAGER}&force=true");
        let body = node.to_json().to_string().into_bytes();
        let request = http::Request::patch(uri).header("content-type", "application/apply-patch+yaml").body(body);
        let request = request.map_err(|e| refused(e.to_string()))?;
        match self.client.request_text(request).await {
            Ok(_) => Ok(object),
            // The path is unknown, not the object: apply creates that.
            Err(kube::Error::Api(status)) if status.code == 404 && status.details.as_ref().is_none_or(|d| d.name.is_empty()) => {
                Err(ApplyError::UnknownKind { object, kind, api_version })
            }
            Err(e) => Err(refused(chain(&e))),
        }
    }
}
