//! A TLS connection to a server that a URL names.
use std::{io, time::Duration};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::client::TlsStream;
use url::Url;
use weir_net::{
    dial,
    dns::Resolver,
    tls::{Alpn, Client},
};

/// Tries the addresses of the host in turn.
///
/// # Errors
/// Why the last address did not work, or `TimedOut`.
pub async fn connect(url: &Url, resolver: &Resolver, client: &Client, alpn: Alpn, limit: Duration) -> io::Result<TlsStream<TcpStream>> {
    let connected = async {
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(443);
        // Brackets are a URL's way to write IPv6 addresses.
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let addresses = resolver.lookup(bare).await.map_err(io::Error::other)?.addresses;
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
        for ip in addresses {
            match dial::connect((ip, port).into(), None, b"").await {
                Ok(io) => return client.connect(io, host, alpn).await,
                Err(e) => last = e,
            }
        }
        Err(last)
    };
    match timeout(limit, connected).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("not connected within {limit:?}"))),
    }
}
