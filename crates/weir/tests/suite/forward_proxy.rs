//! Connections that leave by a forward proxy: a proxy of the test's own, asked by CONNECT and POST in both versions of HTTP.
use crate::{
    client,
    harness::{Start, Weir, eventually, raw_upstream, runtime},
    tcp::upstream,
    tls::{secure_echo, through},
    yaml::holder,
};
use bytes::Bytes;
use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    sync::mpsc,
};
use weir_net::tls;
use weir_test::{Ca, Signed};

/// What the proxy was asked for: `METHOD HOST:PORT VERSION`.
type Asked = mpsc::UnboundedSender<String>;

/// Starts a proxy; its port. Every host is this machine to it, but for `refuse.test`, which it refuses.
fn proxy(http2: bool, own: Option<&Signed>, asked: Asked) -> u16 {
    let server = own.map(|own| {
        let certificate = Arc::new(tls::Certificate::from_pem(&own.pem, &own.key).unwrap());
        let alpn = vec![if http2 { "h2" } else { "http/1.1" }.to_string()];
        let options = tls::ServerOptions { alpn, ..tls::ServerOptions::default() };
        Arc::new(tls::Server::new(options, tls::CertificateTable::new(&[certificate])).unwrap())
    });
    runtime().block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                let (server, asked) = (server.clone(), asked.clone());
                tokio::spawn(async move {
                    match server {
                        None => serve(io, http2, asked).await,
                        Some(server) => {
                            let Ok(io) = server.accept(io).await else { return };
                            serve(io, http2, asked).await;
                        }
                    }
                });
            }
        });
        port
    })
}

async fn serve(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, http2: bool, asked: Asked) {
    if !http2 {
        return drop(serve_http1(io, asked).await);
    }
    let Ok(mut connection) = h2::server::handshake(io).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let to = request.uri().authority().unwrap().to_string();
        let path = request.uri().path_and_query().map(|p| format!(" {p}")).unwrap_or_default();
        let _ = asked.send(format!("{} {to} HTTP/2{path}", request.method()));
        let answer = |status: u16| http::Response::builder().status(status).body(()).unwrap();
        let Some(target) = target(&to).await else {
            respond.send_response(answer(403), true).unwrap();
            continue;
        };
        let mut send = respond.send_response(answer(200), false).unwrap();
        let (mut read, mut write) = target.into_split();
        let mut body = request.into_body();
        tokio::spawn(async move {
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
                if write.write_all(&data).await.is_err() {
                    return;
                }
            }
            let _ = write.shutdown().await;
        });
        tokio::spawn(async move {
            let mut piece = vec![0; 8192];
            while let Ok(n @ 1..) = read.read(&mut piece).await {
                // Without waiting for a window: what is sent is held here.
                if send.send_data(Bytes::copy_from_slice(&piece[..n]), false).is_err() {
                    return;
                }
            }
            let _ = send.send_data(Bytes::new(), true);
        });
    }
}

async fn target(to: &str) -> Option<tokio::net::TcpStream> {
    let (host, port) = to.rsplit_once(':').unwrap();
    if host == "refuse.test" {
        return None;
    }
    tokio::net::TcpStream::connect(("127.0.0.1", port.parse::<u16>().unwrap())).await.ok()
}

async fn serve_http1(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, asked: Asked) -> std::io::Result<()> {
    let (read, mut write) = tokio::io::split(io);
    let mut read = BufReader::new(read);
    let (mut first, mut host, mut chunked) = (String::new(), String::new(), false);
    read.read_line(&mut first).await?;
    loop {
        let mut line = String::new();
        read.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name {
            "host" => host = value.to_string(),
            "transfer-encoding" => chunked = value == "chunked",
            _ => {}
        }
    }
    let words: Vec<&str> = first.trim_end().split(' ').collect();
    let _ = asked.send(format!("{} {host} {}{}", words[0], words[2], if chunked { " chunked" } else { "" }));
    assert_eq!(words[1], if chunked { "/" } else { host.as_str() });
    let Some(target) = target(&host).await else {
        return write.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await;
    };
    let (mut from, mut to) = target.into_split();
    // In pieces, and with an interim answer before it: a proxy may do that.
    write.write_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n").await?;
    write.flush().await?;
    write.write_all(if chunked { b"transfer-encoding: chunked\r\n\r\n" } else { b"\r\n" }).await?;
    write.flush().await?;
    let forth = async {
        loop {
            let mut piece = vec![0; 8192];
            let n = match chunked {
                false => read.read(&mut piece).await?,
                true => {
                    let mut size = String::new();
                    read.read_line(&mut size).await?;
                    let n = usize::from_str_radix(size.trim_end(), 16).unwrap_or(0);
                    piece.resize(n.max(1), 0);
                    read.read_exact(&mut piece[..n]).await?;
                    read.read_exact(&mut [0; 2]).await?;
                    n
                }
            };
            if n == 0 {
                return to.shutdown().await;
            }
            to.write_all(&piece[..n]).await?;
        }
    };
    let back = async {
        let mut piece = vec![0; 8192];
        loop {
            let n = from.read(&mut piece).await?;
            if chunked {
                write.write_all(format!("{n:x}\r\n").as_bytes()).await?;
            }
            write.write_all(&piece[..n]).await?;
            if chunked {
                write.write_all(b"\r\n").await?;
            }
            write.flush().await?;
            if n == 0 {
                return write.shutdown().await;
            }
        }
    };
    tokio::try_join!(forth, back).map(drop)
}

/// A forward proxy as a host, with the tunnel through it.
fn leaves_by(host: &str, protocol: &str, port: u16, policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {host} }}\nspec:\n  hosts: [{host}]\n  ports: [{{ number: 3128, name: proxy, protocol: {protocol} }}]\n  resolution: STATIC\n  endpoints: [{{ address: 127.0.0.1, ports: {{ proxy: {port} }} }}]\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: {host} }}\nspec:\n  host: {host}\n  trafficPolicy: {{ {policy} }}\n---\n"
    )
}

fn tunnel(protocol: &str, host: &str, port: u16) -> String {
    format!("tunnel: {{ {protocol}targetHost: {host}, targetPort: {port} }}")
}

/// The certificates tell the test's TLS apart from the gateway's TLS to the proxy.
#[test]
fn connections_leave_through_a_forward_proxy() {
    let ca = Ca::new();
    let names = ["connect.test", "post.test", "two.test", "twopost.test", "over.test", "overtwo.test", "refused.test"];
    let own = ca.sign(&names);
    let target = secure_echo("target", &own);
    let port = target.address().port();
    let (tell, mut asked) = mpsc::unbounded_channel();
    let proxy = |http2: bool, own: Option<&Signed>| proxy(http2, own, tell.clone());
    let (one, two) = (proxy(false, None), proxy(true, None));
    let its = ca.sign(&["proxy.test"]);
    let (over_one, over_two) = (proxy(false, Some(&its)), proxy(true, Some(&its)));
    let secure = ", tls: { mode: SIMPLE, sni: proxy.test, credentialName: ca }";
    let hosts = [
        leaves_by("connect.out", "TCP", one, &tunnel("", "a.target.test", port)),
        leaves_by("post.out", "HTTP", one, &tunnel("protocol: POST, ", "b.target.test", port)),
        leaves_by("two.out", "HTTP2", two, &tunnel("protocol: CONNECT, ", "c.target.test", port)),
        leaves_by("twopost.out", "HTTP2", two, &tunnel("protocol: POST, ", "d.target.test", port)),
        leaves_by("over.out", "HTTP", over_one, &(tunnel("", "127.0.0.1", port) + secure)),
        leaves_by("overtwo.out", "HTTP2", over_two, &(tunnel("", "'::1'", port) + secure)),
        leaves_by("refused.out", "TCP", one, &tunnel("", "refuse.test", port)),
    ];
    let routes = names.map(|name| {
        let to = name.replace(".test", ".out");
        format!("  - {{ match: [{{ port: $PORT, sniHosts: [{name}] }}], route: [{{ destination: {{ host: {to}, port: {{ number: 3128 }} }} }}] }}\n")
    });
    let weir = Start::new()
        .upstreams(0)
        .file("hosts.yaml", hosts.concat() + &holder("Secret", "ca", &[("ca.crt", &ca.pem())]))
        .file("routes.yaml", format!("apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{ name: g }}\nspec:\n  servers: [{{ port: {{ number: $PORT, name: tls, protocol: TLS }}, hosts: ['*'], tls: {{ mode: PASSTHROUGH }} }}]\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: v }}\nspec:\n  hosts: ['*']\n  gateways: [g]\n  tls:\n{}", routes.concat()))
        .run();
    assert!(weir.lines("warning").is_empty() && weir.lines("error").is_empty(), "{}", weir.printed());
    for (name, wanted) in [
        ("connect.test", format!("CONNECT a.target.test:{port} HTTP/1.1")),
        ("post.test", format!("POST b.target.test:{port} HTTP/1.1 chunked")),
        ("two.test", format!("CONNECT c.target.test:{port} HTTP/2")),
        ("twopost.test", format!("POST d.target.test:{port} HTTP/2 /")),
        ("over.test", format!("CONNECT 127.0.0.1:{port} HTTP/1.1")),
        ("overtwo.test", format!("CONNECT [::1]:{port} HTTP/2")),
    ] {
        let (leaf, answered) = through(&weir, 0, &ca, name).unwrap_or_else(|| panic!("{name}: {}", weir.printed()));
        assert!(leaf == own.der && answered == "target", "{name} was answered by {answered}");
        assert_eq!(asked.blocking_recv().unwrap(), wanted, "{name}");
    }
    assert_eq!(client::request(weir.admin, "POST", "localhost", "/logging?upstream=debug", &[], b"").unwrap().status, 200);
    assert!(through(&weir, 0, &ca, "refused.test").is_none());
    assert_eq!(asked.blocking_recv().unwrap(), format!("CONNECT refuse.test:{port} HTTP/1.1"));
    eventually("the reason", || weir.lines("the proxy answered 403").first().cloned());
    eventually("the counter", || {
        (weir.stat(&format!("listener.0.0.0.0_{}.tcp.upstream_cx_connect_fail", weir.ports[0])) == 1).then_some(())
    });
}

#[test]
fn a_tunnel_carries_much_and_ends_one_way_after_the_other() {
    let port = upstream("");
    let (tell, _asked) = mpsc::unbounded_channel();
    let (one, two) = (proxy(false, None, tell.clone()), proxy(true, None, tell));
    let server = |port: &str, name: &str| format!("  - {{ port: {{ number: {port}, name: tcp, protocol: {name} }}, hosts: ['*'] }}\n");
    let to = |port: &str, host: &str| {
        format!("  - {{ match: [{{ port: {port} }}], route: [{{ destination: {{ host: {host}, port: {{ number: 3128 }} }} }}] }}\n")
    };
    let objects = [
        leaves_by("connect.out", "TCP", one, &tunnel("", "t.test", port)),
        leaves_by("post.out", "TCP", one, &tunnel("protocol: POST, ", "t.test", port)),
        leaves_by("two.out", "HTTP2", two, &tunnel("", "t.test", port)),
        format!(
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{ name: g }}\nspec:\n  servers:\n{}{}{}---\n",
            server("$PORT", "TCP"),
            server("$PORT2", "TCP"),
            server("$PORT3", "TCP")
        ),
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: v }}\nspec:\n  hosts: ['*']\n  gateways: [g]\n  tcp:\n{}{}{}",
            to("$PORT", "connect.out"),
            to("$PORT2", "post.out"),
            to("$PORT3", "two.out")
        ),
    ];
    let weir = Start::new().upstreams(0).file("all.yaml", objects.concat()).run();
    for port in 0..3 {
        let mut io = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], weir.ports[port]))).unwrap();
        io.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let sent: Vec<u8> = (0..1_000_000u32).map(|i| (i * 7 / 3) as u8).collect();
        let mut reader = io.try_clone().unwrap();
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        io.write_all(&sent).unwrap();
        io.shutdown(Shutdown::Write).unwrap();
        let got = reading.join().unwrap().unwrap_or_else(|e| panic!("way {port}: {e}: {}", weir.printed()));
        assert!(got.len() == sent.len() + 4 && got.starts_with(&sent) && got.ends_with(b" bye"), "way {port}: {} bytes", got.len());
    }
    // Requests take no tunnel, and that is said.
    let web = raw_upstream(|_| "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nweb".into());
    let http = leaves_by("web.out", "HTTP", web, &tunnel("", "t.test", port))
        + "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: { name: w }\nspec:\n  servers: [{ port: { number: $PORT, name: http, protocol: HTTP }, hosts: ['*'] }]\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: { name: w }\nspec:\n  hosts: ['*']\n  gateways: [w]\n  http: [{ route: [{ destination: { host: web.out, port: { number: 3128 } } }] }]\n";
    let weir: Weir = Start::new().upstreams(0).file("all.yaml", http).run();
    assert_eq!(weir.get("h.test", "/").body, "web");
    assert_eq!(weir.says("requests go to the host itself").len(), 1, "{}", weir.printed());
}
