//! A hash ring (as ketama's): each endpoint stands at many places, a request goes to the next place after its hash.
use super::hash::hash_bytes;
use crate::core::mix;

/// No ring is longer, whatever the configuration says: a megabyte and a half per worker.
const LONGEST: u64 = 1 << 17;

#[derive(Default)]
pub(super) struct Ring {
    /// Sorted.
    places: Vec<(u64, u32)>,
}

impl Ring {
    /// Of endpoints with key and weight. An endpoint's places depend on nothing but its key.
    pub fn build<'a>(of: impl Iterator<Item = (u32, &'a str, u64)> + Clone, min: u32, max: u32) -> Ring {
        let (count, total) = of.clone().fold((0u64, 0u64), |(n, t), h| (n + 1, t + h.2));
        let Some(lightest) = of.clone().map(|h| h.2).min() else { return Ring::default() };
        // Places per unit of weight: enough for the least size and for the lightest endpoint. A power of two, so that an
        // endpoint that comes or goes seldom changes the places of the others.
        let longest = u64::from(max).clamp(1, LONGEST).max(count);
        let wanted = u64::from(min).max(total.div_ceil(lightest)).min(longest);
        let per_weight = |bits: u64| if bits >= total { (bits / total).next_power_of_two() as f64 } else { bits as f64 / total as f64 };
        let mut share = per_weight(wanted);
        while share >= 2.0 && share * total as f64 > longest as f64 {
            share /= 2.0;
        }
        let mut places = Vec::with_capacity((share * total as f64) as usize + count as usize);
        for (host, key, weight) in of {
            let seed = hash_bytes(key.as_bytes());
            let copies = ((weight as f64 * share) as u64).max(1);
            places.extend((0..copies).map(|i| (mix(seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15))), host)));
        }
        places.sort_unstable();
        Ring { places }
    }

    /// The endpoint for a hash: the first from there on that is not avoided, or the first of all.
    pub fn find(&self, hash: u64, avoided: impl Fn(u32) -> bool) -> Option<u32> {
        let at = self.places.partition_point(|p| p.0 < hash);
        let around = || self.places[at..].iter().chain(&self.places[..at]).map(|p| p.1);
        around().find(|h| !avoided(*h)).or_else(|| around().next())
    }
}
