//! `redis://embedded`: plugins with nothing installed.
use crate::{
    client,
    direct::started,
    harness::{cache_in, echo_server, eventually, free_port, root, weir},
    plugin_kit::{built, status},
    plugin_redis::{ask, gateway},
};
use std::{fs, net::SocketAddr};

/// Sockets that the process listens on, over TCP.
fn listening(pid: u32) -> usize {
    let listen = |line: &str| line.split_whitespace().nth(3) == Some("0A");
    let inode = |line: &str| line.split_whitespace().nth(9).map(|i| format!("socket:[{i}]"));
    let tables = ["tcp", "tcp6"].map(|t| fs::read_to_string(format!("/proc/{pid}/net/{t}")).unwrap_or_default());
    let all: Vec<_> = tables.iter().flat_map(|t| t.lines()).filter(|l| listen(l)).filter_map(inode).collect();
    let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(|f| fs::read_link(f.ok()?.path()).ok());
    files.filter(|target| all.iter().any(|i| target.as_os_str() == i.as_str())).count()
}

#[test]
fn one_redis_for_all_workers_and_generations() {
    let weir = gateway("").workers(2).run();
    let before = listening(weir.pid());
    assert!(before > 0);
    let to = |name: &'static str| [("x-to", name), ("x-init", "1")];
    let said = |name: &'static str, words: &[&str]| {
        let answer = ask(&weir, &to(name), words);
        assert_eq!(answer.status, 200, "{words:?}: {}", answer.body);
        answer.body
    };
    // Each request has a connection of its own, on either worker: they count together.
    for n in 1..=40 {
        assert_eq!(said("redis://embedded", &["INCR", "n"]), format!(":{n}\r\n"));
    }
    for (name, words, reply) in [
        ("redis://embedded", &["GET", "n"][..], "$2\r\n40\r\n"),
        ("redis://embedded/default", &["GET", "n"], "$2\r\n40\r\n"),
        ("redis://embedded?db=3", &["GET", "n"], "$-1\r\n"),
        ("redis://embedded/other", &["GET", "n"], "$-1\r\n"),
        ("redis://embedded/other", &["SET", "n", "x"], "+OK\r\n"),
        ("redis://embedded/other", &["INCR", "n"], "-ERR value is not an integer or out of range\r\n"),
        ("redis://embedded", &["LPUSH", "n", "x"], "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"),
        ("redis://embedded", &["EVAL", "return {redis.call('INCRBY', KEYS[1], ARGV[1]), 3.9}", "1", "n", "2"], "*2\r\n:42\r\n:3\r\n"),
        ("redis://embedded", &["EVAL", "while true do end", "0"], "-ERR the script was stopped: it ran more than 20000000 instructions"),
        ("redis://embedded", &["GET", "n"], "$2\r\n42\r\n"),
    ] {
        let body = said(name, words);
        assert!(body.starts_with(reply), "{name} {words:?}: {body}");
    }
    assert_eq!(ask(&weir, &to("redis://embedded/a/b"), &["PING"]).status, 402, "no name of an instance");
    assert_eq!(weir.stat("weir_embedded_redis_keys.default/default"), 1);
    assert!(weir.stat("weir_embedded_redis_commands.default/default") > 40);
    assert!(weir.stat("weir_embedded_redis_used_memory_bytes.default/default") > 0);
    assert_eq!(weir.stat("weir_embedded_redis_stopped_scripts.default/default"), 1);
    assert_eq!(listening(weir.pid()), before, "no port for it");

    // Another generation of the plugin finds what the one before wrote.
    let generation = || status(&weir, "redis").unwrap()["generation"].as_u64().unwrap();
    let first = generation();
    let plugin = fs::read_to_string(weir.path("plugin.yaml")).unwrap();
    weir.write("plugin.yaml", &format!("{plugin}\n  pluginConfig: {{ version: 2 }}\n"));
    eventually("the next generation", || (generation() > first).then_some(()));
    assert_eq!(said("redis://embedded", &["GET", "n"]), "$2\r\n42\r\n");
}

#[test]
fn the_memory_of_an_embedded_redis_is_bounded() {
    let weir = gateway("").arg("--embedded-redis-maxmemory").arg("1Mi").run();
    let value = "v".repeat(100_000);
    let headers = [("x-to", "redis://embedded"), ("x-init", "1")];
    let replies: Vec<_> = (0..12).map(|n| ask(&weir, &headers, &["SET", &n.to_string(), &value]).body).collect();
    assert_eq!(replies.last().unwrap(), "-OOM command not allowed when used memory > 'maxmemory'.\r\n");
    assert_eq!(replies.iter().filter(|r| *r == "+OK\r\n").count(), 11, "{replies:?}");
    assert_eq!(weir.stat("weir_embedded_redis_oom_errors.default/default"), 1);
}

#[test]
fn the_blacklist_runs_with_nothing_installed() {
    built("blacklist-redis-go");
    let folder = tempfile::tempdir().unwrap();
    let (echo, at) = (echo_server("echo"), SocketAddr::from(([127, 0, 0, 1], free_port())));
    let config = r#"{"upstreams": {"redis.static": "redis://embedded"}, "entries": {"path:/admin": "closed"}, "on_redis_error": "deny"}"#;
    let mut command = weir();
    command.args(["plugin", "run", "examples/plugins/blacklist-redis-go", "--config", config, "--admin", "127.0.0.1:0", "--cache-dir"]);
    command.arg(cache_in(folder.path())).arg("--to").arg(format!("http://{}", echo.address()));
    command.arg("--listen").arg(at.to_string()).current_dir(root());
    let _running = started(&mut command);
    let get = |path: &str| client::get(at, "any.test", path).ok();
    // The entry is written while the plugin starts.
    let refused = eventually("the refusal", || get("/admin").filter(|a| a.status == 403));
    assert_eq!(refused.header("x-blacklisted"), Some("path /admin: closed"));
    assert_eq!(get("/shop").unwrap().status, 200);
}
