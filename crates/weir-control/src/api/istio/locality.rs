//! `localityLbSetting`: which endpoints come first, and which get how much, by where they are.
use super::read::At;
use weir_config::reader::Field;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct LocalitySetting {
    pub enabled: bool,
    pub distribute: Vec<(String, Vec<(String, u32)>)>,
    /// Regions, from and to.
    pub failover: Vec<(String, String)>,
    /// Labels, the weightiest first, each perhaps with `=value`.
    pub priority: Vec<String>,
    pub at: At,
}

pub fn decode(field: &Field<'_>) -> Option<LocalitySetting> {
    let object = field.object()?;
    let distribute = object.list("distribute").iter().filter_map(distribution).collect::<Vec<_>>();
    let pair = |f: &Field<'_>| {
        let o = f.object()?;
        Some((o.required("from")?.str()?.to_string(), o.required("to")?.str()?.to_string()))
    };
    let failover: Vec<_> = object.list("failover").iter().filter_map(pair).collect();
    if !distribute.is_empty() && !failover.is_empty() {
        field.invalid("says both distribute and failover", "one of them");
    }
    Some(LocalitySetting {
        enabled: object.bool("enabled").unwrap_or(true),
        distribute,
        failover,
        priority: object.strings("failoverPriority"),
        at: At::of(field),
    })
}

fn distribution(field: &Field<'_>) -> Option<(String, Vec<(String, u32)>)> {
    let object = field.object()?;
    let from = object.required("from")?.str()?.to_string();
    let share = |(name, f): (&str, Field<'_>)| Some((name.to_string(), u32::try_from(f.int(0..=100)?).ok()?));
    let to: Vec<_> = object.entries("to").into_iter().filter_map(share).collect();
    let sum: u32 = to.iter().map(|(_, weight)| weight).sum();
    if sum != 100 {
        field.invalid(format!("the weights under to come to {sum}"), "weights that come to 100");
    }
    Some((from, to))
}
