//! Processes that are killed while they write. `cargo xtask edge-crash` runs more rounds.
use super::model::{Change, Model, Random, Size, State, Subject, change, state};
use crate::store::*;
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

const FOLDER: &str = "WEIR_EDGE_CRASH_FOLDER";
const SEED: &str = "WEIR_EDGE_CRASH_SEED";
const ROUNDS: &str = "WEIR_EDGE_CRASH_ROUNDS";
const TEST: &str = "store::tests::crash::a_killed_writer_loses_nothing_that_it_was_told";

fn options(seed: u64) -> Options {
    Options {
        segment_size: 16 << 10,
        key: (seed / 64 % 2 == 1).then_some([5; 32]),
        // In half of the rounds nothing is synced by itself.
        commit_interval: Duration::from_millis(if seed.is_multiple_of(2) { 1 } else { 600_000 }),
        commit_bytes: if seed.is_multiple_of(2) { 4 << 10 } else { u64::MAX },
        ..Options::default()
    }
}

/// Changes a store for ever, and says after each change that it returned.
fn write(folder: &Path, seed: u64) -> ! {
    let mut random = Random::new(seed);
    let mut subject = Subject::open(folder, &options(seed));
    let mut out = std::io::stdout();
    loop {
        let change = change(&mut random, Size::Mixed);
        let mut line = String::from("done\n");
        subject.apply(&change).unwrap();
        if matches!(change, Change::Flush) {
            let sizes = subject.ends();
            line = format!("synced {}\n", sizes.iter().map(|(name, size)| format!("{name}={size} ")).collect::<String>());
        }
        if out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_err() {
            std::process::exit(0);
        }
    }
}

/// Of the segments, in their order.
fn sizes(folder: &Path) -> Vec<(String, u64)> {
    let mut sizes: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.metadata().ok()?.len())))
        .filter(|(name, _)| name.ends_with(".log"))
        .collect();
    sizes.sort();
    sizes
}

#[test]
fn a_killed_writer_loses_nothing_that_it_was_told() {
    if let (Ok(folder), Ok(seed)) = (std::env::var(FOLDER), std::env::var(SEED)) {
        write(Path::new(&folder), seed.parse().unwrap());
    }
    let rounds: u64 = std::env::var(ROUNDS).map_or(150, |rounds| rounds.parse().unwrap());
    let mut random = Random::new(2024);
    let mut folder = tempfile::tempdir().unwrap();
    let mut before = State::new();
    let (mut changes, mut truncated, mut unfinished) = (0, 0, 0);
    for round in 0..rounds {
        if round % 64 == 0 {
            (folder, before) = (tempfile::tempdir().unwrap(), State::new());
        }
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([TEST, "--exact", "--nocapture"])
            .envs([(FOLDER, folder.path().as_os_str()), (SEED, round.to_string().as_ref())])
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok)
            .filter(|l| !l.is_empty() && !l.starts_with("running"));
        // How many changes it may make before the kill, and how far into the next one the kill comes.
        let mut told: Vec<String> = lines.by_ref().take(random.below(120) as usize).collect();
        std::thread::sleep(Duration::from_micros(random.below(3000)));
        child.kill().unwrap();
        child.wait().unwrap();
        told.extend(lines);
        // The same changes on the model: all that the writer told of, and perhaps the one that it was at.
        let mut model = Model::new(before.clone());
        let mut random_of_child = Random::new(round);
        let mut history = vec![before.clone()];
        for _ in 0..=told.len() {
            model.apply(&change(&mut random_of_child, Size::Mixed));
            history.push(model.state());
        }
        let mut earliest = told.len();
        if let Some(synced) = told.iter().rposition(|line| line.starts_with("synced"))
            && random.below(2) == 0
            && cut(folder.path(), &told[synced], &mut random)
        {
            (earliest, truncated) = (synced + 1, truncated + 1);
        }
        let store = Store::open(folder.path(), options(round)).unwrap_or_else(|e| panic!("round {round}: {e}"));
        let found = state(&store);
        drop(store);
        let at = history.iter().rposition(|state| *state == found);
        let at = at.unwrap_or_else(|| panic!("round {round}, {} changes: a state that never was", told.len()));
        assert!(at >= earliest, "round {round}: of {} changes, {earliest} of them synced, only {at} are left", told.len());
        changes += told.len();
        unfinished += usize::from(at > told.len());
        before = found;
    }
    println!("{rounds} kills, {changes} changes, {truncated} times truncated, {unfinished} times with the unfinished change");
    assert!(truncated as u64 > rounds / 20, "{truncated}");
}

/// Truncates what was written behind the last sync. `false`: cleaning has synced more than the writer was told.
fn cut(folder: &Path, synced: &str, random: &mut Random) -> bool {
    let synced: Vec<(&str, u64)> =
        synced.split(' ').skip(1).filter_map(|s| s.split_once('=')).map(|(name, size)| (name, size.parse().unwrap())).collect();
    let now = sizes(folder);
    if !synced.iter().all(|(name, _)| now.iter().any(|(n, _)| n == name)) {
        return false;
    }
    let floor = |name: &str| synced.iter().find(|(n, _)| *n == name).map_or(0, |(_, size)| *size);
    let loose: Vec<&(String, u64)> = now.iter().filter(|(name, size)| floor(name) < *size).collect();
    if loose.is_empty() {
        return false;
    }
    let first = random.below(loose.len() as u64) as usize;
    for (at, (name, size)) in loose.iter().enumerate().skip(first) {
        let floor = floor(name);
        let len = if at == first { floor + random.below(size - floor) } else { floor };
        let path = folder.join(name);
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len).unwrap();
        // What a file system leaves of a block that was not written.
        if random.below(3) == 0 {
            let mut bytes = fs::read(&path).unwrap();
            bytes.extend((0..random.below(200)).map(|_| random.below(256) as u8));
            fs::write(&path, bytes).unwrap();
        }
    }
    true
}
