//! A gateway without any file: `weir run --to` and `weir plugin run`.
use crate::{
    client,
    harness::{Start, cache_in, echo_server, eventually, free_port, root, weir},
};
use std::{
    fs,
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

/// Ends with the test.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn started(command: &mut Command) -> Running {
    Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

#[test]
fn sends_everything_to_one_url_below_its_path() {
    let weir = Start::new().arg("--to").arg("http://127.0.0.1:$ECHO/base").arg("--listen").arg("127.0.0.1:$PORT").run();
    let told = weir.get_until("any.test", "/x?y=z", |a| a.status == 200).json();
    assert_eq!((&told["path"], &told["query"], &told["host"]), (&"/base/x".into(), &"y=z".into(), &"any.test".into()), "{told}");
}

#[test]
fn follows_the_file_of_its_plugin() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = folder.path().join("plugin.wat");
    let code = fs::read_to_string(root().join("examples/quickstart/greeting.wat")).unwrap();
    fs::write(&plugin, &code).unwrap();
    let weir = Start::new()
        .arg("--to")
        .arg("http://127.0.0.1:$ECHO")
        .arg("--listen")
        .arg("127.0.0.1:$PORT")
        .arg("--plugin")
        .arg(plugin.display().to_string())
        .arg("--plugin-config")
        .arg("{\"greeting\": \"hi\"}")
        .run();
    weir.get_until("any.test", "/", |a| a.header("x-greeting") == Some("hi"));
    // A file that is broken changes nothing.
    fs::write(&plugin, "(module").unwrap();
    eventually("the refusal", || weir.lines("plugin.wat").pop());
    assert_eq!(weir.get("any.test", "/").header("x-greeting"), Some("hi"));
    fs::write(&plugin, code.replace("\"x-greeting\"", "\"x-saluting\"")).unwrap();
    weir.get_until("any.test", "/", |a| a.header("x-saluting").is_some());
}

#[test]
fn links_to_the_plugin_are_followed_and_a_missing_file_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = folder.path().join("plugin.wat");
    let code = fs::read_to_string(root().join("examples/quickstart/greeting.wat")).unwrap();
    let says = |header: &str| code.replace("\"x-greeting\"", &format!("\"{header}\""));
    let link = |version: &str, header: &str| {
        let (real, new) = (folder.path().join(version), folder.path().join("new"));
        fs::write(&real, says(header)).unwrap();
        std::os::unix::fs::symlink(&real, &new).unwrap();
        fs::rename(&new, &plugin).unwrap();
    };
    link("one", "x-greeting");
    let start = Start::new().arg("--to").arg("http://127.0.0.1:$ECHO").arg("--listen").arg("127.0.0.1:$PORT").arg("--plugin");
    // Each worker takes a new version at its own time.
    let start = start.arg(plugin.display().to_string()).workers(1);
    let weir = start.arg("--plugin-config").arg("{\"greeting\": \"hi\"}").run();
    weir.get_until("any.test", "/", |a| a.header("x-greeting").is_some());
    link("two", "x-saluting");
    weir.get_until("any.test", "/", |a| a.header("x-saluting").is_some());
    fs::write(folder.path().join("two"), says("x-hailing!")).unwrap();
    weir.get_until("any.test", "/", |a| a.header("x-hailing!").is_some());
    // Its last good version stays in use, and no request passes without it.
    fs::remove_file(&plugin).unwrap();
    eventually("the loss", || weir.lines("cannot read").pop());
    assert!(weir.get("any.test", "/").header("x-hailing!").is_some());
    link("three", "x-greeting");
    weir.get_until("any.test", "/", |a| a.header("x-greeting").is_some());
}

#[test]
fn plugin_run_builds_what_is_not_built_yet() {
    let folder = tempfile::tempdir().unwrap();
    assert!(weir().args(["plugin", "new", "greeter"]).current_dir(folder.path()).status().unwrap().success());
    let echo = echo_server("echo");
    let at = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut command = weir();
    command.args(["plugin", "run", "greeter", "--config", "{\"greeting\": \"hi\"}", "--admin", "127.0.0.1:0", "--cache-dir"]);
    command.arg(cache_in(folder.path()));
    command.arg("--to").arg(format!("http://{}", echo.address())).arg("--listen").arg(at.to_string()).current_dir(folder.path());
    let _running = started(&mut command);
    let answer = eventually("an answer", || client::get(at, "any.test", "/").ok().filter(|a| a.status == 200));
    assert_eq!(answer.header("x-greeting"), Some("hi"));
    assert_eq!(answer.json()["headers"]["x-greeting"], "hi");
}
