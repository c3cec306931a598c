//! A real docker-registry (the CNCF distribution) on a free port, which stops when its value is dropped.
use crate::{PATIENCE, free_port};
use std::{
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Instant,
};

/// Its user name and password where it has [`RegistryAuth::Basic`].
pub const REGISTRY_USER: (&str, &str) = ("robot", "s3cret-of-robot");
/// With the bcrypt hash of that password.
const HTPASSWD: &str = "robot:$2b$05$abcdefghijklmnopqrstuuBx85uGYWJtVeF/YKEiZxmN6622NYiCu\n";

pub struct RegistryServer {
    child: Child,
    pub port: u16,
    tls: bool,
    dir: tempfile::TempDir,
}

/// Whom a registry lets in.
#[derive(Clone, Default)]
pub enum RegistryAuth {
    #[default]
    Anyone,
    /// [`REGISTRY_USER`].
    Basic,
    /// Who shows a token of this service that is signed with the key of this certificate.
    Token { realm: String, certificate: String },
}

#[derive(Clone, Default)]
pub struct RegistrySetup {
    pub auth: RegistryAuth,
    /// A certificate chain and its key, in PEM.
    pub tls: Option<(String, String)>,
}

impl RegistryServer {
    pub fn start(setup: &RegistrySetup) -> RegistryServer {
        // Between the choice of a port and its use somebody else may take it.
        for _ in 0..20 {
            if let Some(server) = RegistryServer::try_start(free_port(), setup) {
                return server;
            }
        }
        panic!("docker-registry does not start; is it installed?");
    }

    /// On a port that was used before, e.g. after a kill.
    pub fn try_start(port: u16, setup: &RegistrySetup) -> Option<RegistryServer> {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| -> PathBuf {
            let path = dir.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let mut config = format!(
            "version: 0.1\nlog: {{ level: error, accesslog: {{ disabled: true }} }}\n\
             storage: {{ filesystem: {{ rootdirectory: {}/data }}, delete: {{ enabled: true }} }}\n\
             http:\n  addr: 127.0.0.1:{port}\n",
            dir.path().display()
        );
        if let Some((chain, key)) = &setup.tls {
            let (chain, key) = (file("tls.crt", chain), file("tls.key", key));
            let _ = writeln!(config, "  tls: {{ certificate: {}, key: {} }}", chain.display(), key.display());
        }
        match &setup.auth {
            RegistryAuth::Anyone => {}
            RegistryAuth::Basic => {
                let _ = writeln!(config, "auth: {{ htpasswd: {{ realm: test, path: {} }} }}", file("htpasswd", HTPASSWD).display());
            }
            RegistryAuth::Token { realm, certificate } => {
                let bundle = file("token.crt", certificate);
                let _ = writeln!(
                    config,
                    "auth: {{ token: {{ realm: \"{realm}\", service: registry.test, issuer: issuer.test, rootcertbundle: {} }} }}",
                    bundle.display()
                );
            }
        }
        let config = file("config.yml", &config);
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed");
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if child.try_wait().unwrap().is_some() {
                return None;
            }
            if owns(child.id(), port) {
                return Some(RegistryServer { child, port, tls: setup.tls.is_some(), dir });
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
        None
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The files of its storage.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data/docker/registry/v2")
    }

    /// The file with the content of this digest (64 digits).
    pub fn blob(&self, hex: &str) -> PathBuf {
        self.data().join(format!("blobs/sha256/{}/{hex}/data", &hex[..2]))
    }

    /// `STOP`, `CONT`.
    pub fn signal(&self, name: &str) {
        let done = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// Without TLS and authentication: writes content to a repository, as any client of a registry does.
    pub fn put_blob(&self, repository: &str, hex: &str, content: &[u8]) {
        let begun = self.ask("POST", &format!("/v2/{repository}/blobs/uploads/"), "application/octet-stream", &[]);
        let location = field(&begun, "location");
        let path = &location[location.find("/v2/").unwrap()..];
        let mark = if path.contains('?') { '&' } else { '?' };
        let done = self.ask("PUT", &format!("{path}{mark}digest=sha256:{hex}"), "application/octet-stream", content);
        assert!(done.starts_with("HTTP/1.1 201"), "{done}");
    }

    /// The same for a manifest, under a tag or a digest.
    pub fn put_manifest(&self, repository: &str, target: &str, media_type: &str, content: &str) {
        let done = self.ask("PUT", &format!("/v2/{repository}/manifests/{target}"), media_type, content.as_bytes());
        assert!(done.starts_with("HTTP/1.1 201"), "{done}");
    }

    fn ask(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> String {
        let mut io = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        io.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: {media_type}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            self.host(),
            body.len()
        );
        io.write_all(head.as_bytes()).unwrap();
        io.write_all(body).unwrap();
        let mut answer = Vec::new();
        io.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn field(answer: &str, name: &str) -> String {
    let line = answer.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
    line.unwrap_or_else(|| panic!("no {name}: {answer}"))[name.len() + 1..].trim().to_string()
}

/// Whether this process listens on the port: it may be another server that took it.
fn owns(pid: u32, port: u16) -> bool {
    let wanted = format!(":{port:04X}");
    let Ok(table) = fs::read_to_string("/proc/net/tcp") else { return false };
    let inodes: Vec<String> = table
        .lines()
        .filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let listens = columns.get(3) == Some(&"0A") && columns.get(1)?.ends_with(&wanted);
            listens.then(|| format!("socket:[{}]", columns.get(9).copied().unwrap_or_default()))
        })
        .collect();
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    open.flatten().filter_map(|fd| fs::read_link(fd.path()).ok()).any(|to| inodes.iter().any(|inode| to.as_os_str() == inode.as_str()))
}

impl Drop for RegistryServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
