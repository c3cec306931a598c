//! Files that objects name. An object of a file may name any. Whoever may write an object in a cluster may not read the files of the
//! gateway: such an object may only name files below the folder that the operator gives.
use super::Cx;
use crate::object::Object;
use std::path::{Component, Path, PathBuf};
use weir_config::diagnostic::Diagnostic;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPermitted {
    #[error("an object of the cluster may not name the file {path}")]
    Any { path: String },
    #[error("an object of the cluster may only name files below {}, not {path}", folder.display())]
    Outside { path: String, folder: PathBuf },
}

impl NotPermitted {
    pub fn diagnostic(&self) -> Diagnostic {
        let help = match self {
            NotPermitted::Any { .. } => "use a Secret, or an http:// URL; --allow-file-references permits the files of a folder",
            NotPermitted::Outside { .. } => "a path below that folder, without .. and ~",
        };
        Diagnostic::error("RefNotPermitted", self.to_string()).help(help)
    }
}

/// The path of a file that an object names. A relative one starts at the folder of the object's file, or at the permitted folder.
pub fn resolve(cx: &Cx<'_>, object: &Object, path: &str) -> Result<PathBuf, NotPermitted> {
    match object.document.file() {
        Some(_) => Ok(object.document.folder().join(path)),
        None => below(cx.options.file_references.as_deref(), path),
    }
}

/// Symbolic links in the folder are the operator's, and are followed. `~` separates paths in the names of secrets.
fn below(folder: Option<&Path>, path: &str) -> Result<PathBuf, NotPermitted> {
    let folder = folder.ok_or_else(|| NotPermitted::Any { path: path.into() })?;
    let whole = folder.join(path);
    let plain = !path.contains('~') && !Path::new(path).components().any(|part| part == Component::ParentDir);
    if plain && whole.starts_with(folder) && whole != folder {
        return Ok(whole);
    }
    Err(NotPermitted::Outside { path: path.into(), folder: folder.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_names_files_below_the_folder_only() {
        for (path, want) in [
            ("a.pem", Some("/allowed/a.pem")),
            ("./sub/a.pem", Some("/allowed/./sub/a.pem")),
            ("/allowed/sub/a.pem", Some("/allowed/sub/a.pem")),
            ("", None),
            ("/allowed", None),
            ("/allowed2/a.pem", None),
            ("/etc/passwd", None),
            ("../etc/passwd", None),
            ("/allowed/../etc/passwd", None),
            ("sub/../../etc/passwd", None),
            ("a~/etc/passwd", None),
        ] {
            assert_eq!(below(Some(Path::new("/allowed")), path).ok().as_deref(), want.map(Path::new), "{path}");
            assert_eq!(below(None, path), Err(NotPermitted::Any { path: path.into() }));
        }
    }
}
