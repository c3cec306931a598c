//! Which endpoints come first, and which get how much, by where they and this gateway are.
use crate::api::{istio::locality::LocalitySetting, labels::Labels};
use std::collections::BTreeSet;
use weir_config::model::Endpoint;

/// Where a workload is, in the labels of a Kubernetes node and of Istio.
const PLACES: [&str; 3] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];

/// Region, zone and subzone; empty parts are not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locality([String; 3]);

impl Locality {
    /// `region/zone/subzone`, from the left as far as it is known; `/zone` knows only the zone.
    fn parse(text: &str) -> Locality {
        let mut parts = text.split('/').map(str::to_string);
        Locality(std::array::from_fn(|_| parts.next().unwrap_or_default()))
    }
    /// Of this gateway, by its labels.
    pub fn of(labels: &Labels) -> Locality {
        Locality(PLACES.map(|name| labels.get(name).cloned().unwrap_or_default()))
    }
    pub fn is_known(&self) -> bool {
        self.0.iter().any(|part| !part.is_empty())
    }
    /// `region/zone/*`, `region/*` or `*`; what is left away is any.
    fn matches(&self, pattern: &str) -> bool {
        let wanted = pattern.split('/');
        wanted.zip(&self.0).all(|(wanted, have)| wanted == "*" || wanted == have)
    }
    /// How many steps away, as Istio counts them: 0 in the same subzone, 1 zone, 2 region, 3 elsewhere.
    fn distance(&self, other: &Locality) -> u32 {
        let [region, zone, subzone] = [0, 1, 2].map(|i| self.0[i] == other.0[i]);
        // The zone of an EndpointSlice comes without its region; a zone belongs to one.
        let zone_only = other.0[0].is_empty() && !other.0[1].is_empty() && zone;
        match (region || zone_only, zone, subzone) {
            (true, true, true) => 0,
            (true, true, false) => 1,
            (true, false, _) => 2,
            (false, ..) => 3,
        }
    }
}

/// Gives endpoints their priorities or weights. `own` is where this gateway is, `labels` are its labels; without outlier
/// detection nobody would notice that the nearest fail, so that there are no priorities then (as in Istio).
pub fn apply(setting: Option<&LocalitySetting>, own: &Locality, labels: &Labels, outliers: bool, endpoints: &mut Vec<Endpoint>) {
    let default = LocalitySetting { enabled: true, ..LocalitySetting::default() };
    let setting = setting.unwrap_or(&default);
    if !setting.enabled {
        return;
    }
    if let Some((_, to)) = setting.distribute.iter().find(|(from, _)| own.matches(from)) {
        return spread(to, endpoints);
    }
    if !outliers || !setting.distribute.is_empty() {
        return;
    }
    if !setting.priority.is_empty() {
        rank(endpoints, |e| {
            let agrees = |label: &&String| agrees(label, own, labels, e);
            (setting.priority.len() - setting.priority.iter().take_while(agrees).count()) as u32
        });
    } else if own.is_known() {
        let other = setting.failover.iter().find(|(from, _)| *from == own.0[0]).map(|(_, to)| to);
        rank(endpoints, |e| {
            let place = Locality::parse(e.locality.as_deref().unwrap_or_default());
            match own.distance(&place) {
                3 if other.is_some_and(|to| *to != place.0[0]) => 4,
                distance => distance,
            }
        });
    }
}

/// Whether an endpoint has the value of a label that this gateway has, or the one that is asked for.
fn agrees(label: &str, own: &Locality, labels: &Labels, endpoint: &Endpoint) -> bool {
    let (name, wanted) = label.split_once('=').map_or((label, None), |(name, value)| (name, Some(value)));
    let place = PLACES.iter().position(|p| *p == name);
    let mine = match place {
        Some(i) => Some(own.0[i].as_str()).filter(|part| !part.is_empty()),
        None => labels.get(name).map(String::as_str),
    };
    let Some(wanted) = wanted.or(mine) else { return false };
    match place {
        Some(i) => Locality::parse(endpoint.locality.as_deref().unwrap_or_default()).0[i] == wanted,
        None => endpoint.labels.get(name).is_some_and(|have| have == wanted),
    }
}

/// Priorities from 0 on, without gaps.
fn rank(endpoints: &mut [Endpoint], of: impl Fn(&Endpoint) -> u32) {
    let found: Vec<u32> = endpoints.iter().map(of).collect();
    let order: BTreeSet<u32> = found.iter().copied().collect();
    for (endpoint, found) in endpoints.iter_mut().zip(found) {
        let priority = order.range(..found).count() as u32;
        if endpoint.priority != priority {
            endpoint.priority = priority;
        }
    }
}

/// Finer than percents, as a place's share is divided among its endpoints.
const FINE: u64 = 1000;

/// Each place's share among its endpoints, by their own weights; what no share names gets nothing.
fn spread(to: &[(String, u32)], endpoints: &mut Vec<Endpoint>) {
    // The share of each endpoint's place: the first pattern that it fits.
    let place = |e: &Endpoint| {
        let locality = Locality::parse(e.locality.as_deref().unwrap_or_default());
        to.iter().position(|(pattern, share)| *share > 0 && locality.matches(pattern))
    };
    endpoints.retain(|e| place(e).is_some());
    let places: Vec<Option<usize>> = endpoints.iter().map(place).collect();
    let mut sums = vec![0u64; to.len()];
    for (e, at) in endpoints.iter().zip(&places) {
        at.iter().for_each(|at| sums[*at] += u64::from(e.weight));
    }
    for (e, at) in endpoints.iter_mut().zip(places) {
        if let Some(at) = at {
            let share = u64::from(to[at].1) * FINE * u64::from(e.weight) / sums[at].max(1);
            e.weight = u32::try_from(share.max(1)).unwrap_or(u32::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_config::model::{Address, EndpointOptions};

    fn at(localities: &[&str]) -> Vec<Endpoint> {
        let endpoint = |(i, locality): (usize, &&str)| Endpoint {
            options: EndpointOptions { locality: Some((*locality).into()), ..EndpointOptions::default() }.into(),
            ..Endpoint::new(Address::Socket(([127, 0, 0, 1], i as u16 + 1).into()))
        };
        localities.iter().enumerate().map(endpoint).collect()
    }

    fn on(change: impl FnOnce(&mut LocalitySetting)) -> LocalitySetting {
        let mut setting = LocalitySetting { enabled: true, ..LocalitySetting::default() };
        change(&mut setting);
        setting
    }

    #[test]
    fn the_nearest_come_first() {
        let own = Locality::parse("eu/eu-1/a");
        let all = ["eu/eu-1/a", "eu/eu-1/b", "eu/eu-2/a", "us/us-1/a", "asia/x/a", "", "/eu-1"];
        let priorities = |setting: Option<&LocalitySetting>, own: &Locality, outliers| {
            let mut endpoints = at(&all);
            apply(setting, own, &Labels::new(), outliers, &mut endpoints);
            endpoints.iter().map(|e| e.priority).collect::<Vec<_>>()
        };
        assert_eq!(priorities(None, &own, true), [0, 1, 2, 3, 3, 3, 1]);
        assert_eq!(priorities(None, &own, false), [0; 7]);
        assert_eq!(priorities(None, &Locality::default(), true), [0; 7]);
        assert_eq!(priorities(Some(&on(|s| s.enabled = false)), &own, true), [0; 7]);
        let failover = on(|s| s.failover = vec![("us".into(), "eu".into()), ("eu".into(), "asia".into())]);
        assert_eq!(priorities(Some(&failover), &own, true), [0, 1, 2, 4, 3, 4, 1]);
        // Without gaps.
        let mut few = at(&["us/x/y", "eu/eu-1/a", "us/x/z"]);
        apply(None, &own, &Labels::new(), true, &mut few);
        assert_eq!(few.iter().map(|e| e.priority).collect::<Vec<_>>(), [1, 0, 1]);
    }

    #[test]
    fn labels_may_say_who_comes_first() {
        let own = Locality::parse("eu/eu-1");
        let labels = Labels::from([("team".to_string(), "red".to_string())]);
        let mut endpoints = at(&["eu/eu-1", "eu/eu-2", "eu/eu-1", "us/us-1"]);
        for (endpoint, team) in endpoints.iter_mut().zip(["red", "red", "blue", "red"]) {
            endpoint.labels.insert("team".into(), team.into());
        }
        let setting = on(|s| s.priority = vec!["team".into(), PLACES[0].into(), "topology.kubernetes.io/zone=eu-2".into()]);
        apply(Some(&setting), &own, &labels, true, &mut endpoints);
        assert_eq!(endpoints.iter().map(|e| e.priority).collect::<Vec<_>>(), [1, 0, 3, 2]);
    }

    #[test]
    fn shares_are_divided_among_the_endpoints_of_a_place() {
        let setting = on(|s| {
            s.distribute = vec![
                ("us/*".into(), vec![("us/*".into(), 100)]),
                ("eu/eu-1/*".into(), vec![("eu/eu-1/*".into(), 80), ("eu/eu-2/*".into(), 20), ("asia".into(), 0)]),
            ];
        });
        let mut endpoints = at(&["eu/eu-1/a", "eu/eu-1/b", "eu/eu-2/a", "asia/x/y", "us/x/y"]);
        endpoints[1].weight = 3;
        apply(Some(&setting), &Locality::parse("eu/eu-1/a"), &Labels::new(), false, &mut endpoints);
        assert_eq!(endpoints.iter().map(|e| e.weight).collect::<Vec<_>>(), [20_000, 60_000, 20_000]);
        let mut endpoints = at(&["eu/eu-1/a", "asia/x/y"]);
        apply(Some(&setting), &Locality::parse("asia/x"), &Labels::new(), true, &mut endpoints);
        assert!(endpoints.iter().all(|e| e.weight == 1 && e.priority == 0), "nothing is said of here");
    }
}
