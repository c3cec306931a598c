//! Statistics of the connection to a cluster.
/// A statistic, as it is documented.
#[derive(Debug, PartialEq, Eq)]
pub struct Stat {
    pub name: &'static str,
    pub counter: bool,
    /// There is one for each kind.
    pub by_resource: bool,
    pub help: &'static str,
}

const fn stat(name: &'static str, counter: bool, by_resource: bool, help: &'static str) -> Stat {
    Stat { name, counter, by_resource, help }
}

pub static CONNECTED: Stat = stat("control.kubernetes.connected", false, false, "1 while the API server answers");
pub static AGE: Stat =
    stat("control.kubernetes.configuration_age_seconds", false, false, "how long the API server has not answered; 0 while it does");
pub static SYNCED: Stat = stat("control.kubernetes.synced", false, false, "1 once every kind was read");
pub static LEADER: Stat = stat("control.kubernetes.leader", false, false, "1 while this gateway writes the status of objects");
pub static WRITES: Stat = stat("control.kubernetes.status_writes", true, false, "statuses that were written");
pub static CONFLICTS: Stat =
    stat("control.kubernetes.status_conflicts", true, false, "writes of a status that were repeated, as the object had changed");
pub static ERRORS: Stat = stat("control.kubernetes.status_errors", true, false, "writes of a status that failed");
pub static EVENTS: Stat = stat("control.kubernetes.events", true, false, "events that were written for what was found about objects");
pub static SERVICE_WRITES: Stat =
    stat("control.kubernetes.service_writes", true, false, "writes of Services, EndpointSlices and target ports of Gateways");
pub static OBJECTS: Stat = stat("control.kubernetes.objects", false, true, "objects that there are");
pub static LISTS: Stat = stat("control.kubernetes.lists", true, true, "complete lists that were read");
pub static RESTARTS: Stat = stat("control.kubernetes.watch_errors", true, true, "watches that failed and were started again");
pub static EVENT_AGE: Stat = stat("control.kubernetes.last_event_age_seconds", false, true, "time since an object came, changed or went");

/// All of them.
pub static STATS: [&Stat; 13] =
    [&CONNECTED, &AGE, &SYNCED, &LEADER, &WRITES, &CONFLICTS, &ERRORS, &EVENTS, &SERVICE_WRITES, &OBJECTS, &LISTS, &RESTARTS, &EVENT_AGE];

/// The value of a statistic now.
#[derive(Debug)]
pub struct Sample {
    pub stat: &'static Stat,
    /// As `httproutes.gateway.networking.k8s.io`, where there is one for each kind.
    pub resource: Option<String>,
    pub value: u64,
}
