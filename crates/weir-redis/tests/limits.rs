//! What a client or a script may not do to the process.
#![allow(clippy::unwrap_used)]

use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
};
use weir_redis::{Options, ScriptLimits, Server};

fn run<F: Future<Output = ()>>(test: F) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

fn small() -> Options {
    Options {
        max_memory: 1 << 20,
        scripts: ScriptLimits { instructions: 200_000, time: Duration::from_millis(500), memory: 4 << 20 },
        ..Options::default()
    }
}

async fn ask(server: &Server, words: &[&str]) -> String {
    let words: Vec<_> = words.iter().map(|w| w.as_bytes()).collect();
    String::from_utf8(server.run(&words).await.unwrap()).unwrap()
}

#[test]
fn memory_ends_with_the_servers_own_error() {
    run(async {
        let server = Server::start("limits", small()).unwrap();
        let value = "v".repeat(1000);
        let mut refused = String::new();
        for n in 0..2000 {
            refused = ask(&server, &["SET", &n.to_string(), &value]).await;
            if refused != "+OK\r\n" {
                break;
            }
        }
        let oom = "-OOM command not allowed when used memory > 'maxmemory'.\r\n";
        assert_eq!(refused, oom);
        let used = || server.stats().used_memory.load(std::sync::atomic::Ordering::Relaxed);
        assert!(used() < (1 << 20) + 2000 && used() > (1 << 20) - 2000, "{}", used());
        // What reads, and what frees, goes on; also from scripts.
        assert_eq!(ask(&server, &["GET", "0"]).await.len(), 1000 + "$1000\r\n\r\n".len());
        assert_eq!(ask(&server, &["EVAL", "return redis.call('exists', '0')", "0"]).await, ":1\r\n");
        let from_script = ask(&server, &["EVAL", "return redis.call('set', 'x', 'y')", "0"]).await;
        assert!(from_script.starts_with("-OOM command not allowed"), "{from_script}");
        for command in
            [&["LPUSH", "l", "x"][..], &["HSET", "h", "f", "v"], &["SADD", "s", "x"], &["ZADD", "z", "1", "m"], &["APPEND", "0", "x"]]
        {
            assert_eq!(ask(&server, command).await, oom, "{command:?}");
        }
        assert_eq!(ask(&server, &["DEL", "0", "1", "2"]).await, ":3\r\n");
        assert_eq!(ask(&server, &["SET", "new", "v"]).await, "+OK\r\n");
        assert_eq!(server.stats().refused.load(std::sync::atomic::Ordering::Relaxed), 7);
        // No command makes one value larger than the limit.
        for command in [&["SETRANGE", "far", "900000000", "x"][..], &["SETRANGE", "far", "2000000", "x"]] {
            assert!(ask(&server, command).await.starts_with("-ERR string exceeds maximum allowed size"), "{command:?}");
        }
        assert_eq!(ask(&server, &["FLUSHALL"]).await, "+OK\r\n");
        assert_eq!(used(), 0, "what is counted in is counted out");
    });
}

#[test]
fn every_change_is_counted_out_again() {
    run(async {
        let server = Server::start("counted", Options::default()).unwrap();
        for command in [
            "SET a 1 EX 100",
            "SET a 22",
            "APPEND a 333",
            "INCR n",
            "INCRBYFLOAT n 0.5",
            "SETRANGE n 5 xyz",
            "GETDEL n",
            "RPUSH l a b c",
            "LPUSH l d",
            "LSET l 0 long-long",
            "LINSERT l BEFORE a x",
            "LREM l 0 b",
            "LTRIM l 0 1",
            "LPOP l",
            "RPOPLPUSH l m",
            "HSET h a 1 b 2",
            "HSET h a 11111",
            "HINCRBY h b 100",
            "HDEL h a",
            "SADD s a b c 1",
            "SREM s a",
            "SMOVE s t b",
            "SPOP s",
            "SUNIONSTORE u s t",
            "ZADD z 1 a 2 b 3 c",
            "ZADD z 5 a",
            "ZINCRBY z 1 b",
            "ZREM z a",
            "ZPOPMIN z",
            "ZREMRANGEBYRANK z 0 -1",
            "COPY h h2",
            "RENAME h2 h3",
            "EXPIRE h3 100",
            "PERSIST h3",
            "MSET a 1 b 2 c 3",
            "SELECT 0",
        ] {
            let words: Vec<_> = command.split(' ').collect();
            let reply = ask(&server, &words).await;
            assert!(!reply.starts_with('-'), "{command}: {reply}");
        }
        let keys = ["a", "b", "c", "n", "l", "m", "h", "h3", "s", "t", "u", "z"];
        ask(&server, &[&["DEL"], &keys[..]].concat()).await;
        let stats = server.stats();
        let left = (stats.keys.load(std::sync::atomic::Ordering::Relaxed), stats.used_memory.load(std::sync::atomic::Ordering::Relaxed));
        assert_eq!(left, (0, 0));
    });
}

#[test]
fn no_script_runs_or_grows_for_ever() {
    run(async {
        let server = Server::start("scripts", small()).unwrap();
        let stopped = [
            "while true do end",
            "while true do pcall(function() while true do end end) end",
            "while true do pcall(error) end",
            "while true do xpcall(function() while true do end end, function() end) end",
            "local c = coroutine.wrap(function() while true do end end) c()",
            "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
            "local function f() return f() end f()",
            "pcall(function() while true do redis.call('ping') end end) return 1",
            "return loadstring('while true do end')()",
            "setmetatable({}, {__index = function() while true do end end}).x = nil return setmetatable({}, {__index = function() while true do end end}).y",
        ];
        for script in stopped {
            let said = ask(&server, &["EVAL", script, "0"]).await;
            assert!(said.starts_with("-ERR the script was stopped: it ran "), "{script}: {said}");
        }
        let grown = [
            "local t = {} for i = 1, 1e9 do t[i] = tostring(i) end",
            "return #string.rep('x', 1e9)",
            "local s = 'x' while true do s = s .. s end",
            "while true do pcall(string.rep, 'x', 1e9) end",
        ];
        for script in grown {
            let said = ask(&server, &["EVAL", script, "0"]).await;
            let why = said.contains("not enough memory") || said.contains("was stopped");
            assert!(said.starts_with('-') && why, "{script}: {said}");
        }
        // Deep recursion, deep tables, and what C functions call.
        for script in [
            "local function f() return 1 + f() end return f()",
            "local t = {} t[1] = t return t",
            "local t = {} for i = 1, 100000 do t = {t} end return t",
        ] {
            let said = ask(&server, &["EVAL", script, "0"]).await;
            assert!(said.starts_with('-'), "{script}: {said:.200}");
        }
        // Nothing of it is left.
        assert_eq!(ask(&server, &["EVAL", "return redis.call('set', KEYS[1], 'fine')", "1", "k"]).await, "+OK\r\n");
        assert!(server.stats().stopped_scripts.load(std::sync::atomic::Ordering::Relaxed) >= stopped.len() as u64);
    });
}

#[test]
fn a_script_leaves_nothing_for_the_next_one() {
    run(async {
        let server = Server::start("sandbox", Options::default()).unwrap();
        for script in [
            "getmetatable('').__index.upper = function() return 'mine' end return 1",
            "getmetatable('').__index = {} return 1",
            "getmetatable(string).__index.upper = nil return 1",
            "getmetatable(_G).__index.redis = nil return 1",
            "string.upper = nil return 1",
            "rawset(string, 'upper', 1) return 1",
            "rawset(_G, 'redis', 1) return 1",
            "setmetatable(redis, {}) return 1",
            "redis.call = nil return 1",
            "_G.redis = nil return 1",
            "table.insert = nil return 1",
            "math.random = nil return 1",
            "coroutine.resume = nil return 1",
            "loadstring('redis = nil')() return 1",
        ] {
            let said = ask(&server, &["EVAL", script, "0"]).await;
            assert!(said.starts_with('-'), "{script}: {said}");
            let after = ask(
                &server,
                &["EVAL", "return {('a'):upper(), string.upper('b'), redis.call('ping').ok, table.concat({1}), type(math.random)}", "0"],
            )
            .await;
            assert_eq!(after, "*5\r\n$1\r\nA\r\n$1\r\nB\r\n$4\r\nPONG\r\n$1\r\n1\r\n$8\r\nfunction\r\n", "{script}");
        }
    });
}

#[test]
fn replies_keep_the_order_of_commands() {
    run(async {
        let server = Server::start("pipeline", Options::default()).unwrap();
        let io = server.connect();
        let (mut read, mut write) = tokio::io::split(io);
        let (done, written) = oneshot::channel();
        // More than the pipe and one batch hold; some replies are large.
        tokio::spawn(async move {
            write.write_all(format!("*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$100000\r\n{}\r\n", "b".repeat(100_000)).as_bytes()).await.unwrap();
            for n in 0..2000 {
                write.write_all(b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n").await.unwrap();
                if n % 100 == 0 {
                    write.write_all(b"*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n").await.unwrap();
                }
            }
            done.send(write).ok();
        });
        let mut want = b"+OK\r\n".to_vec();
        for n in 0..2000 {
            want.extend(format!(":{}\r\n", n + 1).bytes());
            if n % 100 == 0 {
                want.extend(format!("$100000\r\n{}\r\n", "b".repeat(100_000)).bytes());
            }
        }
        let mut got = vec![0; want.len()];
        read.read_exact(&mut got).await.unwrap();
        assert!(got == want);
        written.await.unwrap();
        // A client that speaks another protocol gets an error, and its connection is closed.
        let mut http = server.connect();
        http.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut said = String::new();
        http.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "-ERR Protocol error: expected '*', got 'G'\r\n");
    });
}

#[test]
fn a_password_comes_first() {
    run(async {
        let server = Server::start("closed", Options { password: Some("secret".into()), ..Options::default() }).unwrap();
        let mut io = server.connect();
        for (command, reply) in [
            ("*1\r\n$4\r\nPING\r\n", "-NOAUTH Authentication required.\r\n"),
            ("*2\r\n$4\r\nAUTH\r\n$5\r\nwrong\r\n", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
            ("*3\r\n$4\r\nAUTH\r\n$3\r\nann\r\n$6\r\nsecret\r\n", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
            ("*1\r\n$4\r\nPING\r\n", "-NOAUTH Authentication required.\r\n"),
            ("*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n", "+OK\r\n"),
            ("*1\r\n$4\r\nPING\r\n", "+PONG\r\n"),
        ] {
            io.write_all(command.as_bytes()).await.unwrap();
            let mut got = vec![0; reply.len()];
            io.read_exact(&mut got).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&got), reply, "{command:?}");
        }
    });
}
