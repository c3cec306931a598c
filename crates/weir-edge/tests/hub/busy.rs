//! A pod that asks as much as it can, beside kubelet.
use super::{
    hub::{JSON, Rig},
    twin::{Protocol, To, Twin},
    upstream::SERVICES,
};
use futures_util::future::join_all;
use http::StatusCode;
use serde_json::json;
use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    time::{Duration, Instant},
};
use weir_test::eventually;

const CONNECTIONS: u32 = 400;
const PER_SECOND: u32 = 5_000;

/// Answers to a pod.
#[derive(Default)]
struct Counts {
    answered: AtomicUsize,
    refused: AtomicUsize,
    done: AtomicBool,
}

impl Counts {
    fn all(&self) -> usize {
        self.answered.load(SeqCst) + self.refused.load(SeqCst)
    }
}

/// One connection of the pod: its share of the requests, or as much of it as it can.
async fn asks(rig: &Rig, counts: &Counts) {
    let mut twin = Twin::connect(rig, To::Hub, Protocol::Http1).await;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) * CONNECTIONS / PER_SECOND);
    while !counts.done.load(SeqCst) {
        ticks.tick().await;
        let answer = twin.ask(SERVICES, &[JSON, ("authorization", "Bearer pod")]).await;
        let count = match answer.status {
            StatusCode::OK => &counts.answered,
            StatusCode::TOO_MANY_REQUESTS => &counts.refused,
            status => panic!("{status}"),
        };
        count.fetch_add(1, SeqCst);
    }
}

/// The figure is printed. On a busy machine it says little, so the bound is wide.
#[test]
fn kubelet_is_answered_beside_a_pod_that_asks_five_thousand_times_a_second() {
    let rig = Rig::with(|options| options.max_connections = 1000);
    rig.upstream.put("a", json!({}));
    let counts = Counts::default();
    std::thread::scope(|scope| {
        scope.spawn(|| rig.block_on(join_all((0..CONNECTIONS).map(|_| asks(&rig, &counts)))));
        eventually("the pod is answered", || (counts.all() >= CONNECTIONS as usize).then_some(()));
        let mut client = rig.open();
        let (began, before) = (Instant::now(), counts.all());
        let mut times: Vec<Duration> = (0..200)
            .map(|_| {
                let asked = Instant::now();
                let answer = client.request("GET", "hub", SERVICES, &[JSON, ("user-agent", "kubelet/v1.34.0")], b"").unwrap();
                assert_eq!(answer.status, 200, "{answer:?}");
                asked.elapsed()
            })
            .collect();
        let noise = (counts.all() - before) as f64 / began.elapsed().as_secs_f64();
        counts.done.store(true, SeqCst);
        times.sort();
        let refused = counts.refused.load(SeqCst) * 100 / counts.all();
        println!(
            "kubelet: p50 {:?}, p99 {:?}, beside {noise:.0} requests of a pod per second, {refused} % of them 429",
            times[100], times[198]
        );
        assert!(times[198] < Duration::from_secs(5), "{times:?}");
    });
}
