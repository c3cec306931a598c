//! What a store must hold, and random changes of it.
use super::name;
use crate::store::*;
use std::collections::{BTreeMap, HashMap};

/// A small generator of numbers: the same seed gives the same changes.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    pub head: Bytes,
    pub complete: bool,
    pub objects: BTreeMap<ObjectName, Bytes>,
}

pub type State = BTreeMap<String, Set>;

#[derive(Clone, Debug)]
pub enum Change {
    Put(String, ObjectName, Vec<u8>, Vec<u8>),
    Remove(String, ObjectName, Vec<u8>),
    Head(String, Vec<u8>),
    Replace(String, Vec<u8>, Vec<(ObjectName, Bytes)>),
    Drop(String),
    Begin(String),
    Add(String, ObjectName, Vec<u8>),
    Commit(String, Vec<u8>),
    Abandon(String),
    Flush,
}

pub const SETS: [&str; 4] = ["pods", "services?labelSelector=a%3Db", "leases", "events"];

fn a_name(random: &mut Random) -> ObjectName {
    name(["", "default", "kube-system"][random.below(3) as usize], &format!("object-{}", random.below(12)))
}

fn a_value(random: &mut Random, size: Size) -> Vec<u8> {
    match random.below(12) {
        _ if size == Size::Small => format!("{{\"n\":{}}}", random.below(1 << 40)).into_bytes(),
        0 => Vec::new(),
        // Bytes that do not compress.
        1 => (0..random.below(2000)).map(|_| random.below(256) as u8).collect(),
        2 => b"0123456789abcdef".repeat(random.below(2000) as usize),
        _ => format!("{{\"kind\":\"Pod\",\"n\":{}}}", random.below(1 << 40)).repeat(1 + random.below(20) as usize).into_bytes(),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Size {
    Small,
    Mixed,
}

pub fn change(random: &mut Random, size: Size) -> Change {
    let set = SETS[random.below(4) as usize].to_string();
    let head = random.below(1 << 50).to_string().into_bytes();
    match random.below(100) {
        0..45 => Change::Put(set, a_name(random), a_value(random, size), head),
        45..60 => Change::Remove(set, a_name(random), head),
        60..66 => Change::Head(set, head),
        66..74 => {
            let items: BTreeMap<ObjectName, Bytes> =
                (0..random.below(12)).map(|_| (a_name(random), a_value(random, size).into())).collect();
            Change::Replace(set, head, items.into_iter().collect())
        }
        74..76 => Change::Drop(set),
        76..80 => Change::Begin(set),
        80..90 => Change::Add(set, a_name(random), a_value(random, size)),
        90..95 => Change::Commit(set, head),
        95 => Change::Abandon(set),
        _ => Change::Flush,
    }
}

/// The state and the lists that are being written.
#[derive(Clone, Default)]
pub struct Model {
    state: State,
    begun: HashMap<String, BTreeMap<ObjectName, Bytes>>,
}

impl Model {
    pub fn new(state: State) -> Model {
        Model { state, begun: HashMap::new() }
    }

    pub fn apply(&mut self, change: &Change) {
        match change.clone() {
            Change::Put(set, name, value, head) => {
                let set = self.state.entry(set).or_default();
                set.objects.insert(name, value.into());
                set.head = head.into();
            }
            Change::Remove(set, name, head) => {
                let set = self.state.entry(set).or_default();
                set.objects.remove(&name);
                set.head = head.into();
            }
            Change::Head(set, head) => self.state.entry(set).or_default().head = head.into(),
            Change::Replace(set, head, items) => {
                self.state.insert(set, Set { head: head.into(), complete: true, objects: items.into_iter().collect() });
            }
            Change::Drop(set) => {
                self.state.remove(&set);
                self.begun.remove(&set);
            }
            Change::Begin(set) => {
                self.state.entry(set.clone()).or_default();
                self.begun.insert(set, BTreeMap::new());
            }
            Change::Add(set, name, value) => {
                if let Some(objects) = self.begun.get_mut(&set) {
                    objects.insert(name, value.into());
                }
            }
            Change::Commit(set, head) => {
                if let Some(objects) = self.begun.remove(&set) {
                    self.state.insert(set, Set { head: head.into(), complete: true, objects });
                }
            }
            Change::Abandon(set) => {
                self.begun.remove(&set);
            }
            Change::Flush => {}
        }
    }

    /// The sets that something was written to.
    pub fn state(&self) -> State {
        let written = |set: &Set| set.complete || !set.head.is_empty() || !set.objects.is_empty();
        self.state.iter().filter(|(_, set)| written(set)).map(|(name, set)| (name.clone(), set.clone())).collect()
    }
}

/// A store and the lists that are being written to it.
pub struct Subject {
    pub store: Store,
    begun: HashMap<String, Replacement>,
}

impl Subject {
    pub fn open(folder: &Path, options: &Options) -> Subject {
        Subject { store: Store::open(folder, options.clone()).unwrap(), begun: HashMap::new() }
    }

    /// The segments, and where their records end.
    pub fn ends(&self) -> Vec<(String, u32)> {
        let index = self.store.log.index();
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_string();
        index.segments.values().map(|info| (name(&info.file.path), info.end)).collect()
    }

    pub fn apply(&mut self, change: &Change) -> Result<(), WriteError> {
        match change {
            Change::Put(set, name, value, head) => self.store.put(set, name, value, head),
            Change::Remove(set, name, head) => self.store.remove(set, name, head),
            Change::Head(set, head) => self.store.set_head(set, head),
            Change::Replace(set, head, items) => self.store.replace(set, head, items.clone()),
            Change::Drop(set) => {
                self.begun.remove(set);
                self.store.drop_set(set)
            }
            Change::Begin(set) => {
                let begun = self.store.begin_replace(set)?;
                self.begun.insert(set.clone(), begun);
                Ok(())
            }
            Change::Add(set, name, value) => self.begun.get_mut(set).map_or(Ok(()), |list| list.add(name, value)),
            Change::Commit(set, head) => self.begun.remove(set).map_or(Ok(()), |list| list.commit(head)),
            Change::Abandon(set) => {
                self.begun.remove(set);
                Ok(())
            }
            Change::Flush => self.store.flush(),
        }
    }
}

/// What a store holds of a set: `None` where it says that the set is damaged.
pub fn read(store: &Store, set: &SetInfo) -> Option<Set> {
    let listing = match store.list(&set.name) {
        Ok(listing) => listing,
        Err(ReadError::Damaged { .. }) => return None,
        Err(e) => panic!("{e}"),
    };
    assert_eq!(listing.is_some(), set.complete);
    let mut found = Set { head: set.head.clone(), complete: set.complete, objects: BTreeMap::new() };
    match listing {
        Some(listing) => {
            assert_eq!(listing.head, set.head);
            found.objects = listing.items.into_iter().collect();
            assert_eq!(found.objects.len(), set.objects);
        }
        // Sets without a complete list are read object by object.
        None => {
            for namespace in ["", "default", "kube-system"] {
                for n in 0..12 {
                    let name = name(namespace, &format!("object-{n}"));
                    match store.get(&set.name, &name) {
                        Ok(value) => found.objects.extend(value.map(|value| (name, value))),
                        Err(ReadError::Damaged { .. }) => return None,
                        Err(e) => panic!("{e}"),
                    }
                }
            }
        }
    }
    Some(found)
}

/// All that a store holds, which must not be damaged.
pub fn state(store: &Store) -> State {
    store
        .sets()
        .into_iter()
        .map(|set| {
            (
                set.name.clone(),
                read(store, &set).unwrap_or_else(|| panic!("{} is damaged: {:?} {:?}", set.name, store.list(&set.name), set)),
            )
        })
        .collect()
}

#[test]
fn random_changes_match_the_model() {
    for seed in 0..24 {
        let mut random = Random::new(seed + 1);
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            segment_size: 16 << 10,
            key: (seed % 2 == 1).then_some([9; 32]),
            commit_interval: Duration::from_millis(2),
            ..Options::default()
        };
        let mut model = Model::default();
        let mut subject = Subject::open(folder.path(), &options);
        let mut cleaned = 0;
        for step in 0..700 {
            let change = change(&mut random, Size::Mixed);
            subject.apply(&change).unwrap();
            model.apply(&change);
            match random.below(100) {
                0..2 => {
                    cleaned += subject.store.stats().cleaned_segments;
                    drop(subject);
                    subject = Subject::open(folder.path(), &options);
                    model = Model::new(model.state());
                }
                2..5 => subject.store.compact().unwrap(),
                _ => continue,
            }
            assert!(state(&subject.store) == model.state(), "seed {seed}, step {step}, {change:?}");
        }
        assert!(state(&subject.store) == model.state(), "seed {seed}");
        let stats = subject.store.stats();
        assert!(cleaned + stats.cleaned_segments > 0 && stats.damaged_sets == 0 && stats.write_errors == 0, "{stats:?}");
    }
}
