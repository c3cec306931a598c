//! The configuration in every folder of `examples/` is sound.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};
use weir_config::diagnostic::Severity;
use weir_control::{Control, Options};

/// The files of each folder that hold objects.
fn files(at: &Path, found: &mut BTreeMap<PathBuf, Vec<PathBuf>>) {
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "yaml") && fs::read_to_string(&path).unwrap().contains("apiVersion:") {
            found.entry(at.into()).or_default().push(path);
        }
    }
}

#[test]
fn every_example_is_sound() {
    let mut found = BTreeMap::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples"), &mut found);
    assert!(!found.is_empty());
    for files in found.values() {
        let mut control = Control::new(Options::default());
        control.load(files);
        for d in control.findings() {
            // A plugin's code is there once it was built.
            let unbuilt = d.field == "spec.url";
            assert!(d.severity == Severity::Info || unbuilt, "{}", d.snippet(false));
        }
    }
}
