//! The Redis client with a real Redis Cluster: three masters and a replica.
#![allow(clippy::unwrap_used)]

use std::{
    cell::{Cell, RefCell},
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, sync::oneshot, task::LocalSet};
use weir_net::redis::{Answer, Client, Dial, Duplex, Options, Query, Topology, command};
use weir_test::RedisCluster;

type Dialled = Pin<Box<dyn Future<Output = io::Result<Box<dyn Duplex>>>>>;

fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

/// The seeds in turn, as the gateway does.
fn dial(seeds: Vec<u16>) -> Dial {
    let next = Rc::new(Cell::new(0));
    Rc::new(move |address| -> Dialled {
        let (address, seeds, next) = (address.map(str::to_string), seeds.clone(), next.clone());
        Box::pin(async move {
            let mut last = io::Error::other("no seed");
            for _ in 0..seeds.len() {
                let at = address.clone().unwrap_or_else(|| format!("127.0.0.1:{}", seeds[next.get() % seeds.len()]));
                match TcpStream::connect(at).await {
                    Ok(io) => return Ok(Box::new(io) as Box<dyn Duplex>),
                    Err(e) if address.is_some() => return Err(e),
                    Err(e) => last = e,
                }
                next.set(next.get() + 1);
            }
            Err(last)
        })
    })
}

fn client(seeds: Vec<u16>, timeout: Duration) -> Client {
    Client::new(Options { topology: Topology::Cluster, timeout, ..Options::default() }, dial(seeds))
}

const PATIENT: Duration = Duration::from_secs(30);

fn start(client: &Client, arguments: &[&str]) -> oneshot::Receiver<Answer> {
    let (tx, rx) = oneshot::channel();
    let arguments: Vec<_> = arguments.iter().map(|a| a.as_bytes()).collect();
    client.call(Query::new(command(&arguments)).unwrap(), move |answer| {
        let _ = tx.send(answer);
    });
    rx
}

async fn text(client: &Client, arguments: &[&str]) -> String {
    let answer = start(client, arguments).await.unwrap();
    String::from_utf8(answer.unwrap().to_vec()).unwrap()
}

/// Waits until the map of the Cluster has been read so many times.
async fn mapped(client: &Client, times: u64) {
    while client.status().counters.slot_maps.get() < times {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn commands_go_where_their_slots_are() {
    let cluster = RedisCluster::start(3, 1);
    let seeds = cluster.ports();
    run(async move {
        // One seed is dead; the next one knows the rest.
        let c = client(vec![weir_test::free_port(), seeds[0]], PATIENT);
        assert_eq!(text(&c, &["SET", "first", "1"]).await, "+OK\r\n");
        mapped(&c, 1).await;
        let before = c.status().counters.redirects.get();
        for n in 0..300 {
            let (key, value) = (format!("key:{n}"), n.to_string());
            assert_eq!(text(&c, &["SET", &key, &value]).await, "+OK\r\n");
            assert_eq!(text(&c, &["GET", &key]).await, format!("${}\r\n{value}\r\n", value.len()));
        }
        assert_eq!(c.status().counters.redirects.get(), before, "the map says where all keys are");
        let held: Vec<_> = (0..3).map(|n| cluster.node(n).ask("DBSIZE")).collect();
        assert!(held.iter().all(|n| n != ":0"), "{held:?}");
        // Several keys: in one slot, or the server's own error.
        assert_eq!(text(&c, &["MSET", "{a}1", "x", "{a}2", "y"]).await, "+OK\r\n");
        assert_eq!(text(&c, &["MGET", "{a}1", "{a}2"]).await, "*2\r\n$1\r\nx\r\n$1\r\ny\r\n");
        assert_eq!(text(&c, &["MGET", "a", "b", "c"]).await, "-CROSSSLOT Keys in request don't hash to the same slot\r\n");
        let script = "return redis.call('GET', KEYS[1])";
        assert_eq!(text(&c, &["EVAL", script, "1", "{a}1"]).await, "$1\r\nx\r\n");
        assert!(text(&c, &["EVAL", script, "2", "a", "b"]).await.starts_with("-CROSSSLOT "));
        assert!(text(&c, &["PING"]).await == "+PONG\r\n");
    });
}

#[test]
fn a_turns_answers_come_in_the_order_of_its_commands() {
    let cluster = RedisCluster::start(3, 0);
    let seeds = cluster.ports();
    run(async move {
        let c = client(seeds, PATIENT);
        text(&c, &["PING"]).await;
        mapped(&c, 1).await;
        let seen: Rc<RefCell<Vec<(usize, String)>>> = Rc::default();
        let (done, all) = oneshot::channel();
        let done = Rc::new(RefCell::new(Some(done)));
        // 600 commands over three servers in one turn, some of them slow.
        for n in 0..600 {
            let (key, value) = (format!("k{}", n % 97), format!("v{n}"));
            let slow = "local n = 0 for i = 1, 200000 do n = n + i end return ARGV[1]";
            let words = if n % 50 == 0 { vec!["EVAL", slow, "1", &key, &value] } else { vec!["SET", &key, &value, "GET"] };
            let bytes: Vec<_> = words.iter().map(|w| w.as_bytes()).collect();
            let (seen, done) = (seen.clone(), done.clone());
            c.call(Query::new(command(&bytes)).unwrap(), move |answer| {
                seen.borrow_mut().push((n, String::from_utf8(answer.unwrap().to_vec()).unwrap()));
                if seen.borrow().len() == 600 {
                    done.borrow_mut().take().unwrap().send(()).unwrap();
                }
            });
        }
        all.await.unwrap();
        let seen = seen.borrow();
        let mut last = std::collections::HashMap::new();
        for (at, (n, reply)) in seen.iter().enumerate() {
            assert_eq!(at, *n, "in order");
            let (key, value) = (n % 97, format!("v{n}"));
            let want = if n % 50 == 0 { Some(&value) } else { last.get(&key) };
            assert_eq!(*reply, want.map_or("$-1\r\n".into(), |v| format!("${}\r\n{v}\r\n", v.len())), "{n}");
            if n % 50 != 0 {
                last.insert(key, value);
            }
        }
    });
}

#[test]
fn slots_that_move_are_followed() {
    let cluster = RedisCluster::start(3, 0);
    let seeds = cluster.ports();
    run(async move {
        let c = client(seeds, PATIENT);
        assert_eq!(text(&c, &["SET", "foo", "1"]).await, "+OK\r\n");
        mapped(&c, 1).await;
        let maps = c.status().counters.slot_maps.get();
        // Slot 12182, half way from the third server to the first: ASK for what has left, and MOVED when it is done.
        let ids: Vec<_> = (0..3).map(|n| cluster.node(n).ask("CLUSTER MYID")).collect();
        assert_eq!(cluster.node(0).ask(&format!("CLUSTER SETSLOT 12182 IMPORTING {}", ids[2])), "+OK");
        assert_eq!(cluster.node(2).ask(&format!("CLUSTER SETSLOT 12182 MIGRATING {}", ids[0])), "+OK");
        assert_eq!(cluster.node(2).ask(&format!("MIGRATE 127.0.0.1 {} foo 0 5000", cluster.node(0).port)), "+OK");
        let redirects = c.status().counters.redirects.get();
        for n in 1..=5 {
            assert_eq!(text(&c, &["INCR", "foo"]).await, format!(":{}\r\n", n + 1));
        }
        assert_eq!(c.status().counters.redirects.get(), redirects + 5, "ASK holds for one command");
        for node in [0, 2, 1] {
            assert_eq!(cluster.node(node).ask(&format!("CLUSTER SETSLOT 12182 NODE {}", ids[0])), "+OK");
        }
        assert_eq!(text(&c, &["INCR", "foo"]).await, ":7\r\n");
        mapped(&c, maps + 1).await;
        let redirects = c.status().counters.redirects.get();
        for n in 1..=20 {
            assert_eq!(text(&c, &["INCR", "foo"]).await, format!(":{}\r\n", n + 7));
        }
        assert_eq!(c.status().counters.redirects.get(), redirects, "MOVED is remembered");
    });
}

#[test]
fn a_dead_master_is_replaced_by_its_replica() {
    let mut cluster = RedisCluster::start(3, 1);
    let seeds = cluster.ports();
    run(async move {
        let c = client(seeds, Duration::from_secs(2));
        for n in 0..100 {
            // The Cluster may still settle.
            while !start(&c, &["SET", &format!("key:{n}"), "0"]).await.unwrap().is_ok_and(|r| r.starts_with(b"+OK")) {}
        }
        cluster.replicated();
        // Commands all the while: each gets an answer or an error, soon.
        let dead = cluster.replicated_master();
        cluster.kill(dead);
        let (mut errors, begun) = (0, Instant::now());
        let mut counts = [0u64; 100];
        loop {
            let mut failed = false;
            let sent: Vec<_> = (0..100).map(|n| start(&c, &["INCR", &format!("key:{n}")])).collect();
            for (n, answer) in sent.into_iter().enumerate() {
                let answer = tokio::time::timeout(Duration::from_secs(30), answer).await.expect("each command ends").unwrap();
                match answer {
                    Ok(reply) if reply.starts_with(b":") => {
                        let value: u64 = std::str::from_utf8(&reply[1..reply.len() - 2]).unwrap().parse().unwrap();
                        // Nobody else counts: a smaller number would be the answer to another command.
                        assert!(value > counts[n], "key:{n}: {value} after {}", counts[n]);
                        counts[n] = value;
                    }
                    _ => (errors, failed) = (errors + 1, true),
                }
            }
            if !failed {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "the replica is master, the client does not know");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(errors > 0, "its death was seen");
        let redirects = c.status().counters.redirects.get();
        for n in 0..100 {
            assert!(text(&c, &["INCR", &format!("key:{n}")]).await.starts_with(':'));
        }
        assert_eq!(c.status().counters.redirects.get(), redirects, "the new map is known");
    });
}
