//! A certificate and its key in one file, as kubelet keeps them: `NAME-current.pem` leads to the newest.
use super::validity::seconds;
use crate::durable;
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};
use weir_net::tls::Certificate;

/// Older files that are kept for people to look at.
const OLDER: usize = 1;

#[derive(Clone, Debug)]
pub struct Pair {
    folder: PathBuf,
    name: &'static str,
}

impl Pair {
    pub fn new(folder: &Path, name: &'static str) -> Pair {
        Pair { folder: folder.into(), name }
    }

    /// The link to the newest.
    pub fn current(&self) -> PathBuf {
        self.folder.join(format!("{}-current.pem", self.name))
    }

    /// The newest, where it can be read and used.
    pub fn read(&self) -> Option<Certificate> {
        let text = fs::read_to_string(self.current()).ok()?;
        Certificate::from_pem(&text, &text).ok()
    }

    /// Adds a newer one. The link changes at once, also for those who open it meanwhile.
    pub fn write(&self, chain: &str, key: &str, now: SystemTime) -> io::Result<()> {
        let file = self.folder.join(format!("{}-{:012}.pem", self.name, seconds(now)));
        durable::write(&file, 0o600, [chain.trim_end(), "\n", key].concat().as_bytes())?;
        durable::link(file.file_name().map(Path::new).unwrap_or(&file), &self.current())?;
        self.remove_older()
    }

    fn remove_older(&self) -> io::Result<()> {
        let dated = |path: &PathBuf| {
            let name = path.file_name()?.to_str()?.strip_prefix(self.name)?.strip_prefix('-')?.strip_suffix(".pem")?;
            name.bytes().all(|b| b.is_ascii_digit()).then_some(())
        };
        let mut all: Vec<PathBuf> =
            fs::read_dir(&self.folder)?.flatten().map(|entry| entry.path()).filter(|path| dated(path).is_some()).collect();
        let current = fs::canonicalize(self.current())?;
        all.retain(|path| path.file_name() != current.file_name());
        all.sort();
        let old = all.len().saturating_sub(OLDER);
        all.iter().take(old).try_for_each(fs::remove_file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        os::unix::fs::PermissionsExt,
        time::{Duration, UNIX_EPOCH},
    };
    use weir_test::certificates::Ca;

    #[test]
    fn the_newest_is_current_and_older_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let pair = Pair::new(&folder.path().join("pki"), "edge-client");
        assert!(pair.read().is_none());
        let ca = Ca::new();
        for i in 1..5 {
            let signed = ca.sign(&[&format!("n{i}")]);
            pair.write(&signed.pem, &signed.key, UNIX_EPOCH + Duration::from_secs(i)).unwrap();
            assert_eq!(pair.read().unwrap().details.dns_names, [format!("n{i}")]);
        }
        assert_eq!(fs::metadata(pair.current()).unwrap().permissions().mode() & 0o777, 0o600);
        let mut names: Vec<String> =
            fs::read_dir(folder.path().join("pki")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["edge-client-000000000003.pem", "edge-client-000000000004.pem", "edge-client-current.pem"]);
        fs::write(pair.current(), "damaged").unwrap();
        assert!(pair.read().is_none());
    }
}
