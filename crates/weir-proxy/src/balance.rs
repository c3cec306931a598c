//! Chooses an endpoint: facts about endpoints in, an index out. One balancer per worker and cluster, rebuilt when the
//! endpoints change and refreshed when ejections do.
mod hash;
mod maglev;
mod ring;

pub use hash::{NewCookie, for_split, hash_bytes, hash_connection, hash_request};

use crate::core::{Random, mix};
use maglev::Maglev;
use ring::Ring;
use std::{cmp::Reverse, collections::BinaryHeap};
use weir_config::model::{HealthStatus, LbPolicy};

/// One endpoint as its source describes it.
#[derive(Clone, Debug)]
pub struct Host<'a> {
    /// Its address as text: where it stands on the ring and in the table.
    pub key: &'a str,
    pub weight: u32,
    pub priority: u32,
    pub health: HealthStatus,
}

/// What one choice is made by.
pub struct Pick<'a> {
    /// For consistent hashing; `None` chooses at random.
    pub hash: Option<u64>,
    /// Requests under way to an endpoint.
    pub active: &'a dyn Fn(usize) -> u32,
    /// Endpoints that this request has tried: another one is taken where there is one.
    pub avoid: &'a [usize],
}

pub struct Balancer {
    policy: LbPolicy,
    hosts: Vec<Member>,
    levels: Vec<Level>,
    /// Percents of requests per level, adding up to 100; empty if nothing is usable.
    loads: Vec<u32>,
    panic_percent: u32,
    random: Random,
    /// The last choice was among all endpoints, because too few are usable.
    panicking: bool,
}

struct Member {
    key: Box<str>,
    /// As its source has it.
    given: u32,
    /// As it counts now.
    weight: u32,
    health: HealthStatus,
}

/// A weight while some endpoints have only a part of theirs.
const WHOLE: f64 = 100.0;

/// The endpoints of one priority.
#[derive(Default)]
struct Level {
    all: Vec<u32>,
    /// Those to choose from, and their weights added up from the first on.
    ready: Vec<u32>,
    sums: Vec<u64>,
    equal: bool,
    next: usize,
    panic: bool,
    /// Earliest due first, for round robin among unequal weights.
    due: BinaryHeap<Reverse<(u64, u32)>>,
    ring: Ring,
    maglev: Maglev,
}

/// The share of healthy endpoints at which a level still takes all its requests, in percent (Envoy's overprovisioning factor).
const OVERPROVISIONING: u64 = 140;

impl Balancer {
    /// `panic_percent`: a level with a smaller share of usable endpoints uses all that do not drain
    /// (`min_health_percent`; 0 never does).
    pub fn new<'a>(policy: &LbPolicy, hosts: impl IntoIterator<Item = Host<'a>>, panic_percent: u32, seed: u64) -> Balancer {
        let mut members = Vec::new();
        let mut levels = std::collections::BTreeMap::<u32, Level>::new();
        for host in hosts {
            levels.entry(host.priority).or_default().all.push(members.len() as u32);
            let weight = host.weight.clamp(1, 1 << 20);
            members.push(Member { key: host.key.into(), given: weight, weight, health: host.health });
        }
        let levels = levels.into_values().collect();
        let (policy, random) = (policy.clone(), Random::new(seed));
        let mut out = Balancer { policy, hosts: members, levels, loads: Vec::new(), panic_percent, random, panicking: false };
        out.refresh(&|_| true, None);
        out
    }

    /// Takes account of ejections: `usable` is false for those that are out; `share` is the part of its weight, up to 1, that
    /// an endpoint has while it is new. Consistent hashing knows no such parts, as endpoints would move all the time.
    pub fn refresh(&mut self, usable: &dyn Fn(usize) -> bool, share: Option<&dyn Fn(usize) -> f64>) {
        let warms = matches!(self.policy, LbPolicy::RoundRobin | LbPolicy::LeastRequest { .. });
        for (i, member) in self.hosts.iter_mut().enumerate() {
            member.weight = match share.filter(|_| warms) {
                Some(share) => ((f64::from(member.given) * WHOLE * share(i)) as u32).max(1),
                None => member.given,
            };
        }
        let mut health = Vec::with_capacity(self.levels.len());
        for level in &mut self.levels {
            let hosts = &self.hosts;
            let fits = |h: &&u32| hosts[**h as usize].health == HealthStatus::Healthy && usable(**h as usize);
            let mut ready: Vec<u32> = level.all.iter().filter(fits).copied().collect();
            let staying = |h: &&u32| hosts[**h as usize].health != HealthStatus::Draining;
            let staying: Vec<u32> = level.all.iter().filter(staying).copied().collect();
            let share = if staying.is_empty() { 0 } else { ready.len() as u64 * 100 / staying.len() as u64 };
            let mut percent = (ready.len() as u64 * OVERPROVISIONING / staying.len().max(1) as u64).min(100);
            level.panic = share < u64::from(self.panic_percent) && !staying.is_empty();
            if level.panic {
                (ready, percent) = (staying, percent.max(1));
            }
            health.push(percent);
            level.set(ready, hosts, &self.policy, &mut self.random);
        }
        self.loads = loads(&health);
    }

    /// The endpoint for a request; `None` if none is usable: 503 with the flag `UH`.
    pub fn pick(&mut self, pick: &Pick<'_>) -> Option<usize> {
        let level = self.level(pick)?;
        let (level, random) = (&mut self.levels[level], &mut self.random);
        self.panicking = level.panic;
        let avoided = |h: u32| pick.avoid.contains(&(h as usize));
        let found = match (&self.policy, pick.hash) {
            (LbPolicy::RingHash { .. }, Some(hash)) => level.ring.find(hash, avoided),
            (LbPolicy::Maglev { .. }, Some(hash)) => level.maglev.find(hash, avoided),
            (LbPolicy::RoundRobin, _) => level.round_robin(&self.hosts, avoided),
            (LbPolicy::LeastRequest { choice_count }, _) => {
                level.least_request(&self.hosts, (*choice_count).max(1), random, avoided, pick.active)
            }
            (LbPolicy::Random | LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. }, _) => level.random(random, avoided),
        };
        found.map(|h| h as usize)
    }

    /// The priority to choose from, by its share; the same one for the same hash.
    fn level(&mut self, pick: &Pick<'_>) -> Option<usize> {
        if let [100] = self.loads[..] {
            return Some(0);
        }
        let at = pick.hash.map_or_else(|| self.random.next(), mix);
        let mut at = ((u128::from(at) * 100) >> 64) as u32;
        self.loads.iter().position(|load| {
            let here = at < *load;
            at = at.saturating_sub(*load);
            here
        })
    }

    /// Whether the last choice was among all endpoints, because too few are usable.
    pub fn is_panicking(&self) -> bool {
        self.panicking
    }
    pub fn len(&self) -> usize {
        self.hosts.len()
    }
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }
}

/// Shares of the levels, in percent, by their health: each takes what those before it cannot.
fn loads(health: &[u64]) -> Vec<u32> {
    let total = health.iter().sum::<u64>().min(100);
    if total == 0 {
        return Vec::new();
    }
    let mut left = 100;
    let mut out: Vec<u32> = health
        .iter()
        .map(|h| {
            let share = (h * 100 / total).min(left);
            left -= share;
            share as u32
        })
        .collect();
    // What rounding lost goes to the first that is used.
    if let Some(first) = out.iter_mut().find(|l| **l > 0) {
        *first += left as u32;
    }
    out
}

impl Level {
    fn set(&mut self, ready: Vec<u32>, hosts: &[Member], policy: &LbPolicy, random: &mut Random) {
        let weight = |h: &u32| u64::from(hosts[*h as usize].weight);
        self.equal = ready.windows(2).all(|w| weight(&w[0]) == weight(&w[1]));
        let mut sum = 0;
        let sums = ready.iter().map(|h| {
            sum += weight(h);
            sum
        });
        self.sums = sums.collect();
        // Workers must not all begin with the same endpoint.
        self.next = if ready.is_empty() { 0 } else { random.below(ready.len() as u64) as usize };
        self.due.clear();
        if matches!(policy, LbPolicy::RoundRobin) && !self.equal {
            self.due.extend(ready.iter().map(|h| Reverse((random.below(ROUND / weight(h)), *h))));
        }
        let of = ready.iter().map(|h| (*h, &*hosts[*h as usize].key, weight(h)));
        match policy {
            LbPolicy::RingHash { minimum_ring_size, maximum_ring_size } => {
                self.ring = Ring::build(of, *minimum_ring_size, *maximum_ring_size);
            }
            LbPolicy::Maglev { table_size } => self.maglev = Maglev::build(of, *table_size),
            _ => {}
        }
        self.ready = ready;
    }

    fn round_robin(&mut self, hosts: &[Member], avoided: impl Fn(u32) -> bool) -> Option<u32> {
        let mut last = None;
        for _ in 0..self.ready.len() {
            let host = if self.equal {
                self.next = (self.next + 1) % self.ready.len();
                self.ready[self.next]
            } else {
                let Reverse((at, host)) = self.due.pop()?;
                self.due.push(Reverse((at + ROUND / u64::from(hosts[host as usize].weight), host)));
                host
            };
            if !avoided(host) {
                return Some(host);
            }
            last = Some(host);
        }
        last
    }

    fn draw(&self, random: &mut Random) -> Option<u32> {
        if self.equal {
            return (!self.ready.is_empty()).then(|| self.ready[random.below(self.ready.len() as u64) as usize]);
        }
        let at = random.below(*self.sums.last()?);
        Some(self.ready[self.sums.partition_point(|s| *s <= at)])
    }

    fn random(&self, random: &mut Random, avoided: impl Fn(u32) -> bool) -> Option<u32> {
        let drawn = self.draw(random)?;
        if !avoided(drawn) {
            return Some(drawn);
        }
        let start = random.below(self.ready.len() as u64) as usize;
        let others = self.ready[start..].iter().chain(&self.ready[..start]);
        others.copied().find(|h| !avoided(*h)).or(Some(drawn))
    }

    fn least_request(
        &self,
        hosts: &[Member],
        choices: u32,
        random: &mut Random,
        avoided: impl Fn(u32) -> bool,
        active: &dyn Fn(usize) -> u32,
    ) -> Option<u32> {
        let mut best = self.random(random, &avoided)?;
        let busy = |h: u32, other: u32| u64::from(active(h as usize)) * u64::from(hosts[other as usize].weight);
        for _ in 1..choices.min(self.ready.len() as u32 * 2) {
            let other = self.random(random, &avoided)?;
            // Drawn by weight already: equals stay with the first, so that idle endpoints are used by weight.
            if other != best && !avoided(other) && busy(other, best) < busy(best, other) {
                best = other;
            }
        }
        Some(best)
    }
}

/// The time between two turns of an endpoint of weight 1.
const ROUND: u64 = 1 << 32;

#[cfg(test)]
mod tests;
