//! Does the steps of a plan.
use super::{
    journal::{FILE, Replaced},
    layout::below,
    plan::Step,
};
use crate::{
    admin::{self, AskError},
    durable,
};
use std::{
    fs::{self, DirBuilder},
    future::Future,
    io,
    os::unix::fs::DirBuilderExt,
    path::Path,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

/// Time between two looks at the hub.
const POLL: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error("cannot {step}: {error}")]
    Io { step: String, error: io::Error },
    #[error("{step}: {output}")]
    Systemctl { step: String, output: String },
    #[error("{step}: not within {limit:?}: {why}")]
    Late { step: String, limit: Duration, why: String },
}

/// What is on the node beside its files.
pub trait System {
    fn systemctl(&self, arguments: &[String]) -> impl Future<Output = io::Result<Output>>;
    /// An answer of the hub's admin socket.
    fn ask(&self, path: &str) -> impl Future<Output = Result<String, AskError>>;
}

/// The node itself.
pub struct Machine<'a> {
    /// The admin socket of the hub.
    pub socket: &'a Path,
}

impl System for Machine<'_> {
    async fn systemctl(&self, arguments: &[String]) -> io::Result<Output> {
        tokio::process::Command::new("systemctl").args(arguments).stdin(Stdio::null()).output().await
    }

    async fn ask(&self, path: &str) -> Result<String, AskError> {
        let mut answer = Vec::new();
        admin::ask(self.socket, http::Method::GET, path, &mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

/// Does one step; it may have been done before.
pub async fn step(step: &Step, root: &Path, system: &impl System, limit: Duration) -> Result<(), StepError> {
    let failed = |error| StepError::Io { step: step.to_string(), error };
    let missing_is_fine = |result: io::Result<()>| match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(failed),
    };
    match step {
        Step::Journal(journal) => journal.write(root).map_err(failed),
        Step::Folder(path) => match DirBuilder::new().mode(0o755).create(below(root, path)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made.map_err(failed),
        },
        Step::Write { path, mode, text } => durable::write(&below(root, path), *mode, text.as_bytes()).map_err(failed),
        Step::Backup(path) => {
            let (file, backup) = (below(root, path), below(root, &Replaced::backup(path)));
            // A second name of the same file: it comes back with its owner, mode and times.
            match fs::hard_link(&file, &backup) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                linked => linked.map_err(failed)?,
            }
            durable::sync(durable::folder_of(&file)).map_err(failed)
        }
        Step::Restore(path) => {
            let (file, backup) = (below(root, path), below(root, &Replaced::backup(path)));
            durable::remove_part(&file).map_err(failed)?;
            missing_is_fine(fs::rename(&backup, &file))?;
            // A rename does nothing where both are names of one file, that is, where the file was not replaced yet.
            missing_is_fine(fs::remove_file(&backup))?;
            missing_is_fine(durable::sync(durable::folder_of(&file)))
        }
        Step::Systemctl(arguments) => {
            let output = system.systemctl(arguments).await.map_err(failed)?;
            let said = || String::from_utf8_lossy(&output.stderr).trim().to_string();
            match output.status.success() {
                true => Ok(()),
                false => Err(StepError::Systemctl { step: step.to_string(), output: format!("{} {}", output.status, said()) }),
            }
        }
        Step::TrySystemctl(arguments) => {
            let _ = system.systemctl(arguments).await;
            Ok(())
        }
        Step::Ready => wait(step, system, "/readyz", limit, |_| true).await,
        Step::Lease => {
            let renews = |metrics: &str| succeeded(metrics, "leases.coordination.k8s.io", &["update", "create"]);
            wait(step, system, "/metrics", limit, renews).await
        }
        Step::EndpointSlices => {
            let reads = |metrics: &str| succeeded(metrics, "endpointslices.discovery.k8s.io", &["list", "watch"]);
            wait(step, system, "/metrics", limit, reads).await
        }
        Step::Remove(path) => {
            let file = below(root, path);
            durable::remove_part(&file).map_err(failed)?;
            missing_is_fine(fs::remove_file(&file))?;
            missing_is_fine(durable::sync(durable::folder_of(&file)))
        }
        Step::RemoveFolder(path) => match fs::remove_dir(below(root, path)) {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            removed => missing_is_fine(removed),
        },
        Step::Forget => forget(root).map_err(failed),
    }
}

/// Whether a request with one of the verbs was answered well.
fn succeeded(metrics: &str, resource: &str, verbs: &[&str]) -> bool {
    let asked = |line: &&str| {
        line.contains(resource) && line.contains("code=\"20") && verbs.iter().any(|verb| line.contains(&format!("verb=\"{verb}\"")))
    };
    metrics.lines().filter(asked).any(|line| !line.ends_with(" 0"))
}

async fn wait(step: &Step, system: &impl System, path: &str, limit: Duration, good: impl Fn(&str) -> bool) -> Result<(), StepError> {
    let begun = Instant::now();
    loop {
        let why = match system.ask(path).await {
            Ok(answer) if good(&answer) => return Ok(()),
            Ok(_) => "it has not come".into(),
            Err(e) => e.to_string(),
        };
        if begun.elapsed() > limit {
            return Err(StepError::Late { step: step.to_string(), limit, why });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Removes the journal, also one that was never written to its end, and its folder where nothing else is in it.
pub fn forget(root: &Path) -> io::Result<()> {
    let file = below(root, FILE);
    let missing_is_fine = |result: io::Result<()>| match result {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => Ok(()),
        result => result,
    };
    durable::remove_part(&file)?;
    missing_is_fine(fs::remove_file(&file))?;
    let folder = durable::folder_of(&file);
    missing_is_fine(durable::sync(folder))?;
    missing_is_fine(fs::remove_dir(folder))
}

#[cfg(test)]
mod tests {
    use super::super::{
        journal::Journal,
        layout::Layout,
        plan::{KubeProxy, Node, convert, undo},
    };
    use super::*;
    use http::StatusCode;
    use std::{cell::RefCell, collections::BTreeMap, os::unix::process::ExitStatusExt, path::PathBuf, process::ExitStatus};

    /// A node without systemd, and a hub that is ready as soon as it is started.
    #[derive(Default)]
    struct Pretended {
        called: RefCell<Vec<String>>,
        /// The command that fails.
        fails: &'static str,
        /// The hub never becomes ready.
        dead: bool,
    }

    impl System for Pretended {
        async fn systemctl(&self, arguments: &[String]) -> io::Result<Output> {
            let called = arguments.join(" ");
            let code = if called == self.fails { 256 } else { 0 };
            self.called.borrow_mut().push(called);
            Ok(Output { status: ExitStatus::from_raw(code), stdout: Vec::new(), stderr: b"no such unit".to_vec() })
        }
        async fn ask(&self, path: &str) -> Result<String, AskError> {
            let count = |verb, resource| {
                format!("weir_edge_requests_total{{verb=\"{verb}\",resource=\"{resource}\",code=\"200\",source=\"remote\"}} 1\n")
            };
            let metrics = [count("update", "leases.coordination.k8s.io"), count("list", "endpointslices.discovery.k8s.io")].concat();
            match (self.dead, path) {
                (true, _) => Err(AskError::Refused { status: StatusCode::SERVICE_UNAVAILABLE, body: "down".into() }),
                (_, "/metrics") => Ok(metrics),
                _ => Ok("ok".into()),
            }
        }
    }

    fn node(layout: Layout) -> Node {
        let text = |text: &str| text.to_string();
        Node {
            layout,
            name: text("edge-1"),
            arguments: vec![text("--node-name"), text("edge-1")],
            program: text("/usr/local/bin/weir"),
            authority: text("authority"),
            client_certificate: text("/c.pem"),
            client_key: text("/k.pem"),
            hub: text("https://127.0.0.1:10268"),
            hub_authority: text("/var/lib/weir/pki/edge-ca.crt"),
            folders: vec![text("/etc/weir"), text("/etc/weir/edge")],
            kube_proxy: None,
        }
    }

    /// The kubeconfig of a kube-proxy that systemd runs.
    const PROXY: &str = "/var/lib/kube-proxy/kubeconfig";

    /// All layouts, and all ways to move kube-proxy.
    fn nodes() -> [(Layout, Option<KubeProxy>); 5] {
        let replaced = Some(Replaced { file: PROXY.into(), service: "kube-proxy.service".into() });
        let user = vec![("tokenFile", "/token".to_string())];
        let of_agent = Some(KubeProxy { user: user.clone(), replaced: None });
        let of_unit = Some(KubeProxy { user, replaced });
        [(Layout::Kubeadm, None), (Layout::Kubeadm, of_unit.clone()), (Layout::K3s, None), (Layout::K3s, of_unit), (Layout::Rke2, of_agent)]
    }

    /// All files, with what is in them, and all folders.
    fn tree(root: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let (mut all, mut folders) = (BTreeMap::new(), vec![root.to_path_buf()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let content = (!path.is_dir()).then(|| fs::read(&path).unwrap());
                if content.is_none() {
                    folders.push(path.clone());
                }
                all.insert(path, content);
            }
        }
        all
    }

    fn prepared(layout: Layout) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for path in [layout.kubeconfig(), layout.switch_file(), PROXY, "/etc/systemd/system/other.service", "/var/lib/some"] {
            fs::create_dir_all(below(root.path(), path).parent().unwrap()).unwrap();
        }
        fs::write(below(root.path(), layout.kubeconfig()), "kubelet's own").unwrap();
        fs::write(below(root.path(), PROXY), "kube-proxy's own").unwrap();
        root
    }

    async fn all(steps: &[Step], root: &Path, system: &Pretended) -> Result<(), StepError> {
        for one in steps {
            step(one, root, system, Duration::ZERO).await?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_node_is_as_it_was_whenever_the_process_was_killed() {
        for (layout, kube_proxy) in nodes() {
            let there = convert(&Node { kube_proxy, ..node(layout) });
            for killed in 0..=there.len() {
                let root = prepared(layout);
                let (root, before) = (root.path(), tree(root.path()));
                let system = Pretended::default();
                all(&there[..killed], root, &system).await.unwrap();
                // What a kill within the next step may leave.
                if let Some(Step::Write { path, .. }) = there.get(killed) {
                    fs::write(below(root, &format!("{path}.new")), "half").unwrap();
                }
                let Some(journal) = Journal::read(root).unwrap() else {
                    assert!(killed == 0 && tree(root) == before);
                    continue;
                };
                // The undoing may be killed as well.
                let back = undo(&journal);
                for again in [1, back.len() / 2, back.len() - 1] {
                    all(&back[..again], root, &system).await.unwrap();
                    let journal = Journal::read(root).unwrap().unwrap();
                    assert_eq!(undo(&journal).len(), back.len(), "{layout} {killed} {again}");
                }
                all(&back, root, &system).await.unwrap();
                assert_eq!(tree(root), before, "{layout}, killed after {killed} steps");
                // kubelet was started again where it may have seen the switch, and was left alone otherwise.
                let restart = format!("restart {}", layout.service());
                let touched =
                    there[..killed].iter().any(|s| matches!(s, Step::Journal(j) if j.phase > super::super::journal::Phase::Preparing));
                assert_eq!(system.called.borrow().contains(&restart), touched, "{layout} {killed}");
            }
        }
    }

    #[tokio::test]
    async fn a_step_that_fails_says_why() {
        let layout = Layout::Kubeadm;
        let table = [
            (Pretended { fails: "enable --now weir-edge.service", ..Pretended::default() }, "no such unit"),
            (
                Pretended { dead: true, ..Pretended::default() },
                "wait until the hub is ready: not within 0ns: down (503 Service Unavailable)",
            ),
        ];
        for (system, says) in table {
            let root = prepared(layout);
            let before = tree(root.path());
            let error = all(&convert(&node(layout)), root.path(), &system).await.unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            all(&undo(&Journal::read(root.path()).unwrap().unwrap()), root.path(), &system).await.unwrap();
            assert_eq!(tree(root.path()), before);
        }
    }
}
