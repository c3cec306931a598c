//! Circles of imports between the files of a crate. A file may use the modules above it in the tree; else imports point one way.
use super::imports::{self, Module};
use anyhow::{Context, Result};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::{Path, PathBuf},
};

/// One file's use of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    pub file: PathBuf,
    pub line: usize,
    /// As it is written.
    pub shown: String,
}

/// The files of a crate and what each uses of the others.
#[derive(Debug, Default)]
pub struct Graph {
    pub uses: BTreeMap<Module, BTreeMap<Module, Use>>,
    files: BTreeMap<Module, PathBuf>,
}

impl Graph {
    /// From the paths below `src` and the texts of a crate's files.
    pub fn new(crate_path: &Path, texts: &[(PathBuf, String)]) -> Result<Graph> {
        let mut graph = Graph::default();
        let mut read = Vec::new();
        let mut tests: Vec<Module> = Vec::new();
        for (path, text) in texts {
            let module = module_of(path);
            let file = crate_path.join("src").join(path);
            let imports = imports::read(text, &module).with_context(|| file.display().to_string())?;
            tests.extend(imports.test_modules);
            graph.files.insert(module.clone(), file.clone());
            read.push((module, file, imports.all));
        }
        let of_tests = |module: &Module| tests.iter().any(|test| module.starts_with(test));
        for (from, file, found) in read.into_iter().filter(|(module, ..)| !of_tests(module)) {
            for import in found {
                let Some(to) = graph.file_of(&import.path) else { continue };
                if !from.starts_with(&to) && !of_tests(&to) {
                    let used = Use { file: file.clone(), line: import.line, shown: import.shown };
                    graph.uses.entry(from.clone()).or_default().entry(to).or_insert(used);
                }
            }
        }
        Ok(graph)
    }

    /// The module with a file of its own that a path leads to.
    fn file_of(&self, path: &[String]) -> Option<Module> {
        (0..=path.len()).rev().map(|n| path[..n].to_vec()).find(|module| self.files.contains_key(module))
    }

    /// One shortest circle through each group of files that use each other.
    fn circles(&self) -> Vec<Circle<'_>> {
        let mut seen: BTreeSet<&Module> = BTreeSet::new();
        let mut found = Vec::new();
        for start in self.uses.keys() {
            if seen.contains(start) {
                continue;
            }
            let Some(uses) = self.shortest(start) else { continue };
            let members: BTreeSet<&Module> = self.reach(start).into_iter().filter(|m| self.reach(m).contains(start)).collect();
            seen.extend(&members);
            let files = members.into_iter().filter_map(|m| self.files.get(m)).map(PathBuf::as_path).collect();
            found.push(Circle { files, uses });
        }
        found
    }

    fn reach<'a>(&'a self, start: &Module) -> BTreeSet<&'a Module> {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&Module> = self.uses.get(start).into_iter().flat_map(BTreeMap::keys).collect();
        while let Some(module) = next.pop() {
            if reached.insert(module) {
                next.extend(self.uses.get(module).into_iter().flat_map(BTreeMap::keys));
            }
        }
        reached
    }

    /// The shortest way from a module back to itself.
    fn shortest(&self, start: &Module) -> Option<Vec<&Use>> {
        let mut ways: BTreeMap<&Module, Vec<&Use>> = BTreeMap::new();
        let mut queue: VecDeque<(&Module, Vec<&Use>)> = VecDeque::from([(start, Vec::new())]);
        while let Some((module, way)) = queue.pop_front() {
            for (to, used) in self.uses.get(module).into_iter().flatten() {
                let longer: Vec<&Use> = way.iter().copied().chain([used]).collect();
                if to == start {
                    return Some(longer);
                }
                if !ways.contains_key(to) {
                    ways.insert(to, longer.clone());
                    queue.push_back((to, longer));
                }
            }
        }
        None
    }
}

#[derive(Debug)]
struct Circle<'a> {
    files: Vec<&'a Path>,
    uses: Vec<&'a Use>,
}

impl Circle<'_> {
    fn message(&self) -> String {
        let mut text = format!("{}: a circle of imports between {} files:", self.files[0].display(), self.files.len());
        for used in &self.uses {
            text += &format!("\n    {}:{} uses {}", used.file.display(), used.line, used.shown);
        }
        text
    }
}

/// `a/b.rs` is the module `a::b`.
fn module_of(path: &Path) -> Module {
    let names: Vec<String> = path.with_extension("").components().map(|c| c.as_os_str().to_string_lossy().into()).collect();
    if matches!(names.iter().map(String::as_str).collect::<Vec<_>>()[..], ["lib" | "main"]) { Vec::new() } else { names }
}

/// The graphs of the crates under `crates/`, by name.
pub fn graphs(root: &Path, files: &[PathBuf]) -> Result<BTreeMap<String, Graph>> {
    let mut crates: BTreeMap<String, Vec<(PathBuf, String)>> = BTreeMap::new();
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "rs")) {
        let Ok(rest) = file.strip_prefix("crates") else { continue };
        let Some(name) = rest.components().next() else { continue };
        if let Ok(path) = rest.strip_prefix(Path::new(name.as_os_str()).join("src")) {
            let text = fs::read_to_string(root.join(file)).with_context(|| file.display().to_string())?;
            crates.entry(name.as_os_str().to_string_lossy().into()).or_default().push((path.into(), text));
        }
    }
    let graph = |(name, texts): (String, Vec<(PathBuf, String)>)| {
        let graph = Graph::new(&Path::new("crates").join(&name), &texts)?;
        Ok((name, graph))
    };
    crates.into_iter().map(graph).collect()
}

pub fn check(graphs: &BTreeMap<String, Graph>, found: &mut Vec<String>) {
    found.extend(graphs.values().flat_map(Graph::circles).map(|circle| circle.message()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(files: &[(&str, &str)]) -> Graph {
        let texts: Vec<(PathBuf, String)> = files.iter().map(|(path, text)| (path.into(), text.to_string())).collect();
        Graph::new(Path::new("crates/x"), &texts).unwrap()
    }

    #[test]
    fn a_circle_is_named_by_one_import_of_each_step() {
        let circular = [
            ("lib.rs", "mod a; mod b; mod c; mod d;"),
            ("a.rs", "use crate::b::B;\nuse crate::d::D;"),
            ("b.rs", "\nfn f() { crate::c::g() }"),
            ("c.rs", "use crate::{d::D, a};"),
            ("d.rs", "use crate::Options;"),
        ];
        let graph = graph(&circular);
        let circles: Vec<String> = graph.circles().iter().map(Circle::message).collect();
        let want = "crates/x/src/a.rs: a circle of imports between 3 files:\
            \n    crates/x/src/a.rs:1 uses crate::b::B\
            \n    crates/x/src/b.rs:2 uses crate::c::g\
            \n    crates/x/src/c.rs:1 uses crate::a";
        assert_eq!(circles, [want]);
    }

    #[test]
    fn what_is_no_circle() {
        for files in [
            // Towards the root and back down.
            &[("lib.rs", "mod a; use a::A;"), ("a.rs", "mod b; use b::B;"), ("a/b.rs", "use super::A; use crate::Options;")][..],
            // In tests only.
            &[("a.rs", "use crate::b::B;"), ("b.rs", "#[cfg(test)] mod tests { use crate::a::A; }")],
            &[("a.rs", "use crate::b::B; #[cfg(test)] mod tests;"), ("a/tests.rs", "use crate::b::B;"), ("b.rs", "")],
            &[("a.rs", "use b::B;"), ("b.rs", "use a::A;")],
        ] {
            assert!(graph(files).circles().is_empty(), "{files:?}");
        }
        // A child that uses what uses its parent.
        let files = [("a.rs", "mod b; use b::B;"), ("a/b.rs", "use crate::c::C;"), ("c.rs", "use crate::a::A;")];
        assert_eq!(graph(&files).circles().len(), 1);
    }
}
