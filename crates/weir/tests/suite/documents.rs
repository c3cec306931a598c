//! What is written is true: the snippets of the documents load, and generated pages are current.
use crate::harness::{root, weir};
use std::{
    fs,
    path::{Path, PathBuf},
};
use weir::cli::docs as documents;

/// Every file below a folder with this extension.
fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
        if entry.is_dir() {
            files(&entry, extension, found);
        } else if entry.extension().is_some_and(|e| e == extension) {
            found.push(entry);
        }
    }
}

/// What `weir check` says of a folder or file, without a finding in it.
#[track_caller]
fn check(path: &Path) {
    let output = weir().args(["check", "--no-plugins"]).arg(path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("no findings"),
        "{}:\n{said}{}",
        path.display(),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_quickstart_loads_without_a_finding() {
    check(&root().join("examples/quickstart"));
}

#[test]
fn every_snippet_of_the_documents_loads_without_a_finding() {
    let mut documents = vec![root().join("README.md")];
    files(&root().join("docs"), "md", &mut documents);
    let mut count = 0;
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for (i, snippet) in text.split("```yaml\n").skip(1).map(|s| s.split("```").next().unwrap()).enumerate() {
            // What is no object (test cases, fragments) is fenced as `yml`.
            let folder = tempfile::tempdir().unwrap();
            let name = format!("{}-{}.yaml", document.file_stem().unwrap().to_string_lossy(), i + 1);
            fs::write(folder.path().join(&name), snippet).unwrap();
            fs::write(folder.path().join("plugin.wasm"), wat::parse_str("(module)").unwrap()).unwrap();
            check(folder.path());
            count += 1;
        }
    }
    assert!(count >= 5, "{count} snippets");
}

#[test]
fn generated_pages_are_current() {
    let folder = root().join("docs");
    let pages = documents::pages();
    for (name, wanted) in &pages {
        let path = folder.join(format!("{name}.md"));
        if std::env::var_os("UPDATE").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, wanted).unwrap();
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert!(written == *wanted, "{} is not current: UPDATE=1 cargo test --test suite generated_pages", path.display());
    }
    let mut there = Vec::new();
    files(&folder.join("reference"), "md", &mut there);
    let made = pages.iter().filter(|(name, _)| name.starts_with("reference/")).count();
    assert_eq!(there.len(), made, "pages that nothing makes: {there:?}");
}

/// `FILE::TEST` in this suite, or `wasm::FILE::TEST` in the conformance tests of weir-wasm.
#[test]
fn the_tests_that_the_page_on_compatibility_names_exist() {
    for name in documents::tests_of_compatibility() {
        let (folder, rest) = match name.strip_prefix("wasm::") {
            Some(rest) => ("crates/weir-wasm/tests/conformance", rest),
            None => ("crates/weir/tests/suite", name),
        };
        let (file, test) = rest.split_once("::").unwrap_or_else(|| panic!("{name}"));
        let source = fs::read_to_string(root().join(folder).join(format!("{file}.rs"))).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(source.contains(&format!("#[test]\nfn {test}() {{")), "there is no test {name}");
    }
}
