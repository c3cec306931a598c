//! Compiled configurations of filters: the list of a connection manager, and what virtual hosts and routes have in place of its entries.
use super::{basic_auth::BasicAuthRt, cors::CorsRt, local_rate_limit::LocalRateLimitRt, rbac::RbacRt};
use crate::{
    plugin::PluginSlot,
    route::matcher::{Invalid, Patterns},
};
use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    mem::discriminant,
    sync::Arc,
};
use weir_config::model::{Compressor, Fault, FilterOverride, HttpFilter, HttpFilterConfig, Name, PerFilterConfig};

/// What a filter may want of a body and its trailers. Joined over the filters of a route when they are compiled; the head of a message
/// can only leave less of it (a response that is not compressed, a plugin without callbacks for bodies).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum BodyMode {
    /// It passes unread.
    #[default]
    None,
    /// Piece by piece, as it comes.
    Stream,
    /// In one piece. The chain holds the head and the body until the body is complete, within `buffer_limit_bytes`.
    Whole,
}

/// What all of them want together, of the request's body and of the response's.
fn join(all: impl Iterator<Item = [BodyMode; 2]>) -> [BodyMode; 2] {
    all.fold(Default::default(), |[request, response], [a, b]| [request.max(a), response.max(b)])
}

/// A compiled [`HttpFilterConfig`].
#[derive(Clone)]
pub enum FilterConfig {
    BasicAuth(Arc<BasicAuthRt>),
    Compressor(Arc<Compressor>),
    Cors(Arc<CorsRt>),
    Fault(Arc<Fault>),
    Rbac(Arc<RbacRt>),
    LocalRateLimit(Arc<LocalRateLimitRt>),
    Wasm(Arc<PluginSlot>),
}

impl FilterConfig {
    /// `None` for a plugin, whose place is looked up elsewhere. The error is about a regular expression.
    fn compile(of: &HttpFilterConfig, patterns: &mut Patterns) -> Result<Option<FilterConfig>, Invalid> {
        Ok(Some(match of {
            HttpFilterConfig::BasicAuth(config) => FilterConfig::BasicAuth(Arc::new(BasicAuthRt::compile(config))),
            HttpFilterConfig::Cors(config) => FilterConfig::Cors(Arc::new(CorsRt::compile(config, patterns)?)),
            HttpFilterConfig::Compressor(config) => FilterConfig::Compressor(config.clone()),
            HttpFilterConfig::Fault(config) => FilterConfig::Fault(config.clone()),
            HttpFilterConfig::Rbac(config) => FilterConfig::Rbac(Arc::new(RbacRt::compile(config, patterns)?)),
            HttpFilterConfig::LocalRateLimit(config) => FilterConfig::LocalRateLimit(Arc::new(LocalRateLimitRt::compile(config))),
            HttpFilterConfig::Wasm(_) => return Ok(None),
        }))
    }

    /// Of the request and the response. No filter needs `Whole` yet: a plugin decides call by call, and holds what it wants itself.
    pub fn bodies(&self) -> [BodyMode; 2] {
        match self {
            FilterConfig::Compressor(_) => [BodyMode::None, BodyMode::Stream],
            FilterConfig::Wasm(_) => [BodyMode::Stream; 2],
            FilterConfig::BasicAuth(_)
            | FilterConfig::Cors(_)
            | FilterConfig::Fault(_)
            | FilterConfig::Rbac(_)
            | FilterConfig::LocalRateLimit(_) => [BodyMode::None; 2],
        }
    }
}

/// A filter's name as a number: requests compare no texts.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FilterId(u64);

impl FilterId {
    fn of(name: &Name) -> FilterId {
        FilterId(BuildHasherDefault::<DefaultHasher>::default().hash_one(&**name))
    }
}

impl Override {
    fn bodies(&self) -> [BodyMode; 2] {
        match self {
            Override::Config(config) => config.bodies(),
            Override::Enabled => [BodyMode::Stream; 2],
            Override::Disabled => [BodyMode::None; 2],
        }
    }
}

/// What a route has in place of the configurations in the list. It includes what its virtual host has.
#[derive(Clone, Default)]
pub struct Overrides(Option<Arc<Entries>>);

struct Entries {
    list: Box<[(FilterId, Override)]>,
    /// What the filters of the list may want.
    bodies: [BodyMode; 2],
}

#[derive(Clone)]
enum Override {
    Config(FilterConfig),
    /// A plugin that the list disables runs.
    Enabled,
    Disabled,
}

fn invalid(filter: &Name, why: Invalid) -> Invalid {
    Invalid::Filter { name: filter.clone(), why: Box::new(why) }
}

impl Overrides {
    /// The error says which filter's configuration cannot be used.
    pub fn compile(of: &PerFilterConfig, host: &Overrides, patterns: &mut Patterns) -> Result<Overrides, Invalid> {
        if of.is_empty() {
            return Ok(host.clone());
        }
        let mut entries = Vec::with_capacity(of.len() + host.entries().len());
        for (name, entry) in &**of {
            let entry = match entry {
                FilterOverride::Disabled => Override::Disabled,
                FilterOverride::Config(config) => {
                    let compiled = FilterConfig::compile(config, patterns).map_err(|why| invalid(name, why))?;
                    compiled.map_or(Override::Enabled, Override::Config)
                }
            };
            entries.push((FilterId::of(name), entry));
        }
        let own = entries.len();
        for entry in host.entries() {
            if !entries[..own].iter().any(|(id, _)| *id == entry.0) {
                entries.push(entry.clone());
            }
        }
        let bodies = join(entries.iter().map(|(_, entry)| entry.bodies()));
        Ok(Overrides(Some(Arc::new(Entries { list: entries.into(), bodies }))))
    }

    fn entries(&self) -> &[(FilterId, Override)] {
        self.0.as_ref().map_or(&[], |entries| &entries.list)
    }

    fn get(&self, id: FilterId) -> Option<&Override> {
        self.entries().iter().find(|(other, _)| *other == id).map(|(_, entry)| entry)
    }
}

/// The compiled `http_filters` of a connection manager.
#[derive(Default)]
pub struct FilterList {
    filters: Box<[Listed]>,
    /// Positions of those that run where the route says nothing about them.
    on_by_default: Box<[usize]>,
    /// What these may want.
    bodies: [BodyMode; 2],
    pub has_plugins: bool,
}

struct Listed {
    of: HttpFilter,
    id: FilterId,
    config: FilterConfig,
}

impl FilterList {
    /// What did not change is that of `before`, with its state. `plugin` finds the places of plugins; one that is missing is left out. The
    /// error says which filter's configuration cannot be used.
    pub fn compile(
        of: &[HttpFilter],
        before: Option<&Arc<FilterList>>,
        plugin: impl Fn(&Name) -> Option<Arc<PluginSlot>>,
    ) -> Result<Arc<FilterList>, Invalid> {
        let mut patterns = Patterns::default();
        let mut filters = Vec::with_capacity(of.len());
        let mut same = before.is_some();
        for filter in of {
            let old = before.and_then(|b| b.filters.iter().find(|l| l.of == *filter));
            let config = match (&filter.config, old) {
                (HttpFilterConfig::Wasm(name), _) => plugin(name).map(FilterConfig::Wasm),
                (_, Some(old)) => Some(old.config.clone()),
                (config, None) => FilterConfig::compile(config, &mut patterns).map_err(|why| invalid(&filter.name, why))?,
            };
            let Some(config) = config else { continue };
            same &= match (old.map(|o| &o.config), &config) {
                (Some(FilterConfig::Wasm(old)), FilterConfig::Wasm(new)) => Arc::ptr_eq(old, new),
                (old, _) => old.is_some(),
            };
            filters.push(Listed { of: filter.clone(), id: FilterId::of(&filter.name), config });
        }
        let in_order = |b: &Arc<FilterList>| b.filters.iter().map(|l| &l.of).eq(filters.iter().map(|l| &l.of));
        if let Some(before) = before.filter(|b| same && in_order(b)) {
            return Ok(before.clone());
        }
        let on_by_default = filters.iter().enumerate().filter(|(_, l)| !l.of.disabled).map(|(position, _)| position).collect();
        let bodies = join(filters.iter().filter(|l| !l.of.disabled).map(|l| l.config.bodies()));
        let has_plugins = filters.iter().any(|l| matches!(l.config, FilterConfig::Wasm(_)));
        Ok(Arc::new(FilterList { filters: filters.into(), on_by_default, bodies, has_plugins }))
    }

    pub fn len(&self) -> usize {
        self.filters.len()
    }

    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    pub fn name(&self, position: usize) -> &Name {
        &self.filters[position].of.name
    }

    pub fn plugins(&self) -> impl Iterator<Item = &Arc<PluginSlot>> {
        self.filters.iter().filter_map(|l| match &l.config {
            FilterConfig::Wasm(slot) => Some(slot),
            _ => None,
        })
    }

    /// Whether any filter runs.
    pub fn is_used(&self, overrides: Option<&Overrides>) -> bool {
        match overrides.filter(|o| o.0.is_some()) {
            None => !self.on_by_default.is_empty(),
            overrides => (0..self.len()).any(|position| self.config(position, overrides).is_some()),
        }
    }

    /// What the filters of a route may want of the bodies.
    pub fn bodies(&self, overrides: Option<&Overrides>) -> [BodyMode; 2] {
        join([self.bodies].into_iter().chain(overrides.and_then(|o| o.0.as_ref()).map(|entries| entries.bodies)))
    }

    /// The filters that run, from a position on, each with its own.
    pub fn chosen<'a>(&'a self, from: usize, overrides: Option<&'a Overrides>, mut with: impl FnMut(usize, &'a FilterConfig)) {
        match overrides.filter(|o| o.0.is_some()) {
            None => self.on_by_default.iter().filter(|p| **p >= from).for_each(|p| with(*p, &self.filters[*p].config)),
            overrides => {
                for position in from..self.len() {
                    if let Some(config) = self.config(position, overrides) {
                        with(position, config);
                    }
                }
            }
        }
    }

    /// The configuration with which a filter runs; `None` where it does not.
    pub fn config<'a>(&'a self, position: usize, overrides: Option<&'a Overrides>) -> Option<&'a FilterConfig> {
        let listed = &self.filters[position];
        match overrides.and_then(|o| o.get(listed.id)) {
            Some(Override::Disabled) => None,
            Some(Override::Enabled) => Some(&listed.config),
            Some(Override::Config(config)) if discriminant(config) == discriminant(&listed.config) => Some(config),
            // One of another kind says nothing about this filter.
            Some(Override::Config(_)) | None => (!listed.of.disabled).then_some(&listed.config),
        }
    }
}
