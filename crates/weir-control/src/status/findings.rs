//! The findings that stand now, by what they come from and by the object that they are about. An edit costs the work of the findings
//! that it replaces.
use crate::{object::Key, source::files::FoundBy, translate::Bind};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{Hash, Hasher},
    sync::Arc,
};
use weir_config::{
    delta::{Id, PLUGIN_CODE_UNAVAILABLE, ResourceKind},
    diagnostic::{Diagnostic, Severity},
    model::Name,
};

/// Where findings come from. New findings of an origin replace its old ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// What keeps changes of files from being noticed.
    Watch,
    /// The reading of files.
    Files(FoundBy),
    /// The connection to a cluster, its kinds, and the Services of Gateways.
    Cluster,
    /// The reading of an object of a cluster.
    Object(Key),
    /// The reading of registries.
    Registries,
    /// The translation of the unit of the index with this number.
    Unit(u32),
    /// How the parts of a port meet.
    Port(Bind),
    /// The proxy's verdict on a resource.
    Resource(Id),
}

impl Owner {
    /// Whether its findings are about versions of objects that were read, whether they are used or not.
    pub fn reads(&self) -> bool {
        matches!(self, Owner::Files(FoundBy::File(_)) | Owner::Object(_))
    }
}

#[derive(Default)]
pub struct Findings {
    by_owner: BTreeMap<Owner, Vec<Arc<Diagnostic>>>,
    /// By the title of the object; those without one are under the empty title.
    by_object: BTreeMap<Arc<str>, Vec<(Owner, Arc<Diagnostic>)>>,
    /// Each finding once, with how often it stands.
    distinct: HashMap<Same, u32>,
    errors: usize,
    /// Those that nobody has reported yet.
    new: HashSet<Same>,
}

/// Findings that look the same to a reader are the same.
struct Same(Arc<Diagnostic>);

type Identity<'a> = (Severity, &'static str, &'a str, &'a Option<String>, Option<&'a str>, &'a str, Option<(&'a str, u32, u32)>);

impl Same {
    fn identity(&self) -> Identity<'_> {
        let Diagnostic { severity, reason, message, help, object, field, place } = &*self.0;
        let place = place.as_ref().map(|p| (&*p.source.name, p.line, p.column));
        (*severity, reason, message, help, object.as_deref(), field, place)
    }
}

impl PartialEq for Same {
    fn eq(&self, other: &Same) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.identity() == other.identity()
    }
}

impl Eq for Same {}

impl Hash for Same {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (_, reason, message, _, object, _, place) = self.identity();
        (reason, message, object, place).hash(state);
    }
}

impl Findings {
    /// Replaces the findings of an owner. Returns the titles of the objects whose findings changed.
    pub fn set(&mut self, owner: Owner, new: Vec<Arc<Diagnostic>>) -> HashSet<Arc<str>> {
        let old = self.by_owner.remove(&owner).unwrap_or_default();
        let same = |(a, b): &(&Arc<Diagnostic>, &Arc<Diagnostic>)| Arc::ptr_eq(a, b) || a == b;
        let start = old.iter().zip(&new).take_while(same).count();
        let most = old.len().min(new.len()) - start;
        let end = old.iter().rev().zip(new.iter().rev()).take(most).take_while(same).count();
        let (gone, come) = (&old[start..old.len() - end], &new[start..new.len() - end]);
        // In this order, so that a finding that stays is not new.
        come.iter().for_each(|found| self.count(found));
        gone.iter().for_each(|found| self.discount(found));
        let mut touched: HashSet<Arc<str>> = gone.iter().map(title).collect();
        let gone: HashSet<*const Diagnostic> = gone.iter().map(Arc::as_ptr).collect();
        for title in &touched {
            if let Some(all) = self.by_object.get_mut(title) {
                all.retain(|(of, found)| *of != owner || !gone.contains(&Arc::as_ptr(found)));
                if all.is_empty() {
                    self.by_object.remove(title);
                }
            }
        }
        for found in come {
            self.by_object.entry(title(found)).or_default().push((owner.clone(), found.clone()));
            touched.insert(title(found));
        }
        if !new.is_empty() {
            // Equal ones stay those that are listed by object.
            let (first, last) = (old[..start].iter().cloned(), old[old.len() - end..].iter().cloned());
            let now = first.chain(come.iter().cloned()).chain(last).collect();
            self.by_owner.insert(owner, now);
        }
        touched
    }

    fn count(&mut self, found: &Arc<Diagnostic>) {
        let count = self.distinct.entry(Same(found.clone())).or_default();
        *count += 1;
        if *count == 1 {
            self.errors += usize::from(found.severity == Severity::Error);
            self.new.insert(Same(found.clone()));
        }
    }

    fn discount(&mut self, found: &Arc<Diagnostic>) {
        let same = Same(found.clone());
        let Some(count) = self.distinct.get_mut(&same) else { return };
        *count -= 1;
        if *count == 0 {
            self.distinct.remove(&same);
            self.new.remove(&same);
            self.errors -= usize::from(found.severity == Severity::Error);
        }
    }

    /// Of one object, without those that say again what another one says: errors first, then by place.
    pub fn of(&self, title: &str) -> Vec<(&Owner, &Arc<Diagnostic>)> {
        let all = self.about(title).iter().filter(|(_, found)| !self.is_said(found));
        let mut all: Vec<_> = all.map(|(owner, found)| (owner, found)).collect();
        all.sort_by(|(_, a), (_, b)| order(a).cmp(&order(b)));
        all
    }

    fn about(&self, title: &str) -> &[(Owner, Arc<Diagnostic>)] {
        self.by_object.get(title).map(Vec::as_slice).unwrap_or_default()
    }

    /// Titles of objects with findings, in order.
    pub fn titles(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_object.keys()
    }

    /// All of them, each once: errors first, then by place.
    pub fn all(&self) -> Vec<Arc<Diagnostic>> {
        self.sorted(self.distinct.keys())
    }

    /// Those that came since this was last called and still stand.
    pub fn take_new(&mut self) -> Vec<Arc<Diagnostic>> {
        let new = self.sorted(self.new.iter());
        self.new.clear();
        new
    }

    /// How many errors there are.
    pub fn errors(&self) -> usize {
        let first = Owner::Resource(Id { kind: ResourceKind::Plugin, route_config: None, name: Name::default() });
        let is_plugin = |owner: &Owner| matches!(owner, Owner::Resource(id) if id.kind == ResourceKind::Plugin);
        let of_plugins = self.by_owner.range(first..).take_while(|(owner, _)| is_plugin(owner));
        let hidden = of_plugins.flat_map(|(_, found)| found).filter(|d| d.severity == Severity::Error && self.is_said(d)).count();
        self.errors - hidden.min(self.errors)
    }

    fn sorted<'a>(&self, some: impl Iterator<Item = &'a Same>) -> Vec<Arc<Diagnostic>> {
        let mut all: Vec<Arc<Diagnostic>> = some.map(|same| &same.0).filter(|d| !self.is_said(d)).cloned().collect();
        all.sort_by(|a, b| order(a).cmp(&order(b)));
        all
    }

    /// Whether a finding says again what was found when its object was read: that a plugin's code is not available.
    fn is_said(&self, found: &Diagnostic) -> bool {
        let reading = |(owner, d): &(Owner, Arc<Diagnostic>)| !matches!(owner, Owner::Resource(_)) && d.severity == Severity::Error;
        found.reason == PLUGIN_CODE_UNAVAILABLE && self.about(found.object.as_deref().unwrap_or_default()).iter().any(reading)
    }
}

fn title(found: &Arc<Diagnostic>) -> Arc<str> {
    found.object.clone().unwrap_or_default()
}

/// Errors first, then by file and line.
fn order(d: &Diagnostic) -> impl Ord + '_ {
    let place = d.place.as_ref().map(|p| (&*p.source.name, p.line, p.column));
    (std::cmp::Reverse(d.severity), place, &*d.message, d.object.as_deref())
}
