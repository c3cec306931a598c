//! Files to configuration, once or for as long as they change.
use crate::{
    Options,
    index::{Applied, Index},
    source::{
        files::{Changes, Files},
        watch::{Batch, Watch},
    },
};
use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use weir_config::{delta::Delta, diagnostic::Diagnostic, model::Config};

/// How often a thread that watches looks whether anybody still listens.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);
/// Updates that nobody took yet; the thread waits beyond that.
const UPDATES: usize = 16;

/// A change of the configuration, and all that is wrong as of now with what it is made of.
#[derive(Clone, Debug)]
pub struct Update {
    /// What changed since the update before; everything, in the first one.
    pub delta: Delta,
    /// Errors first, then by file and line.
    pub diagnostics: Vec<Diagnostic>,
    /// Objects that came, changed or went.
    pub objects: usize,
    /// Objects, clusters and secrets that were translated for it.
    pub translated: usize,
    /// From the notice of the change to here.
    pub took: Duration,
    /// What there is, after the first reading; `None` after a change.
    pub read: Option<Read>,
}

/// How much was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    pub files: usize,
    /// Objects by their kind.
    pub kinds: BTreeMap<&'static str, usize>,
}

/// Reads objects from files, translates them, and follows their changes.
pub struct Control {
    index: Index,
    files: Files,
    watch: Option<Watch>,
    unwatched: Option<Diagnostic>,
}

impl Control {
    pub fn new(options: Options) -> Control {
        Control { index: Index::new(options), files: Files::default(), watch: None, unwatched: None }
    }

    /// Reads files and folders, in the order of precedence; replaces what was loaded before.
    pub fn load(&mut self, paths: &[PathBuf]) -> Update {
        let start = Instant::now();
        let before = std::mem::replace(&mut self.files, Files::new(paths));
        let mut changes: Changes = before.keys().map(|key| (key.clone(), None)).collect();
        let no_one = HashSet::new();
        changes.extend(self.files.scan(self.watch.as_ref().map_or(&no_one, |w| &w.writing)));
        let mut update = self.update(changes, &[], start);
        update.read = Some(self.read());
        update
    }

    fn read(&self) -> Read {
        let mut read = Read { files: self.files.count(), kinds: BTreeMap::new() };
        for key in self.files.keys() {
            *read.kinds.entry(key.kind.info().name).or_default() += 1;
        }
        read
    }

    /// As `load`, and watches from then on: [`Control::next`] tells of changes. Where watching is not possible a
    /// diagnostic says so.
    pub fn load_and_watch(&mut self, paths: &[PathBuf]) -> Update {
        match Watch::new() {
            Ok(watch) => self.watch = Some(watch),
            Err(e) => self.fail_to_watch(&e),
        }
        let start = Instant::now();
        let mut update = self.load(paths);
        // What changed between the reading of a folder and its watch would go unnoticed.
        while self.follow() {
            let changes = self.scan();
            let mut later = self.update(changes, &[], start);
            update.delta.merge(std::mem::take(&mut later.delta));
            update = Update { delta: update.delta, read: Some(self.read()), ..later };
        }
        update
    }

    /// Waits for the next change, at most for `timeout`.
    pub fn next(&mut self, timeout: Duration) -> Option<Update> {
        let Some(batch) = self.watch.as_mut().map(|w| w.wait(timeout)) else {
            std::thread::sleep(timeout);
            return None;
        };
        let start = Instant::now();
        let Batch { files, mut scan } = batch?;
        let mut changes = Changes::new();
        for path in &files {
            // A folder, or what is refused as it is no regular file.
            scan |= !self.files.refresh(path, &mut changes) && path.metadata().is_ok_and(|m| !m.is_file());
        }
        if scan {
            changes.extend(self.scan());
            while self.follow() {
                changes.extend(self.scan());
            }
        }
        let files: Vec<PathBuf> = files.into_iter().collect();
        let update = self.update(changes, &files, start);
        self.follow();
        Some(update)
    }

    /// Watches from a thread of its own until the receiver is dropped. The first update is what `paths` hold now.
    pub fn spawn(mut self, paths: Vec<PathBuf>) -> std::io::Result<mpsc::Receiver<Update>> {
        let (send, receive) = mpsc::channel(UPDATES);
        let follow = move || {
            let mut update = Some(self.load_and_watch(&paths));
            while !send.is_closed() {
                if let Some(update) = update
                    && send.blocking_send(update).is_err()
                {
                    return;
                }
                update = self.next(PATIENCE);
            }
        };
        std::thread::Builder::new().name("weir-files".into()).spawn(follow)?;
        Ok(receive)
    }

    /// The whole configuration as of now. Costs the work of all of it.
    pub fn config(&self) -> Config {
        self.index.config()
    }

    pub fn index(&self) -> &Index {
        &self.index
    }

    fn scan(&mut self) -> Changes {
        let no_one = HashSet::new();
        self.files.scan(self.watch.as_ref().map_or(&no_one, |w| &w.writing))
    }

    fn follow(&mut self) -> bool {
        let Some(watch) = &mut self.watch else { return false };
        match watch.follow(&self.files, self.index.files()) {
            Ok(new) => new,
            Err(e) => {
                self.fail_to_watch(&e);
                false
            }
        }
    }

    fn fail_to_watch(&mut self, e: &notify::Error) {
        self.unwatched = Some(not_watched(e));
    }

    fn update(&mut self, changes: Changes, files: &[PathBuf], start: Instant) -> Update {
        let objects = changes.len();
        let Applied { delta, translated } = self.index.apply(changes, files);
        let diagnostics = self.diagnostics();
        self.index.status().set_findings(&diagnostics);
        Update { delta, diagnostics, objects, translated, took: start.elapsed(), read: None }
    }

    pub fn diagnostics(&mut self) -> Vec<Diagnostic> {
        let (late, ports) = self.index.findings();
        let mut all = self.files.diagnostics(late);
        all.extend(ports.into_iter().cloned());
        all.extend(self.unwatched.clone());
        let place = |d: &Diagnostic| d.place.as_ref().map(|p| (p.source.name.clone(), p.line, p.column));
        all.sort_by_cached_key(|d| (std::cmp::Reverse(d.severity), place(d), d.message.clone()));
        all.dedup();
        all
    }
}

pub(crate) fn not_watched(e: &notify::Error) -> Diagnostic {
    let help = "raise fs.inotify.max_user_instances or max_user_watches, or restart after changes";
    Diagnostic::warning("NotWatched", format!("changes of files may go unnoticed: {e}")).help(help)
}

/// Reads and translates once: what `weir check` prints. The configuration is good when none of these is an error.
pub fn check(options: Options, paths: &[PathBuf]) -> Vec<Diagnostic> {
    Control::new(options).load(paths).diagnostics
}
