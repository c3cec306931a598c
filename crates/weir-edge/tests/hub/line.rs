//! A line between the hub and the API server that delays, loses and holds back what passes. It does so in user space: not every kernel has
//! `netem`. What is lost comes late, as over TCP: after one or more timeouts of the sender.
use bytes::Bytes;
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

#[derive(Clone, Copy, Debug, Default)]
pub struct Conditions {
    pub round_trip: Duration,
    /// Packets of a hundred that are lost.
    pub loss: u64,
    /// The first timeout of a sender. It doubles with each packet that is lost again.
    pub retransmission: Duration,
}

pub struct Line {
    pub address: SocketAddr,
    /// Nothing passes any more, and neither side gets an error.
    dead: watch::Sender<bool>,
}

impl Line {
    pub async fn to(server: SocketAddr, conditions: Conditions) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let dead = watch::Sender::new(false);
        let held = dead.subscribe();
        tokio::spawn(async move {
            for seed in 1.. {
                let (here, _) = listener.accept().await.unwrap();
                let there = TcpStream::connect(server).await.unwrap();
                [&here, &there].into_iter().for_each(|io| io.set_nodelay(true).unwrap());
                let ((from_here, to_here), (from_there, to_there)) = (here.into_split(), there.into_split());
                let fate = |seed: u64| Fate { conditions, seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), last: Instant::now() };
                // The handshake of TCP takes a round trip before anything is sent.
                let mut out = fate(seed * 2);
                out.last = out.arrives() + conditions.round_trip / 2;
                tokio::spawn(pass(from_here, to_there, out, held.clone()));
                tokio::spawn(pass(from_there, to_here, fate(seed * 2 + 1), held.clone()));
            }
        });
        Line { address, dead }
    }

    pub fn dies(&self) {
        self.dead.send_replace(true);
    }

    pub fn lives(&self) {
        self.dead.send_replace(false);
    }
}

/// When packets of one direction arrive.
struct Fate {
    conditions: Conditions,
    seed: u64,
    /// The arrival of the packet before: they stay in their order.
    last: Instant,
}

impl Fate {
    fn is_lost(&mut self) -> bool {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % 100 < self.conditions.loss
    }

    fn arrives(&mut self) -> Instant {
        let mut at = Instant::now() + self.conditions.round_trip / 2;
        let mut timeout = self.conditions.retransmission;
        while self.is_lost() {
            at += timeout;
            timeout *= 2;
        }
        self.last = self.last.max(at);
        self.last
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin + Send + 'static,
    mut to: impl AsyncWrite + Unpin + Send + 'static,
    mut fate: Fate,
    mut dead: watch::Receiver<bool>,
) {
    let (send, mut receive) = mpsc::unbounded_channel::<(Instant, Bytes)>();
    tokio::spawn(async move {
        let mut packet = vec![0; 1400];
        while let Ok(n) = from.read(&mut packet).await {
            // The end comes as a packet without bytes.
            if send.send((fate.arrives(), Bytes::copy_from_slice(&packet[..n]))).is_err() || n == 0 {
                return;
            }
        }
    });
    while let Some((at, bytes)) = receive.recv().await {
        sleep_until(at).await;
        let _ = dead.wait_for(|dead| !dead).await;
        if bytes.is_empty() || to.write_all(&bytes).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
