#![allow(clippy::unwrap_used)]
use super::*;

fn hosts(weights: &[u32]) -> Vec<(String, u32)> {
    weights.iter().enumerate().map(|(i, w)| (format!("10.0.0.{i}:80"), *w)).collect()
}

fn balancer(policy: LbPolicy, weights: &[u32]) -> Balancer {
    of(policy, &hosts(weights))
}

fn of(policy: LbPolicy, hosts: &[(String, u32)]) -> Balancer {
    let hosts = hosts.iter().map(|h| Host { key: &h.0, weight: h.1, priority: 0, health: HealthStatus::Healthy });
    Balancer::new(&policy, hosts, 0, 42)
}

const PLAIN: Pick<'_> = Pick { hash: None, active: &|_| 0, avoid: &[] };

fn counts(b: &mut Balancer, picks: usize) -> Vec<usize> {
    let mut out = vec![0; b.len()];
    (0..picks).for_each(|_| out[b.pick(&PLAIN).unwrap()] += 1);
    out
}

/// Chi-square against shares by weight must stay below a bound that a fair choice passes with overwhelming odds.
fn assert_fair(counts: &[usize], weights: &[u32]) {
    let (picks, total) = (counts.iter().sum::<usize>() as f64, weights.iter().sum::<u32>());
    let chi: f64 = counts
        .iter()
        .zip(weights)
        .map(|(c, w)| {
            let expected = picks * f64::from(*w) / f64::from(total);
            (*c as f64 - expected).powi(2) / expected
        })
        .sum();
    assert!(chi < 10.0 + 6.0 * weights.len() as f64, "chi-square {chi}: {counts:?} for {weights:?}");
}

const RING: LbPolicy = LbPolicy::RingHash { minimum_ring_size: 1024, maximum_ring_size: 8 << 20 };
const MAGLEV: LbPolicy = LbPolicy::Maglev { table_size: 65_537 };

#[test]
fn every_policy_is_fair() {
    let least = LbPolicy::LeastRequest { choice_count: 2 };
    for policy in [LbPolicy::RoundRobin, least, LbPolicy::Random, RING, MAGLEV] {
        for weights in [&[1, 1, 1, 1, 1][..], &[1, 2, 3, 10], &[7], &[128, 1]] {
            assert_fair(&counts(&mut balancer(policy.clone(), weights), 10_000), weights);
        }
    }
}

#[test]
fn round_robin_takes_turns() {
    let mut b = balancer(LbPolicy::RoundRobin, &[1, 1, 1]);
    assert_eq!(counts(&mut b, 300), [100, 100, 100]);
    // A heavy one is not asked many times in a row.
    let mut b = balancer(LbPolicy::RoundRobin, &[2, 1, 1]);
    let picks: Vec<_> = (0..40).map(|_| b.pick(&PLAIN).unwrap()).collect();
    assert!(picks.windows(4).all(|w| w.iter().filter(|p| **p == 0).count() <= 3), "{picks:?}");
}

#[test]
fn least_request_prefers_the_idle() {
    let mut b = balancer(LbPolicy::LeastRequest { choice_count: 2 }, &[1; 4]);
    let active = |h: usize| if h == 0 { 50 } else { 1 };
    let busy = (0..10_000).filter(|_| b.pick(&Pick { active: &active, ..PLAIN }) == Some(0)).count();
    // Only when both choices fell on it: one in sixteen.
    assert!(busy < 1_000, "{busy}");
}

#[test]
fn a_hash_stays_with_its_host() {
    let (before, mut after) = (hosts(&[1; 10]), hosts(&[1; 10]));
    after.remove(4);
    for policy in [RING, MAGLEV] {
        let (mut a, mut b) = (of(policy.clone(), &before), of(policy.clone(), &after));
        let mut moved = 0;
        for key in 0..10_000u32 {
            let hash = Some(hash_bytes(&key.to_le_bytes()));
            let one = a.pick(&Pick { hash, ..PLAIN }).unwrap();
            assert_eq!(a.pick(&Pick { hash, ..PLAIN }).unwrap(), one);
            let other = b.pick(&Pick { hash, ..PLAIN }).unwrap();
            moved += i32::from(before[one].0 != after[other].0);
        }
        assert!((500..=1_500).contains(&moved), "{policy:?}: {moved} of 10,000 keys moved");
    }
}

#[test]
fn a_maglev_table_is_even_and_follows_weights() {
    let shares = |weights: &[u32], size| {
        let mut b = balancer(LbPolicy::Maglev { table_size: size }, weights);
        let mut counts = vec![0usize; weights.len()];
        for place in 0..u64::from(size) {
            counts[b.pick(&Pick { hash: Some(place), ..PLAIN }).unwrap()] += 1;
        }
        counts
    };
    // Shares differ by a place or two, where a ring's differ by a tenth.
    let even = shares(&[1; 10], 65_537);
    assert!(even.iter().all(|c| c.abs_diff(6_553) <= 2), "{even:?}");
    let weighed = shares(&[1, 3, 6], 10_007);
    assert!(weighed.iter().zip([1_000usize, 3_002, 6_004]).all(|(c, w)| c.abs_diff(w) <= 6), "{weighed:?}");
    // Whatever the size is, every place is someone's.
    for size in [1, 2, 3, 12, 100] {
        assert_eq!(shares(&[1; 5], size).iter().sum::<usize>(), size as usize);
    }
    // The order of the list says nothing.
    let mut turned = hosts(&[1; 10]);
    turned.reverse();
    let (mut a, mut b) = (balancer(MAGLEV, &[1; 10]), of(MAGLEV, &turned));
    for key in 0..1_000 {
        let pick = Pick { hash: Some(crate::core::mix(key)), ..PLAIN };
        assert_eq!(a.pick(&pick).map(|h| 9 - h), b.pick(&pick));
    }
}

#[test]
fn rings_are_bounded_and_spread() {
    let mut b = balancer(LbPolicy::RingHash { minimum_ring_size: u32::MAX, maximum_ring_size: u32::MAX }, &[1, 1, 1]);
    let mut counts = [0; 3];
    for key in 0..9_000u32 {
        counts[b.pick(&Pick { hash: Some(hash_bytes(&key.to_le_bytes())), ..PLAIN }).unwrap()] += 1;
    }
    assert!(counts.iter().all(|c| (2_700..3_300).contains(c)), "{counts:?}");
    // Every endpoint has a place, however small the ring is to be.
    let mut b = balancer(LbPolicy::RingHash { minimum_ring_size: 1, maximum_ring_size: 1 }, &[1; 20]);
    let reached: std::collections::HashSet<_> = (0..9_000).map(|k| b.pick(&Pick { hash: Some(crate::core::mix(k)), ..PLAIN })).collect();
    assert_eq!(reached.len(), 20);
}

#[test]
fn tried_hosts_are_avoided_where_others_are_left() {
    for policy in [LbPolicy::RoundRobin, LbPolicy::LeastRequest { choice_count: 2 }, LbPolicy::Random, RING, MAGLEV] {
        for weights in [[1, 1, 1], [1, 2, 3]] {
            let mut b = balancer(policy.clone(), &weights);
            for hash in [None, Some(7), Some(u64::MAX)] {
                let pick = Pick { hash, avoid: &[0, 2], ..PLAIN };
                (0..50).for_each(|_| assert_eq!(b.pick(&pick), Some(1), "{policy:?}"));
                assert!(b.pick(&Pick { hash, avoid: &[0, 1, 2], ..PLAIN }).is_some());
            }
        }
    }
}

fn prioritised(spec: &[(u32, HealthStatus)], panic: u32) -> Balancer {
    let hosts = spec.iter().map(|(priority, health)| Host { key: "x", weight: 1, priority: *priority, health: *health });
    Balancer::new(&LbPolicy::Random, hosts, panic, 1)
}

#[test]
fn priorities_spill_over_as_health_falls() {
    use HealthStatus::*;
    let shares = |b: &mut Balancer| b.pick(&PLAIN).map(|_| counts(b, 10_000));
    let mut b = prioritised(&[(0, Healthy), (1, Healthy)], 0);
    assert_eq!(shares(&mut b), Some(vec![10_000, 0]));
    // Half of it healthy still takes 70 %.
    let mut b = prioritised(&[(0, Healthy), (0, Unhealthy), (5, Healthy)], 0);
    let c = shares(&mut b).unwrap();
    assert!((6_700..7_300).contains(&c[0]) && c[1] == 0, "{c:?}");
    let mut b = prioritised(&[(0, Unhealthy), (1, Healthy)], 0);
    assert_eq!(shares(&mut b), Some(vec![0, 10_000]));
    let mut b = prioritised(&[(0, Unhealthy), (0, Draining)], 0);
    assert_eq!(b.pick(&PLAIN), None);
    // In panic all are used but those that drain.
    let mut b = prioritised(&[(0, Unhealthy), (0, Draining), (0, Unhealthy)], 50);
    let c = shares(&mut b).unwrap();
    assert!(c[0] > 4_000 && c[1] == 0 && c[2] > 4_000, "{c:?}");
    assert_eq!(Balancer::new(&LbPolicy::Random, [], 0, 1).pick(&PLAIN), None);
}

#[test]
fn ejected_hosts_get_nothing_until_they_are_back() {
    for policy in [LbPolicy::RoundRobin, LbPolicy::LeastRequest { choice_count: 2 }, LbPolicy::Random, RING, MAGLEV] {
        let mut b = balancer(policy, &[1, 1, 3, 1]);
        b.refresh(&|h| h != 2, None);
        let c = counts(&mut b, 1_000);
        assert!(c[2] == 0 && c[0] > 0 && c[1] > 0 && c[3] > 0, "{c:?}");
        b.refresh(&|_| true, None);
        assert!(counts(&mut b, 1_000)[2] > 0);
    }
}

#[test]
fn new_hosts_get_a_part_of_their_share() {
    let share = |h: usize| if h == 1 { 0.1 } else { 1.0 };
    for (policy, fewer) in [(LbPolicy::RoundRobin, true), (LbPolicy::LeastRequest { choice_count: 2 }, true), (LbPolicy::Random, false)] {
        let mut b = balancer(policy.clone(), &[1, 1]);
        b.refresh(&|_| true, Some(&share));
        let c = counts(&mut b, 11_000);
        assert!(if fewer { (700..1_300).contains(&c[1]) } else { c[1] > 5_000 }, "{policy:?}: {c:?}");
        b.refresh(&|_| true, None);
        assert!(counts(&mut b, 1_000)[1] > 400);
    }
    let slow = weir_config::model::SlowStart { window: std::time::Duration::from_secs(100), aggression: 1.0, min_weight_percent: 10.0 };
    let at = |seconds| (slow.share(std::time::Duration::from_secs(seconds)) * 100.0).round() as u32;
    assert_eq!([0, 5, 10, 50, 100, 1000].map(at), [10, 10, 10, 50, 100, 100]);
    // Faster at first.
    let fast = weir_config::model::SlowStart { aggression: 2.0, ..slow };
    assert_eq!((fast.share(std::time::Duration::from_secs(25)) * 100.0).round() as u32, 50);
}

#[test]
fn requests_hash_by_the_first_source_that_has_one() {
    use crate::head_access::fake::Request;
    use weir_config::model::{HashOf, HashPolicy};
    let step = |of, terminal| HashPolicy { of, terminal };
    let ip = "10.1.2.3".parse().unwrap();
    let header = || step(HashOf::Header("x-user".into()), false);
    let r = Request::get("a", "/?u=7").with("x-user", "7").with("cookie", "s=7");
    let of = |steps: &[HashPolicy], r: &Request| hash_request(steps, r, ip, 99).0;
    let seven = Some(hash_bytes(b"7"));
    assert_eq!(of(&[header(), step(HashOf::SourceIp, false)], &r), seven);
    assert_eq!(of(&[step(HashOf::QueryParameter("u".into()), false)], &r), seven);
    let bare = Request::get("a", "/");
    assert_eq!(of(&[header(), step(HashOf::SourceIp, false)], &bare), Some(hash_bytes(&[10, 1, 2, 3])));
    assert_eq!(of(&[step(HashOf::Header("x-user".into()), true), step(HashOf::SourceIp, false)], &bare), None);
    let cookie = |ttl| [step(HashOf::Cookie { name: "s".into(), path: "/".into(), ttl }, false)];
    assert_eq!(of(&cookie(None), &r), seven);
    assert_eq!(hash_request(&cookie(None), &bare, ip, 99), (None, None));
    let (hash, new) = hash_request(&cookie(Some(std::time::Duration::from_secs(60))), &bare, ip, 99);
    let header = new.unwrap().header();
    assert_eq!(header, "s=\"0000000000000063\"; Max-Age=60; Path=/; HttpOnly");
    // The client that sends it back stays where it was.
    let again = Request::get("a", "/").with("cookie", header.split(';').next().unwrap());
    assert_eq!(of(&cookie(None), &again), hash);
}
