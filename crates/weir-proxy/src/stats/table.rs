//! Declares statistics: each name once, with its kind and its help text.
use super::Totals;

/// One statistic over all shards.
pub enum Total {
    Counter(u64),
    /// The sum of the workers' gauges.
    Gauge(i64),
    Histogram(Totals),
    /// Counters by status, those that are not 0.
    Codes(Vec<(u16, u64)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Counter,
    Gauge,
    /// Of times, in milliseconds.
    Histogram,
    /// A counter for each status, whose number ends the name.
    Codes,
}

/// A statistic as it is declared.
pub struct Declared {
    /// Without the prefix of its table.
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
}

/// A table of statistics. A value holds the statistics of one name (a cluster, a connection manager): one worker's shard of them, or
/// all of them where workers share a [`SharedCounter`](super::SharedCounter).
pub trait Table: Default + Send + Sync + 'static {
    /// What comes before the name: `cluster`, `http`.
    const PREFIX: &'static str;
    /// The Prometheus label that carries the name.
    const LABEL: &'static str;
    const DECLARED: &'static [Declared];
    /// Adds shards up, in the order of the table.
    fn sum(shards: &[&Self], each: &mut dyn FnMut(&'static Declared, Total));
}

macro_rules! total {
    (Counter, $shards:ident, $id:ident) => {
        Total::Counter($shards.iter().map(|s| s.$id.get()).sum())
    };
    (SharedCounter, $shards:ident, $id:ident) => {
        Total::Counter($shards.iter().map(|s| s.$id.get()).sum())
    };
    (Gauge, $shards:ident, $id:ident) => {
        Total::Gauge($shards.iter().map(|s| s.$id.get()).sum())
    };
    (Histogram, $shards:ident, $id:ident) => {
        Total::Histogram(Totals::of($shards.iter().map(|s| &s.$id)))
    };
    (Codes, $shards:ident, $id:ident) => {
        Total::Codes(Codes::sum($shards.iter().map(|s| &s.$id)))
    };
}

macro_rules! kind {
    (SharedCounter) => {
        Kind::Counter
    };
    ($kind:ident) => {
        Kind::$kind
    };
}

/// `field: cell = "name" "help"`, once for the code, for `/stats` and for the documentation. Groups have a declaration of their own.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $label:literal; $($id:ident: $kind:ident = $text:literal $help:literal,)* $(; $group:ident: $of:ident,)*) => {
        $(#[$doc])*
        #[derive(Default)]
        pub struct $name { $(#[doc = $help] pub $id: $kind,)* $(pub $group: $of,)* }
        impl Table for $name {
            const PREFIX: &'static str = $prefix;
            const LABEL: &'static str = $label;
            const DECLARED: &'static [Declared] = &[$(Declared { name: $text, kind: kind!($kind), help: $help },)*];
            fn sum(shards: &[&Self], each: &mut dyn FnMut(&'static Declared, Total)) {
                let mut declared = Self::DECLARED.iter();
                $(if let Some(d) = declared.next() { each(d, total!($kind, shards, $id)); })*
                $($of::sum(&shards.iter().map(|s| &s.$group).collect::<Vec<_>>(), each);)*
            }
        }
    };
}

pub(super) use {kind, table, total};
