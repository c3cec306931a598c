//! Files and folders on the command line: `weir run conf.d/` and `weir run -f conf.d/` are the same.
use anyhow::{Result, bail};
use clap::Args as ClapArgs;
use std::path::{Path, PathBuf};

#[derive(ClapArgs, Debug)]
pub struct Paths {
    /// Files and folders of YAML or JSON; - is standard input
    #[arg(value_name = "PATH")]
    path: Vec<PathBuf>,
    /// The same, as kubectl takes them; may be repeated
    #[arg(short, long, value_name = "PATH", num_args = 1..)]
    file: Vec<PathBuf>,
}

impl Paths {
    /// All of them, those without a flag first, each of which must exist.
    pub fn all(self) -> Result<Vec<PathBuf>> {
        let all: Vec<PathBuf> = self.path.into_iter().chain(self.file).map(standard_input).collect();
        present(&all)?;
        Ok(all)
    }
}

/// A pipe can be read once only, whatever it is called.
fn standard_input(path: PathBuf) -> PathBuf {
    let names = ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"];
    if names.iter().any(|name| path == Path::new(name)) { "-".into() } else { path }
}

/// Refuses paths that do not exist, all of them in one message.
pub fn present(paths: &[PathBuf]) -> Result<()> {
    let missing: Vec<String> = paths.iter().filter(|p| *p != Path::new("-") && !p.exists()).map(|p| p.display().to_string()).collect();
    if !missing.is_empty() {
        bail!("no such file or folder: {}", missing.join(", "));
    }
    Ok(())
}
