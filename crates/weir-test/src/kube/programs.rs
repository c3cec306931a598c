//! The programs of `tools/kube-rig`, built from Go modules into a cache outside of the clone.
use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    hash::{DefaultHasher, Hasher},
    io,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

/// What a cluster without pods needs.
pub const API: &[&str] = &["kube-rig", "etcd", "kube-apiserver"];

/// What the conformance suite needs.
pub const SUITE: &[&str] = &["kube-rig", "etcd", "kube-apiserver", "kube-controller-manager", "echo-basic", "coredns", "conformance.test"];

/// What measures a gateway with many routes.
pub const SCALE: &[&str] = &["kube-rig", "etcd", "kube-apiserver", "kube-controller-manager", "scale"];

/// What measures hubs of nodes.
pub const EDGE: &[&str] = &["kube-rig", "etcd", "kube-apiserver", "edge-bench"];

/// What `weir edge` is measured beside.
pub const YURTHUB: &[&str] = &["yurthub"];

/// What renders the chart.
pub const HELM: &[&str] = &["helm"];

/// The registry of the same name.
pub const CONSUL: &[&str] = &["consul"];

/// What operators use.
pub const KUBECTL: &[&str] = &["kubectl"];

/// A client of client-go.
pub const INFORMER: &[&str] = &["informer"];

/// Name, module below `tools/kube-rig`, arguments of `go`.
const PROGRAMS: &[(&str, &str, &[&str])] = &[
    ("kube-rig", "", &["build", "."]),
    ("echo-basic", "", &["build", "sigs.k8s.io/gateway-api/conformance/echo-basic"]),
    ("conformance.test", "", &["test", "-c", "./suite"]),
    ("scale", "", &["build", "./scale"]),
    ("informer", "informer", &["build", "."]),
    ("edge-bench", "edge", &["build", "."]),
    ("yurthub", "yurthub", &["build", "github.com/openyurtio/openyurt/cmd/yurthub"]),
    ("envoy-gateway", "envoy-gateway", &["build", "github.com/envoyproxy/gateway/cmd/envoy-gateway"]),
    ("coredns", "coredns", &["build", "."]),
    ("etcd", "etcd", &["build", "go.etcd.io/etcd/server/v3"]),
    ("kube-apiserver", "kubernetes", &["build", "k8s.io/kubernetes/cmd/kube-apiserver"]),
    ("kube-controller-manager", "kubernetes", &["build", "k8s.io/kubernetes/cmd/kube-controller-manager"]),
    ("consul", "consul", &["build", "github.com/hashicorp/consul"]),
    ("helm", "helm", &["build", "helm.sh/helm/v3/cmd/helm"]),
    ("kubectl", "kubernetes", &["build", "k8s.io/kubernetes/cmd/kubectl"]),
];

/// CustomResourceDefinitions that come with a Go module: name here, module, path in it.
const DEFINITIONS: &[(&str, &str, &str)] = &[
    ("gateway-api", "sigs.k8s.io/gateway-api", "config/crd/experimental"),
    ("istio", "istio.io/api", "kubernetes/customresourcedefinitions.gen.yaml"),
];

/// Builds of other sources are removed after this time.
const KEPT: Duration = Duration::from_secs(14 * 24 * 3600);

/// Where the programs are.
pub struct Programs {
    /// A value for PATH that finds them first.
    pub path: OsString,
    /// Files and folders of CustomResourceDefinitions: Gateway API (experimental channel), Istio and Higress.
    pub definitions: Vec<PathBuf>,
}

/// The folder of the rig's sources.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/kube-rig")
}

/// Finds the programs `wanted`, and builds those that are missing.
pub fn programs(wanted: &[&str]) -> io::Result<Programs> {
    let mut folders: Vec<PathBuf> = Vec::new();
    for (name, module, arguments) in PROGRAMS.iter().filter(|(name, ..)| wanted.contains(name)) {
        let folder = folder_of(module)?;
        made(&folder.join(name), |part| {
            eprintln!("building {name}");
            go(Command::new("go").arg(arguments[0]).args(["-ldflags=-s -w", "-o"]).arg(part).args(&arguments[1..]), module).map(drop)
        })?;
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    let own = folder_of("")?;
    let mut definitions = vec![sources().join("crds/higress.yaml")];
    for (name, module, path) in DEFINITIONS {
        let to = own.join(name);
        made(&to, |part| copy(&module_folder("", module)?.join(path), part))?;
        definitions.push(to);
    }
    folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    folders.extend(["/usr/sbin".into(), "/sbin".into()]);
    Ok(Programs { path: env::join_paths(folders).map_err(io::Error::other)?, definitions })
}

/// The folder of a dependency of a module below `tools/kube-rig`.
pub fn module_folder(module: &str, dependency: &str) -> io::Result<PathBuf> {
    // It may be in no cache yet.
    go(Command::new("go").args(["mod", "download", dependency]), module)?;
    let folder = go(Command::new("go").args(["list", "-m", "-f", "{{.Dir}}", dependency]), module)?;
    Ok(PathBuf::from(folder.trim()))
}

/// Runs `go` in a module; its output.
fn go(command: &mut Command, module: &str) -> io::Result<String> {
    let output = command.current_dir(sources().join(module)).env("GOWORK", "off").stderr(std::process::Stdio::inherit()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(io::Error::other(format!("{command:?} failed: {}", output.status)))
}

/// The cache folder for what is made of a module: a change of its sources makes another folder.
pub fn folder_of(module: &str) -> io::Result<PathBuf> {
    let folder = sources().join(module);
    let mut hasher = DefaultHasher::new();
    for file in source_files(&folder)? {
        hasher.write(file.as_os_str().as_encoded_bytes());
        hasher.write(&fs::read(folder.join(file))?);
    }
    let all = cache()?;
    let prefix = if module.is_empty() { "rig" } else { module };
    let name = format!("{prefix}-{:016x}", hasher.finish());
    fs::create_dir_all(all.join(&name))?;
    Ok(all.join(name))
}

/// The files of a module, as paths below its folder: modules in folders of it are not among them.
fn source_files(module: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(module.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if !entry.file_type()?.is_dir() {
                // Texts for people change no program.
                found.extend((path.extension() != Some("md".as_ref())).then_some(path));
            } else if !module.join(&path).join("go.mod").exists() {
                folders.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn cache() -> io::Result<PathBuf> {
    let base = match (env::var_os("XDG_CACHE_HOME"), env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) => PathBuf::from(home).join(".cache"),
        _ => return Err(io::Error::other("neither XDG_CACHE_HOME nor HOME is set")),
    };
    Ok(base.join("weir-kube-rig"))
}

/// Makes a file or folder unless it is there. Only one process makes one at a time, and what is there is complete.
pub fn made(to: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    if to.exists() {
        return Ok(());
    }
    let lock = File::create(to.with_extension("lock"))?;
    lock.lock()?;
    if to.exists() {
        return Ok(());
    }
    remove_old(to.parent().unwrap_or(to));
    let part = to.with_extension("part");
    if part.is_dir() {
        fs::remove_dir_all(&part)?;
    }
    make(&part)?;
    fs::rename(part, to)
}

/// Removes what was made of other sources of the same module, and not lately.
fn remove_old(folder: &Path) {
    let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let (this, Some(all)) = (name(folder), folder.parent()) else { return };
    let Some((prefix, _)) = this.rsplit_once('-') else { return };
    for other in fs::read_dir(all).into_iter().flatten().flatten() {
        let same_module = name(&other.path()).rsplit_once('-').is_some_and(|(p, _)| p == prefix);
        let modified = other.metadata().and_then(|m| m.modified()).unwrap_or_else(|_| SystemTime::now());
        if same_module && name(&other.path()) != this && modified.elapsed().is_ok_and(|age| age > KEPT) {
            let _ = fs::remove_dir_all(other.path());
        }
    }
}

/// Copies a file, or the files of a folder.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        // Files of Go's module cache are read-only.
        return fs::write(to, fs::read(from)?);
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::write(to.join(entry.file_name()), fs::read(entry.path())?)?;
    }
    Ok(())
}
