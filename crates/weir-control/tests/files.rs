//! Files on a real disk: read, edited, half-written, renamed, linked, removed, and what is live after each.
#![allow(clippy::unwrap_used)]

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use weir_config::model::Config;
use weir_control::{
    Control, Options, Sources, Update,
    object::{Key, Kind},
    status::Condition,
};

/// Generous: a machine under load is slow.
const SOON: Duration = Duration::from_secs(20);

struct Folder {
    dir: TempDir,
    control: Control,
    /// What the deltas of all updates come to.
    config: Config,
    last: Update,
}

impl Folder {
    fn new(files: &[(&str, String)]) -> Folder {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            write(&dir.path().join(name), text);
        }
        let path = dir.path().to_path_buf();
        Folder::load(dir, &[path])
    }

    fn load(dir: TempDir, paths: &[PathBuf]) -> Folder {
        let mut control = Control::new(Options::default());
        let last = control.load_and_watch(paths);
        let mut config = Config::default();
        config.apply(&last.delta);
        Folder { dir, control, config, last }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn write(&self, name: &str, text: &str) {
        write(&self.path(name), text);
    }

    /// The ports that are listened on.
    fn ports(&self) -> Vec<u16> {
        self.config.listeners.values().map(|l| l.address.port()).collect()
    }

    /// Takes updates until these ports, and no others, are listened on.
    fn becomes(&mut self, ports: &[u16]) {
        self.until(&format!("{ports:?}"), |config, _| config.listeners.values().map(|l| l.address.port()).eq(ports.iter().copied()));
    }

    /// Takes updates until one of the findings says `words`.
    fn says(&mut self, words: &str) {
        self.until(words, |_, found| found.iter().any(|line| line.contains(words)));
    }

    fn until(&mut self, what: &str, done: impl Fn(&Config, &[String]) -> bool) {
        let end = Instant::now() + SOON;
        while !done(&self.config, &self.found()) {
            assert!(Instant::now() < end, "{what} did not come: {:?} {:#?}", self.ports(), self.found());
            if let Some(update) = self.control.next(Duration::from_millis(200)) {
                self.config.apply(&update.delta);
                assert_eq!(self.config, self.control.config());
                self.last = update;
            }
        }
    }

    fn found(&self) -> Vec<String> {
        self.control.findings().iter().map(|d| d.line().replace(&format!("{}/", self.dir.path().display()), "")).collect()
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A Gateway that listens on one port: what is seen of an object.
fn gateway(name: &str, port: u16) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec: {{gatewayClassName: weir, listeners: [{{name: http, port: {port}, protocol: HTTP}}]}}\n"
    )
}

#[test]
fn files_come_change_and_go() {
    let mut folder = Folder::new(&[("a.yaml", gateway("a", 1001)), ("sub/b.yml", gateway("b", 1002))]);
    assert_eq!(folder.ports(), [1001, 1002]);
    assert_eq!(folder.found(), [""; 0]);
    folder.write("a.yaml", &gateway("a", 1011));
    folder.becomes(&[1002, 1011]);
    folder.write("c.json", r#"{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "c"}, "spec": {"gatewayClassName": "weir", "listeners": [{"name": "x", "port": 1003, "protocol": "HTTP"}]}}"#);
    folder.becomes(&[1002, 1003, 1011]);
    fs::remove_file(folder.path("sub/b.yml")).unwrap();
    folder.becomes(&[1003, 1011]);
    fs::remove_file(folder.path("a.yaml")).unwrap();
    fs::remove_file(folder.path("c.json")).unwrap();
    folder.becomes(&[]);
}

#[test]
fn what_did_not_change_is_the_same() {
    let mut folder = Folder::new(&[("a.yaml", gateway("a", 1001) + "---\n" + &gateway("b", 1002))]);
    let before = folder.config.clone();
    folder.write("a.yaml", &(gateway("a", 1001) + "---\n" + &gateway("b", 1003)));
    folder.becomes(&[1001, 1003]);
    let same = |name: &str, c: &Config| c.listeners[name].clone();
    assert!(Arc::ptr_eq(&same("0.0.0.0_1001", &before), &same("0.0.0.0_1001", &folder.config)));
    assert_eq!((folder.last.objects, folder.last.translated), (1, 1));
    // Lines that move are no change.
    folder.write("a.yaml", &("# a remark\n---\n".to_string() + &gateway("a", 1001) + "---\n" + &gateway("b", 1004)));
    folder.becomes(&[1001, 1004]);
    assert_eq!((folder.last.objects, folder.last.translated), (1, 1));
}

#[test]
fn a_file_is_taken_when_it_is_closed() {
    let mut folder = Folder::new(&[("a.yaml", gateway("a", 1001))]);
    let text = gateway("a", 1002) + "---\n" + &gateway("b", 1003);
    let mut file = File::create(folder.path("a.yaml")).unwrap();
    // Cut within the second document, and not before a whole line: what stands there is valid YAML.
    file.write_all(&text.as_bytes()[..text.len() - 40]).unwrap();
    file.flush().unwrap();
    // Something else changes meanwhile, and leads to a scan.
    fs::create_dir(folder.path("sub")).unwrap();
    folder.write("sub/c.yaml", &gateway("c", 1009));
    folder.becomes(&[1001, 1009]);
    file.write_all(&text.as_bytes()[text.len() - 40..]).unwrap();
    drop(file);
    folder.becomes(&[1002, 1003, 1009]);
    // A new one, too.
    let mut file = File::create(folder.path("new.yaml")).unwrap();
    file.write_all(gateway("new", 1010).as_bytes()).unwrap();
    drop(file);
    folder.becomes(&[1002, 1003, 1009, 1010]);
}

#[test]
fn a_syntax_error_keeps_what_the_file_held() {
    let mut folder = Folder::new(&[("a.yaml", gateway("a", 1001) + "---\n" + &gateway("b", 1002)), ("c.yaml", gateway("c", 1003))]);
    folder.write("a.yaml", &(gateway("a", 1011) + "---\n" + "apiVersion: [\n"));
    folder.says("error: a.yaml:6:15");
    assert_eq!(folder.ports(), [1002, 1003, 1011], "the sound document is taken, the other's object kept");
    // Still broken, in another way.
    folder.write("a.yaml", &(gateway("a", 1012) + "---\n" + "apiVersion: }\n"));
    folder.becomes(&[1002, 1003, 1012]);
    // Without it, nothing is kept.
    folder.write("a.yaml", &gateway("a", 1012));
    folder.becomes(&[1003, 1012]);
    assert_eq!(folder.found(), [""; 0]);
    folder.write("a.yaml", "a: b: c\n");
    folder.says("error: a.yaml:1");
    assert_eq!(folder.ports(), [1003, 1012]);
    folder.write("a.yaml", "");
    folder.becomes(&[1003]);
    assert_eq!(folder.found(), [""; 0]);
}

#[test]
fn an_object_with_errors_keeps_its_last_good_version() {
    let mut folder = Folder::new(&[("a.yaml", gateway("a", 1001) + "---\n" + &gateway("b", 1002))]);
    folder.write("a.yaml", &(gateway("a", 1001).replace("1001", "70000") + "---\n" + &gateway("b", 1012)));
    folder.says("70000 is out of bounds");
    assert_eq!(folder.ports(), [1001, 1012]);
    // The document moves, and is still broken.
    folder.write("a.yaml", &(gateway("b", 1013) + "---\n" + &gateway("a", 1001).replace("1001", "70000")));
    folder.becomes(&[1001, 1013]);
    folder.says("a.yaml:9:");
    folder.write("a.yaml", &gateway("b", 1013));
    folder.becomes(&[1013]);
}

#[test]
fn an_object_without_a_name_keeps_what_went_missing() {
    let mut folder = Folder::new(&[("a.yaml", gateway("a", 1001))]);
    folder.write("a.yaml", &gateway("\"\"", 1001));
    folder.says("is not a name");
    assert_eq!(folder.ports(), [1001]);
    folder.write("a.yaml", &gateway("a", 1002));
    folder.becomes(&[1002]);
}

#[test]
fn the_first_of_two_files_with_the_same_object_counts() {
    let mut folder = Folder::new(&[("a.yaml", gateway("x", 1001)), ("b.yaml", gateway("x", 1002))]);
    assert_eq!(folder.ports(), [1001]);
    assert_eq!(folder.found().len(), 1);
    folder.says("error: b.yaml:1:1: duplicate Gateway/default/x: the one at");
    folder.says("a.yaml:1 is used");
    fs::remove_file(folder.path("a.yaml")).unwrap();
    folder.becomes(&[1002]);
    assert_eq!(folder.found(), [""; 0]);
    folder.write("a.yaml", &gateway("x", 1003));
    folder.becomes(&[1003]);
    folder.write("b.yaml", &gateway("y", 1002));
    folder.becomes(&[1002, 1003]);
    assert_eq!(folder.found(), [""; 0]);
}

#[test]
fn editors_leave_things_behind() {
    let mut folder = Folder::new(&[("a.yaml", gateway("a", 1001))]);
    for name in [".a.yaml.swp", "a.yaml~", "4913", "#a.yaml#", ".#a.yaml", ".hidden/b.yaml", "notes.txt", ".b.yaml"] {
        folder.write(name, &gateway("b", 1002));
    }
    // As vim does: the old file is moved away, the new one written under its name.
    fs::rename(folder.path("a.yaml"), folder.path("a.yaml~")).unwrap();
    folder.write("a.yaml", &gateway("a", 1003));
    folder.becomes(&[1003]);
    // As many do: written beside, then moved over.
    folder.write(".a.yaml.tmp", &gateway("a", 1004));
    fs::rename(folder.path(".a.yaml.tmp"), folder.path("a.yaml")).unwrap();
    folder.becomes(&[1004]);
    assert_eq!(folder.found(), [""; 0]);
    // A move to another name is no change of what is there.
    fs::rename(folder.path("a.yaml"), folder.path("z.yaml")).unwrap();
    folder.write("y.yaml", &gateway("y", 1005));
    folder.becomes(&[1004, 1005]);
    // Out of sight.
    fs::rename(folder.path("z.yaml"), folder.path("z.off")).unwrap();
    folder.becomes(&[1005]);
}

#[test]
fn hard_links_are_whole_at_once() {
    let mut folder = Folder::new(&[("a.off", gateway("a", 1001))]);
    fs::hard_link(folder.path("a.off"), folder.path("a.yaml")).unwrap();
    folder.becomes(&[1001]);
}

#[test]
fn a_config_map_volume_is_swapped_by_its_link() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("volume");
    write(&volume.join("..2026_1/a.yaml"), &gateway("a", 1001));
    write(&volume.join("..2026_1/b.yaml"), &gateway("b", 1002));
    symlink("..2026_1", volume.join("..data")).unwrap();
    symlink("..data/a.yaml", volume.join("a.yaml")).unwrap();
    symlink("..data/b.yaml", volume.join("b.yaml")).unwrap();
    let mut folder = Folder::load(dir, std::slice::from_ref(&volume));
    assert_eq!(folder.ports(), [1001, 1002]);
    for round in 2..5_u16 {
        write(&volume.join(format!("..2026_{round}/a.yaml")), &gateway("a", 1001 + round * 10));
        write(&volume.join(format!("..2026_{round}/b.yaml")), &gateway("b", 1002));
        symlink(format!("..2026_{round}"), volume.join("..data_tmp")).unwrap();
        fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
        fs::remove_dir_all(volume.join(format!("..2026_{}", round - 1))).unwrap();
        folder.becomes(&[1002, 1001 + round * 10]);
    }
    assert_eq!(folder.found(), [""; 0]);
}

#[test]
fn a_link_to_a_file_elsewhere_is_followed() {
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("real.yaml");
    write(&target, &gateway("a", 1001));
    let dir = tempfile::tempdir().unwrap();
    symlink(&target, dir.path().join("a.yaml")).unwrap();
    let root = dir.path().to_path_buf();
    let mut folder = Folder::load(dir, &[root]);
    assert_eq!(folder.ports(), [1001]);
    write(&target, &gateway("a", 1002));
    folder.becomes(&[1002]);
}

#[test]
fn what_is_kept_gives_way_to_what_is_written_elsewhere() {
    let mut folder = Folder::new(&[("a.yaml", gateway("x", 1001))]);
    folder.write("a.yaml", &gateway("x", 1002).replace("kind: Gateway", "kind: Gatewy"));
    folder.says("did you mean Gateway?");
    assert_eq!(folder.ports(), [1001]);
    folder.write("b.yaml", &gateway("x", 1003));
    folder.becomes(&[1003]);
    assert_eq!(folder.found().len(), 1, "{:?}", folder.found());
    // Mended, it is the first of two again.
    folder.write("a.yaml", &gateway("x", 1004));
    folder.becomes(&[1004]);
    folder.says("duplicate Gateway/default/x");
    folder.write("a.yaml", &gateway("x", 1004).replace("kind: Gateway", "kind: Gatewy"));
    folder.becomes(&[1003]);
    fs::remove_file(folder.path("b.yaml")).unwrap();
    folder.becomes(&[1004]);
}

#[test]
fn a_folder_goes_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("conf.d");
    write(&root.join("a.yaml"), &gateway("a", 1001));
    let mut folder = Folder::load(dir, std::slice::from_ref(&root));
    assert_eq!(folder.ports(), [1001]);
    for port in [1002, 1003] {
        fs::remove_dir_all(&root).unwrap();
        folder.becomes(&[]);
        folder.says("there is no file or folder");
        write(&root.join("sub/deep/a.yaml"), &gateway("a", port));
        folder.becomes(&[port]);
        write(&root.join("sub/deep/a.yaml"), &gateway("a", port + 100));
        folder.becomes(&[port + 100]);
        assert_eq!(folder.found(), [""; 0]);
    }
    // Another folder takes its place.
    write(&folder.path("next/a.yaml"), &gateway("a", 1009));
    fs::rename(&root, folder.path("old")).unwrap();
    fs::rename(folder.path("next"), &root).unwrap();
    folder.becomes(&[1009]);
    write(&root.join("a.yaml"), &gateway("a", 1010));
    folder.becomes(&[1010]);
}

#[test]
fn files_are_named_one_by_one_in_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("z.conf"), dir.path().join("a.yaml"));
    write(&one, &gateway("x", 1001));
    write(&two, &gateway("x", 1002));
    write(&dir.path().join("other.yaml"), &gateway("other", 1003));
    let mut folder = Folder::load(dir, &[one.clone(), two.clone()]);
    assert_eq!(folder.ports(), [1001], "the order of the command line; no other file of the folder; any name will do");
    write(&one, &gateway("x", 1004));
    folder.becomes(&[1004]);
    // Removed and written again.
    fs::remove_file(&one).unwrap();
    folder.becomes(&[1002]);
    folder.says("there is no file or folder z.conf");
    write(&one, &gateway("x", 1005));
    folder.becomes(&[1005]);
}

#[test]
fn a_file_that_cannot_be_read_keeps_what_it_held() {
    let mut folder = Folder::new(&[("a.yaml", gateway("a", 1001))]);
    fs::write(folder.path("a.yaml"), b"a: \xff\xfe\n").unwrap();
    folder.says("a.yaml is not UTF-8 text: line 1 has other bytes");
    assert_eq!(folder.ports(), [1001]);
    folder.write("a.yaml", &gateway("a", 1002));
    folder.becomes(&[1002]);
    assert_eq!(folder.found(), [""; 0]);
}

#[test]
fn updates_come_by_a_channel() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a.yaml"), &gateway("a", 1001));
    let names = |update: &Update| update.delta.set.iter().map(|r| r.id().to_string()).collect::<Vec<_>>();
    let mut updates = Control::new(Options::default()).spawn(Sources { paths: vec![dir.path().to_path_buf()], cluster: None }).unwrap();
    let first = updates.blocking_recv().unwrap();
    assert_eq!(names(&first), ["listener `0.0.0.0_1001`"]);
    write(&dir.path().join("b.yaml"), &gateway("b", 1002));
    let second = updates.blocking_recv().unwrap();
    assert_eq!(names(&second), ["listener `0.0.0.0_1002`"]);
    assert!(second.delta.revision > first.delta.revision);
}

#[test]
fn relative_paths_are_watched() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let root = PathBuf::from(dir.path().file_name().unwrap());
    write(&root.join("a.yaml"), &gateway("a", 1001));
    // A file right in the working folder, named without any folder.
    let file = tempfile::Builder::new().prefix("weir-").suffix(".yaml").tempfile_in(".").unwrap();
    let name = PathBuf::from(file.path().file_name().unwrap());
    write_here(&name, &gateway("b", 1002));
    let mut folder = Folder::load(dir, &[root.clone(), name.clone()]);
    assert_eq!(folder.ports(), [1001, 1002]);
    write(&root.join("a.yaml"), &gateway("a", 1003));
    folder.becomes(&[1002, 1003]);
    write_here(&name, &gateway("b", 1004));
    folder.becomes(&[1003, 1004]);
    assert_eq!(folder.found(), [""; 0]);
}

fn write_here(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

#[test]
fn late_findings_show_the_line() {
    let text = gateway("gw", 1001)
        + "---\n# Straße\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n  parentRefs: [{name: gw}]\n  rules:\n  - backendRefs:\n    - name: nobody\n      port: 80\n";
    let folder = Folder::new(&[("a.yaml", text)]);
    let found = &folder.control.findings()[0];
    let snippet = found.snippet(false);
    assert!(snippet.contains("a.yaml:14:7") && snippet.contains("name: nobody") && snippet.contains('^'), "{snippet}");
    assert_eq!(found.object.as_deref(), Some("HTTPRoute/default/r"));
}

#[test]
fn conditions_are_kept_for_the_status() {
    let text = gateway("gw", 1001)
        + "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec: {parentRefs: [{name: gw}, {name: gw, port: 9}], rules: [{backendRefs: [{name: nobody, port: 80}]}]}\n";
    let folder = Folder::new(&[("a.yaml", text)]);
    let mut got = Vec::new();
    for key in [Key::new(Kind::Gateway, "default", "gw"), Key::new(Kind::HttpRoute, "default", "r")] {
        let conditions = folder.control.index().status().conditions(&key);
        let line = |c: &Condition| format!("{key} {} {} {} {}: {}", c.scope, c.kind, c.status, c.reason, c.message);
        got.extend(conditions.iter().map(line));
    }
    let want = [
        "Gateway/default/gw http Conflicted false NoConflicts: The listener conflicts with no other",
        "Gateway/default/gw http Accepted true Accepted: The listener is accepted",
        "Gateway/default/gw http ResolvedRefs true ResolvedRefs: All references are resolved",
        "Gateway/default/gw http Programmed true Programmed: The listener is open",
        "Gateway/default/gw  Accepted true Accepted: The object is accepted",
        "Gateway/default/gw  Programmed true Programmed: The proxy serves this version",
        "Gateway/default/gw  ResolvedRefs true ResolvedRefs: All references are resolved",
        "HTTPRoute/default/r parentRefs[1] Accepted false NoMatchingParent: the Gateway default/gw has no listener of this name or port; sectionName is the name of a listener, port its port",
        "HTTPRoute/default/r parentRefs[0] Accepted true Accepted: The route is attached to this parent",
        "HTTPRoute/default/r parentRefs[1] ResolvedRefs false BackendNotFound: there is no Service default/nobody: its requests are answered with 500; add it, or change the name",
        "HTTPRoute/default/r parentRefs[0] ResolvedRefs false BackendNotFound: there is no Service default/nobody: its requests are answered with 500; add it, or change the name",
    ];
    assert_eq!(got, want);
}

#[test]
fn a_plugins_code_is_followed() {
    let plugin = "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {name: p}\nspec: {url: file://code/p.wasm}\n";
    let mut folder = Folder::new(&[("a.yaml", gateway("gw", 1001) + "---\n" + plugin), ("code/p.wasm", "one".into())]);
    assert_eq!(folder.found(), [""; 0]);
    let digest = |config: &Config| config.plugins.values().map(|p| format!("{:?}", p.code)).collect::<Vec<_>>();
    let first = digest(&folder.config);
    assert_eq!(first.len(), 1);
    // A build removes the file, and writes it again. The plugin stays: what to do without code is its failStrategy's to say.
    fs::remove_file(folder.path("code/p.wasm")).unwrap();
    folder.says("spec.url");
    assert_eq!(folder.config.plugins.len(), 1);
    folder.write("code/p.wasm", "two");
    folder.until("another digest", |config, found| digest(config) != first && found.is_empty());
    // With the object, it goes.
    folder.write("a.yaml", &gateway("gw", 1001));
    folder.until("no plugin", |config, _| config.plugins.is_empty());
}
