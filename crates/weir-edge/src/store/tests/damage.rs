//! Files that are not what was written: flipped bits, missing ends, missing files.
use super::{
    model::{Model, Random, SETS, Size, State, Subject, change, read, state},
    name,
};
use crate::store::*;
use std::{fs, path::Path};

/// The files of a folder, by name.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_string(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

/// Opening and closing a store thousands of times is no work for a disk.
fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn lay(folder: &Path, files: &[(String, Vec<u8>)]) {
    fs::read_dir(folder).unwrap().for_each(|entry| fs::remove_file(entry.unwrap().path()).unwrap());
    files.iter().for_each(|(name, bytes)| fs::write(folder.join(name), bytes).unwrap());
}

fn options(key: bool) -> Options {
    Options { segment_size: 2 << 10, key: key.then_some([3; 32]), ..Options::default() }
}

/// A store of a few segments, and each state that it went through.
fn written(folder: &Path, options: &Options, seed: u64, changes: u32) -> Vec<State> {
    let mut random = Random::new(seed);
    let mut model = Model::default();
    let mut subject = Subject::open(folder, options);
    let mut history = vec![State::default()];
    for _ in 0..changes {
        let change = change(&mut random, Size::Small);
        subject.apply(&change).unwrap();
        model.apply(&change);
        history.push(model.state());
    }
    history
}

/// What a store with a damaged file holds: of each set the last state, or nothing. Returns how many sets are damaged.
fn truthful(folder: &Path, options: &Options, last: &State, what: &str) -> usize {
    let store = match Store::open(folder, options.clone()) {
        Ok(store) => store,
        Err(OpenError::Damaged { .. }) => return SETS.len(),
        Err(e) => panic!("{what}: {e}"),
    };
    let sets = store.sets();
    let mut found = State::new();
    let mut damaged = Vec::new();
    for set in &sets {
        match read(&store, set) {
            Some(state) => drop(found.insert(set.name.clone(), state)),
            None => damaged.push(set.name.clone()),
        }
    }
    for (name, state) in &found {
        assert!(last.get(name) == Some(state), "{what}: {name} is not what was written last: {sets:?}");
    }
    // A complete new list makes a set whole, also for those that open the store later.
    for set in &damaged {
        store.replace(set, b"new", [(name("", "n"), Bytes::from_static(b"v"))]).unwrap();
    }
    let unknown = last.keys().filter(|name| !sets.iter().any(|set| set.name == **name)).count();
    drop(store);
    let store = Store::open(folder, options.clone()).unwrap();
    for set in store.sets() {
        let state = read(&store, &set).unwrap_or_else(|| panic!("{what}: {} is still damaged", set.name));
        if damaged.contains(&set.name) {
            assert_eq!((&state.head[..], state.objects.len()), (&b"new"[..], 1), "{what}");
        } else {
            assert!(found.get(&set.name) == Some(&state), "{what}: {} changed when the store was opened again", set.name);
        }
    }
    damaged.len() + unknown
}

#[test]
fn a_flipped_bit_costs_at_most_the_set_that_it_belongs_to() {
    for key in [false, true] {
        let folder = in_memory();
        let history = written(folder.path(), &options(key), 5, 45);
        let last = history.last().unwrap();
        let before = files(folder.path());
        assert!(before.iter().filter(|(name, _)| name.ends_with(".log")).count() > 2);
        let (mut harmless, mut costly) = (0, 0);
        for (file, (name, bytes)) in before.iter().enumerate().filter(|(_, (name, _))| name != "reserve") {
            // With a key every fifth byte: the layout is the same.
            for at in (0..bytes.len()).step_by(if key { 5 } else { 1 }) {
                let mut flipped = before.clone();
                flipped[file].1[at] ^= 1 << (at % 8);
                lay(folder.path(), &flipped);
                let what = format!("{name}, byte {at}, encrypted {key}");
                match truthful(folder.path(), &options(key), last, &what) {
                    0 => harmless += 1,
                    1 => costly += 1,
                    n => panic!("{what}: {n} sets are lost"),
                }
            }
        }
        // Neither did the flips miss what matters, nor did all of them matter.
        assert!(harmless > 100 && costly > 100, "{harmless} {costly}");
    }
}

#[test]
fn a_missing_end_leaves_an_earlier_state_and_a_missing_file_costs_sets() {
    let folder = in_memory();
    let options = options(false);
    let history = written(folder.path(), &options, 6, 60);
    let last = history.last().unwrap();
    let before = files(folder.path());
    let logs: Vec<usize> = (0..before.len()).filter(|n| before[*n].0.ends_with(".log")).collect();
    assert!(logs.len() > 3);
    let (newest, older) = logs.split_last().unwrap();
    let mut states = 0;
    for len in 0..before[*newest].1.len() {
        let mut cut = before.clone();
        cut[*newest].1.truncate(len);
        lay(folder.path(), &cut);
        let found = state(&Store::open(folder.path(), options.clone()).unwrap());
        let at = history.iter().rposition(|state| *state == found);
        states = states.max(history.len() - at.unwrap_or_else(|| panic!("cut to {len} bytes: a state that never was")));
    }
    assert!(states > 2, "{states}");
    let mut costly = 0;
    for file in older {
        for len in (0..before[*file].1.len()).step_by(7) {
            let mut cut = before.clone();
            cut[*file].1.truncate(len);
            lay(folder.path(), &cut);
            costly += truthful(folder.path(), &options, last, &format!("{} cut to {len} bytes", before[*file].0));
        }
        let mut missing = before.clone();
        let (name, _) = missing.remove(*file);
        lay(folder.path(), &missing);
        costly += truthful(folder.path(), &options, last, &format!("without {name}"));
    }
    assert!(costly > 50, "{costly}");
}

#[test]
fn random_bytes_never_make_a_wrong_answer() {
    let folder = in_memory();
    let options = options(false);
    let history = written(folder.path(), &options, 7, 40);
    let before = files(folder.path());
    let mut random = Random::new(99);
    let mut readable = 0;
    for round in 0..1500 {
        let mut damaged = before.clone();
        for _ in 0..1 + random.below(3) {
            let file = random.below(damaged.len() as u64) as usize;
            let bytes = &mut damaged[file].1;
            let start = random.below(bytes.len() as u64) as usize;
            let end = bytes.len().min(start + random.below(300) as usize);
            match random.below(3) {
                0 => bytes[start..end].fill(0),
                1 => bytes[start..end].iter_mut().for_each(|byte| *byte = random.below(256) as u8),
                _ => drop(bytes.drain(start..end)),
            }
        }
        lay(folder.path(), &damaged);
        let Ok(store) = Store::open(folder.path(), options.clone()) else { continue };
        for set in store.sets() {
            // Several broken places at the end of the log pass for a torn tail: an earlier state, but a whole one.
            let Some(found) = read(&store, &set) else { continue };
            readable += 1;
            let was = history.iter().any(|state| state.get(&set.name) == Some(&found));
            assert!(was, "round {round}: {} is as it never was: {found:?}", set.name);
        }
    }
    assert!(readable > 500, "{readable}");
}
