//! The end of a proxy: nothing is lost.
#![allow(clippy::unwrap_used)]
mod common;
use common::*;
use std::{sync::Arc, time::Duration};
use weir_proxy::State;

#[tokio::test]
async fn connections_are_served_to_their_end() {
    let proxy = Arc::new(start_with(|o| (o.drain_time, o.shutdown_timeout) = (Duration::from_secs(5), Duration::from_secs(30))));
    let mut conf = Conf::default();
    conf.cluster("a", upstream("a:").await);
    assert_eq!(proxy.shared().state(), State::PreInitializing);
    proxy.apply(conf.listener("l", loopback(), vec![tcp("c", &[], &[], "a")]).delta()).await;
    assert_eq!(proxy.shared().state(), State::Live);
    let address = address_of(&proxy, "l");
    let mut open = connect(address).await;
    expect(&mut open, "a:").await;
    let ending = tokio::spawn({
        let proxy = proxy.clone();
        async move { proxy.drain_and_stop(Duration::from_secs(5)).await }
    });
    until("it is not ready any more", || proxy.shared().state() == State::Draining).await;
    // New connections are still let in.
    let mut late = connect(address).await;
    expect(&mut late, "a:").await;
    ping(&mut open, "draining").await;
    until("the listener is closed", || std::net::TcpStream::connect(address).is_err()).await;
    ping(&mut open, "still").await;
    ping(&mut late, "still").await;
    assert!(!ending.is_finished());
    drop((open, late));
    within(ending).await.unwrap();
}

#[tokio::test]
async fn waiting_ends() {
    let proxy = start_with(|o| {
        o.drain_time = Duration::from_millis(10);
        o.shutdown_timeout = Duration::from_millis(200);
    });
    let mut conf = Conf::default();
    conf.cluster("a", upstream("a:").await);
    proxy.apply(conf.listener("l", loopback(), vec![tcp("c", &[], &[], "a")]).delta()).await;
    let mut open = connect(address_of(&proxy, "l")).await;
    expect(&mut open, "a:").await;
    within(proxy.drain_and_stop(Duration::from_millis(10))).await;
    assert!(closes(&mut open).await);
}
