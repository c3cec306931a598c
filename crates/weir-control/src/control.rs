//! Sources to configuration: files once or for as long as they change, and the objects of a cluster.
use crate::{
    Options,
    index::{Applied, Index, UnitId},
    kubernetes::{Cluster, Connection},
    object::{Finding, Key, Kind},
    registry::Registries,
    source::{
        files::{Changes, Files, Noted},
        inbox::{Event, Inbox},
        watch::{Batch, Watch},
    },
    status::{Condition, Edit, Owner, Translated},
    translate::Bind,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use weir_config::{delta::Delta, diagnostic::Diagnostic, model::Config};

/// How often a thread that watches looks whether anybody still listens.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);
/// Updates that nobody took yet; the thread waits beyond that.
const UPDATES: usize = 16;

/// A change of the configuration. Its findings are on the board ([`crate::Status`]).
#[derive(Clone, Debug)]
pub struct Update {
    /// What changed since the update before; everything, in the first one.
    pub delta: Delta,
    /// Objects that came, changed or went.
    pub objects: usize,
    /// Objects, clusters and secrets that were translated for it.
    pub translated: usize,
    /// From the notice of the change to here.
    pub took: Duration,
    /// What there is, after the first reading; `None` after a change.
    pub read: Option<Read>,
    /// False where there is nothing to apply, only something to say: as long as a source was not read to its end, too.
    pub complete: bool,
}

/// Where objects come from. Where several have an object, the first one's counts: files in their order, then the cluster.
#[derive(Default)]
pub struct Sources {
    /// Files and folders.
    pub paths: Vec<PathBuf>,
    pub cluster: Option<Box<Connection>>,
}

/// How much was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    pub files: usize,
    /// The address of the API server, where there is one.
    pub cluster: Option<String>,
    /// Objects by their kind.
    pub kinds: BTreeMap<&'static str, usize>,
}

/// Reads objects from their sources, translates them, and follows their changes.
pub struct Control {
    index: Index,
    inbox: Inbox,
    files: Files,
    watch: Option<Watch>,
    unwatched: Option<Diagnostic>,
    cluster: Option<Cluster>,
    registries: Registries,
    /// The conditions of McpBridges on the board.
    bridges: BTreeMap<Key, Arc<[Condition]>>,
    /// Changes that wait until registries were read; `None` once that was so.
    unsettled: Option<Changes>,
    /// Changes of files that wait until the cluster was read.
    withheld: Option<Changes>,
}

impl Control {
    pub fn new(options: Options) -> Control {
        Control {
            registries: Registries::new(options.system_namespaces.clone()),
            bridges: BTreeMap::new(),
            index: Index::new(options),
            inbox: Inbox::default(),
            files: Files::default(),
            watch: None,
            unwatched: None,
            cluster: None,
            unsettled: None,
            withheld: None,
        }
    }

    /// Reads files and folders, in the order of precedence; replaces what was loaded before.
    pub fn load(&mut self, paths: &[PathBuf]) -> Update {
        let start = Instant::now();
        let before = std::mem::replace(&mut self.files, Files::new(paths));
        let gone = before.found_by().map(|by| (Owner::Files(by), Vec::new())).collect();
        self.index.status().edit(Edit { findings: gone, ..Edit::default() });
        let mut changes: Changes = before.keys().map(|key| (key.clone(), None)).collect();
        let no_one = HashSet::new();
        changes.extend(self.files.scan(self.watch.as_ref().map_or(&no_one, |w| &w.writing)));
        let mut update = self.update(changes, &[], start);
        update.read = Some(self.read());
        update
    }

    fn read(&self) -> Read {
        let server = self.cluster.as_ref().map(|cluster| cluster.server().to_string());
        let mut read = Read { files: self.files.count(), cluster: server, kinds: BTreeMap::new() };
        for key in self.files.keys() {
            *read.kinds.entry(key.kind.info().name).or_default() += 1;
        }
        if let Some(cluster) = &self.cluster {
            cluster.count(&mut read.kinds);
        }
        read
    }

    /// As `load`, and watches from then on: [`Control::next`] tells of changes. Where watching is not possible a
    /// diagnostic says so.
    pub fn load_and_watch(&mut self, paths: &[PathBuf]) -> Update {
        match self.inbox.watch() {
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
            let complete = update.complete || later.complete;
            update = Update { delta: update.delta, read: Some(self.read()), complete, ..later };
        }
        update
    }

    /// Waits for the next change, at most for `timeout`.
    pub fn next(&mut self, timeout: Duration) -> Option<Update> {
        let Batch { files, mut scan, objects: _ } = self.inbox.wait(self.watch.as_mut(), timeout)?;
        let start = Instant::now();
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

    /// Follows the sources from a thread of its own until the receiver is dropped. The first update that is complete has all that
    /// they hold now.
    pub fn spawn(mut self, sources: Sources) -> io::Result<mpsc::Receiver<Update>> {
        let Sources { paths, cluster } = sources;
        if let Some(connection) = cluster {
            let inbox = self.inbox.sender();
            let wake = Box::new(move || _ = inbox.send(Event::Objects));
            self.cluster = Some(
                Cluster::follow(*connection, self.index.status().clone(), &self.index.options().kubernetes, wake)
                    .map_err(io::Error::other)?,
            );
            self.withheld = Some(Changes::new());
        }
        let inbox = self.inbox.sender();
        self.registries.start(&self.index.options().registries, Box::new(move || _ = inbox.send(Event::Objects)))?;
        self.unsettled = Some(Changes::new());
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
        std::thread::Builder::new().name("weir-control".into()).spawn(follow)?;
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
        let Some((mut changes, first)) = self.merge(changes) else {
            return self.only_tell(start);
        };
        let index = &self.index;
        let secret = |key: &Key| match changes.iter().rev().find(|(changed, _)| changed == key) {
            Some((_, object)) => object.clone(),
            None => index.object(key).cloned(),
        };
        let of_registries = self.registries.follow(&changes, &secret);
        changes.extend(of_registries);
        changes.extend(self.registries.take());
        let mut first = first;
        if let Some(waiting) = &mut self.unsettled {
            waiting.extend(std::mem::take(&mut changes));
            if !self.registries.is_settled() {
                return self.only_tell(start);
            }
            changes = self.unsettled.take().unwrap_or_default();
            self.registries.end_waiting();
            first = true;
        }
        let only_woken = self.cluster.is_some() || self.registries.follows();
        if changes.is_empty() && files.is_empty() && !first && only_woken {
            return self.only_tell(start);
        }
        let objects = changes.len();
        let Applied { delta, status, found, found_on, translated } = self.index.apply(changes, files);
        self.edit_status(Edit { revision: delta.revision, objects: status, ..Edit::default() }, found, found_on);
        let read = first.then(|| self.read());
        Update { delta, objects, translated, took: start.elapsed(), read, complete: true }
    }

    /// Only findings changed.
    fn only_tell(&mut self, start: Instant) -> Update {
        self.edit_status(Edit::default(), BTreeSet::new(), Vec::new());
        Update { delta: Delta::default(), objects: 0, translated: 0, took: start.elapsed(), read: None, complete: false }
    }

    /// Joins changes of files with those of the cluster. Files come first: an object that they hold hides the cluster's, which comes
    /// back when they let go of it. `None` while the cluster was not read yet; true with the first changes after that.
    fn merge(&mut self, of_files: Changes) -> Option<(Changes, bool)> {
        let Some(cluster) = &self.cluster else { return Some((of_files, false)) };
        let Some(of_cluster) = cluster.take() else {
            self.withheld.get_or_insert_default().extend(of_files);
            return None;
        };
        let withheld = self.withheld.take();
        let first = withheld.is_some();
        let of_files = withheld.into_iter().flatten().chain(of_files);
        let mut changes: Changes = of_files
            .map(|(key, object)| {
                let object = object.or_else(|| cluster.get(&key));
                (key, object)
            })
            .collect();
        changes.extend(of_cluster.into_iter().filter(|(key, _)| !self.files.holds(key)));
        Some((changes, first))
    }

    /// Puts what changed on the board; `units` and `ports` have other findings now.
    fn edit_status(&mut self, mut edit: Edit, mut units: BTreeSet<UnitId>, ports: Vec<Bind>) {
        let Noted { found, files } = self.files.take_noted();
        edit.findings.extend(found.into_iter().map(|by| {
            let findings = shared(self.files.findings(&by));
            (Owner::Files(by), findings)
        }));
        // Those in files that were read again may have moved.
        units.extend(files.iter().flat_map(|file| self.index.found_in(file)));
        let late: Vec<(UnitId, &[Finding], Option<&Diagnostic>)> = units
            .into_iter()
            .map(|unit| {
                let (findings, panic) = self.index.findings(unit);
                (unit, findings, panic)
            })
            .collect();
        let mut placed = self.files.place(late.iter().flat_map(|(_, findings, _)| *findings)).into_iter();
        for (unit, findings, panic) in late {
            let placed = placed.by_ref().take(findings.len()).chain(panic.cloned()).collect();
            edit.findings.push((Owner::Unit(unit), shared(placed)));
        }
        edit.findings.extend(ports.into_iter().map(|port| (Owner::Port(port), shared(self.index.findings_on(port).to_vec()))));
        if let Some(cluster) = &self.cluster {
            edit.findings.push((Owner::Cluster, shared(cluster.diagnostics())));
            edit.findings.extend(cluster.take_found().into_iter().map(|(key, found)| (Owner::Object(key), shared(found))));
        }
        edit.findings.push((Owner::Registries, shared(self.registries.diagnostics())));
        self.tell_registries(&mut edit);
        edit.findings.push((Owner::Watch, shared(self.unwatched.iter().cloned().collect())));
        self.index.status().edit(edit);
        files.iter().for_each(|file| self.files.sweep(file));
    }

    /// Adds the McpBridges whose registries are reached otherwise than before.
    fn tell_registries(&mut self, edit: &mut Edit) {
        let now = self.registries.conditions();
        for (key, translated) in &mut edit.objects {
            if let (Some(translated), Some(conditions)) = (translated, now.get(key)) {
                translated.conditions = conditions.clone();
            }
        }
        let said: BTreeSet<Key> = edit.objects.iter().filter(|(key, _)| key.kind == Kind::McpBridge).map(|(key, _)| key.clone()).collect();
        for (key, conditions) in now.iter().filter(|(key, conditions)| !said.contains(key) && self.bridges.get(key) != Some(conditions)) {
            // One that was not translated yet comes with its translation.
            if let Some(object) = self.index.object(key).cloned() {
                edit.objects.push((key.clone(), Some(Translated { object, conditions: conditions.clone(), details: None })));
            }
        }
        self.bridges = now;
    }

    /// All that is wrong as of now: errors first, then by file and line.
    pub fn findings(&self) -> Vec<Arc<Diagnostic>> {
        self.index.status().findings()
    }
}

fn shared(findings: Vec<Diagnostic>) -> Vec<Arc<Diagnostic>> {
    findings.into_iter().map(Arc::new).collect()
}

pub(crate) fn not_watched(e: &notify::Error) -> Diagnostic {
    let help = "raise fs.inotify.max_user_instances or max_user_watches, or restart after changes";
    Diagnostic::warning("NotWatched", format!("changes of files may go unnoticed: {e}")).help(help)
}
