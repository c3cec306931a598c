//! Out of file descriptors: accepting waits and goes on when there are some again. A program of its own, because the
//! limit holds for the whole process.
#![allow(clippy::unwrap_used)]
mod common;
use common::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpSocket;

#[tokio::test]
async fn accepting_goes_on_when_descriptors_are_back() {
    let proxy = start();
    let mut conf = Conf::default();
    conf.cluster("a", upstream("a:").await).listener("l", loopback(), vec![tcp("c", &[], &[], "a")]);
    proxy.apply(conf.delta()).await;
    let address = address_of(&proxy, "l");
    expect(&mut connect(address).await, "a:").await;
    until("the first connection is gone", || proxy.shared().connections() == 0).await;
    // The clients' own descriptors are taken before, so that only those of the gateway run out.
    let sockets: Vec<TcpSocket> = (0..32).map(|_| TcpSocket::new_v4().unwrap()).collect();
    let before = getrlimit(Resource::Nofile);
    let used = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    setrlimit(Resource::Nofile, Rlimit { current: Some(used + 8), maximum: before.maximum }).unwrap();
    let mut clients = Vec::new();
    for socket in sockets {
        // The kernel lets them all in, but not all can be accepted.
        clients.push(within(socket.connect(address)).await.unwrap());
    }
    until("accepting fails", || counter(&proxy, "l", "downstream_accept_error") > 0).await;
    // Back for all: the upstream shares them, and connections that wait for it would hold every one that the clients leave.
    setrlimit(Resource::Nofile, before).unwrap();
    drop(clients);
    until("connections are gone", || proxy.shared().connections() == 0).await;
    expect(&mut connect(address).await, "a:").await;
}
