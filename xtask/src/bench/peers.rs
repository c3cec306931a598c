//! The proxies that are compared and the backend behind them, each started on a free port and stopped when dropped.
use super::load::Load;
use anyhow::{Context, Result, bail};
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use weir_test::{free_port, self_signed};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Copies bytes between two sockets and knows nothing.
    Relay,
    Nginx,
    Haproxy,
    Envoy,
    EnvoyWasm,
    Weir,
    WeirWasm,
    /// The trivial plugin, with a rule for another host.
    WeirUnmatched,
    WeirGo,
    WeirKeyAuth,
}

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Peer::Relay => "TCP relay (the floor)",
            Peer::Nginx => "nginx",
            Peer::Haproxy => "HAProxy",
            Peer::Envoy => "Envoy",
            Peer::EnvoyWasm => "Envoy + trivial plugin",
            Peer::Weir => "Weir",
            Peer::WeirWasm => "Weir + trivial plugin",
            Peer::WeirUnmatched => "Weir + trivial plugin, its rule does not match",
            Peer::WeirGo => "Weir + Higress-SDK Go plugin",
            Peer::WeirKeyAuth => "Weir + key-auth, Higress-SDK Go plugin",
        }
    }
}

/// What the measurements share: a folder for configurations and the backend.
pub struct Rig {
    folder: TempDir,
    backend: u16,
    _backend: Process,
    weir: PathBuf,
    envoy: Option<PathBuf>,
    go_plugin: Option<PathBuf>,
    key_auth_plugin: Option<PathBuf>,
}

/// A running server.
pub struct Process {
    child: Child,
    pub port: u16,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// CPU seconds of all threads so far.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let mut total = 0.0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            total += text.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()).unwrap_or_default();
        }
        Ok(total / 1e9)
    }
    pub fn rss_mb(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("VmRSS")?;
        Ok(line.split_whitespace().nth(1).and_then(|n| n.parse::<f64>().ok()).context("VmRSS")? / 1024.0)
    }
}

impl Rig {
    pub fn new(root: &Path, weir: &Path, envoy: Option<&Path>, go_plugin: Option<&Path>, key_auth_plugin: Option<&Path>) -> Result<Rig> {
        let folder = tempfile::tempdir()?;
        let dir = folder.path().display();
        fs::create_dir(folder.path().join("www"))?;
        let backend = free_port();
        fs::write(
            folder.path().join("backend.conf"),
            format!(
                "daemon off; master_process off; worker_processes 1; error_log /dev/null; pid {dir}/backend.pid;\nevents {{ worker_connections 8192; }}\nhttp {{ access_log off; keepalive_requests 100000000; keepalive_timeout 600s; client_body_buffer_size 128k;\nserver {{ listen 127.0.0.1:{backend} reuseport; root {dir}/www; error_page 405 =200 /index.html; location / {{ rewrite ^ /index.html break; }} }} }}"
            ),
        )?;
        fs::write(folder.path().join("www/index.html"), "x")?;
        let status =
            Command::new("cc").args(["-O2", "-o"]).arg(folder.path().join("relay")).arg(root.join("xtask/src/bench/relay.c")).status()?;
        if !status.success() {
            bail!("cc failed");
        }
        certificate(folder.path())?;
        fs::write(folder.path().join("trivial.wasm"), wat::parse_file(root.join("xtask/src/bench/trivial.wat"))?)?;
        let nginx = super::which("nginx").context("nginx")?;
        let mut command = Command::new("taskset");
        command.args(["-c", "1"]).arg(nginx).arg("-c").arg(folder.path().join("backend.conf"));
        let process = spawn(command, backend)?;
        Ok(Rig {
            folder,
            backend,
            _backend: process,
            weir: weir.into(),
            envoy: envoy.map(Into::into),
            go_plugin: go_plugin.map(Into::into),
            key_auth_plugin: key_auth_plugin.map(Into::into),
        })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        fs::write(self.path(name), text)?;
        Ok(self.path(name))
    }
    /// Sets the size of the answer.
    pub fn set_body(&self, bytes: usize) -> Result<()> {
        self.write("www/index.html", &"x".repeat(bytes))?;
        Ok(())
    }

    /// Starts a peer on the proxies' core; `None` where its program was not given.
    pub fn start(&self, peer: Peer, load: &Load) -> Result<Option<Process>> {
        let port = free_port();
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]);
        match peer {
            Peer::Relay => {
                command.arg(self.path("relay")).args([port.to_string(), self.backend.to_string()]);
            }
            Peer::Nginx => {
                command.arg(super::which("nginx").context("nginx")?).arg("-c").arg(self.write("nginx.conf", &self.nginx(port, load))?);
            }
            Peer::Haproxy => {
                command
                    .arg(super::which("haproxy").context("haproxy")?)
                    .args(["-db", "-f"])
                    .arg(self.write("haproxy.cfg", &self.haproxy(port, load))?);
            }
            Peer::Envoy | Peer::EnvoyWasm => {
                let Some(envoy) = &self.envoy else { return Ok(None) };
                let name = format!("envoy{port}.yaml");
                let config = self.write(&name, &self.envoy(port, load, peer == Peer::EnvoyWasm)?)?;
                command.arg(envoy).args(["--concurrency", "1", "-l", "error", "--disable-hot-restart", "-c"]).arg(config);
            }
            Peer::Weir | Peer::WeirWasm | Peer::WeirUnmatched | Peer::WeirGo | Peer::WeirKeyAuth => {
                let plugin = match peer {
                    Peer::WeirWasm => Some(trivial(&self.path("trivial.wasm"))),
                    Peer::WeirUnmatched => Some(unmatched(&self.path("trivial.wasm"))),
                    Peer::WeirGo => match &self.go_plugin {
                        Some(p) => Some(trivial(p)),
                        None => return Ok(None),
                    },
                    Peer::WeirKeyAuth => match &self.key_auth_plugin {
                        Some(p) => Some(key_auth(p)),
                        None => return Ok(None),
                    },
                    _ => None,
                };
                let folder = self.path(&format!("weir{port}"));
                fs::create_dir(&folder)?;
                fs::write(folder.join("gateway.yaml"), self.weir(port, load, plugin.as_deref())?)?;
                command
                    .arg(&self.weir)
                    .args(["run", "--workers", "1", "--admin", "127.0.0.1:0", "--access-log"])
                    .arg(folder.join("access.log"))
                    .arg("--cache-dir")
                    .arg(self.path("cache"))
                    .arg("-f")
                    .arg(&folder);
                if plugin.is_some() {
                    // What is measured is optimized code, not its compiler.
                    optimized(&self.weir, &folder, &self.path("cache"))?;
                }
            }
        }
        Ok(Some(spawn(command, port)?))
    }

    fn nginx(&self, port: u16, load: &Load) -> String {
        let (dir, to) = (self.folder.path().display(), self.backend);
        let listen = match (load.tls, load.http2) {
            (true, true) => format!("listen 127.0.0.1:{port} ssl http2;"),
            (true, false) => format!("listen 127.0.0.1:{port} ssl;"),
            (false, true) => format!("listen 127.0.0.1:{port} http2;"),
            (false, false) => format!("listen 127.0.0.1:{port};"),
        };
        format!(
            "daemon off; master_process off; worker_processes 1; error_log /dev/null; pid {dir}/nginx.pid;\nevents {{ worker_connections 8192; }}\nhttp {{ access_log off; keepalive_requests 100000000; ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem;\nupstream b {{ server 127.0.0.1:{to}; keepalive 1024; keepalive_requests 100000000; }}\nserver {{ {listen} location / {{ proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host; proxy_set_header X-Forwarded-Proto http; proxy_set_header X-Request-Id $request_id; }} }} }}"
        )
    }

    fn haproxy(&self, port: u16, load: &Load) -> String {
        let (dir, to) = (self.folder.path().display(), self.backend);
        let tls = match (load.tls, load.http2) {
            (true, true) => format!(" ssl crt {dir}/both.pem alpn h2"),
            (true, false) => format!(" ssl crt {dir}/both.pem"),
            (false, true) => " proto h2".to_string(),
            (false, false) => String::new(),
        };
        format!(
            "global\n  nbthread 1\n  maxconn 8192\ndefaults\n  mode http\n  timeout client 60s\n  timeout server 60s\n  timeout connect 5s\n  http-reuse always\nfrontend f\n  bind 127.0.0.1:{port}{tls}\n  http-request set-header X-Forwarded-Proto http\n  http-request set-header X-Request-Id %[uuid()]\n  default_backend b\nbackend b\n  server s 127.0.0.1:{to} pool-max-conn 1024\n"
        )
    }

    fn envoy(&self, port: u16, load: &Load, wasm: bool) -> Result<String> {
        let dir = self.folder.path().display();
        let plugin = format!(
            "\n          - name: wasm\n            typed_config:\n              \"@type\": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm\n              config: {{ name: p, root_id: r, vm_config: {{ runtime: envoy.wasm.runtime.v8, code: {{ local: {{ filename: {dir}/trivial.wasm }} }} }} }}"
        );
        let alpn = if load.http2 { "h2" } else { "http/1.1" };
        let tls = format!(
            "\n      transport_socket:\n        name: tls\n        typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n          common_tls_context: {{ alpn_protocols: [{alpn}], tls_certificates: [ {{ certificate_chain: {{ filename: {dir}/cert.pem }}, private_key: {{ filename: {dir}/key.pem }} }} ] }}"
        );
        Ok(format!(
            r#"admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {admin} }} }} }}
static_resources:
  listeners:
  - name: l
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: i
          route_config: {{ name: r, virtual_hosts: [ {{ name: v, domains: ["*"], routes: [ {{ match: {{ prefix: "/" }}, route: {{ cluster: b }} }} ] }} ] }}
          http_filters:{plugin}
          - name: router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}{tls}
  clusters:
  - name: b
    connect_timeout: 1s
    type: STATIC
    load_assignment: {{ cluster_name: b, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {to} }} }} }} }} ] }} ] }}
"#,
            admin = free_port(),
            to = self.backend,
            plugin = if wasm { plugin.as_str() } else { "" },
            tls = if load.tls { tls.as_str() } else { "" },
        ))
    }

    fn weir(&self, port: u16, load: &Load, plugin: Option<&str>) -> Result<String> {
        let (protocol, tls) = if load.tls { ("HTTPS", "\n    tls: { certificateRefs: [{ name: bench }] }") } else { ("HTTP", "") };
        let indent =
            |name: &str| -> Result<String> { Ok(fs::read_to_string(self.path(name))?.lines().map(|l| format!("    {l}\n")).collect()) };
        let mut text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: bench }}\nspec:\n  gatewayClassName: weir\n  listeners:\n  - name: l\n    port: {port}\n    protocol: {protocol}{tls}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: bench }}\nspec:\n  parentRefs: [{{ name: bench }}]\n  rules: [{{ backendRefs: [{{ name: backend, port: 80 }}] }}]\n---\napiVersion: v1\nkind: Service\nmetadata: {{ name: backend }}\nspec: {{ ports: [{{ port: 80, targetPort: {to} }}] }}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: backend, labels: {{ kubernetes.io/service-name: backend }} }}\naddressType: IPv4\nports: [{{ port: {to} }}]\nendpoints: [{{ addresses: [127.0.0.1] }}]\n",
            to = self.backend
        );
        if load.tls {
            text += &format!(
                "---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: bench }}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
                indent("cert.pem")?,
                indent("key.pem")?
            );
        }
        if let Some(plugin) = plugin {
            text += plugin;
        }
        Ok(text)
    }
}

/// An object of Istio for every request.
fn trivial(code: &Path) -> String {
    format!(
        "---\napiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{ name: bench }}\nspec: {{ url: \"file://{}\", pluginConfig: {{ greeting: hello }} }}\n",
        code.display()
    )
}

/// An object of Higress whose only rule is for a host that nobody asks for.
fn unmatched(code: &Path) -> String {
    format!(
        "---\napiVersion: extensions.higress.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{ name: bench }}\nspec: {{ url: \"file://{}\", defaultConfigDisable: true, matchRules: [{{ domain: [other.test], config: {{ a: b }} }}] }}\n",
        code.display()
    )
}

/// Its key is a header that every request of the load has.
fn key_auth(code: &Path) -> String {
    format!(
        "---\napiVersion: extensions.higress.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{ name: bench }}\nspec: {{ url: \"file://{}\", defaultConfig: {{ consumers: [{{ name: bench, credential: key-of-the-bench }}, {{ name: other, credential: other }}], keys: [x-api-key], in_header: true }} }}\n",
        code.display()
    )
}

/// Runs a gateway until the code of its plugin is optimized and kept in the cache folder.
pub fn optimized(weir: &Path, folder: &Path, cache: &Path) -> Result<()> {
    let admin = free_port();
    let mut command = Command::new(weir);
    command.args(["run", "--workers", "1", "--admin", &format!("127.0.0.1:{admin}"), "--cache-dir"]).arg(cache).arg("-f").arg(folder);
    let _running = spawn(command, admin)?;
    let deadline = Instant::now() + Duration::from_secs(120);
    while Instant::now() < deadline {
        if ask(admin, "localhost", "/plugins").is_ok_and(|text| text.contains("cranelift") && !text.contains("winch")) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("{}: the plugin's code was not optimized within two minutes", folder.display())
}

pub fn ask(port: u16, host: &str, path: &str) -> Result<String> {
    let mut s = TcpStream::connect(("127.0.0.1", port)).context("connect")?;
    s.set_read_timeout(Some(Duration::from_secs(5)))?;
    s.write_all(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    s.read_to_string(&mut text)?;
    Ok(text)
}

/// A certificate for localhost.
fn certificate(folder: &Path) -> Result<()> {
    let made = self_signed(&["localhost"]);
    fs::write(folder.join("cert.pem"), &made.pem)?;
    fs::write(folder.join("key.pem"), &made.key)?;
    fs::write(folder.join("both.pem"), made.pem + &made.key)?;
    Ok(())
}

/// Starts a server and waits until it listens.
pub fn spawn(mut command: Command, port: u16) -> Result<Process> {
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().with_context(|| format!("{command:?}"))?;
    let mut process = Process { child, port };
    wait_for(&mut process.child, port, 20).with_context(|| format!("{command:?}"))?;
    Ok(process)
}

/// Waits until something listens on `port`, or `child` ends.
pub fn wait_for(child: &mut Child, port: u16, seconds: u64) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if let Some(status) = child.try_wait()? {
            bail!("ended with {status}");
        }
        if Instant::now() > deadline {
            bail!("nothing listens on {port}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
