//! Another hub of the node pool. Both sides show the certificates of their nodes.
use super::{
    RemoteError, Show, Timeouts,
    server::{Server, ServerStatus},
};
use crate::{
    body::Body,
    upstream::{credentials::Credentials, health::Thresholds},
};
use http::{Request, Response};
use std::sync::Arc;
use url::Url;
use weir_net::{dns::Resolver, tls::Alpn};

pub struct Peer {
    /// Of its node.
    pub name: String,
    /// Host and port.
    pub address: String,
    server: Server,
}

impl Peer {
    /// `None`: the address is not one.
    pub fn new(name: &str, address: &str, credentials: Arc<Credentials>, resolver: Arc<Resolver>, timeouts: Timeouts) -> Option<Peer> {
        let url = Url::parse(&format!("https://{address}")).ok()?;
        let server = Server::new(url, credentials, resolver, timeouts, Thresholds::default()).of_node(name);
        Some(Peer { name: name.into(), address: address.into(), server })
    }

    /// Sends a request and waits for the head of the response.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Body>, RemoteError> {
        self.server.send(request, Show::Node).await.map_err(|unanswered| unanswered.error)
    }

    /// Whether its hub listens, and shows the certificate of its node.
    pub async fn is_reached(&self) -> bool {
        self.server.dial(Show::Node, Alpn::Http2).await.is_ok()
    }

    pub fn status(&self) -> ServerStatus {
        self.server.status()
    }
}
