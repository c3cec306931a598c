//! A real Consul on free ports, which stops when its value is dropped. It keeps nothing on disk.
use crate::{
    client, free_port,
    kube::programs::{CONSUL, programs},
    wait::eventually,
};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

/// May do everything. Without a token, nothing can be read.
pub const TOKEN: &str = "b1f0c1de-0000-4000-8000-000000000001";

pub struct ConsulServer {
    child: Child,
    pub port: u16,
    dir: tempfile::TempDir,
}

impl ConsulServer {
    pub fn start() -> ConsulServer {
        ConsulServer::start_at(free_port())
    }

    /// Empty, on a port that was used before.
    pub fn start_at(port: u16) -> ConsulServer {
        let dir = tempfile::tempdir().unwrap();
        let config = json!({
            "acl": { "enabled": true, "default_policy": "deny", "tokens": { "initial_management": TOKEN } },
            "node_name": "n1", "datacenter": "dc1", "bind_addr": "127.0.0.1", "log_level": "debug",
            "limits": { "http_max_conns_per_client": 200 },
            "ports": {
                "http": port, "server": free_port(), "serf_lan": free_port(),
                "serf_wan": -1, "dns": -1, "grpc": -1, "grpc_tls": -1,
            },
        });
        let file = dir.path().join("consul.json");
        fs::write(&file, config.to_string()).unwrap();
        let path = programs(CONSUL).unwrap().path;
        let mut child = Command::new("consul")
            .args(["agent", "-dev", "-config-file"])
            .arg(&file)
            .env("PATH", path)
            .stdout(File::create(dir.path().join("log")).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("Consul starts", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("Consul ended: {status}\n{}", fs::read_to_string(dir.path().join("log")).unwrap());
            }
            // Its own entry is there once it leads.
            let answer = ask(port, "GET", "/v1/health/state/any", &Value::Null)?;
            (answer.status == 200 && answer.body.contains("serfHealth")).then_some(())
        });
        ConsulServer { child, port, dir }
    }

    /// Registers an instance of a service at its agent, or changes it; `check` says how that is checked.
    pub fn register(&self, service: &str, port: u16, tag: &str, check: Option<Value>) {
        let mut instance = json!({
            "ID": format!("{service}-{port}"), "Name": service, "Tags": [tag], "Address": "127.0.0.1", "Port": port, "Meta": { "zone": "a" },
        });
        if let Some(check) = check {
            instance["Check"] = check;
        }
        self.put("/v1/agent/service/register", &instance);
    }

    pub fn deregister(&self, service: &str, port: u16) {
        self.put(&format!("/v1/agent/service/deregister/{service}-{port}"), &Value::Null);
    }

    /// Sets a TTL check of an instance to `pass`, `warn` or `fail`.
    pub fn check(&self, service: &str, port: u16, state: &str) {
        self.put(&format!("/v1/agent/check/{state}/service:{service}-{port}"), &Value::Null);
    }

    /// The ports of the instances that the agent has.
    pub fn ports(&self, service: &str) -> Vec<u16> {
        let all = ask(self.port, "GET", "/v1/agent/services", &Value::Null).unwrap().json();
        let of_service = all.as_object().unwrap().values().filter(|instance| instance["Service"] == service);
        of_service.map(|instance| instance["Port"].as_u64().unwrap() as u16).collect()
    }

    /// The URLs of the requests that it has answered.
    pub fn asked(&self) -> Vec<String> {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap();
        let urls = log.lines().filter_map(|line| line.split_once("Request finished: method=GET url=")?.1.split(' ').next());
        urls.map(|url| url.trim_matches('"').to_string()).collect()
    }

    fn put(&self, path: &str, body: &Value) {
        let answer = ask(self.port, "PUT", path, body).unwrap();
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
}

impl Drop for ConsulServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask(port: u16, method: &str, path: &str, body: &Value) -> Option<client::Answer> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    client::request(SocketAddr::from(([127, 0, 0, 1], port)), method, "localhost", path, &[("x-consul-token", TOKEN)], body.as_bytes()).ok()
}
