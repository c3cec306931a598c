//! Out of file descriptors: accepting waits and goes on when there are some again. A program of its own, because the
//! limit holds for the whole process.
#![allow(clippy::unwrap_used)]
mod common;
use common::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[tokio::test]
async fn accepting_goes_on_when_descriptors_are_back() {
    let proxy = start();
    let mut conf = Conf::default();
    conf.cluster("a", upstream("a:").await).listener("l", loopback(), vec![tcp("c", &[], &[], "a")]);
    proxy.apply(conf.arc()).await;
    let address = address_of(&proxy, "l");
    expect(&mut connect(address).await, "a:").await;
    let before = getrlimit(Resource::Nofile);
    let used = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    setrlimit(Resource::Nofile, Rlimit { current: Some(used + 8), maximum: before.maximum }).unwrap();
    // Clients take what is left; the kernel lets them in, but nobody can accept them.
    let mut clients = Vec::new();
    until("accepting fails", || {
        clients.extend(std::net::TcpStream::connect(address).ok());
        counter(&proxy, "l", "downstream_accept_error") > 0
    })
    .await;
    drop(clients);
    until("connections are gone", || proxy.shared().connections() == 0).await;
    setrlimit(Resource::Nofile, before).unwrap();
    expect(&mut connect(address).await, "a:").await;
}
