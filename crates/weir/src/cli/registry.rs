//! How registries are reached, wherever images are pulled or pushed.
use anyhow::{Context, Result};
use clap::Args as ClapArgs;
use std::{fs, path::PathBuf};
use weir_net::tls::Roots;
use weir_proxy::plugin::code::RegistrySettings;

#[derive(ClapArgs, Clone, Debug, Default)]
pub struct Registry {
    /// Docker's configuration file with the credentials of registries, for images without imagePullSecret [default:
    /// $DOCKER_CONFIG/config.json or ~/.docker/config.json; none in weir gateway]
    #[arg(long, value_name = "FILE")]
    registry_config: Option<PathBuf>,
    /// Certificates of authorities (PEM) that registries are verified with, beside those of the system
    #[arg(long, value_name = "FILE")]
    registry_ca_file: Option<PathBuf>,
    /// A registry, as registry.test:5000, whose certificate is not verified and that may speak plain HTTP; may be repeated; * for all.
    /// Those on this machine (localhost) may speak plain HTTP anyway
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    insecure_registry: Vec<String>,
}

impl Registry {
    /// `by_default`: with the configuration file of the user where none is named.
    pub fn settings(self, by_default: bool) -> Result<RegistrySettings> {
        let mut roots = Roots::system();
        if let Some(path) = &self.registry_ca_file {
            let shown = || path.display().to_string();
            let pem = fs::read_to_string(path).with_context(shown)?;
            roots = roots.and(&pem).with_context(shown)?;
        }
        if let Some(path) = &self.registry_config {
            fs::metadata(path).with_context(|| path.display().to_string())?;
        }
        let config = self.registry_config.or_else(|| docker_config().filter(|_| by_default));
        Ok(RegistrySettings { roots, insecure: self.insecure_registry, config })
    }
}

/// Where Docker has it.
fn docker_config() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let folder = var("DOCKER_CONFIG").or_else(|| var("HOME").map(|home| home.join(".docker")));
    folder.map(|folder| folder.join("config.json"))
}
