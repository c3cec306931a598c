//! ZooKeeper: the providers of Dubbo and the instances of Spring Cloud, by watches of their nodes.
//!
//! `wire` is the protocol, `tree` the state machine of what is watched, `content` what nodes say.
mod content;
mod tree;
mod wire;

use super::{
    Limits,
    connect::{Connector, FollowError},
    shared::Sink,
};
use crate::api::mcp_bridge::Zookeeper;
use std::{convert::Infallible, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::tcp::OwnedReadHalf,
    time::{Instant, interval_at, timeout},
};
use tree::{Change, Tree};

/// Nodes that are watched, unless that is less than ten for each service that the registry may have.
const MAX_NODES: usize = 200_000;
/// Of the session: the server ends it when nothing comes for so long.
const SESSION: Duration = Duration::from_secs(10);

/// Follows until something fails.
pub async fn follow(zookeeper: &Zookeeper, connector: Connector, sink: &Sink) -> Result<Infallible, FollowError> {
    let (from, mut to) = connector.connect(connector.port).await?.into_split();
    let mut from = BufReader::new(from);
    to.write_all(&wire::connect(SESSION)).await?;
    let Limits { answer_bytes: limit, request_timeout, .. } = connector.limits;
    let hello = timeout(request_timeout, packet(&mut from, limit)).await.map_err(|_| FollowError::Timeout(request_timeout))??;
    wire::check_connected(&hello).map_err(FollowError::protocol)?;
    // Packets are read by a task of their own: reading one must not be given up in the middle.
    let (send, mut packets) = tokio::sync::mpsc::channel(64);
    let reader = tokio::spawn(async move {
        loop {
            let packet = packet(&mut from, limit).await;
            let ended = packet.is_err();
            if send.send(packet).await.is_err() || ended {
                return;
            }
        }
    });
    let _end = EndTask(reader);
    let mut tree = Tree::new(&zookeeper.paths, connector.limits.services.saturating_mul(10).max(MAX_NODES));
    sink.begin();
    let mut synced = false;
    let mut pings = interval_at(Instant::now() + SESSION / 3, SESSION / 3);
    let mut heard = Instant::now();
    loop {
        let requests = tree.requests();
        if !requests.is_empty() {
            to.write_all(&requests).await?;
        }
        if tree.is_idle() && !synced {
            synced = true;
            sink.complete();
        }
        tokio::select! {
            received = packets.recv() => {
                heard = Instant::now();
                let packet = received.ok_or(FollowError::Closed)??;
                for change in tree.receive(&packet).map_err(FollowError::protocol)? {
                    match change {
                        Change::Put(host, instances) => sink.put(&host, instances),
                        Change::Gone(host) => sink.remove(&host),
                    }
                }
            }
            _ = pings.tick() => {
                if heard.elapsed() > SESSION {
                    return Err(FollowError::Timeout(SESSION));
                }
                to.write_all(&wire::ping()).await?;
            }
        }
    }
}

struct EndTask(tokio::task::JoinHandle<()>);

impl Drop for EndTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn packet(from: &mut BufReader<OwnedReadHalf>, limit: usize) -> Result<Vec<u8>, FollowError> {
    let closed = |e: std::io::Error| if e.kind() == std::io::ErrorKind::UnexpectedEof { FollowError::Closed } else { e.into() };
    let length = from.read_i32().await.map_err(closed)?;
    let length = usize::try_from(length).ok().filter(|n| *n <= limit).ok_or(FollowError::TooLarge { what: "a packet", limit })?;
    let mut packet = Vec::new();
    let read = from.take(length as u64).read_to_end(&mut packet).await?;
    if read < length { Err(FollowError::Closed) } else { Ok(packet) }
}
