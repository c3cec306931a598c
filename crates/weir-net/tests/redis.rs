//! The Redis client against a real redis-server: the cases that need no plugin.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::LocalSet,
};
use weir_net::redis::{Answer, Client, Dial, Duplex, Error, Options, Query, check, command};
use weir_test::{RedisServer, eventually, free_port};

type Dialled = Pin<Box<dyn Future<Output = io::Result<Box<dyn Duplex>>>>>;

fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

fn dial(port: u16) -> Dial {
    Rc::new(move |address| -> Dialled {
        let address = address.map_or_else(|| format!("127.0.0.1:{port}"), str::to_string);
        Box::pin(async move {
            let io = TcpStream::connect(address).await?;
            io.set_nodelay(true)?;
            Ok(Box::new(io) as Box<dyn Duplex>)
        })
    })
}

/// A timeout that a loaded machine keeps.
fn patient() -> Options {
    Options { timeout: Duration::from_secs(30), ..Options::default() }
}

fn client(server: &RedisServer, options: Options) -> Client {
    Client::new(options, dial(server.port))
}

fn start(client: &Client, arguments: &[&str]) -> oneshot::Receiver<Answer> {
    let (tx, rx) = oneshot::channel();
    let arguments: Vec<_> = arguments.iter().map(|a| a.as_bytes()).collect();
    client.call(Query::new(command(&arguments)).unwrap(), move |answer| {
        let _ = tx.send(answer);
    });
    rx
}

async fn call(client: &Client, arguments: &[&str]) -> Answer {
    start(client, arguments).await.unwrap()
}

async fn text(client: &Client, arguments: &[&str]) -> String {
    String::from_utf8(call(client, arguments).await.unwrap().to_vec()).unwrap()
}

async fn verdict(port: u16, options: &Options) -> Result<(), String> {
    check(TcpStream::connect(("127.0.0.1", port)).await.unwrap(), options).await.map_err(|e| e.to_string())
}

#[test]
fn replies_are_passed_as_they_are() {
    let server = RedisServer::start(&[]);
    run(async move {
        let c = client(&server, patient());
        for (command, reply) in [
            (&["SET", "k", "v"][..], "+OK\r\n"),
            (&["GET", "k"], "$1\r\nv\r\n"),
            (&["GET", "absent"], "$-1\r\n"),
            (&["MGET", "k", "absent"], "*2\r\n$1\r\nv\r\n$-1\r\n"),
            (&["INCR", "k"], "-ERR value is not an integer or out of range\r\n"),
            (&["LRANGE", "absent", "0", "-1"], "*0\r\n"),
            (
                &["EVAL", "return {1,{2,{3,{'x',false}}},'y'}", "0"],
                "*3\r\n:1\r\n*2\r\n:2\r\n*2\r\n:3\r\n*2\r\n$1\r\nx\r\n$-1\r\n$1\r\ny\r\n",
            ),
            (&["EVAL", "return redis.call('INCRBY', KEYS[1], ARGV[1])", "1", "n", "5"], ":5\r\n"),
            (&["EVAL", "return redis.error_reply('MY no')", "0"], "-MY no\r\n"),
        ] {
            assert_eq!(text(&c, command).await, reply, "{command:?}");
        }
        let counters = &c.status().counters;
        assert_eq!((counters.replies.get(), counters.error_replies.get(), counters.connects.get()), (9, 2, 1));
    });
}

#[test]
fn a_value_of_a_megabyte_and_more() {
    let server = RedisServer::start(&[]);
    run(async move {
        let c = client(&server, patient());
        for size in [1 << 20, 5 << 20] {
            let value: String = (0..size).map(|i| (b'a' + (i % 23) as u8) as char).collect();
            assert_eq!(text(&c, &["SET", "big", &value]).await, "+OK\r\n");
            assert!(text(&c, &["GET", "big"]).await == format!("${size}\r\n{value}\r\n"));
        }
        let small = Options { limits: weir_net::redis::Limits { max_reply_bytes: 1 << 20, max_depth: 8 }, ..patient() };
        let c = client(&server, small);
        assert!(matches!(call(&c, &["GET", "big"]).await, Err(Error::Protocol(_))));
        assert_eq!(text(&c, &["GET", "absent"]).await, "$-1\r\n", "a new connection serves on");
    });
}

#[test]
fn credentials_and_databases() {
    let server = RedisServer::start(&["--requirepass", "secret", "--user", "ann", "on", ">pw", "~a*", "+@all"]);
    run(async move {
        let with = |user: &str, password: &str, database| Options { user: user.into(), password: password.into(), database, ..patient() };
        let default = client(&server, with("", "secret", 0));
        let third = client(&server, with("", "secret", 3));
        let ann = client(&server, with("ann", "pw", 0));
        assert_eq!(text(&default, &["SET", "a", "0"]).await, "+OK\r\n");
        assert_eq!(text(&third, &["GET", "a"]).await, "$-1\r\n");
        assert_eq!(text(&third, &["SET", "a", "3"]).await, "+OK\r\n");
        assert_eq!(text(&default, &["GET", "a"]).await, "$1\r\n0\r\n");
        assert_eq!(text(&ann, &["GET", "a"]).await, "$1\r\n0\r\n");
        assert!(text(&ann, &["GET", "b"]).await.starts_with("-NOPERM"), "each client keeps its own credentials");
        for options in [with("", "secret", 0), with("", "secret", 3), with("ann", "pw", 0)] {
            assert_eq!(verdict(server.port, &options).await, Ok(()));
        }

        let wrong = client(&server, with("", "wrong", 0));
        assert_eq!(text(&wrong, &["GET", "a"]).await, "-NOAUTH Authentication required.\r\n");
        assert!(wrong.status().auth_error.borrow().as_deref().unwrap().starts_with("WRONGPASS"));
        assert!(verdict(server.port, &with("", "wrong", 0)).await.unwrap_err().starts_with("AUTH was refused: WRONGPASS"));
        assert!(verdict(server.port, &with("", "", 0)).await.unwrap_err().starts_with("the server asks for a password"));

        let far = client(&server, with("", "secret", 99));
        assert_eq!(text(&far, &["GET", "a"]).await, "-ERR DB index is out of range\r\n", "never on database 0 instead");
        assert!(far.status().select_error.borrow().is_some());
        assert!(verdict(server.port, &with("", "secret", 99)).await.unwrap_err().starts_with("SELECT 99 was refused"));
    });
}

#[test]
fn a_password_for_a_server_without_one_does_no_harm() {
    let server = RedisServer::start(&[]);
    run(async move {
        let c = client(&server, Options { password: "needless".into(), ..patient() });
        assert_eq!(text(&c, &["SET", "k", "v"]).await, "+OK\r\n");
        assert!(c.status().auth_error.borrow().as_deref().unwrap().contains("without any password configured"));
    });
}

#[test]
fn a_mended_password_is_taken_up() {
    let server = RedisServer::start(&["--requirepass", "old"]);
    run(async move {
        let c = client(&server, Options { password: "new".into(), ..patient() });
        assert!(text(&c, &["GET", "k"]).await.starts_with("-NOAUTH"));
        let admin = client(&server, Options { password: "old".into(), ..patient() });
        assert_eq!(text(&admin, &["CONFIG", "SET", "requirepass", "new"]).await, "+OK\r\n");
        for _ in 0..200 {
            if text(&c, &["SET", "k", "v"]).await == "+OK\r\n" {
                assert!(c.status().auth_error.borrow().is_none());
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("still refused");
    });
}

#[test]
fn a_paused_server_times_out_and_comes_back() {
    let server = RedisServer::start(&[]);
    run(async move {
        let c = client(&server, Options { timeout: Duration::from_millis(500), ..Options::default() });
        // The first connection may take its time on a loaded machine.
        while call(&c, &["SET", "k", "v"]).await.is_err() {}
        let connects = c.status().counters.connects.get();
        server.signal("STOP");
        let (a, b) = (start(&c, &["GET", "k"]), start(&c, &["GET", "k"]));
        assert_eq!((a.await.unwrap(), b.await.unwrap()), (Err(Error::Timeout), Err(Error::Timeout)));
        server.signal("CONT");
        for _ in 0..100 {
            if call(&c, &["GET", "k"]).await == Ok(Bytes::from_static(b"$1\r\nv\r\n")) {
                assert!(c.status().counters.connects.get() > connects, "a late reply must not answer another command");
                return;
            }
        }
        panic!("no reply after the pause");
    });
}

#[test]
fn a_killed_connection_fails_all_that_wait_once() {
    let server = RedisServer::start(&[]);
    run(async move {
        let c = client(&server, patient());
        assert_eq!(text(&c, &["PING"]).await, "+PONG\r\n");
        let waiting: Vec<_> = (0..50).map(|_| start(&c, &["BLPOP", "never", "0"])).collect();
        // All are written before the kill: the server shows a blocked client.
        while !server.ask("INFO clients").contains("blocked_clients:1") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(server.ask("CLIENT KILL TYPE normal SKIPME yes"), ":1");
        for answer in waiting {
            assert!(matches!(answer.await.unwrap(), Err(Error::Closed(_))));
        }
        assert_eq!(text(&c, &["PING"]).await, "+PONG\r\n");
        assert_eq!((c.status().counters.failures.get(), c.status().counters.connects.get()), (50, 2));
    });
}

#[test]
fn a_dead_server_fails_fast_and_is_found_again() {
    let server = RedisServer::start(&[]);
    run(async move {
        let c = client(&server, patient());
        assert_eq!(text(&c, &["PING"]).await, "+PONG\r\n");
        let port = server.kill();
        let mut failures = 0;
        for _ in 0..20 {
            failures += usize::from(call(&c, &["PING"]).await.is_err());
        }
        assert!(failures >= 19);
        assert!(c.status().counters.connect_failures.get() < 10, "commands during the back-off do not connect");
        assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
        let _again = RedisServer::try_start(port, &[]).expect("the port is still free");
        for _ in 0..200 {
            if call(&c, &["PING"]).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the server is back, the client is not");
    });
}

#[test]
fn a_command_within_an_answer_does_not_spin() {
    // Higress #4034: a failed answer whose callback asks again, without end.
    run(async {
        let c = Client::new(patient(), dial(free_port()));
        fn again(c: &Client, left: u32, done: oneshot::Sender<()>) {
            let inner = c.clone();
            c.call(Query::new(command(&[b"PING"])).unwrap(), move |answer| {
                assert!(answer.is_err());
                match left {
                    0 => done.send(()).unwrap(),
                    _ => again(&inner, left - 1, done),
                }
            });
        }
        let (done, all) = oneshot::channel();
        let began = Instant::now();
        again(&c, 100, done);
        all.await.unwrap();
        // Each failed answer takes a millisecond at least.
        assert!(began.elapsed() > Duration::from_millis(50), "100 commands in {:?}", began.elapsed());
    });
    let server = RedisServer::start(&[]);
    run(async move {
        let c = client(&server, patient());
        let (tx, rx) = oneshot::channel();
        let inner = c.clone();
        c.call(Query::new(command(&[b"INCR", b"n"])).unwrap(), move |first| {
            inner.call(Query::new(command(&[b"INCR", b"n"])).unwrap(), move |second| {
                let _ = tx.send((first, second));
            });
        });
        assert_eq!(rx.await.unwrap(), (Ok(Bytes::from_static(b":1\r\n")), Ok(Bytes::from_static(b":2\r\n"))));
    });
}

#[test]
fn a_lone_command_is_written_at_once_and_a_turns_commands_together() {
    run(async {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let ours = RefCell::new(Some(ours));
        let dial: Dial = Rc::new(move |_| -> Dialled {
            let io = ours.borrow_mut().take().unwrap();
            Box::pin(async move { Ok(Box::new(io) as Box<dyn Duplex>) })
        });
        let c = Client::new(patient(), dial);
        let mut buffer = [0; 256];
        for commands in [1, 3] {
            let answers: Vec<_> = (0..commands).map(|_| start(&c, &["PING"])).collect();
            // A few turns of the loop, far less than the 3 ms of a flush timer: it must be there by then.
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
            let n = tokio::select! { biased; n = theirs.read(&mut buffer) => n.unwrap(), () = async {} => 0 };
            assert_eq!(String::from_utf8_lossy(&buffer[..n]), "*1\r\n$4\r\nPING\r\n".repeat(commands));
            theirs.write_all("+PONG\r\n".repeat(commands).as_bytes()).await.unwrap();
            for answer in answers {
                assert!(answer.await.unwrap().is_ok());
            }
        }
    });
}

#[test]
fn a_renewed_client_dials_anew_and_loses_no_reply() {
    let server = RedisServer::start(&[]);
    run(async move {
        let c = client(&server, patient());
        let first = text(&c, &["CLIENT", "ID"]).await;
        let waiting = start(&c, &["BLPOP", "list", "0"]);
        while !server.ask("INFO clients").contains("blocked_clients:1") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        c.renew();
        assert_ne!(text(&c, &["CLIENT", "ID"]).await, first);
        assert_eq!(text(&c, &["RPUSH", "list", "x"]).await, ":1\r\n");
        assert_eq!(waiting.await.unwrap(), Ok(Bytes::from_static(b"*2\r\n$4\r\nlist\r\n$1\r\nx\r\n")));
        // The old connection ends when nothing waits on it.
        while server.ask("INFO clients").contains("connected_clients:3") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn something_else_than_redis_is_named() {
    run(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::task::spawn_local(async move {
            loop {
                let (mut io, _) = listener.accept().await.unwrap();
                io.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            }
        });
        let said = verdict(port, &patient()).await.unwrap_err();
        assert!(said.starts_with("not a Redis server"), "{said}");
    });
}

#[test]
fn redirects_of_a_cluster_are_followed_and_remembered() {
    let node = || {
        for _ in 0..20 {
            let (port, bus) = (free_port(), free_port());
            let arguments = ["--cluster-enabled", "yes", "--cluster-port", &bus.to_string(), "--cluster-require-full-coverage", "no"];
            if let Some(server) = RedisServer::try_start(port, &arguments) {
                return (server, bus);
            }
        }
        panic!("no port for a cluster node");
    };
    let ((a, _), (b, bus)) = (node(), node());
    assert_eq!(a.ask("CLUSTER ADDSLOTSRANGE 0 8191"), "+OK");
    assert_eq!(b.ask("CLUSTER ADDSLOTSRANGE 8192 16383"), "+OK");
    assert_eq!(a.ask(&format!("CLUSTER MEET 127.0.0.1 {} {bus}", b.port)), "+OK");
    let knows = |s: &RedisServer| {
        s.ask("CLUSTER INFO").contains("cluster_slots_assigned:16384") && s.ask("CLUSTER INFO").contains("cluster_state:ok")
    };
    eventually("the nodes meet", || (knows(&a) && knows(&b)).then_some(()));
    run(async move {
        let c = client(&a, patient());
        // Slot 12182 lies on the second node.
        for round in 1..=3 {
            assert_eq!(text(&c, &["SET", "foo", &round.to_string()]).await, "+OK\r\n");
        }
        assert_eq!(text(&c, &["GET", "foo"]).await, "$1\r\n3\r\n");
        assert_eq!(c.status().counters.redirects.get(), 1, "the slot's place is remembered");
        let own: String = text(&c, &["CLUSTER", "KEYSLOT", "bar"]).await;
        assert_eq!(own, ":5061\r\n");
        assert_eq!(text(&c, &["SET", "bar", "1"]).await, "+OK\r\n");
        assert_eq!(c.status().counters.redirects.get(), 1);
    });
}
