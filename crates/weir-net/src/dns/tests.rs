#![allow(clippy::unwrap_used)]
use super::*;
use weir_test::DnsServer;

fn resolver(server: &DnsServer, family: Family) -> Resolver {
    patient(server, family, Duration::from_secs(30))
}

fn patient(server: &DnsServer, family: Family, timeout: Duration) -> Resolver {
    let options = Options {
        servers: vec![server.address],
        family,
        min_ttl: Duration::from_secs(2),
        max_ttl: Duration::from_secs(100),
        timeout,
        hosts: "/nonexistent".into(),
    };
    Resolver::new(options).unwrap()
}

#[tokio::test]
async fn answers_follow_the_wanted_family_and_the_time_to_live() {
    let server = DnsServer::start();
    server.set("both.test", &["10.0.0.2", "10.0.0.1", "::2"], 30);
    server.set("six.test", &["::6"], 0);
    server.set("long.test", &["10.0.0.9"], 100_000);
    let table: &[(Family, &str, &[&str], u64)] = &[
        (Family::V4Preferred, "both.test", &["10.0.0.1", "10.0.0.2"], 30),
        (Family::V6Preferred, "both.test", &["::2"], 30),
        (Family::All, "both.test", &["10.0.0.1", "10.0.0.2", "::2"], 30),
        (Family::V4Preferred, "six.test", &["::6"], 2),
        (Family::V4Only, "long.test", &["10.0.0.9"], 100),
        (Family::V4Only, "10.1.2.3", &["10.1.2.3"], 100),
        (Family::V4Only, "[::1]", &["::1"], 100),
    ];
    for (family, name, expect, ttl) in table {
        let answer = resolver(&server, *family).lookup(name).await.unwrap();
        let expect: Vec<IpAddr> = expect.iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(answer.addresses, expect, "{name} {family:?}");
        let seconds = answer.ttl.as_secs_f64().round() as u64;
        assert!(seconds <= *ttl && seconds + 10 >= *ttl, "{name}: {:?}", answer.ttl);
    }
}

#[tokio::test]
async fn a_name_without_address_is_not_a_server_without_answer() {
    let server = DnsServer::start();
    server.set("six.test", &["::6"], 5);
    let r = resolver(&server, Family::V4Only);
    assert_eq!(r.lookup("missing.test").await, Err(DnsError::NotFound));
    assert_eq!(r.lookup("six.test").await, Err(DnsError::NotFound));
    server.set("missing.test", &["10.0.0.1"], 5);
    assert!(r.lookup("missing.test").await.is_ok(), "what was missing is asked for anew");
    server.remove("six.test");
    assert_eq!(r.lookup("six.test").await, Err(DnsError::NotFound));
    server.silent.store(true, std::sync::atomic::Ordering::Relaxed);
    let r = patient(&server, Family::V4Only, Duration::from_millis(300));
    assert!(matches!(r.lookup("other.test").await, Err(DnsError::Failed(_))));
}

#[tokio::test]
async fn hosts_and_localhost_need_no_server() {
    let server = DnsServer::start();
    let mut r = resolver(&server, Family::V4Preferred);
    assert_eq!(r.lookup("localhost").await.unwrap().addresses, [IpAddr::from([127, 0, 0, 1])]);
    assert_eq!(r.lookup("a.localhost.").await.unwrap().addresses, [IpAddr::from([127, 0, 0, 1])]);
    let file = std::env::temp_dir().join(format!("weir-hosts-{}", std::process::id()));
    std::fs::write(&file, "# none\n10.9.8.7 Shop shop.test # comment other.test\nbroken line\n::9 shop.test\n").unwrap();
    r.options.hosts = file.clone();
    assert_eq!(r.lookup("SHOP.test").await.unwrap().addresses, ["10.9.8.7".parse::<IpAddr>().unwrap()]);
    assert_eq!(r.lookup("other.test").await, Err(DnsError::NotFound));
    std::fs::remove_file(file).unwrap();
    assert_eq!(server.questions.load(std::sync::atomic::Ordering::Relaxed), 2, "only other.test was asked for");
}
