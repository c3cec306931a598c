//! What the tests of the running data plane share: upstreams, certificates, configurations, clients.
#![allow(clippy::unwrap_used, dead_code)]
use std::{cell::RefCell, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use weir_config::{delta::Delta, model::*};
use weir_net::tls;
use weir_proxy::{
    Options, Proxy,
    stats::{ListenerStats, Table, Total},
};
pub use weir_test::{Ca, Signed, free_port};

pub fn start() -> Proxy {
    start_with(|_| {})
}

pub fn start_with(change: impl FnOnce(&mut Options)) -> Proxy {
    let mut options = Options {
        workers: 2,
        admin: Some(loopback()),
        drain_time: Duration::from_millis(300),
        shutdown_timeout: Duration::from_secs(10),
        ..Default::default()
    };
    change(&mut options);
    Proxy::start(options).unwrap()
}

pub fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// An address that nobody else takes.
pub fn free() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// An upstream that says its name first and then returns what it gets.
pub async fn upstream(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((io, _)) => drop(tokio::spawn(echo(io, name))),
                // The tests share their descriptors with the gateway: when it has none left, neither has this.
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    });
    address
}

/// The same behind TLS.
pub async fn tls_upstream(name: &'static str, certificate: &Signed) -> SocketAddr {
    let certificate = Arc::new(tls::Certificate::from_pem(&certificate.pem, &certificate.key).unwrap());
    let server = Arc::new(tls::Server::new(tls::ServerOptions::default(), tls::CertificateTable::new(&[certificate])).unwrap());
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let server = server.clone();
            tokio::spawn(async move {
                if let Ok(io) = server.accept(io).await {
                    echo(io, name).await;
                }
            });
        }
    });
    address
}

async fn echo(mut io: impl AsyncRead + AsyncWrite + Unpin, name: &str) {
    let _ = io.write_all(name.as_bytes()).await;
    let _ = io.flush().await;
    let mut buf = [0; 4096];
    while let Ok(n) = io.read(&mut buf).await {
        if n == 0 || io.write_all(&buf[..n]).await.is_err() || io.flush().await.is_err() {
            break;
        }
    }
    let _ = io.shutdown().await;
}

/// Reads `expect`, exactly.
pub async fn expect(io: &mut (impl AsyncRead + Unpin), expect: &str) {
    let mut got = vec![0; expect.len()];
    within(io.read_exact(&mut got)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&got), expect);
}

/// Writes and reads back: the connection lives.
pub async fn ping(io: &mut (impl AsyncRead + AsyncWrite + Unpin), text: &str) {
    io.write_all(text.as_bytes()).await.unwrap();
    io.flush().await.unwrap();
    expect(io, text).await;
}

/// Whether the other side closes, by whatever means, without another byte.
pub async fn closes(io: &mut (impl AsyncRead + Unpin)) -> bool {
    !matches!(within(io.read(&mut [0])).await, Ok(n) if n > 0)
}

/// A wide deadline on what must happen.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it did not happen within 20 s")
}

/// Waits for a condition.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..4000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what}: not within 20 s");
}

/// A client that trusts this authority.
pub fn trusting(ca: &Ca) -> tls::Client {
    tls::Client::new(tls::ClientOptions {
        trust: tls::Trust::Roots(tls::Roots::from_pem(&ca.pem(), None).unwrap()),
        subject_alt_names: vec![],
        certificate: None,
        server_name: None,
        min_version: None,
    })
    .unwrap()
}

pub type Tls = tokio_rustls::client::TlsStream<TcpStream>;

pub async fn connect_tls(client: &tls::Client, address: SocketAddr, name: &str) -> std::io::Result<Tls> {
    within(client.connect(TcpStream::connect(address).await?, name, tls::Alpn::None)).await
}

pub async fn connect(address: SocketAddr) -> TcpStream {
    within(TcpStream::connect(address)).await.unwrap()
}

/// Serial number of the certificate that was served.
pub fn serial(io: &Tls) -> String {
    tls::Details::from_der(&io.get_ref().1.peer_certificates().unwrap()[0]).unwrap().serial
}

pub fn serial_of(pem: &Signed) -> String {
    tls::Certificate::from_pem(&pem.pem, &pem.key).unwrap().details.serial
}

/// A configuration that is changed step by step, sharing what stays.
#[derive(Default)]
pub struct Conf(pub Config, RefCell<(Config, u64)>);

impl Conf {
    /// What has changed since the last one, whose revision it exceeds by 1.
    pub fn delta(&self) -> Delta {
        let mut last = self.1.borrow_mut();
        let delta = Delta::between(&last.0, &self.0, last.1 + 1);
        *last = (self.0.clone(), last.1 + 1);
        delta
    }
    pub fn cluster(&mut self, name: &str, address: SocketAddr) -> &mut Self {
        self.cluster_with(name, Discovery::Static(assignment(&[Address::Socket(address)])), |_| {})
    }
    pub fn cluster_with(&mut self, name: &str, discovery: Discovery, change: impl FnOnce(&mut Cluster)) -> &mut Self {
        let mut cluster = Cluster::new(name.into(), discovery);
        change(&mut cluster);
        self.0.clusters.insert(name.into(), Arc::new(cluster));
        self
    }
    pub fn listener(&mut self, name: &str, address: SocketAddr, chains: Vec<Arc<FilterChain>>) -> &mut Self {
        self.listener_with(name, address, chains, |_| {})
    }
    pub fn listener_with(
        &mut self,
        name: &str,
        address: SocketAddr,
        filter_chains: Vec<Arc<FilterChain>>,
        change: impl FnOnce(&mut Listener),
    ) -> &mut Self {
        let mut listener = Listener {
            name: name.into(),
            address,
            protocol: Default::default(),
            filter_chains,
            proxy_protocol: false,
            max_connections: u32::MAX,
            origins: vec![],
        };
        change(&mut listener);
        self.0.listeners.insert(name.into(), Arc::new(listener));
        self
    }
    pub fn certificate(&mut self, name: &str, pem: &Signed) -> &mut Self {
        let content = SecretContent::TlsCertificate { certificate_chain: pem.pem.clone(), private_key: pem.key.clone() };
        self.0.secrets.insert(name.into(), Arc::new(Secret { name: name.into(), content, origin: None }));
        self
    }
    pub fn roots(&mut self, name: &str, pem: &str) -> &mut Self {
        let content = SecretContent::ValidationContext { trusted_ca: pem.to_string(), crl: None };
        self.0.secrets.insert(name.into(), Arc::new(Secret { name: name.into(), content, origin: None }));
        self
    }
}

pub fn assignment(addresses: &[Address]) -> Arc<ClusterLoadAssignment> {
    Arc::new(ClusterLoadAssignment::new(None, addresses.iter().cloned().map(Endpoint::new).collect()))
}

/// A chain to one cluster; `secrets` terminate TLS.
pub fn tcp(name: &str, server_names: &[&str], secrets: &[&str], cluster: &str) -> Arc<FilterChain> {
    let tls = DownstreamTls { certificates: secrets.iter().map(|s| Name::from(*s)).collect(), ..Default::default() };
    tcp_with(name, server_names, (!secrets.is_empty()).then_some(tls), cluster)
}

pub fn tcp_with(name: &str, server_names: &[&str], tls: Option<DownstreamTls>, cluster: &str) -> Arc<FilterChain> {
    let filter = NetworkFilter::TcpProxy(TcpProxy {
        stat_prefix: name.into(),
        clusters: vec![(cluster.into(), 1)],
        sni_clusters: vec![],
        idle_timeout: Duration::from_secs(3600),
        // One dead endpoint may be passed over.
        max_connect_attempts: 3,
        access_log: vec![],
    });
    Arc::new(FilterChain {
        name: name.into(),
        server_names: server_names.iter().map(|n| (*n).to_string()).collect(),
        tls,
        filters: vec![filter],
    })
}

pub fn address_of(proxy: &Proxy, listener: &str) -> SocketAddr {
    proxy.listeners().iter().find(|l| &*l.name == listener).unwrap().address
}

/// A counter of a listener.
pub fn counter(proxy: &Proxy, listener: &str, name: &str) -> u64 {
    let listeners = proxy.shared().listeners.load();
    let slot = listeners.iter().find(|l| &*l.name == listener).unwrap();
    let mut found = None;
    ListenerStats::sum(&[&slot.stats], &mut |declared, total| match total {
        Total::Counter(n) if declared.name == name => found = Some(n),
        _ => {}
    });
    found.unwrap()
}
