//! A real Eureka server on a free port, which stops when its value is dropped. It keeps nothing on disk.
use crate::{
    client, free_port,
    kube::programs::{folder_of, made, sources},
    wait::eventually,
};
use serde_json::{Value, json};
use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// The module below `tools/kube-rig`.
const MODULE: &str = "eureka";

pub struct EurekaServer {
    child: Child,
    pub port: u16,
}

/// The folder of its classes and of the libraries that it needs, which are taken from Maven Central into a cache outside of the clone.
pub fn classes() -> io::Result<PathBuf> {
    let (from, to) = (sources().join(MODULE), folder_of(MODULE)?.join("classes"));
    made(&to, |part| {
        eprintln!("building Eureka");
        fs::create_dir(part)?;
        let mut libraries = Command::new("mvn");
        libraries.args(["-q", "-B", "-f"]).arg(from.join("pom.xml")).arg("dependency:copy-dependencies");
        run(libraries.arg(format!("-DoutputDirectory={}", part.display())))?;
        run(Command::new("javac").arg("-cp").arg(part.join("*")).arg("-d").arg(part).arg(from.join("EurekaServer.java")))
    })?;
    Ok(to)
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output().map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", command.get_program().display())))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stdout)))),
    }
}

fn class_path(folder: &Path) -> String {
    format!("{0}:{0}/*", folder.display())
}

impl EurekaServer {
    pub fn start() -> EurekaServer {
        EurekaServer::start_at(free_port())
    }

    /// Empty, on a port that was used before.
    pub fn start_at(port: u16) -> EurekaServer {
        let mut child = Command::new("java")
            .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx256m", "-cp", &class_path(&classes().unwrap())])
            .args(["eureka.EurekaServer", "--server.address=127.0.0.1", &format!("--server.port={port}")])
            // It is alone, and what it says is as of now.
            .args(["--eureka.client.register-with-eureka=false", "--eureka.client.fetch-registry=false"])
            .arg("--eureka.server.use-read-only-response-cache=false")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("java is installed");
        eventually("Eureka starts", || {
            assert!(child.try_wait().unwrap().is_none(), "Eureka ended");
            ask(port, "GET", "/eureka/apps", &Value::Null).filter(|answer| answer.status == 200).map(drop)
        });
        EurekaServer { child, port }
    }

    /// Registers an instance of an application, whose name is in upper case.
    pub fn register(&self, application: &str, port: u16, status: &str) {
        let instance = json!({ "instance": {
            "instanceId": format!("{application}:{port}"), "hostName": "localhost", "app": application, "ipAddr": "127.0.0.1", "status": status,
            "port": { "$": port, "@enabled": "true" }, "securePort": { "$": 443, "@enabled": "false" }, "metadata": { "management.port": "1" },
            "dataCenterInfo": { "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn" },
        } });
        let answer = ask(self.port, "POST", &format!("/eureka/apps/{application}"), &instance).unwrap();
        assert_eq!(answer.status, 204, "{answer:?}");
    }

    pub fn cancel(&self, application: &str, port: u16) {
        let answer = ask(self.port, "DELETE", &format!("/eureka/apps/{application}/{application}:{port}"), &Value::Null).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// The ports of the instances of an application.
    pub fn ports(&self, application: &str) -> Vec<u16> {
        let answer = ask(self.port, "GET", &format!("/eureka/apps/{application}"), &Value::Null).unwrap();
        if answer.status == 404 {
            return Vec::new();
        }
        let all = answer.json();
        let instances = all["application"]["instance"].as_array().unwrap();
        instances.iter().map(|instance| instance["port"]["$"].as_u64().unwrap() as u16).collect()
    }
}

impl Drop for EurekaServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask(port: u16, method: &str, path: &str, body: &Value) -> Option<client::Answer> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let headers = [("content-type", "application/json"), ("accept", "application/json")];
    client::request(SocketAddr::from(([127, 0, 0, 1], port)), method, "localhost", path, &headers, body.as_bytes()).ok()
}
