//! What was begun on a node: written before anything else is, and removed last.
use super::layout::{Layout, below};
use crate::durable;
use serde_json::{Value, json};
use std::{fs, io, path::Path};

pub const FILE: &str = "/var/lib/weir/convert.json";

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Files are added; kubelet knows nothing of them.
    Preparing,
    /// kubelet is switched: it may have been started with the new settings.
    Switching,
    Converted,
}

/// A file that is replaced, because the program that reads it takes no other one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    pub file: String,
    /// The unit that reads it.
    pub service: String,
}

impl Replaced {
    /// Where the file is kept until it is restored.
    pub fn backup(file: &str) -> String {
        format!("{file}.before-weir-edge")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    pub layout: Layout,
    pub phase: Phase,
    /// Files that are added, in their order. The last one is the switch.
    pub files: Vec<String>,
    /// Folders that are made for them, outer ones first.
    pub folders: Vec<String>,
    /// The kubeconfig of kube-proxy.
    pub replaced: Option<Replaced>,
}

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("cannot read the journal {FILE}: {0}")]
    Io(#[from] io::Error),
    #[error("the journal {FILE} cannot be understood; it names the files that were added, so that you can remove them by hand")]
    Malformed,
}

const PHASES: [(&str, Phase); 3] = [("Preparing", Phase::Preparing), ("Switching", Phase::Switching), ("Converted", Phase::Converted)];

impl Journal {
    /// `None`: nothing was begun.
    pub fn read(root: &Path) -> Result<Option<Journal>, JournalError> {
        match fs::read_to_string(below(root, FILE)) {
            Ok(text) => Journal::parse(&text).map(Some).ok_or(JournalError::Malformed),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    pub fn write(&self, root: &Path) -> io::Result<()> {
        durable::write(&below(root, FILE), 0o600, self.text().as_bytes())
    }

    fn text(&self) -> String {
        let phase = PHASES.iter().find(|(_, phase)| *phase == self.phase).map_or("", |(name, _)| name);
        let mut value = json!({
            "version": 1, "layout": self.layout.to_string(), "phase": phase, "files": self.files, "folders": self.folders,
        });
        if let Some(Replaced { file, service }) = &self.replaced {
            value["replaced"] = json!({ "file": file, "service": service });
        }
        format!("{value:#}\n")
    }

    fn parse(text: &str) -> Option<Journal> {
        let value: Value = serde_json::from_str(text).ok()?;
        let strings = |field: &str| -> Option<Vec<String>> {
            value[field].as_array()?.iter().map(|entry| entry.as_str().map(str::to_string)).collect()
        };
        let phase = PHASES.iter().find(|(name, _)| value["phase"] == *name)?.1;
        (value["version"] == 1).then_some(())?;
        let replaced = match &value["replaced"] {
            Value::Null => None,
            replaced => Some(Replaced { file: replaced["file"].as_str()?.into(), service: replaced["service"].as_str()?.into() }),
        };
        let layout = value["layout"].as_str()?.parse().ok()?;
        Some(Journal { layout, phase, files: strings("files")?, folders: strings("folders")?, replaced })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_read_as_it_was_written() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Journal::read(root.path()).unwrap(), None);
        for (layout, (_, phase)) in Layout::all().into_iter().zip(PHASES) {
            for replaced in [None, Some(Replaced { file: "/c".into(), service: "d.service".into() })] {
                let journal = Journal { layout, phase, files: vec!["/a".into()], folders: vec!["/b".into()], replaced };
                journal.write(root.path()).unwrap();
                assert_eq!(Journal::read(root.path()).unwrap(), Some(journal));
            }
        }
        for text in ["", "{}", "[1]", "{\"version\": 2}"] {
            fs::write(below(root.path(), FILE), text).unwrap();
            assert!(matches!(Journal::read(root.path()), Err(JournalError::Malformed)), "{text}");
        }
    }
}
