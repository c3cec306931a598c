//! SIGTERM under load: every request that was sent is answered.
use crate::{
    client::Connection,
    harness::{Start, TO_ECHO, eventually},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

#[test]
fn no_request_is_lost() {
    let mut weir = Start::new().file("gateway.yaml", TO_ECHO).arg("--drain-time").arg("1s").run();
    let to = weir.address();
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    // Clients as they should be: one that is told to close opens another connection; who cannot connect stops.
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (stop, served) = (stop.clone(), served.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let Ok(mut c) = Connection::open(to) else { return };
                    loop {
                        let answer = c.request("GET", "h", "/x?delay=3ms", &[], b"").expect("an answer");
                        assert_eq!(answer.status, 200);
                        served.fetch_add(1, Ordering::Relaxed);
                        if answer.header("connection") == Some("close") {
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    eventually("traffic", || (served.load(Ordering::Relaxed) > 100).then_some(()));
    let began = Instant::now();
    weir.signal("TERM");
    eventually("readiness to fail", || {
        crate::client::get(weir.admin, "admin", "/ready").map_or(Some(()), |a| (a.status == 503).then_some(()))
    });
    assert!(weir.ended().success(), "{}", weir.printed());
    assert!(began.elapsed() >= Duration::from_millis(900), "the drain time was cut to {:?}", began.elapsed());
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("a request was lost");
    }
}
