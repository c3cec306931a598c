//! Plugins and several servers of Redis: a Cluster that loses a master under traffic, and a master that Sentinels name.
use crate::{
    harness::{Weir, eventually},
    plugin_redis::{ask, gateway},
};
use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};
use weir_test::{RedisCluster, RedisSentinel, RedisServer};

/// Counts in some keys from several threads, and checks each answer: it is that of the command, or an error.
struct Traffic<'a> {
    weir: &'a Weir,
    to: &'a str,
    stop: AtomicBool,
    errors: Mutex<u64>,
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

const THREADS: usize = 4;
const KEYS: usize = 8;
const RANGE: usize = 1_000_000;

/// Each key counts in a range of its own. A replica that takes over may lack the last counts, so what is counted may go back.
fn first(thread: usize, key: usize) -> u64 {
    ((thread * KEYS + key + 1) * RANGE) as u64
}

impl Traffic<'_> {
    fn new<'a>(weir: &'a Weir, to: &'a str) -> Traffic<'a> {
        let traffic = Traffic { weir, to, stop: AtomicBool::new(false), errors: Mutex::new(0) };
        for (thread, key) in (0..=THREADS).flat_map(|thread| (0..KEYS).map(move |key| (thread, key))) {
            let first = first(thread, key).to_string();
            let set = ask(weir, &[("x-to", to), ("x-init", "1")], &["SET", &format!("t{thread}:k{key}"), &first]);
            assert_eq!(set.body, "+OK\r\n");
        }
        traffic
    }

    /// One more for this key of this thread; `None` for an error.
    fn count(&self, thread: usize, key: usize) -> Option<u64> {
        let answer = ask(self.weir, &[("x-to", self.to), ("x-init", "1")], &["INCR", &format!("t{thread}:k{key}")]);
        match answer.status {
            200 if answer.body.starts_with(':') => Some(answer.body[1..].trim_end().parse().unwrap()),
            // An error of the server, or no answer of it.
            200 if answer.body.starts_with('-') => None,
            504 => None,
            other => panic!("{other}: {}", answer.body),
        }
    }

    fn run(&self, thread: usize) {
        while !self.stop.load(Relaxed) {
            for key in 0..KEYS {
                match self.count(thread, key) {
                    Some(n) => assert_eq!(n / RANGE as u64, first(thread, key) / RANGE as u64, "t{thread}:k{key}: {n}"),
                    None => *self.errors.lock().unwrap() += 1,
                }
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs it while `meanwhile` does something to the servers, and until everything is counted again.
    fn while_(&self, meanwhile: impl FnOnce()) -> u64 {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|n| scope.spawn(move || self.run(n))).collect();
            // The threads end even if this panics.
            let stop = Stop(&self.stop);
            meanwhile();
            eventually("all keys counted again", || (0..KEYS).all(|key| self.count(THREADS, key).is_some()).then_some(()));
            drop(stop);
            threads.into_iter().for_each(|t| t.join().unwrap());
        });
        *self.errors.lock().unwrap()
    }
}

#[test]
fn a_cluster_loses_a_master_under_traffic() {
    let mut cluster = RedisCluster::start(3, 1);
    let ports = cluster.ports();
    let weir = gateway("").workers(2).run();
    let to = format!("redis+cluster://127.0.0.1:{},127.0.0.1:{}", ports[0], ports[1]);
    let headers = [("x-to", &*to), ("x-init", "1")];
    assert_eq!(ask(&weir, &headers, &["SET", "key", "value"]).body, "+OK\r\n");
    assert_eq!(ask(&weir, &headers, &["MSET", "{a}1", "x", "{a}2", "y"]).body, "+OK\r\n");
    assert!(ask(&weir, &headers, &["MGET", "a", "b", "c"]).body.starts_with("-CROSSSLOT"));
    let traffic = Traffic::new(&weir, &to);
    cluster.replicated();
    let dead = cluster.replicated_master();
    let errors = traffic.while_(|| cluster.kill(dead));
    let failed = weir.stat("weir_wasm_redis_failures.default/redis") + weir.stat("weir_wasm_redis_errors.default/redis");
    assert!(errors <= failed, "{errors} of {failed}");
    assert_eq!(weir.stat("weir_wasm_traps.default/redis"), 0);
    // What was waited for has an end, and is counted by the upstream.
    let upstream = format!("default/redis.{to}");
    assert_eq!(weir.stat(&format!("weir_wasm_redis_upstream_rq_active.{upstream}")), 0);
    assert!(weir.stat(&format!("weir_wasm_redis_upstream_rq_total.{upstream}")) > 100);
}

#[test]
fn sentinels_name_the_master() {
    let secret = ["--requirepass", "pw", "--masterauth", "pw"];
    let first = RedisServer::start(&secret);
    let of_first = format!("127.0.0.1 {}", first.port);
    let _second = RedisServer::start(&[&secret[..], &["--replicaof", &of_first, "--repl-diskless-sync-delay", "0"]].concat());
    let sentinel = RedisSentinel::start(first.port, "pw", &["requirepass watch"]);
    sentinel.settled("watch", &first, 1);
    let weir = gateway("").workers(2).run();
    // One Sentinel is dead; the next one knows.
    let dead = weir_test::free_port();
    let to = format!("redis+sentinel://:pw@127.0.0.1:{dead},127.0.0.1:{}/mymaster/2?sentinel_password=watch", sentinel.port());
    let headers = [("x-to", &*to), ("x-init", "1")];
    assert_eq!(ask(&weir, &headers, &["SET", "who", "me"]).body, "+OK\r\n");
    for wrong in [to.replace("mymaster", "other"), to.replace("=watch", "=wrong")] {
        assert_eq!(ask(&weir, &[("x-to", &*wrong), ("x-init", "1")], &["PING"]).status, 504, "{wrong}");
    }

    assert_eq!(weir.stat("weir_wasm_traps.default/redis"), 0);
    assert!(!weir.admin("/plugins").body.contains("pw@") && !weir.printed().contains("pw@"), "no password is shown");
}
