//! Statistics of registries; each has the label `registry`.
/// A statistic, as it is documented.
#[derive(Debug, PartialEq, Eq)]
pub struct Stat {
    pub name: &'static str,
    pub counter: bool,
    pub help: &'static str,
}

const fn stat(name: &'static str, counter: bool, help: &'static str) -> Stat {
    Stat { name, counter, help }
}

pub static CONNECTED: Stat = stat("control.registry.connected", false, "1 while the registry answers");
pub static SYNCED: Stat = stat("control.registry.synced", false, "1 once all services of the registry were read");
pub static AGE: Stat = stat("control.registry.age_seconds", false, "how long the registry has not answered; 0 while it does");
pub static SERVICES: Stat = stat("control.registry.services", false, "services that the registry has");
pub static ENDPOINTS: Stat = stat("control.registry.endpoints", false, "endpoints of its services");
pub static ERRORS: Stat = stat("control.registry.errors", true, "connections to the registry that failed or ended");
pub static REFUSED: Stat =
    stat("control.registry.refused", true, "services and endpoints left out: too many, not valid, or at an address that is not allowed");

/// All of them.
pub static STATS: [&Stat; 7] = [&CONNECTED, &SYNCED, &AGE, &SERVICES, &ENDPOINTS, &ERRORS, &REFUSED];

/// The value of a statistic now.
#[derive(Debug)]
pub struct Sample {
    pub stat: &'static Stat,
    /// The name of the registry.
    pub registry: String,
    pub value: u64,
}
